//! The command line: one file per group of commands.
//!
//! Data goes to stdout and everything else to stderr. No command asks questions. `errors.rs` turns
//! every failure into a text that says what to do next, and an exit code; `output.rs` has what the
//! commands share for showing things, `json.rs` the same for programs. With `--json` a failure is
//! an object too.

mod chat;
mod chats;
mod client;
pub mod demo;
mod doctor;
mod errors;
mod examples;
mod invites;
mod json;
mod messages;
mod output;
mod peer;
mod recover;
mod send;
mod slash;
mod status;
mod typing;
mod up;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Arguments;
use crate::wire::pb;

pub use errors::{EXIT_BUG, EXIT_DISK, EXIT_USAGE, Failure, exit_code, explain};
pub use up::STOP_TIMEOUT;

use output::Output;

/// Private group chat with no server: every person runs a peer.
#[derive(Parser, Debug)]
#[command(name = "demes", version, arg_required_else_help = true, max_term_width = 100,
          after_help = examples::EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The heading of the flags that every command takes.
const COMMON: &str = "Options of every command";

/// Flags that every command takes.
#[derive(Args, Clone, Debug, Default)]
struct Global {
    /// Where a peer listens for programs, host:port, instead of the socket in --data-dir; the
    /// variable DEMES_TOKEN has its token, unless it is the peer of --data-dir
    #[arg(long, global = true, help_heading = COMMON, value_name = "ADDR",
          value_parser = client::host_and_port)]
    peer_api: Option<String>,
    /// Where the peer keeps its identity and chats [default: what the variable DEMES_DATA_DIR says,
    /// else ~/.local/share/demes]
    #[arg(long, global = true, help_heading = COMMON, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The configuration file [default: ~/.config/demes/demes.toml, or DIR/demes.toml]
    #[arg(long, global = true, help_heading = COMMON, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON: one object, or one on each line where events go on
    #[arg(long, global = true, help_heading = COMMON)]
    json: bool,
}

impl Global {
    /// What the flags that every command takes say about the configuration.
    fn arguments(&self) -> Arguments {
        Arguments { data_dir: self.data_dir.clone(), file: self.config.clone(), flags: Vec::new() }
    }

    fn output(&self) -> Output {
        Output::new(self.json)
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run this person's peer until it is stopped
    #[command(after_help = examples::UP)]
    Up(up::UpArgs),
    /// Stop the peer that runs on the data directory
    Down,
    /// Five peers on this machine talk, the host is killed, the next one takes over
    Demo,
    /// Found a chat, and invite people by their addresses
    #[command(after_help = examples::NEW)]
    New(chats::NewArgs),
    /// List the chats
    #[command(visible_alias = "ls")]
    Chats,
    /// Give a chat another name, for everybody
    #[command(after_help = examples::RENAME)]
    Rename(chats::RenameArgs),
    /// Invite somebody to a chat, by address or with a link
    #[command(after_help = examples::INVITE)]
    Invite(invites::InviteArgs),
    /// List invitations, sent and received, and invite links
    Invites,
    /// End an invite link, or take an invitation back
    #[command(after_help = examples::REVOKE)]
    Revoke(invites::RevokeArgs),
    /// Accept an invitation, or join by a link
    #[command(visible_alias = "join", after_help = examples::ACCEPT)]
    Accept(invites::AcceptArgs),
    /// Decline an invitation
    Decline(invites::DeclineArgs),
    /// Show how much each member may add to a chat in a day, or change that for everybody
    Quota(chats::QuotaArgs),
    /// Remove a member from a chat
    Remove(chats::RemoveArgs),
    /// Leave a chat for good
    Leave(chats::LeaveArgs),
    /// Send a message
    #[command(after_help = examples::SEND)]
    Send(send::SendArgs),
    /// Follow what happens in a chat, or in all
    #[command(after_help = examples::FEED)]
    Feed(messages::FeedArgs),
    /// Show earlier messages
    #[command(after_help = examples::HISTORY)]
    History(messages::HistoryArgs),
    /// Talk, line by line
    #[command(after_help = examples::CHAT)]
    Chat(chat::ChatArgs),
    /// Show who hosts, who would be next, delays, and who is away
    #[command(after_help = examples::STATUS)]
    Status(status::StatusArgs),
    /// Let another member host a chat that this peer hosts
    #[command(after_help = examples::HAND_OVER)]
    HandOver(chats::HandOverArgs),
    /// Go on with a chat whose majority is lost for ever; works while the peer is stopped
    Recover(recover::RecoverArgs),
    /// Print the token that programs show on the peer's listener for them
    #[command(after_help = examples::TOKEN)]
    Token,
    /// Ask the running peer whether it is well
    Health(peer::HealthArgs),
    /// Look for what keeps this peer, or its chats, from working, and say what to do
    Doctor(doctor::DoctorArgs),
    /// Show the configuration, and where each value comes from
    Config,
}

/// Runs one command. The runtime is made here and not in `main.rs`, so that the futures are
/// compiled once, with the library.
///
/// # Errors
/// What [`explain`] explains.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Two workers at least: on one, the last traces could not leave while the peer stops.
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let result = runtime.block_on(dispatch(cli));
    // Whatever still runs has been told to stop, or nobody waits for it.
    runtime.shutdown_background();
    result
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    match cli.command {
        Command::Up(args) => up::run(&global, args).await,
        Command::Demo => demo::run(global.json).await,
        Command::Config => done(peer::config(&global)),
        Command::Down => done(peer::down(&global).await),
        Command::New(args) => done(chats::new(&global, args).await),
        Command::Chats => done(chats::list(&global).await),
        Command::Rename(args) => done(chats::rename(&global, args).await),
        Command::Leave(args) => done(chats::leave(&global, args).await),
        Command::HandOver(args) => done(chats::hand_over(&global, args).await),
        Command::Invite(args) => done(invites::invite(&global, args).await),
        Command::Invites => done(invites::list(&global).await),
        Command::Revoke(args) => done(invites::revoke(&global, args).await),
        Command::Quota(args) => done(chats::quota(&global, args).await),
        Command::Remove(args) => done(chats::remove(&global, args).await),
        Command::Accept(args) => done(invites::accept(&global, args).await),
        Command::Decline(args) => done(invites::decline(&global, args).await),
        Command::Send(args) => send::run(&global, args).await,
        Command::Feed(args) => done(messages::feed(&global, args).await),
        Command::History(args) => done(messages::history(&global, args).await),
        Command::Chat(args) => chat::run(&global, args).await,
        Command::Status(args) => done(status::run(&global, args).await),
        Command::Recover(args) => done(recover::run(&global, args)),
        Command::Token => done(peer::token(&global)),
        Command::Health(args) => peer::health(&global, args).await,
        Command::Doctor(args) => doctor::run(&global, args).await,
    }
}

