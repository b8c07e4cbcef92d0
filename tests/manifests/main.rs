//! The Dockerfile and the manifests in `k8s/` say only what the program understands and does: its
//! arguments, variables, paths, ports and health services, a configuration that loads, versions,
//! and the rights that it needs.
//!
//! `cargo test` looks at the base; `tests/kubernetes.sh` has the overlays looked at too.

mod documents;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser as _;
use demes::cli::demo::peer::until;
use demes::cli::{Cli, STOP_TIMEOUT};
use demes::config::{self, Arguments, Settings};
use demes::telemetry::FLUSH_TIMEOUT;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use documents::{CONFIG_FILE, Dockerfile, PROGRAM, Set, files_below, list, name, path, read};
use documents::{sets, text, texts};

const STEP: Duration = Duration::from_secs(20);

/// What Kubernetes gives a pod of a namespace that has a service called `demes`, unless
/// `enableServiceLinks` is false.
const SERVICE_LINKS: [(&str, &str); 7] = [
    ("DEMES_SERVICE_HOST", "10.96.0.7"),
    ("DEMES_SERVICE_PORT", "7443"),
    ("DEMES_SERVICE_PORT_PEER", "7443"),
    ("DEMES_PORT", "tcp://10.96.0.7:7443"),
    ("DEMES_PORT_7443_TCP", "tcp://10.96.0.7:7443"),
    ("DEMES_PORT_7443_TCP_PORT", "7443"),
    ("DEMES_PORT_7443_TCP_ADDR", "10.96.0.7"),
];

/// The pods' configuration in a file, where it can be read by the program.
fn config_file(set: &Set, home: &TempDir) -> PathBuf {
    let file = home.path().join(CONFIG_FILE);
    fs::write(&file, set.configuration()).unwrap();
    file
}

/// What the pods' file says, without their variables.
fn settings(set: &Set) -> Settings {
    let home = TempDir::new().unwrap();
    let arguments = Arguments {
        data_dir: Some(home.path().to_owned()),
        file: Some(config_file(set, &home)),
        ..Arguments::default()
    };
    config::load(&arguments).expect("the pods' configuration is valid")
}

/// The program with the variables of a pod, in a home of its own.
fn program(set: &Set, home: &TempDir, ordinal: usize) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demes"));
    command.env_clear().envs(SERVICE_LINKS).envs(set.variables(ordinal)).kill_on_drop(true);
    command.env("XDG_DATA_HOME", home.path()).env("XDG_CONFIG_HOME", home.path());
    command
}

#[test]
fn arguments_are_known() {
    let dockerfile = Dockerfile::load();
    let entrypoint = dockerfile.command("ENTRYPOINT");
    assert_eq!(entrypoint, [PROGRAM]);
    let mut lines = vec![
        [entrypoint.clone(), dockerfile.command("CMD")].concat(),
        dockerfile.command("HEALTHCHECK"),
    ];
    for set in sets() {
        let program = set.program();
        assert!(program["command"].is_null(), "the image says what to run");
        let arguments = texts(&program["args"]).into_iter().map(str::to_owned);
        lines.push(entrypoint.iter().cloned().chain(arguments).collect());
    }
    for line in lines {
        if let Err(error) = Cli::try_parse_from(&line) {
            panic!("{line:?}: {error}");
        }
    }
}

#[test]
fn variables_are_known() {
    // The commented file of defaults has every key: `[section]`, `#key = value`.
    // What commands show to a peer is no setting.
    let mut known = BTreeSet::from(["DEMES_TOKEN".to_owned()]);
    let mut section = String::new();
    for line in config::default_file().lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_uppercase();
        } else if let Some((key, _)) = line.strip_prefix('#').and_then(|l| l.split_once(" = ")) {
            known.insert(format!("DEMES__{section}__{}", key.to_uppercase()));
        }
    }
    let mut files = files_below(&path("k8s"));
    files.push(path("Dockerfile"));
    for file in files {
        let text = read(&file);
        let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        for word in words.filter(|word| word.starts_with("DEMES_")) {
            assert!(known.contains(word), "{}: there is no variable {word}", file.display());
        }
    }
}

