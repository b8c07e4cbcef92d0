//! The process itself: how it starts, refuses to start, and stops.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use demes::cli::demo::peer::{connect, until};
use demes::wire::pb;
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::harness::{Chat, STEP, binary, story};

/// Runs `demes up` with a data directory and these flags until it ends.
async fn up(data_dir: &std::path::Path, flags: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("up").arg("--data-dir").arg(data_dir).args(flags);
    command.stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(STEP, command.output()).await.expect("it ends by itself").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_data_directory_is_refused() {
    story(async {
        let mut chat = Chat::of(1, &[]).await;
        let data_dir = chat.peers[0].data_dir();
        let flags = ["--listen", "127.0.0.1:0", "--client-listen", "127.0.0.1:0"];
        let refused = up(&data_dir, &flags).await;
        let error = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "nothing is wrong with the disk: {error}");
        assert!(error.contains(data_dir.to_str().unwrap()), "it names the directory: {error}");
        assert!(!error.contains("panicked"), "{error}");
        chat.says(0).await;
        chat.finish().await;
    })
    .await;
}

/// `down` returns when the peer has ended, and says so when there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_stopped_by_a_command_and_comes_back_as_it_was() {
    story(async {
        let mut chat = Chat::of(1, &[]).await;
        chat.says(0).await;
        let data_dir = chat.peers[0].data_dir();
        let command = async |arguments: &[&str]| {
            let mut command = Command::new(binary());
            command.args(arguments).env("DEMES_DATA_DIR", &data_dir).stdin(Stdio::null());
            tokio::time::timeout(STEP, command.output()).await.expect("it ends").unwrap()
        };
        let before = command(&["config", "--json"]).await;
        let stopped = command(&["down"]).await;
        assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
        chat.peers[0].ended(STEP).await.unwrap();
        assert_eq!(command(&["down"]).await.status.code(), Some(1));
        let config: serde_json::Value = serde_json::from_slice(&before.stdout).unwrap();
        let listen = &config["keys"]["peer.listen"];
        assert!(listen["origin"].as_str().unwrap().ends_with("up.toml"), "{listen}");
        chat.peers[0].start().await.unwrap();
        chat.finish().await;
    })
    .await;
}

/// The votes and promises in a data directory are those of one key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_is_refused_without_its_key_and_with_another_one() {
    story(async {
        let (mut chat, other) = (Chat::of(1, &[]).await, Chat::of(1, &[]).await);
        chat.says(0).await;
        chat.peers[0].kill().unwrap();
        chat.peers[0].gone().await.unwrap();
        let data_dir = chat.peers[0].data_dir();
        let key_file = data_dir.join("identity.pem");
        let flags = ["--listen", "127.0.0.1:0", "--client-listen", "127.0.0.1:0"];
        let key = std::fs::read(&key_file).unwrap();

        std::fs::remove_file(&key_file).unwrap();
        let gone = up(&data_dir, &flags).await;
        let error = String::from_utf8_lossy(&gone.stderr);
        assert_eq!(gone.status.code(), Some(74), "{error}");
        assert!(error.contains("is gone") && error.contains("backup"), "{error}");
        assert!(!key_file.exists(), "no other key takes its place");

        std::fs::copy(other.peers[0].data_dir().join("identity.pem"), &key_file).unwrap();
        let swapped = up(&data_dir, &flags).await;
        let error = String::from_utf8_lossy(&swapped.stderr);
        assert_eq!(swapped.status.code(), Some(74), "{error}");
        assert!(error.contains(&chat.peers[0].id) && error.contains(&other.peers[0].id), "{error}");

        std::fs::write(&key_file, key).unwrap();
        chat.finish().await;
    })
    .await;
}

/// A shell's limit on the size of files stands for a disk that has no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_without_room_leaves_no_half_configuration() {
    story(async {
        let directory = tempfile::tempdir().unwrap();
        let flags = ["--listen", "127.0.0.1:0", "--client-listen", "127.0.0.1:0"];
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""]).arg(binary());
        shell.arg("up").arg("--data-dir").arg(directory.path()).args(flags);
        shell.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(STEP, shell.output()).await.expect("it ends").unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(74), "{error}");
        assert!(error.contains("could not be written"), "{error}");
        assert!(!directory.path().join("demes.toml").exists(), "there is all of it or nothing");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named_with_the_flag_that_moves_it() {
    story(async {
        let directory = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap().to_string();
        for (flag, other) in [("--listen", "--client-listen"), ("--client-listen", "--listen")] {
            let refused = up(directory.path(), &[flag, &taken, other, "127.0.0.1:0"]).await;
            let error = String::from_utf8_lossy(&refused.stderr);
            assert!(!refused.status.success(), "{error}");
            let names = |word: &str| error.split_whitespace().any(|found| found.contains(word));
            assert!(names(flag) && error.contains(&taken), "it names flag and address: {error}");
            assert!(!error.contains("panicked"), "{error}");
        }
    })
    .await;
}

