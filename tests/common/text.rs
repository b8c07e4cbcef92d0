//! How a transcript shows things: one short line each, peers by their numbers, positions in a log
//! as `term/index`.

use std::fmt::Write;
use std::sync::Arc;

use demes_protocol::event::{LinkState, Notice, Persist, Role, Status};
use demes_protocol::message::{
    Accepted, Announce, Body, HandOver, HostAlive, Join, Message, Ranking, Receipt, RefusedReason,
    SubmitProblem,
};
use demes_protocol::quota::Quota;
use demes_protocol::types::{
    Entry, InviteLinkId, MemberState, Membership, Past, Payload, PeerId, Policy, Position,
    Submission, VoterSet,
};

/// A peer's number: the byte that its id is made of.
pub fn peer(peer: &PeerId) -> String {
    peer.0[0].to_string()
}

fn link(link: &InviteLinkId) -> String {
    link.0[0].to_string()
}

fn peers<'a>(list: impl IntoIterator<Item = &'a PeerId>) -> String {
    let numbers: Vec<_> = list.into_iter().map(peer).collect();
    if numbers.is_empty() { "nobody".into() } else { numbers.join(" ") }
}

fn nobody_or(known: Option<&PeerId>) -> String {
    known.map_or("nobody".into(), peer)
}

pub fn position(position: Position) -> String {
    format!("{}/{}", position.term, position.index)
}

/// The incarnation where it is not the peer's first.
fn voters(set: &VoterSet) -> String {
    let numbers = set.0.iter().map(|(id, incarnation)| match incarnation - 1_000 {
        first if first == u64::from(id.0[0]) => peer(id),
        _ => format!("{}({incarnation})", peer(id)),
    });
    numbers.collect::<Vec<_>>().join(" ")
}

fn payload(payload: &Payload) -> String {
    match payload {
        Payload::TermStart(_) => "TermStart".into(),
        Payload::Message { sealed, .. } => format!("{:?}", String::from_utf8_lossy(sealed)),
        Payload::VoterChange(set) => format!("VoterChange to {}", voters(set)),
        Payload::Policy(Policy { chat_name: Some(name), .. }) => format!("Policy {name:?}"),
        Payload::Policy(Policy { quota, .. }) => {
            let Quota { bytes, rare } = quota.unwrap_or_default();
            format!("Policy {bytes} bytes, {rare} changes")
        }
        Payload::Membership(change) => match change {
            Membership::Founded { .. } => "Founded".into(),
            Membership::Invited { peer: invited, .. } => format!("Invited {}", peer(invited)),
            Membership::Joined { proof: None, .. } => "Joined".into(),
            Membership::Joined { proof: Some(proof), .. } => {
                format!("Joined with link {}", link(&proof.link))
            }
            Membership::Declined => "Declined".into(),
            Membership::Leaving => "Leaving".into(),
            Membership::Removing { peer: removed } => format!("Removing {}", peer(removed)),
            Membership::Removed { peer: removed } => format!("Removed {}", peer(removed)),
            Membership::Recovered { generation } => format!("Recovered as {generation}"),
            Membership::InviteRevoked { peer: invited } => {
                format!("InviteRevoked {}", peer(invited))
            }
            Membership::InviteLinkCreated { link: id, uses_max, expires_at_ms } => {
                let id = link(id);
                format!("InviteLinkCreated {id}, {uses_max} uses until {expires_at_ms} ms")
            }
            Membership::InviteLinkRevoked { link: id } => {
                format!("InviteLinkRevoked {}", link(id))
            }
        },
    }
}

/// An entry with its place, author, and the author's number where it has one.
pub fn entry(entry: &Entry) -> String {
    let place = format!("{}/{}", entry.term, entry.index);
    let number = if entry.number > 0 { format!(".{}", entry.number) } else { String::new() };
    format!("{place} {} by {}{number}", payload(&entry.payload), peer(&entry.author))
}

/// Up to three entries in full, more as a range.
fn entries(list: &[Arc<Entry>]) -> String {
    match list {
        [first, .., last] if list.len() > 3 => {
            format!("{}/{}..{}/{}", first.term, first.index, last.term, last.index)
        }
        _ => list.iter().map(|e| entry(e)).collect::<Vec<_>>().join(", "),
    }
}

fn numbers(list: &[Submission]) -> String {
    match list {
        [] => "nothing".into(),
        [one] => format!("{} {}", one.number, payload(&one.payload)),
        [first, .., last] => format!("{}..{}", first.number, last.number),
    }
}

fn host_alive(alive: Option<HostAlive>) -> String {
    alive.map_or(String::new(), |alive| {
        let retry = alive.retry_in_us / 1_000;
        format!(", {} is alive in term {} for {retry} ms", peer(&alive.host), alive.term)
    })
}

