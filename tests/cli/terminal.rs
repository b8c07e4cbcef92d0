//! A command at a terminal of its own, and what a person would see there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::fake::LIMIT;

const ROWS: NonZeroU16 = NonZeroU16::new(40).unwrap();
const COLUMNS: NonZeroU16 = NonZeroU16::new(80).unwrap();

/// A pseudo-terminal and who runs on it.
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// Kept open, or the terminal would end with the command.
    _command_side: File,
    screen: watch::Receiver<String>,
    seen: Arc<Mutex<Seen>>,
}

struct Seen {
    parser: vt100::Parser,
    written: Vec<u8>,
}

impl Terminal {
    /// Starts `demes` on a peer, at a terminal that calls itself so.
    pub fn start(peer: SocketAddr, arguments: &[&str], name: &str) -> Self {
        let size =
            Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(Some(&size), None).expect("a pseudo-terminal");
        let side = File::from(terminal.slave);
        let again = || side.try_clone().expect("a descriptor");
        let child = Command::new(env!("CARGO_BIN_EXE_demes"))
            .args(["--peer-api", &peer.to_string()])
            .args(arguments)
            .env("TERM", name)
            .env("NO_COLOR", "1")
            .stdin(again())
            .stdout(again())
            .stderr(again())
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        let keyboard = File::from(terminal.master);
        let mut output = keyboard.try_clone().expect("a descriptor");
        let parser = vt100::Parser::new(ROWS, COLUMNS, 0);
        let seen = Arc::new(Mutex::new(Seen { parser, written: Vec::new() }));
        let (sender, screen) = watch::channel(String::new());
        let seeing = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(number @ 1..) = output.read(&mut bytes) {
                let mut seen = seeing.lock().expect("no panic");
                seen.parser.process(&bytes[..number]);
                seen.written.extend_from_slice(&bytes[..number]);
                let shown = seen.parser.screen().contents();
                if sender.send(shown).is_err() {
                    break;
                }
            }
        });
        Self { child, keyboard, _command_side: side, screen, seen }
    }

    pub fn types(&mut self, keys: &str) {
        self.types_bytes(keys.as_bytes());
    }

    pub fn types_bytes(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("the terminal takes them");
    }

    /// Waits until the screen has this text in it.
    pub async fn shows(&mut self, text: &str) {
        let mut screen = self.screen.clone();
        let shown = timeout(LIMIT, screen.wait_for(|screen| screen.contains(text))).await;
        assert!(matches!(shown, Ok(Ok(_))), "no {text:?} on\n{}", self.screen());
    }

    /// Waits for the end; the exit code.
    pub async fn ends(&mut self) -> Option<i32> {
        let ended = timeout(LIMIT, self.child.wait()).await.expect("ends in time").expect("ran");
        ended.code()
    }

    pub fn screen(&self) -> String {
        self.screen.borrow().clone()
    }

    /// All that was written to the terminal.
    pub fn written(&self) -> Vec<u8> {
        self.seen.lock().expect("no panic").written.clone()
    }

    /// Whether the terminal marks what is pasted.
    pub fn takes_pastes(&self) -> bool {
        self.seen.lock().expect("no panic").parser.screen().bracketed_paste()
    }

    pub fn local_flags(&self) -> LocalFlags {
        tcgetattr(&self.keyboard).expect("a terminal").local_flags
    }

    pub fn pid(&self) -> i32 {
        self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs")
    }
}
