//! Real peers: processes of the built binary on loopback, killed, frozen and started again.
//!
//! Every story ends with the same check (`demes::cli::demo::check`): all feeds are equal, and every
//! confirmed message is in them once, at the sequence that its sender was told.

mod bootstrap;
#[path = "../common/collector.rs"]
mod collector;
mod coming_back;
mod connections;
mod cursors;
mod damage;
mod doctor;
mod failover;
mod harness;
mod input;
mod life;
mod links;
mod observe;
mod outage;
mod process;
mod ranking;
mod recovery;
mod removal;
mod repeats;
mod retries;
mod spans;
mod strangers;
mod trace;
mod voters;
