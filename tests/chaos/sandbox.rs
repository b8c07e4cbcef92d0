//! A world of its own for the whole run, where the machine allows it: processes, mounts and
//! networks that nothing outside sees, and that end with it, whatever ends it.
//!
//! The run executes itself once more under `unshare` (util-linux). It is then the first process of
//! its own process namespace: when it dies, by SIGKILL too, the kernel kills every peer.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Set in the run's own world.
const INSIDE: &str = "DEMES_CHAOS_INSIDE";
const UNSHARE: [&str; 6] =
    ["--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"];
/// What the faults need; it fails in words that say what is missing.
const PROBE: &str = "\
    set -e
    ip link add cable type veth peer name eth0
    ip rule add from 10.0.0.1 to 10.0.0.2 blackhole
    echo 1 > /proc/sys/net/ipv4/ip_forward
    mount -t tmpfs -o size=1m none /tmp";

/// Goes into a world of its own, and returns there; or stays, and says why.
///
/// # Errors
/// The reason, in one line.
pub fn enter() -> Result<(), String> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let probe = Command::new("unshare").args(UNSHARE).args(["sh", "-c", PROBE]).output();
    let probe = probe.map_err(|error| format!("unshare cannot be run: {error}"))?;
    if !probe.status.success() {
        let said = String::from_utf8_lossy(&probe.stderr);
        return Err(said.lines().next().unwrap_or("unshare failed").to_owned());
    }
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let error = Command::new("unshare")
        .args(UNSHARE)
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