#[tokio::test]
async fn each_pod_is_a_member_of_the_chat_that_the_pods_found() {
    for set in sets() {
        let home = TempDir::new().unwrap();
        let [chat] = &settings(&set).bootstrap[..] else { panic!("the pods found one chat") };
        assert_eq!(set.stateful_set()["spec"]["replicas"], chat.members.len());
        assert_eq!(chat.members.len() % 2, 1, "an even number votes no better than one less");
        for (ordinal, member) in chat.members.iter().enumerate() {
            let mut command = program(&set, &home, ordinal);
            command.args(["config", "--json", "--config"]).arg(config_file(&set, &home));
            let shown = timeout(STEP, command.output()).await.expect("in time").unwrap();
            assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
            let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
            assert_eq!(shown["keys"]["peer.advertise"]["value"], **member);
            assert_eq!(shown["keys"]["peer.name"]["value"], format!("{PROGRAM}-{ordinal}"));
            assert_eq!(shown["bootstrap_chats"], 1);
        }
        // The names are those that the headless service gives.
        let service = text(&set.stateful_set()["spec"]["serviceName"]);
        let host = format!("{PROGRAM}-0.{service}");
        assert_eq!(chat.members[0].rsplit_once(':').map(|(host, _)| host), Some(&*host));
        let service = &set.one("Service", service)["spec"];
        assert_eq!(service["clusterIP"], "None");
        assert_eq!(service["publishNotReadyAddresses"], true, "peers get ready by each other");
    }
}

#[test]
fn ports_are_those_of_the_listeners() {
    for set in sets() {
        let settings = settings(&set);
        let peers = set.peers();
        let peer = u64::from(settings.peer_listen.port());
        let health = u64::from(settings.health_listen.expect("the probes need it").port());
        assert_eq!(peers.port(&json!("peer")), peer);
        assert_eq!(peers.port(&json!("health")), health);
        let metrics = u64::from(settings.metrics_listen.expect("Prometheus needs it").port());
        assert_eq!(peers.port(&json!("metrics")), metrics);
        let annotations = &set.stateful_set()["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/port"], metrics.to_string());
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert_eq!(set.program()[probe]["grpc"]["port"], health, "{probe}");
        }
        assert_eq!(
            settings.client_listen.to_string(),
            "127.0.0.1:7444",
            "as docs/programs.md says"
        );
        for member in &settings.bootstrap[0].members {
            assert!(member.ends_with(&format!(":{peer}")), "{member}");
        }
        assert_eq!(Dockerfile::load().last("EXPOSE"), peer.to_string());
    }
}

#[test]
fn services_and_policies_name_ports_that_their_pods_have() {
    for set in sets() {
        for service in set.all("Service") {
            for pods in set.selected(&service["spec"]["selector"]) {
                for port in list(&service["spec"]["ports"]) {
                    assert_eq!(port["port"], pods.port(&port["targetPort"]), "{}", name(service));
                }
            }
        }
        for policy in set.all("NetworkPolicy") {
            let spec = &policy["spec"];
            let own = &spec["podSelector"]["matchLabels"];
            for rule in list(&spec["ingress"]) {
                for pods in set.selected(own) {
                    pods.check_ports(&rule["ports"]);
                }
            }
            for rule in list(&spec["egress"]) {
                let to = list(&rule["to"]).iter().map(|to| &to["podSelector"]["matchLabels"]);
                for labels in to.filter(|labels| labels["k8s-app"] != "kube-dns") {
                    for pods in set.selected(labels) {
                        pods.check_ports(&rule["ports"]);
                    }
                }
            }
        }
    }
}

/// Whether a rule on the pods with these labels lets a port pass, to or from pods with the other
/// labels; `direction` is `ingress` or `egress`.
fn passes(set: &Set, direction: &str, own: &Value, others: &Value, port: &str) -> bool {
    let side = if direction == "ingress" { "from" } else { "to" };
    let finds = |selector: &Value, labels: &Value| {
        let wanted = selector["matchLabels"].as_object();
        wanted.is_some_and(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value))
    };
    let lets_pass = |rule: &Value| {
        let sides = list(&rule[side]);
        let is_side = sides.is_empty() || sides.iter().any(|it| finds(&it["podSelector"], others));
        is_side && list(&rule["ports"]).iter().any(|it| it["port"] == port)
    };
    let mut policies = set.all("NetworkPolicy").into_iter().map(|policy| &policy["spec"]);
    policies.any(|spec| {
        finds(&spec["podSelector"], own) && list(&spec[direction]).iter().any(lets_pass)
    })
}

