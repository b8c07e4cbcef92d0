//! The promise, checked from outside: every confirmed message is in every feed, once, at the
//! sequence that its sender was told, and all feeds say the same.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::peer::Client;
use crate::wire::pb;
use crate::wire::pb::event::Kind;

/// One durable event of a feed, in a size that allows to keep millions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its place in the chat.
    pub sequence: u64,
    /// The hash that the peer shows for the entry.
    pub hash: Box<str>,
    /// A digest of everything else that the peer shows: author, time, kind and text.
    pub digest: [u8; 16],
    /// Author and request id, when it is a message.
    pub message: Option<Box<str>>,
    /// The term, when a host began.
    pub host_term: Option<u64>,
}

/// Messages that were confirmed to their senders: author and request id with text and sequence.
#[derive(Clone, Default, Debug)]
pub struct Confirmed {
    by_request: BTreeMap<Box<str>, u64>,
    problems: Vec<String>,
}

/// What a successful check has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Seen {
    /// Feeds that were compared.
    pub feeds: usize,
    /// Durable events in each of them.
    pub events: u64,
    /// Messages in each of them.
    pub messages: u64,
    /// Messages that their senders were told to be confirmed.
    pub confirmed: u64,
}

impl Confirmed {
    /// Notes that the author was told this sequence. Another one for the same request is a problem.
    pub fn note(&mut self, author: &str, request_id: &str, sequence: u64) {
        let name = message_name(author, request_id);
        if sequence == 0 {
            self.problems.push(format!("{name} was confirmed without a sequence"));
        }
        if let Some(first) = self.by_request.insert(name.clone(), sequence)
            && first != sequence
        {
            self.problems.push(format!("{name} was confirmed at {first} and at {sequence}"));
        }
    }

    /// How many messages were confirmed.
    pub fn len(&self) -> usize {
        self.by_request.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.by_request.is_empty()
    }
}