/// Every file and directory below `path`, with its mode.
fn modes(path: &Path, found: &mut Vec<(PathBuf, u32)>) {
    // A running peer puts new files in the place of old ones: one that is gone again has no mode.
    let mode = |path: &Path| Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o7777);
    found.extend(mode(path).map(|mode| (path.to_owned(), mode)));
    for item in std::fs::read_dir(path).unwrap().flatten() {
        match item.path().is_dir() {
            true => modes(&item.path(), found),
            false => found.extend(mode(&item.path()).map(|mode| (item.path(), mode))),
        }
    }
}

fn assert_private(data_dir: &Path) {
    let mut found = Vec::new();
    modes(data_dir, &mut found);
    assert!(found.len() > 6, "{found:?}");
    for (path, mode) in found {
        let right = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode & 0o777, right, "{} has {mode:03o}", path.display());
    }
}

/// Nobody else may look into a data directory, whatever the umask says and whoever has made it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_is_its_owners_alone() {
    story(async {
        for umask in ["000", "022", "077"] {
            let root = tempfile::tempdir().unwrap();
            let data_dir = root.path().join("data");
            // Somebody has made it before.
            if umask == "022" {
                std::fs::create_dir_all(data_dir.join("chats")).unwrap();
                for directory in [&data_dir, &data_dir.join("chats")] {
                    let wide = std::fs::Permissions::from_mode(0o755);
                    std::fs::set_permissions(directory, wide).unwrap();
                }
            }
            for start in ["first", "later"] {
                let mut command = Command::new("sh");
                let script = format!("umask {umask}; exec \"$@\"");
                command.args(["-c", &script, "sh"]).arg(binary());
                command.args(["up", "--name", "Ana", "--until-stdin-ends", "--data-dir"]);
                command.arg(&data_dir).args(["--listen", "127.0.0.1:0"]);
                command.args(["--client-listen", "127.0.0.1:0"]);
                command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
                let mut peer = command.kill_on_drop(true).spawn().unwrap();
                let address =
                    || async { connect(&format!("socket:{}", data_dir.display())).await.ok() };
                let mut client = until(STEP, "a peer", address).await.unwrap();
                if start == "first" {
                    let request = pb::CreateChatRequest { name: "a".into(), ..Default::default() };
                    let chat = client.create_chat(request).await.unwrap().into_inner().chat;
                    let chat = chat.unwrap().chat_id;
                    // The secret of a link is in the peer's own store.
                    let request = pb::CreateInviteLinkRequest {
                        chat,
                        uses_max: 1,
                        valid_s: 60,
                        ..Default::default()
                    };
                    client.create_invite_link(request).await.unwrap();
                }
                assert_private(&data_dir);
                drop(client);
                drop(peer.stdin.take());
                let output = tokio::time::timeout(STEP, peer.wait_with_output()).await;
                let output = output.expect("it stops").unwrap();
                let said = String::from_utf8(output.stderr).unwrap();
                let tells = said.contains("their rights") || said.contains("were taken back");
                let was_wide = start == "later" || umask == "022";
                assert_eq!(tells, was_wide, "umask {umask}, {start}: {said}");
                // An older version left them like this, or a person did.
                let mut found = Vec::new();
                modes(&data_dir, &mut found);
                for (path, mode) in found {
                    // The key is refused then, and the configuration is the person's own.
                    if !path.ends_with("identity.pem") && !path.ends_with("demes.toml") {
                        let wide = std::fs::Permissions::from_mode(mode | 0o055);
                        std::fs::set_permissions(&path, wide).unwrap();
                    }
                }
            }
        }
    })
    .await;
}

