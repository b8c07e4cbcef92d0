//! What the commands share for showing things to people.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::fd::AsFd as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

use super::pb;
use super::pb::event::Kind;
use super::slash::ACTION;
use crate::config::wants_color;

/// How many digits of an id people see.
const SHORT_ID: usize = 8;

/// Where a command's result goes: stdout, for people or for programs.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    color: bool,
    /// Whether events come with their sequences.
    sequences: bool,
}

impl Output {
    /// For people unless `json`; with colours only at a terminal, and without NO_COLOR.
    pub fn new(json: bool) -> Self {
        Self { json, color: !json && wants_color(&io::stdout()), sequences: false }
    }

    /// The same, with sequences before events if `shown`.
    pub fn with_sequences(self, shown: bool) -> Self {
        Self { sequences: shown, ..self }
    }

    /// Whether a program reads.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Writes one result: an object on one line, or the text.
    pub fn emit(
        self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        let mut result = if self.json { json().to_string() } else { text() };
        if !result.is_empty() && !result.ends_with('\n') {
            result.push('\n');
        }
        self.write(&result)
    }

    /// Writes one line for a person.
    pub fn line(self, line: &str) -> io::Result<()> {
        self.write(&format!("{line}\n"))
    }

    /// Writes one line beside the result: to stderr, whoever reads.
    pub fn note(self, line: &str) {
        // Where nobody can read it, the command does its work all the same.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// The text made faint.
    pub fn dim(self, text: &str) -> String {
        if self.color { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The text made strong.
    pub fn bold(self, text: &str) -> String {
        if self.color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The text in one of the terminal's colours: 31 is red, 32 green, 33 yellow.
    pub fn colored(self, color: u8, text: &str) -> String {
        if self.color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes text as it is. `println!` would panic when the reader has gone.
    pub fn write(self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}

/// Lines of columns, each as wide as its widest cell.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    numbers_from: Option<usize>,
}

impl Table {
    /// A table with this first row.
    pub fn new<const N: usize>(headers: [&str; N]) -> Self {
        Self { rows: vec![headers.map(str::to_owned).to_vec()], numbers_from: None }
    }

    /// Has all columns from this one on, counted from 0, end at the same place instead of begin
    /// there.
    pub fn numbers_from(mut self, column: usize) -> Self {
        self.numbers_from = Some(column);
        self
    }

    /// Adds a row; rows may differ in length.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines, each with `indent` before it and no blanks at its end.
    pub fn render(&self, indent: &str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let _ = match self.numbers_from.is_some_and(|first| column >= first) {
                    true => write!(line, "{cell:>width$}  "),
                    false => write!(line, "{cell:<width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names for the ids of a chat's members.
#[derive(Clone, Debug, Default)]
pub struct People(Vec<(String, String)>);

impl People {
    /// The members of a chat.
    pub fn of(chat: &pb::Chat) -> Self {
        let members = chat.members.iter();
        Self(members.map(|member| (member.peer_id.clone(), clean(&member.name))).collect())
    }

    /// The members of several chats.
    pub fn of_all(chats: &[pb::Chat]) -> Self {
        let mut all = Vec::new();
        for (id, name) in chats.iter().flat_map(|chat| Self::of(chat).0) {
            if all.iter().all(|(known, _)| *known != id) {
                all.push((id, name));
            }
        }
        Self(all)
    }

    /// The person's name, with the beginning of the id where two have the same name; the beginning
    /// of the id alone where no name is known.
    pub fn name(&self, peer_id: &str) -> String {
        match self.0.iter().find(|(id, _)| id == peer_id) {
            Some((_, name)) => self.label(peer_id, name),
            None => short(peer_id).to_owned(),
        }
    }

    /// The same for the author of an event, who may have left since.
    pub fn author(&self, event: &pb::Event) -> String {
        self.named(&event.author_peer_id, &event.author_name)
    }

    /// The same where the id comes with the name that it had.
    pub fn named(&self, peer_id: &str, name: &str) -> String {
        match name {
            "" => self.name(peer_id),
            name => self.label(peer_id, &clean(name)),
        }
    }

    fn label(&self, peer_id: &str, name: &str) -> String {
        let shared = self.0.iter().any(|(id, other)| id != peer_id && other == name);
        match (name.is_empty(), shared) {
            (true, _) => short(peer_id).to_owned(),
            (false, true) => format!("{name} ({})", short(peer_id)),
            (false, false) => name.to_owned(),
        }
    }
}

/// The beginning of an id, for people to read.
pub fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

/// Text of other people without what a terminal would obey.
pub fn clean(text: &str) -> String {
    // Marks that turn the direction of writing could show a name, or a line, as another one.
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_bad = |c: char| turns(c) || (c.is_control() && c != '\n');
    let harmless = |c: char| if is_bad(c) { '\u{fffd}' } else { c };
    text.replace("\r\n", "\n").replace('\t', "    ").chars().map(harmless).collect()
}

/// What somebody has said, each further line behind a margin that nothing else has: whatever stands
/// there, it is no line of the program's, and no other person's.
pub fn hanging(text: &str) -> String {
    text.replace('\n', "\n     │ ")
}

/// The local time of day, with the date unless it is today.
pub fn local_time(timestamp: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = timestamp.and_then(to_jiff) else { return "--:--".into() };
    let zone = TimeZone::system();
    let (time, now) = (time.to_zoned(zone.clone()), Timestamp::now().to_zoned(zone));
    let format = if time.date() == now.date() { "%H:%M" } else { "%Y-%m-%d %H:%M" };
    time.strftime(format).to_string()
}

/// Seconds, milliseconds and all that, as RFC 3339 in UTC; for programs.
pub fn utc_time(timestamp: &prost_types::Timestamp) -> Option<String> {
    to_jiff(timestamp).map(|time| time.to_string())
}

/// A delay in milliseconds with one digit behind the point.
pub fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1_000, us % 1_000 / 100)
}

/// `1 member`, `2 members`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Returns when nobody can read stdout any more; never where it is a file.
pub async fn stdout_closed() {
    // Its own handle of the pipe, which stays blocking: it is only watched.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    match stdout.and_then(Sender::from_owned_fd_unchecked) {
        Ok(stdout) => drop(stdout.ready(Interest::ERROR).await),
        Err(_) => std::future::pending().await,
    }
}

/// How a chat is: who hosts, or what it waits for.
pub fn chat_state(chat: &pb::Chat, people: &People) -> String {
    let voters = chat.members.iter().filter(|member| member.voter).count();
    if !chat.fault.is_empty() {
        return format!("stopped here: {}", clean(&chat.fault));
    }
    if !chat.removed_by_peer_id.is_empty() {
        let by = people.name(&chat.removed_by_peer_id);
        return match chat.queued {
            0 => format!("{by} removed you"),
            queued => format!("{by} removed you; {} of yours not sent", count(queued, "message")),
        };
    }
    if chat.serving && !chat.host_peer_id.is_empty() {
        return match chat.role() {
            pb::Role::Host => "hosted here".into(),
            _ => format!("hosted by {}", people.name(&chat.host_peer_id)),
        };
    }
    if chat.voters_in_contact < chat.majority {
        return format!("waiting for a majority ({} of {voters})", chat.voters_in_contact);
    }
    "choosing a host".into()
}

/// An event in one line, or several for a text of several lines; none where people need not know.
pub fn event_text(output: Output, event: &pb::Event, people: &People) -> Option<String> {
    let time = local_time(event.created_at.as_ref());
    let time = match output.sequences {
        true => output.dim(&format!("{:>4}  {time}", event.sequence)),
        false => output.dim(&time),
    };
    let author = people.author(event);
    let notice = |text: String| Some(format!("{time}  {}", output.dim(&format!("* {text}"))));
    match event.kind.as_ref()? {
        Kind::Message(message) => {
            let text = hanging(&clean(&message.text));
            let name = output.bold(&author);
            // Another mark than that of notices: nobody can write one.
            Some(match text.strip_prefix(ACTION) {
                Some(action) => format!("{time}  ~ {name} {action}"),
                None => format!("{time}  {name}: {text}"),
            })
        }
        Kind::Member(change) => notice(member_text(&author, change, people)?),
        Kind::Host(host) => notice(format!("{author} hosts now (term {})", host.term)),
        Kind::Policy(policy) => notice(policy_text(&author, policy)),
        Kind::InviteLink(link) => notice(link_text(&author, link)?),
        Kind::Voters(_) | Kind::CaughtUp(_) | Kind::Progress(_) => None,
    }
}

fn policy_text(author: &str, policy: &pb::PolicyEvent) -> String {
    let mut changes = Vec::new();
    if !policy.chat_name.is_empty() {
        changes.push(format!("named the chat {}", clean(&policy.chat_name)));
    }
    if let Some(quota) = &policy.quota {
        changes.push(format!("lets everybody add {}", quota_text(quota)));
    }
    format!("{author} {}", changes.join(", and "))
}

/// How much an author may add.
pub fn quota_text(quota: &pb::Quota) -> String {
    let mib = quota.bytes_per_day >> 20;
    format!("{mib} MiB and {} a day", count(quota.changes_per_day, "change"))
}

fn member_text(author: &str, event: &pb::MemberEvent, people: &People) -> Option<String> {
    let who = people.named(&event.peer_id, &event.name);
    Some(match event.change() {
        pb::MemberChange::Founded => format!("{who} founded the chat"),
        pb::MemberChange::Invited => format!("{author} invited {who}"),
        pb::MemberChange::Joined if event.link_id.is_empty() => format!("{who} takes part"),
        pb::MemberChange::Joined => {
            format!("{who} takes part, by the link {}", short(&event.link_id))
        }
        pb::MemberChange::Declined => format!("{who} declined"),
        pb::MemberChange::Leaving => format!("{who} is leaving"),
        pb::MemberChange::Removing => format!("{author} removes {who}"),
        pb::MemberChange::Removed => format!("{who} has left"),
        pb::MemberChange::Recovered => {
            format!("{who} recovered the chat: a majority of its voters was lost")
        }
        pb::MemberChange::InviteRevoked => format!("{who} is invited no more"),
        pb::MemberChange::Unspecified => return None,
    })
}

fn link_text(author: &str, event: &pb::InviteLinkEvent) -> Option<String> {
    let id = short(&event.link_id);
    Some(match event.change() {
        pb::InviteLinkChange::Created => {
            let people = if event.uses_max == 1 { "person" } else { "people" };
            format!("{author} made the invite link {id} for {} {people}", event.uses_max)
        }
        pb::InviteLinkChange::Revoked => format!("{author} ended the invite link {id}"),
        pb::InviteLinkChange::Unspecified => return None,
    })
}

fn to_jiff(timestamp: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(timestamp.seconds, timestamp.nanos).ok()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A chat of three in which Cleo is away.
    pub fn sample_chat() -> pb::Chat {
        let member = |digit: &str, name: &str, delivered: u64, reachable: bool| pb::Member {
            peer_id: digit.repeat(64),
            name: name.into(),
            address: format!("{name}.example:7443").to_lowercase(),
            state: pb::MemberState::Active.into(),
            voter: true,
            reachable,
            delivered,
            read: delivered,
            other_generation: String::new(),
            away_since: None,
        };
        let delay = |from: &str, to: &str, delay_us: u64| pb::Delay {
            from_peer_id: from.repeat(64),
            to_peer_id: to.repeat(64),
            delay_us,
        };
        let candidate = |digit: &str, farness_us| pb::Candidate {
            peer_id: digit.repeat(64),
            farness_us,
            absence: 0,
        };
        pb::Chat {
            chat_id: "c0ffee00".repeat(4),
            name: "club".into(),
            role: pb::Role::Host.into(),
            term: 3,
            host_peer_id: "a".repeat(64),
            serving: true,
            voters_in_contact: 2,
            majority: 2,
            members: vec![
                member("a", "Ana", 42, true),
                member("b", "Ben", 42, true),
                member("c", "Cleo", 40, false),
            ],
            committed: 42,
            last: 42,
            queued: 0,
            ranking: Some(pb::Ranking {
                term: 3,
                version: 1,
                candidates: vec![
                    candidate("a", Some(12_000)),
                    candidate("b", Some(20_000)),
                    candidate("c", None),
                ],
                delays: vec![
                    delay("a", "b", 4_250),
                    delay("b", "a", 4_300),
                    delay("a", "c", 8_000),
                ],
            }),
            fault: String::new(),
            generation: "0".repeat(16),
            evidence: Vec::new(),
            over_quota: false,
            quota: None,
            majority_lost: false,
            removed_by_peer_id: String::new(),
        }
    }

    #[test]
    fn a_table_aligns_and_has_no_blanks_at_the_ends() {
        let mut table = Table::new(["NAME", "N"]);
        table.row(vec!["é".into(), "1".into()]);
        assert_eq!(table.render(" "), " NAME  N\n é     1\n");
    }

    #[test]
    fn names_that_two_people_have_come_with_their_ids() {
        let mut chat = sample_chat();
        chat.members[1].name = "Ana".into();
        let people = People::of(&chat);
        assert_eq!(people.name(&"a".repeat(64)), "Ana (aaaaaaaa)");
        assert_eq!(people.name(&"c".repeat(64)), "Cleo");
        assert_eq!(people.name(&"d".repeat(64)), "dddddddd");
        assert_eq!(people.named(&"c".repeat(64), ""), "Cleo");
    }

    #[test]
    fn a_state_never_promises_what_is_not() {
        let mut chat = sample_chat();
        let people = People::of(&chat);
        assert_eq!(chat_state(&chat, &people), "hosted here");
        chat.role = pb::Role::Follower.into();
        assert_eq!(chat_state(&chat, &people), "hosted by Ana");
        chat.serving = false;
        assert_eq!(chat_state(&chat, &people), "choosing a host");
        chat.voters_in_contact = 1;
        assert_eq!(chat_state(&chat, &people), "waiting for a majority (1 of 3)");
        chat.removed_by_peer_id = "b".repeat(64);
        assert_eq!(chat_state(&chat, &people), "Ben removed you");
        chat.queued = 2;
        assert_eq!(chat_state(&chat, &people), "Ben removed you; 2 messages of yours not sent");
    }

    #[test]
    fn a_terminal_obeys_nothing_that_others_write() {
        assert_eq!(clean("a\x1b[2Jb\u{9b}c\r\nd"), "a\u{fffd}[2Jb\u{fffd}c\nd");
        assert_eq!(clean("\u{202e}nA\u{2066}"), "\u{fffd}nA\u{fffd}");
        let event = pb::Event {
            author_peer_id: "b".repeat(64),
            author_name: "B\x07en".into(),
            kind: Some(Kind::Message(pb::MessageEvent {
                text: "hi\x1b]0;x\nthere".into(),
                request_id: String::new(),
            })),
            ..pb::Event::default()
        };
        let output = Output { json: false, color: false, sequences: false };
        let text = event_text(output, &event, &People::default());
        let shown = "--:--  B\u{fffd}en: hi\u{fffd}]0;x\n     │ there";
        assert_eq!(text.as_deref(), Some(shown));
        let numbered = event_text(output.with_sequences(true), &event, &People::default());
        assert_eq!(numbered.expect("a text"), format!("   0  {shown}"));
    }
}
