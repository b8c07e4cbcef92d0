//! The running peer: whether it answers, whether it is well, and how its chats are.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Finding, Level, Report, Section};
use crate::cli::client::{Client, Limited, channel};
use crate::cli::output::{People, chat_state, clean, count, short};
use crate::cli::status::absence;
use crate::cli::{Global, errors, pb};
use crate::crypto::identity::inspect;
use crate::wire::pb::client_service_client::ClientServiceClient;

/// The check whose only problem is that no peer answers.
pub const PEER: &str = "peer";
/// How long the peer may take to answer a call that it has the answer of.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The parts of the health service, and what it means when one does not serve.
const HEALTH: [(&str, &str); 3] = [
    ("startup", "its stores are not open yet"),
    ("readiness", "it has not caught up with a chat whose host is there"),
    ("liveness", "its loop does not turn: the disk or the machine holds it up"),
];

/// A peer that answers.
pub struct Running {
    pub client: Client,
    pub peer: pb::GetPeerResponse,
    /// In each, this peer is the first of the members.
    pub chats: Vec<pb::Chat>,
}

/// Whether a peer was found.
pub enum Found {
    Running(Box<Running>),
    /// It has a process, which does not answer.
    Silent,
    Down,
}

/// Looks for the running peer, and how it is. `data_dir` is where its files are, if they are here.
pub async fn find(
    report: &mut Report,
    global: &Global,
    data_dir: Option<&Path>,
    until: Instant,
) -> Result<Found> {
    report.progress("asking the peer");
    let connected = match within(until, channel(global)).await {
        Some(Ok(connected)) => connected,
        Some(Err(error)) => {
            let text = error.to_string();
            let text = text.lines().next().unwrap_or_default().to_owned();
            let todo = "start it with `demes up`; what only a running peer can tell is left out";
            report.add(problem(PEER, text, todo))?;
            return Ok(Found::Down);
        }
        None => return silent(report, data_dir),
    };
    let mut client = ClientServiceClient::new(connected.clone());
    let peer = match within(until, client.get_peer(pb::GetPeerRequest {})).await {
        Some(Ok(peer)) => peer.into_inner(),
        Some(Err(status)) if !is_silent(&status) => {
            let failure = errors::of_status(&status).text;
            report.add(problem(PEER, failure, "start it again with `demes up`"))?;
            return Ok(Found::Down);
        }
        _ => return silent(report, data_dir),
    };
    who(report, &peer, data_dir)?;
    health(report, connected, until).await?;
    let chats = match within(until, client.list_chats(pb::ListChatsRequest {})).await {
        Some(Ok(chats)) => chats.into_inner().chats,
        _ => return silent(report, data_dir),
    };
    let chats = chats.into_iter().map(|chat| own_first(chat, &peer.peer_id)).collect();
    Ok(Found::Running(Box::new(Running { client, peer, chats })))
}

async fn within<T>(until: Instant, call: impl Future<Output = T>) -> Option<T> {
    timeout_at(until.min(Instant::now() + ANSWER_MAX), call).await.ok()
}

