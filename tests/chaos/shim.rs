//! Slow and failing disks, and bent clocks, of one peer's process: what `shim.c` is told.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use demes::cli::demo::peer::Peer;

/// The size of the file in which it stands.
const CONTROL_BYTES: usize = 4096;

/// What goes wrong with a call on some files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slip {
    pub call: Call,
    /// How long it takes.
    pub takes_ms: u64,
    /// Whether it then fails.
    pub fails: bool,
    pub files: Files,
}

/// The calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Sync,
    Write,
}

/// The files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Files {
    All,
    /// Those of chats.
    Chats,
    /// The peer's own.
    Own,
}

impl Slip {
    pub fn slow(takes_ms: u64, files: Files) -> Self {
        Self { call: Call::Sync, takes_ms, fails: false, files }
    }

    pub fn failing(call: Call) -> Self {
        Self { call, takes_ms: 0, fails: true, files: Files::Chats }
    }

    fn line(&self) -> String {
        const EIO: i32 = 5;
        let call = if self.call == Call::Sync { "sync" } else { "write" };
        let error = if self.fails { EIO } else { 0 };
        let files = match self.files {
            Files::All => "/data/",
            Files::Chats => "/data/chats/",
            Files::Own => "/data/peer",
        };
        format!("{call} {} {error} {files}\n", self.takes_ms)
    }
}

/// One peer's disk and clock.
pub struct Shim {
    control: File,
    slip: Option<Slip>,
    ahead_ms: i64,
}

impl Shim {
    /// Makes a peer start with `library` from now on.
    pub fn put_under(peer: &mut Peer, library: &Path) -> Result<Self> {
        let path = peer.dir.join("control");
        let control = File::create(&path)?;
        control.write_all_at(&[0; CONTROL_BYTES], 0)?;
        peer.set("LD_PRELOAD", &library.to_string_lossy());
        peer.set("DEMES_CHAOS_CONTROL", &path.to_string_lossy());
        Ok(Self { control, slip: None, ahead_ms: 0 })
    }

    /// What goes wrong from now on.
    pub fn set_slip(&mut self, slip: Option<Slip>) -> Result<()> {
        self.slip = slip;
        self.write()
    }

    /// By how much the wall clock is ahead from now on.
    pub fn set_ahead_ms(&mut self, ahead_ms: i64) -> Result<()> {
        self.ahead_ms = ahead_ms;
        self.write()
    }

    fn write(&self) -> Result<()> {
        let mut text = self.slip.iter().map(Slip::line).collect::<String>();
        if self.ahead_ms != 0 {
            text += &format!("clock {}\n", self.ahead_ms);
        }
        let mut bytes = text.into_bytes();
        ensure!(bytes.len() < CONTROL_BYTES, "it fits");
        bytes.resize(CONTROL_BYTES, 0);
        Ok(self.control.write_all_at(&bytes, 0)?)
    }
}
