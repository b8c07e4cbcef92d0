//! The rehearsal: what a cluster does with the manifests in `k8s/`, done without a cluster.
//!
//!     cargo test --release --test rehearsal                             # the base
//!     cargo test --release --test rehearsal -- --kustomization k8s/overlays/local
//!
//! Commands, variables, ports, probes, limits of time and the pods' configuration are read from the
//! manifests and the Dockerfile (`manifests`, `image`). Each pod has a network, a file system, a
//! process tree and a user of its own (`container`), a name and an address that is new with every
//! pod (`names`), and the network policy around it (`policy`). `kubelet` is what a node does for a
//! pod, `cluster` what the controllers do, `story` what happens and must hold.
//!
//! It must be run by root, for the user that pods run as. It says `SKIPPED` where it is not, and
//! fails where root cannot do what it needs.

mod cluster;
#[path = "../../benches/common/mod.rs"]
mod common;
mod container;
#[path = "../common/history.rs"]
mod history;
mod image;
mod kubelet;
#[path = "../common/machine.rs"]
mod machine;
mod manifests;
mod names;
mod policy;
mod record;
#[path = "../common/sandbox.rs"]
mod sandbox;
#[path = "../common/store.rs"]
mod store;
mod story;
#[path = "../common/workload.rs"]
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use demes::config::{self, Arguments, Settings};
use nix::unistd::geteuid;
use tempfile::TempDir;
use tokio::time::timeout;

use container::Recipe;
use image::Image;
use kubelet::Shared;
use manifests::Manifests;
use names::Names;

/// The namespaces of a world of its own. Users stay as they are: pods run as one of them.
const WORLD: [&str; 6] = ["--net", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child"];
/// What the pods need.
const PROBE: &str = "\
    set -e
    ip link add cable type veth peer name eth0
    ip rule add from 10.0.0.1 to 10.0.0.2 ipproto tcp dport 1 lookup main
    echo 1 > /proc/sys/net/ipv4/ip_forward
    mount -t tmpfs -o size=1m none /tmp
    setpriv --no-new-privs unshare --mount --pid --fork --setgid=65532 --setuid=65532 -- true";
/// However it goes, it ends.
const LIMIT: Duration = Duration::from_secs(480);

#[derive(Parser)]
struct Options {
    /// The kustomization that is rehearsed
    #[arg(long, default_value = "k8s/base")]
    kustomization: PathBuf,
    /// Draws which pods people write through
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave volumes and logs where they are
    #[arg(long)]
    keep: bool,
    /// The program under test [default: the one built with this]
    #[arg(long)]
    binary: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    history::check_yourself();
    if !geteuid().is_root() {
        println!("SKIPPED: rehearsal: only root can run pods as the user that they have");
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(why) = sandbox::enter(&WORLD, PROBE) {
        println!("FAILED: rehearsal: this runs as root, and still cannot: {why}");
        return Ok(ExitCode::FAILURE);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build()?.block_on(run(&options))
}

async fn run(options: &Options) -> Result<ExitCode> {
    let begun = Instant::now();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut root = tempfile::Builder::new().prefix("demes-rehearsal-").tempdir()?;
    let manifests = Manifests::of(&repository.join(&options.kustomization))?;
    println!(
        "rehearsal of {}, rendered by {}; left out: {}",
        options.kustomization.display(),
        manifests.rendered_by,
        if manifests.left_out.is_empty() {
            "nothing".into()
        } else {
            manifests.left_out.join(", ")
        },
    );
    machine::be_a_router()?;
    policy::enforce(&manifests)?;
    let names = Names::start(policy::DNS).await?;
    let settings = settings_of(&manifests, &root)?;
    let [chat] = &settings.bootstrap[..] else { anyhow::bail!("the pods found one chat") };
    let image = Image::of(&repository.join("Dockerfile"))?;
    let security = &manifests.pod().security_context;
    let user = format!("{}:{}", security.run_as_user, security.run_as_group);
    ensure!(image.user == user, "the image runs as {}, the pod as {user}", image.user);
    let recipe = Recipe {
        manifests,
        image,
        binary: options.binary.clone().unwrap_or_else(|| common::binary().to_owned()),
        root: root.path().to_owned(),
        name_server: names.ip().to_string(),
    };
    let shared = Shared::new(recipe, settings.client_listen, chat.name.clone());
    let pulse = Arc::downgrade(&shared);
    std::thread::spawn(move || cluster::feel_pulse(&pulse));
    let played = timeout(LIMIT, story::Story::play(shared.clone(), names, options.seed)).await;
    match played {
        Ok(Ok(())) => {}
        Ok(Err(error)) => shared.record.problem(format!("{error:#}")),
        Err(_) => shared.record.problem(format!("it does not end within {LIMIT:?}")),
    }
    let failed = tell(&shared, begun.elapsed());
    if failed || options.keep {
        root.disable_cleanup(true);
        println!("volumes and logs are in {}", root.path().display());
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The pods' configuration as the program itself reads it, without what differs between them.
fn settings_of(manifests: &Manifests, root: &TempDir) -> Result<Settings> {
    let args = &manifests.container().args;
    let file = args.iter().skip_while(|word| *word != "--config").nth(1);
    let file = Path::new(file.context("the arguments name a file")?);
    let mounts = &manifests.container().volume_mounts;
    let mount = mounts.iter().find(|mount| file.parent() == Some(Path::new(&mount.mount_path)));
    let files = manifests.files_of(&mount.context("a volume has the file")?.name)?;
    let name = file.file_name().and_then(|name| name.to_str()).context("it has a name")?;
    let text = files.and_then(|files| files.get(name)).context("a ConfigMap has the file")?;
    let copy = root.path().join(name);
    std::fs::write(&copy, text)?;
    let data_dir = Some(root.path().join("data"));
    Ok(config::load(&Arguments { data_dir, file: Some(copy), ..Arguments::default() })?)
}

/// The figures; whether anything failed.
fn tell(shared: &Arc<Shared>, took: Duration) -> bool {
    let record = &shared.record;
    print!("{}{}", record.timeline(), record.restarts());
    for (kind, tally) in record.tallies() {
        println!(
            "{kind} probes: {} good, {} bad when they may be, {} unexpected",
            tally.good, tally.bad, tally.unexpected,
        );
    }
    let count = shared.world.history.count();
    let refusals = shared.world.history.refusals();
    let refusals: Vec<_> = refusals.iter().map(|(why, times)| format!("{times} {why}")).collect();
    println!(
        "{} messages sent, {} confirmed, {} unknown; calls that failed: {}",
        count.messages,
        count.confirmed,
        count.unknown,
        if refusals.is_empty() { "none".into() } else { refusals.join(", ") },
    );
    let problems = record.problems();
    for problem in &problems {
        println!("PROBLEM {problem}");
    }
    let (passed, failed) = (record.checks().saturating_sub(problems.len() as u64), problems.len());
    let (unjudged, took) = (record.unjudged(), took.as_secs_f64());
    println!("rehearsal: {passed} passed, {failed} failed, {unjudged} not judged, {took:.0} s");
    failed > 0
}
