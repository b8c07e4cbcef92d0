//! The commands against a peer that says what the test wants: what they print, and how they exit.

mod chat;
mod fake;
mod terminal;

use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use demes::wire::pb;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use fake::{FakePeer, LIMIT, demes, demes_on, message, started, text};

#[tokio::test]
async fn a_sent_message_says_what_is_sure() {
    let (reached, alone) = (FakePeer::start(true).await, FakePeer::start(false).await);
    let sent = demes(reached, &["send", "club", "hi"], "").await;
    assert_eq!((text(&sent.stdout), sent.status.code()), ("sent (8)\n", Some(0)));
    let queued = "queued; it will be sent when a majority is reachable\n";
    let sent = demes(alone, &["send", "club", "-"], "hi\n").await;
    assert_eq!((text(&sent.stdout), sent.status.code()), (queued, Some(75)));
    let sent = demes(alone, &["send", "club", "--no-wait", "--json", "hi"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&sent.stdout).expect("JSON");
    assert_eq!(json["state"], "MESSAGE_STATE_QUEUED");
    assert_eq!(sent.status.code(), Some(0), "that is what was asked for");
}

/// It is not left to guess whether the text will be sent.
#[tokio::test]
async fn whoever_waits_is_told_for_what_and_what_ctrl_c_leaves() {
    let peer = FakePeer { waits: true, ..FakePeer::new(false) };
    let peer = FakePeer::start_as(peer).await;
    let late = demes(peer, &["send", "club", "hi", "--timeout", "1"], "").await;
    let queued = "queued; it will be sent when a majority is reachable\n";
    assert_eq!((text(&late.stdout), late.status.code()), (queued, Some(75)));

    let mut child = started(peer, &["send", "club", "hi", "--timeout", "600"]);
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
    let line = timeout(LIMIT, said.next_line()).await.expect("in time").unwrap();
    let expected = "not confirmed yet: waiting for a majority (1 of 2); Ctrl-C leaves it queued";
    assert_eq!(line.as_deref(), Some(expected));
    let pid = Pid::from_raw(i32::try_from(child.id().expect("it runs")).unwrap());
    kill(pid, Signal::SIGINT).expect("it is ours");
    let ended = timeout(LIMIT, child.wait_with_output()).await.expect("in time").unwrap();
    assert_eq!((text(&ended.stdout), ended.status.code()), (queued, Some(130)));
}

#[tokio::test]
async fn what_a_tired_person_types_is_understood_or_refused() {
    let peer = FakePeer::start(true).await;
    // The only chat needs no name.
    let history = demes(peer, &["history"], "").await;
    assert_eq!(text(&history.stdout), "--:--  Ben: hello\n", "{}", text(&history.stderr));
    let sent = demes(peer, &["send", "hi"], "").await;
    assert_eq!((text(&sent.stdout), sent.status.code()), ("sent (8)\n", Some(0)));
    for (arguments, says) in [
        (&["send", "club"][..], "there is no text"),
        (&["send", "Club"], "there is no text"),
        (&["invite", "club"], "--link"),
        (&["send", "club", "it's", "late"], r"demes send club 'it'\''s late'"),
    ] {
        let refused = demes(peer, arguments, "").await;
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    for (input, says) in [
        (&b" \n\t\n"[..], "blank"),
        (b"\xff\xfeh\0i\0", "UTF-16"),
        (b"h\0i\0", "UTF-16"),
        (b"\xe4", "not UTF-8"),
    ] {
        let refused = demes_on(peer, &["send", "club", "-"], input).await;
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{error}");
        assert!(error.contains(says), "{error}");
    }
    // A byte order mark is no part of the text.
    demes(peer, &["send", "club", "-"], "\u{feff}marked\n").await;
    let history = demes(peer, &["history", "--json"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&history.stdout).expect("JSON");
    let texts: Vec<_> = json["messages"].as_array().unwrap().iter().collect();
    assert_eq!(texts.last().unwrap()["message"]["text"], "marked");
    assert_eq!(texts.len(), 3, "nothing else was sent");
}

#[tokio::test]
async fn sequences_and_the_time_where_the_person_is_are_shown() {
    let created_at = Some(prost_types::Timestamp { seconds: 0, nanos: 0 });
    let first = pb::Event { created_at, ..message(7, "hello", "") };
    let peer = FakePeer { messages: Mutex::new(vec![first]), ..FakePeer::new(true) };
    let peer = FakePeer::start_as(peer).await;
    let history = demes(peer, &["history", "-s"], "").await;
    assert_eq!(text(&history.stdout), "   7  1970-01-01 09:00  Ben: hello\n");
    let chats = demes(peer, &["ls", "--json"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&chats.stdout).expect("JSON");
    assert_eq!(json["chats"][0]["unread"], 1);
}

#[tokio::test]
async fn a_feed_of_all_chats_names_them() {
    let peer = FakePeer::start(true).await;
    let mut feed = started(peer, &["feed", "--new", "-s"]);
    let mut lines = BufReader::new(feed.stdout.take().expect("piped")).lines();
    // The fake tells only those who listen already.
    let line = async {
        loop {
            demes(peer, &["send", "club", "psst"], "").await;
            if let Ok(line) = timeout(Duration::from_millis(300), lines.next_line()).await {
                return line.unwrap().expect("a line");
            }
        }
    };
    let line = timeout(LIMIT, line).await.expect("in time");
    assert!(line.starts_with("club  ") && line.ends_with("--:--  Ben: psst"), "{line}");
}

#[tokio::test]
async fn failures_are_json_for_programs() {
    let peer = FakePeer::start(true).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = gone.local_addr().expect("bound");
    drop(gone);
    for (peer, arguments, code, reason, exit_code) in [
        (peer, &["history", "nowhere", "--json"][..], "NOT_FOUND", "CHAT_NOT_FOUND", 1),
        (nobody, &["chats", "--json"], "UNAVAILABLE", "PEER_UNREACHABLE", 69),
        (peer, &["--json", "frobnicate"], "INVALID_ARGUMENT", "USAGE", 64),
        (peer, &["chat", "club", "--json"], "INVALID_ARGUMENT", "USAGE", 64),
        (peer, &["send", "club", "", "--json"], "FAILED_PRECONDITION", "REFUSED", 1),
    ] {
        let failed = demes(peer, arguments, "").await;
        let json: serde_json::Value = serde_json::from_slice(&failed.stderr).expect("JSON");
        let error = &json["error"];
        assert_eq!((&error["code"], &error["reason"]), (&code.into(), &reason.into()), "{json}");
        assert_eq!(error["exit_code"], exit_code, "{json}");
        assert_eq!(failed.status.code(), Some(exit_code));
        assert!(error["metadata"].is_object() && error["message"].is_string(), "{json}");
    }
}

#[tokio::test]
async fn a_refusal_goes_to_stderr_and_says_what_to_do() {
    let peer = FakePeer::start(true).await;
    let refused = demes(peer, &["history", "nowhere"], "").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    let expected = "demes: there is no such chat\n\
                    `demes chats` lists your chats, `demes invites` your invitations\n";
    assert_eq!(text(&refused.stderr), expected);
    let too_long = demes(peer, &["send", "club", &"x".repeat(2_049)], "").await;
    assert_eq!(too_long.status.code(), Some(1));
    let not_text = demes(peer, &["frobnicate"], "").await;
    assert_eq!(not_text.status.code(), Some(64));
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = listener.local_addr().expect("bound");
    drop(listener);
    let output = demes(nobody, &["chats"], "").await;
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).contains("start it with `demes up`"));
}

/// A frozen peer's kernel still accepts connections.
#[tokio::test]
async fn a_peer_that_hangs_is_told_within_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let frozen = listener.local_addr().expect("bound");
    let (chats, health) =
        tokio::join!(demes(frozen, &["chats"], ""), demes(frozen, &["health"], ""));
    for output in [chats, health] {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{error}");
        assert!(error.contains("did not answer in time"), "{error}");
    }
}

/// A peer that hangs between the question for the chat and the stream.
#[tokio::test]
async fn a_stream_that_does_not_begin_is_told_within_the_deadline() {
    let peer = FakePeer::start_as(FakePeer { hangs: true, ..FakePeer::new(true) }).await;
    let (feed, chat) =
        tokio::join!(demes(peer, &["feed", "club"], ""), demes(peer, &["chat", "club"], ""));
    for output in [feed, chat] {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{error}");
        assert!(error.contains("did not answer in time"), "{error}");
    }
}

/// As behind `demes feed | head -1`: nothing more need happen in the chat.
#[tokio::test]
async fn a_feed_ends_quietly_when_its_reader_has_gone() {
    let peer = FakePeer::start(true).await;
    let mut feed = Command::new(env!("CARGO_BIN_EXE_demes"))
        .args(["--peer-api", &peer.to_string(), "feed", "club"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    drop(feed.stdout.take());
    let ended = timeout(LIMIT, feed.wait_with_output()).await.expect("ends in time").expect("ran");
    assert_eq!((text(&ended.stderr), ended.status.code()), ("", Some(0)));
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written_is_told() {
    for arguments in [&["help"][..], &["--version"], &["config"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_demes"))
            .args(arguments)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(74), "{arguments:?}");
        assert!(text(&output.stderr).contains("the disk is full"), "{output:?}");
    }
}

#[tokio::test]
async fn reads_are_json_for_programs() {
    let peer = FakePeer::start(true).await;
    let chats = demes(peer, &["chats", "--json"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&chats.stdout).expect("JSON");
    assert_eq!(json["chats"][0]["members"][1]["name"], "Ben");
    let history = demes(peer, &["--json", "history", "c0ff"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&history.stdout).expect("JSON");
    assert_eq!(json["messages"][0]["message"]["text"], "hello");
}
