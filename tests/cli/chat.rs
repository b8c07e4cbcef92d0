//! `chat`: from a pipe, at a terminal with an editor, and at one that can do nothing.

use std::net::SocketAddr;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fake::{FakePeer, demes, message, text};
use super::terminal::Terminal;

const PROMPT: &str = "\n>";

/// The texts that the peer has, the first one left out, which was there before.
async fn texts(peer: SocketAddr) -> Vec<String> {
    let history = demes(peer, &["history", "--json"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&history.stdout).expect("JSON");
    let messages = json["messages"].as_array().expect("messages").iter().skip(1);
    messages.map(|it| it["message"]["text"].as_str().expect("a text").to_owned()).collect()
}

async fn at_a_terminal(peer: SocketAddr) -> Terminal {
    let mut terminal = Terminal::start(peer, &["chat", "club"], "xterm-256color");
    terminal.shows("hosted by Ben").await;
    terminal.shows(PROMPT).await;
    terminal
}

#[tokio::test]
async fn what_happens_is_shown_above_the_line_that_is_being_typed() {
    let fake = FakePeer::new(true);
    let live = fake.live.clone();
    let peer = FakePeer::start_as(fake).await;
    let mut terminal = at_a_terminal(peer).await;
    terminal.types("first\r");
    terminal.shows("Ben: first ✓\n>").await;
    terminal.types("half a li");
    terminal.shows("\n> half a li").await;
    live.send(message(8, "psst", "")).expect("the chat listens");
    terminal.shows("\n--:--  Ben: psst\n> half a li").await;
    terminal.types("ne\r");
    terminal.shows("\n--:--  Ben: psst\n--:--  Ben: half a line ✓\n>").await;
    assert_eq!(terminal.screen().matches("half a").count(), 1, "{}", terminal.screen());

    // One that takes several rows leaves them all.
    let long = "many words ".repeat(20);
    terminal.types(&long);
    terminal.types("end\r");
    terminal.shows("end ✓\n>").await;
    assert_eq!(terminal.screen().matches("many words").count(), 20, "{}", terminal.screen());

    // Arrow keys bring back what was typed, to be changed; only keys that are known do something.
    terminal.types("\x1b[A\x1b[A\x1b[17~\x01no \r");
    terminal.shows("no half a line ✓\n>").await;
    terminal.types("\x04");
    assert_eq!(terminal.ends().await, Some(0));
    assert!(!terminal.screen().contains("\n>"), "{}", terminal.screen());
    assert_eq!(texts(peer).await.len(), 4);
}

#[tokio::test]
async fn no_line_is_lost_doubled_or_sent_in_pieces() {
    let peer = FakePeer::start(true).await;
    let mut terminal = at_a_terminal(peer).await;
    // Typed ahead, or by a program.
    terminal.types("a\rb\rc\r");
    terminal.shows("Ben: c ✓\n>").await;
    terminal.types("\x1b[200~two\nlines\t\x1b[201~\r");
    terminal.shows("Ben: two\n     │ lines").await;
    terminal.types_bytes(b"on\xffe");
    terminal.shows("left out\n> on").await;
    terminal.types("e\r");
    terminal.shows("Ben: one ✓\n>").await;
    // What an arrow key sends, behind the key that takes the next one as it is.
    terminal.types("\x16\x1b[Anot this\r");
    terminal.shows("control character").await;
    terminal.types("//etc\r/etc\r/me waves\r");
    terminal.shows("~ Ben waves ✓\n>").await;
    terminal.types("/who\r");
    terminal.shows("* Ana (you)\n       * Ben (hosts)").await;
    terminal.types("/help\r");
    terminal.shows("//text").await;
    terminal.types("/quit\r");
    assert_eq!(terminal.ends().await, Some(0));
    let expected = ["a", "b", "c", "two\nlines\t", "one", "/etc", "/me waves"];
    assert_eq!(texts(peer).await, expected);
}

#[tokio::test]
async fn whoever_leaves_is_told_what_is_queued_and_gets_the_terminal_back() {
    let peer = FakePeer::start(false).await;
    for (leaving, code) in [("\x03", 130), ("SIGTERM", 143)] {
        let mut terminal = Terminal::start(peer, &["chat", "club"], "xterm");
        let before = terminal.local_flags();
        terminal.shows("waiting for a majority (1 of 2)\n>").await;
        terminal.types("hi\r");
        terminal.shows("… queued: hi\n>").await;
        assert_ne!(terminal.local_flags(), before, "the editor has the keyboard");
        match leaving {
            "SIGTERM" => kill(Pid::from_raw(terminal.pid()), Signal::SIGTERM).expect("it is ours"),
            keys => terminal.types(keys),
        }
        terminal.shows("1 message is still queued").await;
        assert_eq!(terminal.ends().await, Some(code));
        assert_eq!(terminal.local_flags(), before);
        assert!(!terminal.takes_pastes());
    }
    let mut terminal = Terminal::start(peer, &["chat", "club"], "xterm");
    terminal.shows("waiting for a majority (1 of 2)\n>").await;
    terminal.types("hi\r\x04");
    terminal.shows("1 message is not confirmed yet; Ctrl-C leaves without waiting").await;
    // The editor is gone: the kernel makes a signal of Ctrl-C where it has a terminal for that.
    kill(Pid::from_raw(terminal.pid()), Signal::SIGINT).expect("it is ours");
    terminal.shows("1 message is still queued").await;
    assert_eq!(terminal.ends().await, Some(130));
    assert_eq!(terminal.screen().matches("Ctrl-C leaves").count(), 1, "{}", terminal.screen());
}

#[tokio::test]
async fn a_terminal_that_can_do_nothing_gets_no_control_sequences() {
    let peer = FakePeer::start(true).await;
    let mut terminal = Terminal::start(peer, &["chat", "club"], "dumb");
    terminal.shows("hosted by Ben").await;
    terminal.types("hi\n");
    terminal.shows("✓").await;
    terminal.types("\x1b[A\n");
    terminal.shows("control character").await;
    terminal.types("\x04");
    assert_eq!(terminal.ends().await, Some(0));
    assert_eq!(terminal.screen().matches("hi").count(), 1, "{}", terminal.screen());
    // The kernel echoes the arrow key as ^[, and that is all there is.
    assert!(!terminal.written().contains(&0x1b), "{:?}", terminal.written());
    assert_eq!(texts(peer).await, ["hi"]);
}

#[tokio::test]
async fn a_pipe_with_a_bad_byte_loses_that_line_alone() {
    let peer = FakePeer::start(true).await;
    let talk = super::fake::demes_on(peer, &["chat", "club"], b"one\ntw\xffo\nthree\n").await;
    assert!(text(&talk.stdout).contains("not sent: the line is no text"), "{talk:?}");
    assert_eq!(talk.status.code(), Some(0));
    assert_eq!(texts(peer).await, ["one", "three"]);
}

#[tokio::test]
async fn a_chat_from_a_pipe_ends_when_its_messages_are_confirmed() {
    let peer = FakePeer::start(true).await;
    let talk = demes(peer, &["chat", "club"], "hi\n\nbye\n").await;
    let expected = "\
club: Ana, Ben
--:--  Ben: hello
       * hosted by Ben
       … queued: hi
--:--  Ben: hi ✓
       … queued: bye
--:--  Ben: bye ✓
";
    // The second line may be queued before the first is confirmed.
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(text(&talk.stdout)), sorted(expected), "{}", text(&talk.stderr));
    assert_eq!(talk.status.code(), Some(0));
}

#[tokio::test]
async fn a_chat_without_a_majority_says_what_still_waits() {
    let peer = FakePeer::start(false).await;
    let talk = demes(peer, &["chat", "club"], "hi\n").await;
    let expected = "\
club: Ana, Ben
--:--  Ben: hello
       * waiting for a majority (1 of 2)
       … queued: hi
1 message is still queued; it will be sent when a majority is reachable
";
    assert_eq!(text(&talk.stdout), expected, "{}", text(&talk.stderr));
    assert_eq!(talk.status.code(), Some(75), "as `send`");
}
