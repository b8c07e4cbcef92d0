//! A world of its own for the whole run, where the machine allows it: processes, mounts and
//! networks that nothing outside sees, and that end with it, whatever ends it.
//!
//! The run executes itself once more under `unshare` (util-linux). It is then the first process of
//! its own process namespace: when it dies, by SIGKILL too, the kernel kills every peer.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Set in the run's own world.
const INSIDE: &str = "DEMES_TEST_INSIDE";

/// Goes into a world of its own, made by `unshare` with these flags, and returns there; or stays,
/// and says why. `probe` is a shell script that tries there what will be needed, and fails in words
/// that say what is missing.
///
/// # Errors
/// The reason, in one line.
pub fn enter(flags: &[&str], probe: &str) -> Result<(), String> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let tried = Command::new("unshare").args(flags).args(["sh", "-c", probe]).output();
    let tried = tried.map_err(|error| format!("unshare cannot be run: {error}"))?;
    if !tried.status.success() {
        let said = String::from_utf8_lossy(&tried.stderr);
        return Err(said.lines().next().unwrap_or("unshare failed").to_owned());
    }
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let error = Command::new("unshare")
        .args(flags)
        .arg(this)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(format!("unshare cannot be run: {error}"))
}

/// Runs a program of the system and waits for it.
///
/// # Errors
/// What it said, when it failed.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    Ok(())
}