fn past(known: Option<Past>) -> String {
    known.map_or(String::new(), |past| {
        let acknowledged = position(past.acknowledged);
        format!(" past boot {} term {} acknowledged {acknowledged}", past.boot, past.term)
    })
}

fn receipts<'a>(list: impl IntoIterator<Item = (&'a PeerId, &'a Receipt)>) -> String {
    let all = list.into_iter();
    let all = all.map(|(id, r)| format!("{}: {}/{}", peer(id), r.delivered, r.read));
    all.collect::<Vec<_>>().join(", ")
}

fn ranking(ranking: &Ranking) -> String {
    let candidates: Vec<_> = ranking
        .candidates
        .iter()
        .map(|candidate| {
            let farness = candidate.farness_us.map(|farness| format!("{} ms", farness / 1_000));
            let farness = farness.unwrap_or("no path".into());
            let absence = candidate.absence.map(|absence| format!(", {absence:?}"));
            format!("{} ({farness}{})", peer(&candidate.peer), absence.unwrap_or_default())
        })
        .collect();
    format!("{}.{}: {}", ranking.term, ranking.version, candidates.join(", "))
}

fn accepted(list: &[Accepted]) -> String {
    let places = list.iter().map(|a| {
        let state = if a.committed { "committed" } else { "accepted" };
        format!(" {} {state} at {}/{},", a.number, a.term, a.index)
    });
    places.collect::<String>().trim_end_matches(',').to_owned()
}

fn problem(problem: Option<SubmitProblem>) -> String {
    match problem {
        None => String::new(),
        Some(SubmitProblem::Gap { last }) => format!(" Gap after {last}"),
        Some(other) => format!(" {other:?}"),
    }
}

fn reason(reason: RefusedReason) -> String {
    match reason {
        RefusedReason::NotHost { host } => format!("NotHost, {} is", nobody_or(host.as_ref())),
        RefusedReason::WrongIncarnation { incarnation } => {
            format!("WrongIncarnation, it is {incarnation}")
        }
        RefusedReason::Removed { by: Some(by) } => format!("Removed by {}", peer(&by)),
        RefusedReason::Removed { by: None } => "Removed".into(),
        other => format!("{other:?}"),
    }
}

fn hand_over(hand_over: &HandOver) -> String {
    format!("HandOver of {} to {}", peer(&hand_over.host), peer(&hand_over.target))
}

/// The message's kind: what `show`, `hide`, `deliver` and `drop` name.
pub fn kind(body: &Body) -> &'static str {
    match body {
        Body::Attach(_) => "Attach",
        Body::Append(_) => "Append",
        Body::LookBack(_) => "LookBack",
        Body::Heartbeat(_) => "Heartbeat",
        Body::Acknowledge(_) => "Acknowledge",
        Body::Submit(_) => "Submit",
        Body::SubmitAnswer(_) => "SubmitAnswer",
        Body::ReportDelays(_) => "ReportDelays",
        Body::Goodbye => "Goodbye",
        Body::Join(_) => "Join",
        Body::JoinAnswer(_) => "JoinAnswer",
        Body::Nominate(_) => "Nominate",
        Body::NominateAnswer(_) => "NominateAnswer",
        Body::Solicit(_) => "Solicit",
        Body::SolicitAnswer(_) => "SolicitAnswer",
        Body::FetchLog(_) => "FetchLog",
        Body::FetchLogAnswer(_) => "FetchLogAnswer",
        Body::RequestVote(_) => "RequestVote",
        Body::Vote(_) => "Vote",
        Body::Withdraw(_) => "Withdraw",
        Body::Announce(_) => "Announce",
        Body::HandOver(_) => "HandOver",
        Body::FindHost => "FindHost",
        Body::FindHostAnswer(_) => "FindHostAnswer",
        Body::Refused(_) => "Refused",
    }
}

/// The votes that a reign is shown with.
fn proof(reign: &Entry) -> String {
    let Payload::TermStart(proof) = &reign.payload else { return entry(reign) };
    let voters: Vec<_> = proof.votes.keys().map(peer).collect();
    let last = Position { term: proof.last_term, index: reign.index.saturating_sub(1) };
    format!("after {} with votes of {}", position(last), voters.join(" "))
}