/// A directory of somebody else, who could put another key into it, is refused; one of root, such
/// as a volume of Kubernetes that its group may write to, is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can play two users.
    }
    story(async {
        const PEER: u32 = 65_532;
        let root = tempfile::tempdir().unwrap();
        let wide = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        wide(root.path(), 0o755);
        for (owner, mode, taken) in [(0, 0o2770, true), (0, 0o2775, true), (65_533, 0o777, false)] {
            let data_dir = root.path().join(format!("{owner}-{mode:o}"));
            std::fs::create_dir(&data_dir).unwrap();
            std::os::unix::fs::chown(&data_dir, Some(owner), Some(PEER)).unwrap();
            wide(&data_dir, mode);
            let mut command = Command::new(binary());
            command.args(["up", "--name", "Ana", "--until-stdin-ends", "--data-dir"]);
            command.arg(&data_dir).args(["--listen", "127.0.0.1:0"]);
            command.args(["--client-listen", "127.0.0.1:0"]).uid(PEER).gid(PEER);
            command.env("HOME", root.path()).env("XDG_CONFIG_HOME", &data_dir);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut peer = command.kill_on_drop(true).spawn().unwrap();
            if taken {
                let runs = || async { data_dir.join("client.addr").exists().then_some(()) };
                until(STEP, "a peer", runs).await.unwrap();
            }
            drop(peer.stdin.take());
            let output = tokio::time::timeout(STEP, peer.wait_with_output()).await;
            let output = output.unwrap().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.success(), taken, "{owner} {mode:o}: {said}");
            match taken {
                true => assert!(said.contains("belongs to root"), "{said}"),
                false => assert!(said.contains("chmod 700"), "{said}"),
            }
        }
    })
    .await;
}

/// Not even SIGKILL leaves the demo's peers behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_end_with_the_program_that_started_them() {
    story(async {
        let directory = tempfile::tempdir().unwrap();
        let mut demo = Command::new(binary());
        demo.args(["demo", "--json"]).env("TMPDIR", directory.path());
        demo.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let mut demo = demo.spawn().unwrap();
        let running = || async {
            let found = client_addresses(directory.path());
            (found.len() == 5).then_some(found)
        };
        let addresses = until(STEP, "five running peers", running).await.unwrap();
        demo.start_kill().unwrap();
        let ended = || async {
            let dial = |address: &String| std::net::TcpStream::connect(address).is_err();
            addresses.iter().all(dial).then_some(())
        };
        until(STEP, "the peers to end", ended).await.unwrap();
    })
    .await;
}

/// Where the demo's peers listen for programs.
fn client_addresses(directory: &std::path::Path) -> Vec<String> {
    let demo = std::fs::read_dir(directory).unwrap().flatten().next();
    let peers = demo.and_then(|demo| std::fs::read_dir(demo.path()).ok()).into_iter().flatten();
    let files = peers.flatten().map(|peer| peer.path().join("data/client.addr"));
    files.filter_map(|file| Some(std::fs::read_to_string(file).ok()?.trim().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_host_with_an_open_feed_within_five_seconds() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        chat.says(host).await;
        let cursors = vec![pb::FeedCursor { chat: chat.chat.clone(), after: 0 }];
        let request = pb::FeedRequest { cursors };
        let mut feed = chat.peers[host].client().feed(request).await.unwrap().into_inner();
        feed.message().await.unwrap().expect("the feed has begun");

        let asked = Instant::now();
        chat.signal(host, Signal::SIGTERM);
        let status = chat.peers[host].ended(STEP).await.unwrap();
        assert!(asked.elapsed() <= Duration::from_secs(5), "{:?}", asked.elapsed());
        assert!(status.success(), "{status}: {}", chat.peers[host].log_tail());
        let end = loop {
            match feed.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the feed ends with a status"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), tonic::Code::Unavailable, "{end:?}");

        let (next, next_term) = chat.host_above(term, STEP).await.unwrap();
        assert!(next != host && next_term > term, "it handed over");
        chat.says(next).await;
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_hands_over_when_its_person_asks() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let target = chat.others(&[host])[1];
        chat.says(target).await;
        let request = pb::ClientServiceHandOverRequest {
            chat: chat.chat.clone(),
            peer: chat.peers[target].id.clone(),
        };
        let answer = chat.peers[host].client().hand_over(request).await.unwrap().into_inner();
        assert_eq!(answer.host_peer_id, chat.peers[target].id);
        assert!(answer.term > term);
        assert_eq!(chat.host_above(term, STEP).await.unwrap().0, target);
        chat.says(host).await;
        chat.finish().await;
    })
    .await;
}
