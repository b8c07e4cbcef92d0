//! The Dockerfile and the manifests in `k8s/` say only what the program understands: its arguments,
//! variables, ports and health services, and a configuration that loads.
//!
//! The files are read as text, by the few forms that they are written in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser as _;
use demes::cli::Cli;
use demes::cli::demo::peer::until;
use demes::config::{self, Arguments, Settings};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

const STEP: Duration = Duration::from_secs(20);

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All files below `directory`, by name.
fn manifests(directory: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(path(directory)).expect("there are manifests");
    let of_entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = format!("{directory}/{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() { manifests(&name) } else { vec![(name.clone(), read(&name))] }
    };
    entries.flat_map(of_entry).collect()
}

/// The values of a key, in lines of the form `key: value` or `- key: value`, without quotes.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let of_line = |line: &'a str| {
        let line = line.trim().trim_start_matches("- ");
        let value = line.strip_prefix(key)?.strip_prefix(':')?.trim();
        (!value.is_empty()).then(|| value.trim_matches('"'))
    };
    text.lines().filter_map(of_line).collect()
}

/// The list of texts that follows `before`, in the form `["a", "b"]`.
fn list(text: &str, before: &str) -> Vec<String> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(before));
    let line = line.unwrap_or_else(|| panic!("there is a line {before}[…]"));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{before}{line}: {error}"))
}

/// The variables of the StatefulSet's container, as they are in the pod of that ordinal.
fn variables(ordinal: usize) -> Vec<(String, String)> {
    let text = read("k8s/base/statefulset.yaml");
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let variable = |pair: &[&str]| {
        let name = pair[0].strip_prefix("- name: ")?;
        let value = pair[1].strip_prefix("value: ")?.trim_matches('"');
        Some((name.to_owned(), value.replace("$(POD_NAME)", &format!("demes-{ordinal}"))))
    };
    lines.windows(2).filter_map(variable).collect()
}

/// What the pods' file says, without their variables.
fn settings(data_dir: &TempDir) -> Settings {
    let arguments = Arguments {
        data_dir: Some(data_dir.path().to_owned()),
        file: Some(path("k8s/base/demes.toml")),
        ..Arguments::default()
    };
    config::load(&arguments).expect("the pods' configuration is valid")
}

/// The program with the variables of a pod, in a home of its own.
fn program(home: &TempDir, ordinal: usize) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demes"));
    command.env_clear().envs(variables(ordinal)).kill_on_drop(true);
    command.env("XDG_DATA_HOME", home.path()).env("XDG_CONFIG_HOME", home.path());
    command
}

#[test]
fn arguments_are_known() {
    let dockerfile = read("Dockerfile");
    let entrypoint = list(&dockerfile, "ENTRYPOINT ");
    assert_eq!(entrypoint, ["demes"]);
    let health = dockerfile.find("CMD [\"demes\"").expect("there is a health check");
    let lines = [
        [entrypoint.clone(), list(&dockerfile, "CMD ")].concat(),
        list(dockerfile[health..].lines().next().unwrap_or_default(), "CMD "),
        [entrypoint, list(&read("k8s/base/statefulset.yaml"), "args: ")].concat(),
    ];
    for line in lines {
        if let Err(error) = Cli::try_parse_from(&line) {
            panic!("{line:?}: {error}");
        }
    }
}

#[test]
fn variables_are_known() {
    // The commented file of defaults has every key: `[section]`, `#key = value`.
    let mut known = BTreeSet::new();
    let mut section = String::new();
    for line in config::default_file().lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_uppercase();
        } else if let Some((key, _)) = line.strip_prefix('#').and_then(|l| l.split_once(" = ")) {
            known.insert(format!("DEMES__{section}__{}", key.to_uppercase()));
        }
    }
    let mut files = manifests("k8s");
    files.push(("Dockerfile".to_owned(), read("Dockerfile")));
    for (file, text) in files {
        let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        for word in words.filter(|word| word.starts_with("DEMES_")) {
            assert!(known.contains(word), "{file}: there is no variable {word}");
        }
    }
}