#[test]
fn policies_let_pass_what_peers_and_probes_need() {
    for set in sets() {
        let peers = set.peers();
        let nobody = json!({});
        for direction in ["ingress", "egress"] {
            assert!(passes(&set, direction, peers.labels, peers.labels, "peer"), "{direction}");
        }
        assert!(passes(&set, "ingress", peers.labels, &nobody, "health"), "nodes ask it");
        let prometheus = json!({ "app.kubernetes.io/name": "prometheus" });
        assert!(passes(&set, "ingress", peers.labels, &prometheus, "metrics"), "it reads them");
        assert!(!passes(&set, "ingress", peers.labels, &nobody, "metrics"), "nobody else does");
        assert!(!passes(&set, "ingress", peers.labels, &nobody, "peer"), "only peers may");
    }
}

#[test]
fn traces_go_where_a_collector_takes_them() {
    let mut collectors = 0;
    for set in sets() {
        let variables = set.variables(0);
        let endpoint = variables.iter().find(|(name, _)| name == "DEMES__TELEMETRY__OTLP_ENDPOINT");
        let Some((_, endpoint)) = endpoint else { continue };
        let address = endpoint.strip_prefix("http://").expect("it is in the cluster");
        let (host, port) = address.split_once(':').expect("an address has a port");
        let port: u64 = port.parse().expect("a port is a number");
        let service = set.one("Service", host);
        let mut ports = list(&service["spec"]["ports"]).iter();
        let found = ports.find(|it| it["port"] == port).expect("the service has it");
        for pods in set.selected(&service["spec"]["selector"]) {
            let target = text(&found["targetPort"]);
            assert!(passes(&set, "egress", set.peers().labels, pods.labels, target));
            assert!(passes(&set, "ingress", pods.labels, set.peers().labels, target));
        }
        collectors += 1;
    }
    let rendered = std::env::var_os("RENDERED_MANIFESTS").is_some();
    assert_eq!(collectors > 0, rendered, "an overlay has a collector, and the base has none");
}

#[test]
fn images_have_exact_versions() {
    let dockerfile = Dockerfile::load();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(dockerfile.value("ARG", "VERSION"), version);
    let base = dockerfile.value("ARG", "RUST_IMAGE");
    let rust = format!("rust:{}.0-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(base.starts_with(&rust), "{base} is not the toolchain that the package needs, {rust}…");
    for from in dockerfile.all("FROM") {
        let image = from.split(' ').next().unwrap_or_default();
        assert!(["${RUST_IMAGE}", "scratch"].contains(&image), "{image}");
    }
    for set in sets() {
        assert_eq!(set.program()["image"], format!("{PROGRAM}:{version}"), "{}", set.name);
        for pods in set.pods() {
            for container in list(&pods.spec["containers"]) {
                let image = text(&container["image"]);
                let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{image}: no tag"));
                let numbers: Vec<_> = tag.split('.').map(str::parse::<u32>).collect();
                assert!(numbers.len() == 3 && numbers.iter().all(Result::is_ok), "{image}");
            }
        }
    }
}

#[test]
fn volumes_are_where_the_image_keeps_its_data() {
    let dockerfile = Dockerfile::load();
    let data_dir = format!("{}/demes", dockerfile.value("ENV", "XDG_DATA_HOME"));
    assert_eq!(dockerfile.last("VOLUME"), data_dir);
    for set in sets() {
        let [data, config] = list(&set.program()["volumeMounts"]) else { panic!("two volumes") };
        assert_eq!(data["mountPath"], data_dir);
        let spec = &set.stateful_set()["spec"];
        assert_eq!(spec["volumeClaimTemplates"][0]["metadata"]["name"], data["name"]);
        for event in ["whenDeleted", "whenScaled"] {
            assert_eq!(spec["persistentVolumeClaimRetentionPolicy"][event], "Retain");
        }
        let file = format!("{}/{CONFIG_FILE}", text(&config["mountPath"]));
        assert_eq!(texts(&set.program()["args"]), ["up", "--config", &file]);
    }
}

/// The profile `restricted` of Kubernetes' Pod Security Standards, and no way to the cluster's API.
#[test]
fn pods_have_no_rights() {
    let image_user = Dockerfile::load().last("USER").to_owned();
    for set in sets() {
        for pods in set.pods() {
            let (spec, who) = (pods.spec, format!("{}: {}", set.name, pods.name));
            assert_eq!(spec["automountServiceAccountToken"], false, "{who}");
            assert_eq!(spec["enableServiceLinks"], false, "{who}");
            for shared in ["hostNetwork", "hostPID", "hostIPC", "hostUsers"] {
                assert!(spec[shared].is_null(), "{who} {shared}");
            }
            let security = &spec["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{who}");
            assert!(security["runAsUser"].as_u64().is_some_and(|user| user > 0), "{who}");
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{who}");
            for volume in list(&spec["volumes"]) {
                let harmless =
                    ["configMap", "emptyDir"].iter().any(|kind| volume[kind].is_object());
                assert!(harmless, "{who} {volume}");
            }
            assert!(list(&spec["initContainers"]).is_empty(), "{who}: then look at them here");
            for container in list(&spec["containers"]) {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{who}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{who}");
                assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }), "{who}");
                assert!(security["privileged"].is_null(), "{who}");
                let limited = &container["resources"]["limits"]["memory"];
                assert!(limited.is_string(), "{who}: its memory has a limit");
            }
        }
        let security = &set.peers().spec["securityContext"];
        let user = format!("{}:{}", security["runAsUser"], security["runAsGroup"]);
        assert_eq!(user, image_user);
        assert_eq!(security["fsGroup"], security["runAsGroup"], "the volume is the program's");
    }
}