/// Whether these arguments ask for JSON: so that an error in them is told as JSON, too.
pub fn wants_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut flags = arguments.take_while(|argument| argument != "--");
    flags.any(|argument| argument == "--json")
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

/// A word on the command line that names a chat.
#[derive(Args, Clone, Debug)]
struct ChatArg {
    /// The chat: its name, its id, or the beginning of its id
    #[arg(value_name = "CHAT")]
    chat: String,
}

/// The same where only one chat may be there, which needs no name.
#[derive(Args, Clone, Debug)]
struct AnyChatArg {
    /// The chat: its name, its id, or the beginning of its id [default: the only one]
    #[arg(value_name = "CHAT")]
    chat: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_interface_reads() {
        for line in [
            "demes up --name Ana --listen 127.0.0.1:0 --auto-accept",
            "demes up --until-stdin-ends",
            "demes new club 127.0.0.1:7443 --timeout 60",
            "demes invite club ana.example:7443",
            "demes invite club --link",
            "demes invite club --link --uses 3 --expires 12h",
            "demes revoke club 0a1b2c3d",
            "demes accept demes:AXgB",
            "demes quota club",
            "demes quota club 512 --changes 2000",
            "demes remove club ana",
            "demes send club hello",
            "demes send club -",
            "demes send club hello --no-wait",
            "demes send club -5",
            "demes send hello",
            "demes send club hello --timeout 3",
            "demes feed club --after 3",
            "demes feed -s -n 5",
            "demes feed --new",
            "demes history club -n 5 --before 9",
            "demes history -s",
            "demes rename club guild",
            "demes ls",
            "demes join -",
            "demes down",
            "demes status club --json",
            "demes --data-dir d status",
            "demes hand-over club",
            "demes hand-over club ana",
            "demes recover club",
            "demes recover club --follow 00000000000000ab",
            "demes health",
            "demes doctor --timeout 3 --json",
            "demes config --json",
            "demes chat club",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        assert!(Cli::try_parse_from(["demes", "send"]).is_err());
        for line in [
            "demes send club hello --no-wait --timeout 3",
            "demes feed club --after 3 -n 3",
            "demes feed club --new -n 3",
            "demes invite club ana.example:7443 --link",
            "demes invite club ana.example:7443 --uses 2",
            "demes invite club --link --uses 0",
            "demes invite club --link --expires 91d",
            "demes invite club --link --expires soon",
            "demes quota club 0",
            "demes quota club --changes 20",
            "demes doctor --timeout 0",
            "demes recover club --follow 0",
            "demes recover club --follow ab",
            "demes recover club --survivor 1/2",
            "demes frobnicate",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        let json = |line: &str| wants_json(line.split(' ').map(OsString::from));
        assert!(json("demes --json frobnicate") && !json("demes send club -- --json"));
        assert!(Cli::try_parse_from(["demes", "chats", "--peer-api", "here/there"]).is_err());
    }

    #[test]
    fn flags_of_up_name_keys_that_exist() {
        let cli = Cli::try_parse_from(
            "demes up --name A --listen 0.0.0.0:1 --advertise a:1 --client-listen 127.0.0.1:1 \
             --health-listen 0.0.0.0:2 --auto-accept --log-level debug"
                .split_whitespace(),
        )
        .expect("reads");
        let Command::Up(args) = cli.command else { panic!("not up") };
        let directory = tempfile::tempdir().expect("a directory");
        let arguments = Arguments {
            data_dir: Some(directory.path().to_owned()),
            flags: args.flags(),
            ..Arguments::default()
        };
        let settings = config::load(&arguments).expect("valid");
        assert_eq!(settings.name, "A");
        assert!(settings.auto_accept);
        assert_eq!(settings.telemetry.log_level, "debug");
    }
}