/// Checks all feeds against each other and against what was confirmed; else every problem found.
pub fn check(feeds: &[(String, Vec<Line>)], confirmed: &Confirmed) -> Result<Seen, Vec<String>> {
    let mut problems = confirmed.problems.clone();
    let Some((first_name, first)) = feeds.first() else {
        return Err(vec!["there is no feed to check".to_owned()]);
    };
    for (name, lines) in feeds {
        let gap = lines.iter().zip(1..).find(|(line, place)| line.sequence != *place);
        if let Some((line, place)) = gap {
            problems.push(format!("{name}: sequence {} where {place} belongs", line.sequence));
        }
        if lines.len() != first.len() {
            let (here, there) = (lines.len(), first.len());
            problems.push(format!("{name} has {here} events, {first_name} has {there}"));
        }
        if let Some((line, other)) = lines.iter().zip(first).find(|(line, other)| line != other) {
            let place = other.sequence;
            problems.push(format!("{name} and {first_name} differ at {place}: {line:?} {other:?}"));
        }
    }
    let mut places: HashMap<&str, u64> = HashMap::new();
    for line in first {
        if let Some(message) = &line.message
            && let Some(earlier) = places.insert(message, line.sequence)
        {
            problems.push(format!("doubled: {message} at {earlier} and {}", line.sequence));
        }
    }
    for (message, sequence) in &confirmed.by_request {
        match places.get(&**message) {
            None => problems.push(format!("lost: {message}, confirmed at {sequence}")),
            Some(place) if place != sequence => {
                problems.push(format!("moved: {message} from {sequence} to {place}"));
            }
            Some(_) => {}
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Seen {
        feeds: feeds.len(),
        events: first.len() as u64,
        messages: places.len() as u64,
        confirmed: confirmed.len() as u64,
    })
}

/// Reads a peer's feed of one chat from its beginning to where it says that the reader has caught
/// up.
pub async fn lines_of(mut client: Client, chat: &str) -> Result<Vec<Line>> {
    let cursors = vec![pb::FeedCursor { chat: chat.to_owned(), after: 0 }];
    let mut feed = client.feed(pb::FeedRequest { cursors }).await?.into_inner();
    let mut lines = Vec::new();
    while let Some(frame) = feed.message().await? {
        for event in frame.events {
            if matches!(event.kind, Some(Kind::CaughtUp(_))) {
                return Ok(lines);
            }
            if let Some(line) = line(&event)? {
                lines.push(line);
            }
        }
    }
    bail!("the feed ended before it had caught up")
}

/// A durable event as a line; nothing for those that are not part of the log.
pub fn line(event: &pb::Event) -> Result<Option<Line>> {
    let kind = event.kind.as_ref().context("every event says what happened")?;
    if matches!(kind, Kind::CaughtUp(_) | Kind::Progress(_)) {
        return Ok(None);
    }
    let mut shown = event.clone();
    let hash = std::mem::take(&mut shown.hash).into_boxed_str();
    let digest = Sha256::digest(prost::Message::encode_to_vec(&shown));
    let message = match kind {
        Kind::Message(message) => Some(message_name(&event.author_peer_id, &message.request_id)),
        _ => None,
    };
    let host_term = match kind {
        Kind::Host(host) => Some(host.term),
        _ => None,
    };
    let digest = digest[..16].try_into().expect("a SHA-256 has more than 16 bytes");
    Ok(Some(Line { sequence: event.sequence, hash, digest, message, host_term }))
}

fn message_name(author: &str, request_id: &str) -> Box<str> {
    format!("{}/{request_id}", author.get(..8).unwrap_or(author)).into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHOR: &str = "a7a7a7a7a7";

    fn feed(requests: &[&str]) -> Vec<Line> {
        let said = |(place, request_id): (usize, &&str)| Line {
            sequence: place as u64 + 1,
            hash: format!("hash {request_id}").into(),
            digest: [0; 16],
            message: Some(message_name(AUTHOR, request_id)),
            host_term: None,
        };
        requests.iter().enumerate().map(said).collect()
    }

    fn problems(feeds: [Vec<Line>; 2], told: &[(&str, u64)]) -> String {
        let [one, two] = feeds;
        let mut confirmed = Confirmed::default();
        for (request_id, sequence) in told {
            confirmed.note(AUTHOR, request_id, *sequence);
        }
        match check(&[("Ada".into(), one), ("Ben".into(), two)], &confirmed) {
            Ok(seen) => format!("fine: {} of {}", seen.confirmed, seen.messages),
            Err(problems) => problems.join("; "),
        }
    }

    #[test]
    fn equal_feeds_with_all_that_was_confirmed_are_fine() {
        let feed = feed(&["x", "y", "z"]);
        let told = [("x", 1), ("z", 3), ("z", 3)];
        assert_eq!(problems([feed.clone(), feed], &told), "fine: 2 of 3");
    }

    #[test]
    fn what_is_lost_doubled_moved_or_different_is_found() {
        let said = |requests: &[&str]| [feed(requests), feed(requests)];
        assert!(problems(said(&["x"]), &[("y", 2)]).starts_with("lost"));
        assert!(problems(said(&["x", "y", "x"]), &[]).starts_with("doubled"));
        assert!(problems(said(&["x", "y"]), &[("x", 2)]).starts_with("moved"));
        assert!(problems(said(&["x", "y"]), &[("x", 1), ("x", 2)]).contains("confirmed at 1 and"));
        assert!(problems([feed(&["x", "y"]), feed(&["y", "x"])], &[]).contains("differ at 1"));
        assert!(problems([feed(&["x", "y"]), feed(&["x"])], &[]).contains("Ben has 1 events"));
        let mut gap = feed(&["x", "y"]);
        gap[1].sequence = 3;
        assert!(problems([feed(&["x", "y"]), gap], &[]).contains("sequence 3 where 2 belongs"));
        assert_eq!(check(&[], &Confirmed::default()).unwrap_err().len(), 1);
    }
}