fn details(body: &Body) -> String {
    match body {
        Body::Attach(b) => {
            let relay = if b.relay { " through it" } else { "" };
            format!("#{} at {}{relay}", b.attach, position(b.look))
        }
        Body::Append(b) => {
            let entries = entries(&b.entries);
            let after = position(b.previous);
            format!("#{} after {after} [{entries}] commit {}{}", b.attach, b.commit, past(b.past))
        }
        Body::LookBack(b) => format!("#{} to {}", b.attach, b.index),
        Body::Heartbeat(b) => {
            let probe = if b.probe { " probe" } else { "" };
            let mut text = format!("no {}{probe} commit {}", b.number, b.commit);
            if !b.positions.is_empty() {
                let positions = receipts(b.positions.iter().map(|(id, receipt)| (id, receipt)));
                write!(text, " positions {positions}").expect("a string takes all");
            }
            if let Some(list) = &b.ranking {
                write!(text, " ranking {}", ranking(list)).expect("a string takes all");
            }
            text
        }
        Body::Acknowledge(b) => {
            let receipt = b.receipt;
            if b.received > 0 {
                return format!("#{} received {}", b.attach, b.received);
            }
            let read = format!("delivered {} read {}", receipt.delivered, receipt.read);
            format!("#{} synced {} heard {} {read}", b.attach, b.synced, b.heartbeat)
        }
        Body::Submit(b) => {
            let author = b.author.map(|(author, _)| format!(" of {}", peer(&author)));
            format!("{}{}", numbers(&b.submissions), author.unwrap_or_default())
        }
        Body::SubmitAnswer(b) => format!("{}{}", accepted(&b.accepted), problem(b.problem)),
        Body::ReportDelays(b) => {
            let row = b.row.iter().map(|(id, delay)| format!("{}: {} us", peer(id), delay));
            row.collect::<Vec<_>>().join(", ")
        }
        Body::JoinAnswer(b) if b.accepted => format!("accepted, last number {}", b.last_number),
        Body::JoinAnswer(_) => "not yet".into(),
        Body::Nominate(b) | Body::Solicit(b) => format!("last {}", position(b.last)),
        Body::NominateAnswer(b) => host_alive(b.host_alive),
        Body::SolicitAnswer(b) => {
            let nominated = if b.nominated { "nominated" } else { "not nominated" };
            let doubt = if b.in_doubt { " in doubt" } else { "" };
            format!("{nominated}, last {}{doubt}{}", position(b.last), host_alive(b.host_alive))
        }
        Body::FetchLog(b) => format!("#{} after {}", b.fetch, position(b.look)),
        Body::FetchLogAnswer(b) => {
            let (fetch, previous, last) = (b.fetch, position(b.previous), position(b.last));
            match b.look_back {
                Some(index) => format!("#{fetch} look back to {index}"),
                None => format!("#{fetch} after {previous} [{}] of {last}", entries(&b.entries)),
            }
        }
        Body::RequestVote(b) => {
            let permission =
                b.hand_over.as_ref().map_or(String::new(), |h| format!(" with {}", hand_over(h)));
            format!("last {}{permission}{}", position(b.end.last), past(b.past))
        }
        Body::Vote(b) => {
            let granted = if b.granted.is_some() { "granted" } else { "refused" };
            format!("{granted}{}", host_alive(b.host_alive))
        }
        Body::Withdraw(b) => format!("{:?}", b.reason),
        Body::HandOver(b) => format!("to {}", peer(&b.target)),
        Body::FindHostAnswer(b) => nobody_or(b.host.as_ref()),
        Body::Refused(b) => reason(b.reason),
        Body::Join(b) if b.decline => "declines".into(),
        Body::Join(Join { proof: Some(proof), .. }) => format!("with link {}", link(&proof.link)),
        Body::Announce(Announce { reign: Some(reign), .. }) => proof(reign),
        Body::Goodbye | Body::Join(_) | Body::Announce(_) | Body::FindHost => String::new(),
    }
}

/// `2→3 RequestVote term 4 last 3/17`.
pub fn message(message: &Message) -> String {
    let mut text = format!("{}→{} {}", peer(&message.from), peer(&message.to), kind(&message.body));
    if message.body.term() > 0 {
        write!(text, " term {}", message.body.term()).expect("a string takes all");
    }
    let details = details(&message.body);
    let joined = if details.starts_with(',') { "" } else { " " };
    let is_shown = matches!(message.body, Body::Refused(_)) && !message.words.is_empty();
    let details = if is_shown { format!("{details}, and shows it") } else { details };
    format!("{text}{joined}{}", details.trim_start()).trim_end().to_owned()
}

