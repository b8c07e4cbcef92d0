//! The small programs in C that a run compiles for itself: what Rust can only say with `unsafe`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// The compiled programs. They go when it is dropped.
pub struct Tools {
    dir: TempDir,
}

impl Tools {
    /// Compiles them with `cc`.
    pub fn build() -> Result<Self> {
        let tools = Self { dir: tempfile::Builder::new().prefix("demes-tools-").tempdir()? };
        tools.compile("shim", include_str!("shim.c"), &["-shared", "-fPIC", "-ldl"])?;
        tools.compile("tun", include_str!("tun.c"), &["-pthread"])?;
        Ok(tools)
    }

    /// Loaded before the C library of a peer: `shim.c`.
    pub fn shim(&self) -> PathBuf {
        self.dir.path().join("shim")
    }

    /// Opens a network interface: `tun.c`.
    pub fn tun(&self) -> PathBuf {
        self.dir.path().join("tun")
    }

    fn compile(&self, name: &str, source: &str, flags: &[&str]) -> Result<()> {
        let path = self.dir.path().join(name);
        let file = path.with_extension("c");
        std::fs::write(&file, source)?;
        let mut command = Command::new("cc");
        command.args(["-O2", "-o"]).arg(&path).arg(&file).args(flags);
        let output = command.output().context("a C compiler")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cc {name}.c: {said}");
        Ok(())
    }
}