fn is_silent(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

fn silent(report: &mut Report, data_dir: Option<&Path>) -> Result<Found> {
    let text = "the peer takes connections and does not answer: its process is stopped, or the \
                machine is far too busy";
    let lock = data_dir.and_then(|dir| fs::read_to_string(dir.join("lock")).ok());
    let todo = match lock.as_deref().map(str::trim).filter(|id| id.parse::<u32>().is_ok()) {
        Some(id) => format!(
            "`kill -CONT {id}` lets a stopped process go on; if that does not help, `kill {id}`, \
             and start it again with `demes up`"
        ),
        None => "let it go on (`kill -CONT`), or start it again".to_owned(),
    };
    report.add(problem(PEER, text.to_owned(), &todo))?;
    Ok(Found::Silent)
}

/// Whether it is this program, and this key.
fn who(report: &mut Report, peer: &pb::GetPeerResponse, data_dir: Option<&Path>) -> Result<()> {
    let (name, id) = (clean(&peer.name), short(&peer.peer_id));
    let text = format!("{name}'s peer {id} runs, and answers programs at {}", peer.client_address);
    report.ok(Section::Peer, PEER, text)?;
    let ours = env!("CARGO_PKG_VERSION");
    match peer.version == ours {
        true => report.ok(Section::Peer, "version", format!("it is demes {ours}, as this is"))?,
        false => report.add(Finding {
            section: Section::Peer,
            check: "version",
            level: Level::Warning,
            text: format!("it is demes {}, and this is demes {ours}", peer.version),
            todo: "start it again to run the program that is installed now".to_owned(),
        })?,
    }
    let on_disk = data_dir.and_then(|dir| inspect(dir).key.ok().flatten());
    if let Some(on_disk) = on_disk.map(|key| key.to_string()).filter(|key| *key != peer.peer_id) {
        let text = format!(
            "it is the peer {id}, and the key in the data directory is that of {}",
            short(&on_disk)
        );
        let todo = "another peer took the port of this one, or the key was replaced under it: \
                    start this peer again";
        report.add(problem("peer_id", text, todo))?;
    }
    Ok(())
}

async fn health(report: &mut Report, channel: Limited, until: Instant) -> Result<()> {
    let mut client = HealthClient::new(channel);
    let mut good = true;
    for (service, meaning) in HEALTH {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = within(until, client.check(request)).await;
        let status = answer.and_then(Result::ok).map(|answer| answer.into_inner().status());
        if status != Some(ServingStatus::Serving) {
            good = false;
            let level = if service == "readiness" { Level::Warning } else { Level::Problem };
            report.add(Finding {
                section: Section::Peer,
                check: "health",
                level,
                text: format!("its {service} probe does not serve: {meaning}"),
                todo: "what follows says more; the peer's log does too".to_owned(),
            })?;
        }
    }
    if good {
        let text = "its probes for startup, readiness and liveness serve".to_owned();
        report.ok(Section::Peer, "health", text)?;
    }
    Ok(())
}

fn own_first(mut chat: pb::Chat, own: &str) -> pb::Chat {
    chat.members.sort_by_key(|member| member.peer_id != own);
    chat
}

/// How every chat is, as the running peer sees it.
pub fn chats(report: &mut Report, running: &Running) -> Result<()> {
    if running.chats.is_empty() {
        let text = "no chats yet: `demes new` founds one".to_owned();
        return report.ok(Section::Chats, "chat", text);
    }
    for chat in &running.chats {
        report.add(host_of(chat))?;
        for finding in recoveries(chat) {
            report.add(finding)?;
        }
        if let Some(finding) = away(chat) {
            report.add(finding)?;
        }
        if let Some(finding) = lag(chat) {
            report.add(finding)?;
        }
    }
    Ok(())
}

fn of_chat(check: &'static str, level: Level, text: String, todo: &str) -> Finding {
    Finding { section: Section::Chats, check, level, text, todo: todo.to_owned() }
}

/// Who hosts, and whether messages are confirmed.
fn host_of(chat: &pb::Chat) -> Finding {
    let people = People::of(chat);
    let (name, state) = (clean(&chat.name), chat_state(chat, &people));
    let voters = chat.members.iter().filter(|member| member.voter).count();
    if !chat.fault.is_empty() {
        // The fault says what happens now, and what a person can do.
        return of_chat("chat", Level::Problem, format!("{name} is {state}"), "");
    }
    if !chat.removed_by_peer_id.is_empty() {
        return of_chat("chat", Level::Ok, format!("{name}: {state}"), "");
    }
    if chat.serving && !chat.host_peer_id.is_empty() {
        let queued = match chat.queued {
            0 => String::new(),
            queued => format!("; {} of yours on the way", count(queued, "message")),
        };
        let contact = chat.voters_in_contact;
        let text = format!("{name} is {state}, with {contact} of {voters} voters{queued}");
        return of_chat("chat", Level::Ok, text, "");
    }
    let queued = match chat.queued {
        0 => String::new(),
        queued => format!(", and {} of yours queued", count(queued, "message")),
    };
    if chat.voters_in_contact < chat.majority {
        let text = format!("{name} is {state}: nothing is confirmed{queued}");
        let todo = format!(
            "{} of its {voters} voters must be online and reach each other; it then goes on by \
             itself",
            chat.majority
        );
        return of_chat("chat", Level::Problem, text, &todo);
    }
    let todo = "look again in a few seconds; if it stays so, the members below do not reach each \
                other";
    of_chat("chat", Level::Warning, format!("{name} is {state}{queued}"), todo)
}

/// Members who follow another recovery, or a majority that may be lost (R30).
fn recoveries(chat: &pb::Chat) -> Vec<Finding> {
    let (name, id) = (clean(&chat.name), short(&chat.chat_id));
    let mut findings = Vec::new();
    let others = chat.members.iter().filter(|member| !member.other_generation.is_empty());
    let others: Vec<_> = others.map(|member| People::of(chat).name(&member.peer_id)).collect();
    if !others.is_empty() {
        let text = format!("{name}: {} took another course after a recovery", others.join(", "));
        let todo = format!("`demes status {id}` says which command brings them together");
        findings.push(of_chat("generation", Level::Warning, text, &todo));
    }
    if chat.majority_lost {
        let text = format!("{name}: a majority has been away for ten minutes or more");
        let todo = format!("if it is lost for ever, `demes recover {id}` is the last resort");
        findings.push(of_chat("majority_lost", Level::Problem, text, &todo));
    }
    findings
}

/// Who is away, why, and how many more may go.
fn away(chat: &pb::Chat) -> Option<Finding> {
    let people = People::of(chat);
    if !chat.fault.is_empty() || !chat.removed_by_peer_id.is_empty() {
        return None;
    }
    let is_away = |member: &&pb::Member| {
        member.state() != pb::MemberState::Invited
            && (!member.reachable || absence(chat, &member.peer_id).is_some())
    };
    let away: Vec<_> = chat.members.iter().skip(1).filter(is_away).collect();
    let named = away.iter().map(|member| {
        let why = match (absence(chat, &member.peer_id), member.reachable) {
            (Some(why), _) => why,
            (None, _) => "not connected to this peer",
        };
        let vote = if member.voter { ", votes" } else { "" };
        format!("{} ({why}{vote})", people.name(&member.peer_id))
    });
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        return None;
    }
    let text = format!("{}: not fully there: {}", clean(&chat.name), named.join(", "));
    let lost = away.iter().filter(|member| member.voter && !member.reachable).count();
    let spare = chat.voters_in_contact.saturating_sub(chat.majority);
    let todo = match (lost, spare) {
        (0, _) => "nothing, if they mean to be away; below stands who cannot be reached",
        (_, 0) => "one more loss stops the chat until somebody is back: bring them online",
        _ => "the chat goes on without them; below stands who cannot be reached",
    };
    Some(of_chat("away", Level::Warning, text, todo))
}

