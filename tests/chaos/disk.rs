//! A small disk for one peer: a file system in memory that can be made as small as what it holds.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;

use crate::sandbox::run;

/// Room for the longest chat of a run.
const SIZE_BYTES: u64 = 1 << 30;
/// What the peer with this disk leaves free (`storage.reserve_mib`).
pub const RESERVE_MIB: u64 = 8;

/// A peer's data directory on a disk of its own. It goes with the world that it was made in.
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes the disk and the directory `path`, where it is found.
    pub fn make(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let disk = Self { path: path.to_owned() };
        disk.mount(MsFlags::empty(), SIZE_BYTES)?;
        Ok(disk)
    }

    /// Leaves half of the peer's reserve.
    pub fn fall_short(&self) -> Result<()> {
        self.mount(MsFlags::MS_REMOUNT, self.used()? + (RESERVE_MIB << 20) / 2)
    }

    /// Leaves nothing.
    pub fn fill(&self) -> Result<()> {
        self.mount(MsFlags::MS_REMOUNT, self.used()?)
    }

    /// Gives the space back.
    pub fn empty(&self) -> Result<()> {
        self.mount(MsFlags::MS_REMOUNT, SIZE_BYTES)
    }

    /// Copies what it holds, for a person to look into when this world is gone.
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        let [from, to] = [&self.path, path].map(|path| path.to_str().context("paths are text"));
        run("cp", &["-r", from?, to?])
    }

    fn used(&self) -> Result<u64> {
        let status = statvfs(&self.path)?;
        Ok((status.blocks() - status.blocks_free()) * status.fragment_size())
    }

    fn mount(&self, flags: MsFlags, bytes: u64) -> Result<()> {
        let options = format!("size={bytes},mode=700");
        mount(Some("demes"), &self.path, Some("tmpfs"), flags, Some(options.as_str()))?;
        Ok(())
    }
}