/// What one sync made durable. `None` where it is only a commit index or what belongs to it.
pub fn persist(persist: &Persist) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(state) = persist.hard_state {
        parts.push(format!("term {} vote {}", state.term, nobody_or(state.vote.as_ref())));
    }
    if let Some(from) = persist.truncate_from {
        parts.push(format!("cut from {from}"));
    }
    if !persist.entries.is_empty() {
        parts.push(format!("[{}]", entries(&persist.entries)));
    }
    if !persist.outbox_put.is_empty() {
        parts.push(format!("outbox {}", numbers(&persist.outbox_put)));
    }
    if let Some(through) = persist.outbox_remove_through {
        parts.push(format!("outbox without {through}"));
    }
    if let Some(by) = &persist.removed_by {
        parts.push(format!("removed by {}", peer(by)));
    }
    if let Some(evidence) = &persist.evidence {
        let peers: Vec<_> = evidence.keys().map(|peer_id| peer(peer_id).to_string()).collect();
        let whom = if peers.is_empty() { "nobody".to_owned() } else { peers.join(" ") };
        parts.push(format!("evidence of {whom}"));
    }
    if let Some(read) = persist.read {
        parts.push(format!("read {read}"));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

pub fn notice(notice: &Notice) -> String {
    match notice {
        Notice::Queued { number } => format!("queued {number}"),
        Notice::Confirmed { number, index } => format!("confirmed {number} at {index}"),
        Notice::Host { host: Some(host), term } => format!("host {} in term {term}", peer(host)),
        Notice::Host { host: None, term } => format!("no host in term {term}"),
        Notice::Serving { term } => format!("serving in term {term}"),
        Notice::Suspect { term } => format!("suspects the host of term {term}"),
        Notice::Nominated { nominee, term } => {
            format!("nominates {} in term {term}", peer(nominee))
        }
        Notice::Standing { term } => format!("stands in term {term}"),
        Notice::Paused { paused: true } => "paused".into(),
        Notice::Paused { paused: false } => "not paused any more".into(),
        Notice::Members => "members or voters changed".into(),
        Notice::MayStop => "may stop".into(),
        Notice::OtherGeneration { peer: of, generation } => {
            format!("{} is in generation {generation}", peer(of))
        }
        Notice::Removed { by: None } => "removed".into(),
        Notice::Removed { by: Some(by) } => format!("removed by {}", peer(by)),
        Notice::BelowOwnPast => "below its own past".into(),
        Notice::Evidence { peer: liar, what, .. } => {
            format!("{} is at fault: {}", peer(liar), what.text())
        }
        Notice::Fault { what } => format!("FAULT {what}"),
    }
}

/// A peer in one line.
pub fn status(status: &Status) -> String {
    let role = match status.role {
        Role::Follower => "follower",
        Role::Suspecting => "suspecting",
        Role::Candidate => "candidate",
        Role::Host if status.paused => "paused host",
        Role::Host => "host",
    };
    let serving = if status.serving { " serving" } else { "" };
    let queued =
        if status.queued > 0 { format!(", queued {}", status.queued) } else { String::new() };
    let (host, voters) = (nobody_or(status.host.as_ref()), voters(&status.voters));
    let (last, commit) = (status.last, status.commit);
    let contact = format!("{} of {}", status.voters_in_contact, status.majority);
    if let Some(by) = &status.removed_by {
        let (by, last, commit) = (peer(by), status.last, status.commit);
        return format!("removed by {by}, last {last}, commit {commit}{queued}");
    }
    let place = format!("{role}{serving} in term {}, host {host}", status.term);
    let generation = generations(status);
    format!(
        "{place}, last {last}, commit {commit}, voters {voters}, contact {contact}{queued}\
         {generation}"
    )
}

/// The own generation where the chat was recovered, and those of others.
fn generations(status: &Status) -> String {
    let own = status.generation;
    let own = if own > 0 { format!(", generation {own}") } else { String::new() };
    let others = status.other_generations.iter();
    let others = others.map(|(id, generation)| format!(", {} in {generation}", peer(id)));
    own + &others.collect::<String>()
}

/// The parts of a status that `status` leaves out.
pub fn people(status: &Status) -> Vec<String> {
    let members = status.members.iter().map(|(id, member)| {
        let state = match member.state {
            MemberState::Invited => "invited",
            MemberState::Active => "active",
            MemberState::Leaving => "leaving",
        };
        let removed = member.removed_by.map(|by| format!(", removed by {}", peer(&by)));
        format!("{} {state} since {}{}", peer(id), member.since, removed.unwrap_or_default())
    });
    let links = status.invite_links.iter().map(|(id, known)| {
        let revoked = if known.revoked { ", revoked" } else { "" };
        format!("{} with {} of {} uses{revoked}", link(id), known.uses_left, known.uses_max)
    });
    let links: Vec<_> = links.collect();
    let up = status.links.iter().filter(|(_, state)| **state == LinkState::Up);
    let members = members.collect::<Vec<_>>().join(", ");
    let links = (!links.is_empty()).then(|| format!("invite links {}", links.join(", ")));
    let mut lines = vec![
        format!("members {members}"),
        format!("linked to {}", peers(up.map(|(id, _)| id))),
        format!("ranking {}", ranking(&status.ranking)),
        format!("delivered/read {}", receipts(&status.receipts)),
    ];
    lines.extend(links);
    lines
}