/// Who is there and behind.
fn lag(chat: &pb::Chat) -> Option<Finding> {
    let people = People::of(chat);
    let behind = chat.members.iter().filter(|member| member.reachable).filter_map(|member| {
        let lag = chat.committed.saturating_sub(member.delivered);
        let counts = member.state() == pb::MemberState::Active && lag > LAG_MAX;
        counts.then(|| format!("{} by {lag}", people.name(&member.peer_id)))
    });
    let behind: Vec<_> = behind.collect();
    if behind.is_empty() || !chat.fault.is_empty() || !chat.removed_by_peer_id.is_empty() {
        return None;
    }
    let text = format!("{} is ahead of what it has told: {}", clean(&chat.name), behind.join(", "));
    let todo = "they catch up by themselves; if the number does not fall, look at their disk and \
                their connection";
    Some(of_chat("lag", Level::Warning, text, todo))
}

/// Entries that a member may be behind without a word: they may be on their way.
const LAG_MAX: u64 = 256;

fn problem(check: &'static str, text: String, todo: &str) -> Finding {
    let todo = todo.to_owned();
    Finding { section: Section::Peer, check, level: Level::Problem, text, todo }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::sample_chat;

    #[test]
    fn a_chat_without_a_majority_is_a_problem_and_one_with_is_none() {
        let good = sample_chat();
        assert_eq!(host_of(&good).level, Level::Ok);
        assert_eq!(host_of(&good).text, "club is hosted here, with 2 of 3 voters");
        let stuck = pb::Chat { serving: false, voters_in_contact: 1, queued: 2, ..sample_chat() };
        let finding = host_of(&stuck);
        assert_eq!(finding.level, Level::Problem);
        assert!(finding.text.contains("waiting for a majority (1 of 3)"), "{finding:?}");
        assert!(finding.text.ends_with("nothing is confirmed, and 2 messages of yours queued"));
        assert!(finding.todo.starts_with("2 of its 3 voters must be online"), "{finding:?}");
        let stopped = pb::Chat { fault: "the file is bad".into(), ..sample_chat() };
        assert_eq!(host_of(&stopped).level, Level::Problem);
    }

    #[test]
    fn who_is_away_is_named_with_why_and_what_it_means() {
        let mut chat = sample_chat();
        let silent = pb::Absence::Silent.into();
        chat.ranking.as_mut().expect("it has one").candidates[2].absence = silent;
        let finding = away(&chat).expect("Cleo is away");
        assert!(finding.text.ends_with("Cleo (silent, votes)"), "{finding:?}");
        assert!(finding.todo.starts_with("one more loss stops the chat"), "{finding:?}");
        chat.members[2].reachable = true;
        chat.ranking.as_mut().expect("it has one").candidates[2].absence = 0;
        assert_eq!(away(&chat), None);
    }

    #[test]
    fn only_a_lag_that_counts_is_told() {
        let mut chat = sample_chat();
        assert_eq!(lag(&chat), None);
        chat.committed = 1_042;
        let finding = lag(&chat).expect("Ana and Ben lag");
        assert!(finding.text.ends_with("Ana by 1000, Ben by 1000"), "{finding:?}");
    }
}