#[tokio::test]
async fn each_pod_is_a_member_of_the_chat_that_the_pods_found() {
    let home = TempDir::new().unwrap();
    let [chat] = &settings(&home).bootstrap[..] else { panic!("the pods found one chat") };
    let replicas = values(&read("k8s/base/statefulset.yaml"), "replicas")[0].parse();
    assert_eq!(replicas, Ok(chat.members.len()));
    assert_eq!(chat.members.len() % 2, 1, "an even number votes no better than one less");
    for (ordinal, member) in chat.members.iter().enumerate() {
        let file = path("k8s/base/demes.toml");
        let mut command = program(&home, ordinal);
        let showing = command.args(["config", "--json", "--config"]).arg(file).output();
        let shown = timeout(STEP, showing).await.expect("in time").unwrap();
        assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!(shown["keys"]["peer.advertise"]["value"], **member);
        assert_eq!(shown["keys"]["peer.name"]["value"], format!("demes-{ordinal}"));
        assert_eq!(shown["bootstrap_chats"], 1);
    }
    let service = read("k8s/base/service.yaml");
    let host = format!("demes-0.{}", values(&service, "name")[0]);
    assert_eq!(chat.members[0].rsplit_once(':').map(|(host, _)| host), Some(&*host));
}

#[test]
fn ports_are_those_of_the_listeners() {
    let data_dir = TempDir::new().unwrap();
    let settings = settings(&data_dir);
    let peer = settings.peer_listen.port().to_string();
    let health = settings.health_listen.expect("the probes need it").port().to_string();
    let stateful_set = read("k8s/base/statefulset.yaml");
    let metrics = settings.metrics_listen.expect("Prometheus needs it").port().to_string();
    assert_eq!(values(&stateful_set, "containerPort"), [&*peer, &health, &metrics]);
    assert_eq!(values(&stateful_set, "prometheus.io/port"), [&*metrics]);
    assert_eq!(values(&stateful_set, "port"), [&*health, &health, &health], "the probes ask it");
    let service = read("k8s/base/service.yaml");
    assert_eq!(values(&service, "port"), [&*peer]);
    assert_eq!(values(&service, "targetPort"), ["peer"]);
    let dns = "53";
    let allowed = ["peer", "health", "metrics", "peer", dns, dns];
    assert_eq!(values(&read("k8s/base/networkpolicy.yaml"), "port"), allowed);
    for member in &settings.bootstrap[0].members {
        assert!(member.ends_with(&format!(":{peer}")), "{member}");
    }
    assert!(read("Dockerfile").contains(&format!("\nEXPOSE {peer}\n")));
}

#[test]
fn the_volume_is_where_the_image_keeps_its_data() {
    let dockerfile = read("Dockerfile");
    let home = dockerfile.split("XDG_DATA_HOME=").nth(1).and_then(|rest| rest.split(' ').next());
    let data_dir = format!("{}/demes", home.expect("the image says where its data is"));
    assert!(dockerfile.contains(&format!("\nVOLUME {data_dir}\n")));
    assert_eq!(values(&read("k8s/base/statefulset.yaml"), "mountPath")[0], data_dir);
}

#[tokio::test]
async fn probes_ask_for_services_that_a_pod_has() {
    let home = TempDir::new().unwrap();
    let stateful_set = read("k8s/base/statefulset.yaml");
    let loopback = |flag: &str| [flag.to_owned(), "127.0.0.1:0".to_owned()];
    let arguments =
        list(&stateful_set, "args: ").into_iter().map(|argument| match argument.rsplit_once('/') {
            Some((_, file)) => path("k8s/base").join(file).display().to_string(),
            None => argument,
        });
    let mut peer = program(&home, 1)
        .args(arguments)
        .args(["--listen", "--client-listen", "--health-listen"].map(loopback).concat())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(peer.stdout.take().expect("it is piped")).lines();
    let announced = timeout(STEP, lines.next_line()).await.expect("in time").unwrap();
    assert!(announced.is_some(), "the peer starts as it does in a pod");

    let services = values(&stateful_set, "service");
    assert_eq!(services, ["startup", "readiness", "liveness"]);
    for service in services {
        let serves = || async {
            let asked = program(&home, 1).args(["health", service]).output().await.ok()?;
            asked.status.success().then_some(())
        };
        until(STEP, service, serves).await.unwrap();
    }
    peer.kill().await.unwrap();
}