#[test]
fn selectors_find_the_peers() {
    for set in sets() {
        let peers = set.peers();
        let budget = &set.one("PodDisruptionBudget", PROGRAM)["spec"];
        assert_eq!(budget["maxUnavailable"], 1, "a drained node takes one vote at a time");
        let mut selectors = vec![&set.stateful_set()["spec"]["selector"], &budget["selector"]];
        selectors.push(&set.one("NetworkPolicy", PROGRAM)["spec"]["podSelector"]);
        let spread = list(&peers.spec["topologySpreadConstraints"]).iter();
        selectors.extend(spread.map(|constraint| &constraint["labelSelector"]));
        for selector in selectors {
            let found = set.selected(&selector["matchLabels"]);
            let names: Vec<_> = found.iter().map(|pods| pods.name).collect();
            assert_eq!(names, [PROGRAM], "{}: {selector}", set.name);
        }
        let spec = &set.stateful_set()["spec"];
        assert_eq!(spec["podManagementPolicy"], "Parallel", "a majority makes a host");
    }
}

#[test]
fn a_pod_gets_more_time_to_stop_than_it_takes() {
    for set in sets() {
        let given = set.peers().spec["terminationGracePeriodSeconds"].as_u64();
        let given = Duration::from_secs(given.expect("it is said"));
        assert!(given > STOP_TIMEOUT + FLUSH_TIMEOUT, "{given:?}");
        let signal = Dockerfile::load().last("STOPSIGNAL").to_owned();
        assert_eq!(signal, "SIGTERM", "what the program waits for");
    }
}

#[tokio::test]
async fn probes_ask_for_services_that_a_pod_has() {
    for set in sets() {
        let home = TempDir::new().unwrap();
        let listeners = ["--listen", "--client-listen", "--health-listen", "--metrics-listen"];
        let loopback = |flag: &str| [flag.to_owned(), "127.0.0.1:0".to_owned()];
        let file = config_file(&set, &home).display().to_string();
        let arguments = texts(&set.program()["args"]).into_iter().map(|argument| {
            let is_file = argument.ends_with(CONFIG_FILE);
            if is_file { file.clone() } else { argument.to_owned() }
        });
        // The one that founds the chat needs nobody else for that.
        let mut peer = program(&set, &home, 0)
            .args(arguments)
            .args(listeners.map(loopback).concat())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(peer.stdout.take().expect("it is piped")).lines();
        let announced = timeout(STEP, lines.next_line()).await.expect("in time").unwrap();
        assert!(announced.is_some(), "the peer starts as it does in a pod");

        for service in ["startup", "readiness", "liveness"] {
            let probe = &set.program()[format!("{service}Probe")];
            assert_eq!(probe["grpc"]["service"], service);
            let serves = || async {
                let asked =
                    program(&set, &home, 0).args(["health", service]).output().await.ok()?;
                asked.status.success().then_some(())
            };
            until(STEP, service, serves).await.unwrap();
        }
        peer.kill().await.unwrap();
    }
}
