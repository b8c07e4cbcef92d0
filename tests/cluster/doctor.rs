//! `demes doctor` against real peers: what it finds, what it advises, and how it exits.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use demes::wire::pb;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Chat, STEP, binary, story};

/// What the doctor says to a program, and its exit code.
struct Visit {
    json: Value,
    code: i32,
}

async fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--data-dir").arg(data_dir).kill_on_drop(true);
    tokio::time::timeout(STEP, command.output()).await.expect("it is bounded").unwrap()
}

async fn visit(data_dir: &Path) -> Visit {
    let output = run(data_dir, &["doctor", "--json"]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error, "", "all of it is data");
    let json = serde_json::from_slice(&output.stdout).expect("it writes JSON");
    Visit { json, code: output.status.code().expect("it exits") }
}

impl Visit {
    /// The texts of the findings of that check and level, with what to do.
    fn found(&self, check: &str, level: &str) -> Vec<String> {
        let findings = self.json["findings"].as_array().expect("a list");
        let found = findings.iter().filter(|it| it["check"] == check && it["level"] == level);
        found.map(|it| format!("{} → {}", it["text"], it["todo"])).collect()
    }

    #[track_caller]
    fn has(&self, check: &str, level: &str, words: &[&str]) {
        let found = self.found(check, level);
        let fits = |text: &String| words.iter().all(|word| text.contains(word));
        assert!(found.iter().any(fits), "{check} {level} with {words:?}: {:#}", self.json);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_chat_has_no_problem_and_everybody_reaches_everybody() {
    story(async {
        let chat = Chat::of(3, &[]).await;
        let healthy = visit(&chat.peers[1].data_dir()).await;
        assert_eq!(healthy.code, 0, "{:#}", healthy.json);
        assert_eq!(healthy.json["summary"]["problem"], 0);
        for check in ["configuration", "key", "certificate", "peer", "version", "chat", "clock"] {
            healthy.has(check, "ok", &[]);
        }
        let members = healthy.json["members"].as_array().expect("a list");
        assert_eq!(members.len(), 2);
        for member in members {
            let reach = (&member["outward"], &member["inward"]);
            assert_eq!(reach, (&"reached".into(), &"reached".into()), "{member:#}");
            assert_eq!(member["inward_address"], chat.peers[1].address().to_string());
            assert!(member["clock_ahead_us"].is_i64(), "one machine has one clock: {member:#}");
        }
        chat.finish().await;
    })
    .await;
}

/// Cleo tells the others an address at which nobody listens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_the_others_cannot_dial_is_told_where_they_try_and_why_not() {
    story(async {
        let mut chat = Chat::founded_by_the_first_of(2).await;
        let nowhere = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().to_string()
        };
        let guest = chat.peers[1].address().to_string();
        chat.peers[1].kill().unwrap();
        chat.peers[1].gone().await.unwrap();
        let mut wrong = Command::new(binary());
        wrong.args(["up", "--name", "Ben", "--listen", &guest, "--advertise", &nowhere]);
        wrong.args(["--client-listen", "127.0.0.1:0", "--data-dir"]);
        wrong.arg(chat.peers[1].data_dir()).kill_on_drop(true);
        let _ = fs::remove_file(chat.peers[1].data_dir().join("client.addr"));
        wrong.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let _wrong = wrong.spawn().unwrap();
        let invite = pb::InviteMemberRequest {
            chat: chat.chat.clone(),
            address: guest.clone(),
            timeout_s: 0,
            ..Default::default()
        };
        chat.peers[0].client().invite_member(invite).await.unwrap();
        let dir = chat.peers[1].data_dir();
        demes::cli::demo::peer::until(STEP, "Ben to take part", || async {
            run(&dir, &["accept", "Friday"]).await.status.success().then_some(())
        })
        .await
        .unwrap();
        let told = visit(&dir).await;
        assert_eq!(told.code, 1, "{:#}", told.json);
        told.has("inward", "problem", &["do not reach you at", &nowhere, "nobody listens there"]);
        told.has("inward", "problem", &["peer.advertise"]);
        let others = visit(&chat.peers[0].data_dir()).await;
        others.has("outward", "warning", &["Ben", &nowhere, "nobody listens there"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_peer_what_lies_on_the_machine_is_looked_at() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let dir = chat.peers[2].data_dir();
        chat.signal(2, Signal::SIGSTOP);
        let frozen = visit(&dir).await;
        assert_eq!(frozen.code, 69, "{:#}", frozen.json);
        frozen.has("peer", "problem", &["does not answer", "kill -CONT"]);
        let status = run(&dir, &["status"]).await;
        assert_eq!(status.status.code(), Some(69));
        let error = String::from_utf8_lossy(&status.stderr);
        assert!(error.contains("frozen") && error.contains("demes doctor"), "{error}");
        chat.peers[2].kill().unwrap();
        chat.peers[2].gone().await.unwrap();

        let down = visit(&dir).await;
        assert_eq!(down.code, 69, "{:#}", down.json);
        down.has("peer", "problem", &["demes up"]);
        down.has("stores", "ok", &["1 chat"]);
        let others = visit(&chat.peers[0].data_dir()).await;
        assert_eq!(others.code, 0, "a majority is there: {:#}", others.json);
        others.has("outward", "warning", &["Cleo", "nobody listens there"]);

        let key = dir.join("identity.pem");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(dir.join("demes.toml"), "[peer]\nlisten = \"everywhere\"\n").unwrap();
        let wrong = visit(&dir).await;
        assert_eq!(wrong.code, 1, "{:#}", wrong.json);
        wrong.has("key", "problem", &["chmod 600"]);
        wrong.has("configuration", "problem", &["peer.listen", "demes.toml"]);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(dir.join("demes.toml")).unwrap();
        chat.finish().await;
    })
    .await;
}
