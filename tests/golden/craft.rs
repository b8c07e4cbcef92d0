//! Messages made up by a script: of an older term, for another incarnation, with entries that
//! conflict. What a script leaves out is as an honest sender would have it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use demes_protocol::message::{
    Acknowledge, Announce, Append, Attach, Body, FetchLog, FetchLogAnswer, FindHostAnswer, Granted,
    HandOver, Heartbeat, Message, Nominate, Receipt, Refused, RefusedReason, ReportDelays,
    RequestVote, Submit, Vote, Withdraw, WithdrawReason,
};
use demes_protocol::reign::ballot_of;
use demes_protocol::sign::{signed_entry, signed_vote};
use demes_protocol::signed::SignedChange;
use demes_protocol::types::{
    Ballot, ChatId, End, Entry, Hash, InviteLinkProof, Membership, Past, Payload, PeerId, Position,
    Reign, SignedVote, Submission, VoterSet,
};

use super::disk::Image;
use super::signing::sign;
use super::world::{World, first_incarnation, id, link_id};

/// `key=value` words.
struct Words<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Words<'a> {
    fn parse(words: &[&'a str]) -> Result<Self, String> {
        let pairs =
            words.iter().map(|word| word.split_once('=').ok_or(format!("key=value: {word}")));
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).copied()
    }

    fn or<T: FromStr>(&self, key: &str, default: T) -> Result<T, String>
    where
        T::Err: Display,
    {
        let text = self.text(key);
        text.map_or(Ok(default), |text| text.parse().map_err(|why| format!("{key}: {why}")))
    }

    fn peer_or(&self, key: &str, default: PeerId) -> Result<PeerId, String> {
        Ok(id(self.or(key, default.0[0])?))
    }

    fn position_or(&self, key: &str, default: Position) -> Result<Position, String> {
        self.text(key).map_or(Ok(default), position)
    }
}

/// `term/index`.
fn position(text: &str) -> Result<Position, String> {
    let (term, index) = text.split_once('/').ok_or(format!("term/index: {text}"))?;
    let number = |text: &str| text.parse().map_err(|why| format!("{text}: {why}"));
    Ok(Position { term: number(term)?, index: number(index)? })
}

/// A message of `kind` from one peer to another.
pub fn message(
    world: &World,
    from: u8,
    to: u8,
    kind: &str,
    words: &[&str],
) -> Result<Message, String> {
    let words = Words::parse(words)?;
    let sender = world.peers.get(&from).map(|peer| &peer.disk.image);
    let incarnation = sender.map_or(first_incarnation(from), |image| image.incarnation);
    let from_incarnation = words.or("from_incarnation", incarnation)?;
    let known = world.peers.get(&to).map_or(first_incarnation(to), |p| p.disk.image.incarnation);
    let generation = words.or("generation", sender.map_or(0, |image| image.generation))?;
    let said_by = (from_incarnation, words.or("course", generation)?);
    Ok(Message {
        from: id(from),
        from_incarnation,
        from_boot: words.or("boot", sender.map_or(1, |image| image.boot))?,
        to: id(to),
        to_incarnation: words.or("to_incarnation", known)?,
        generation,
        call: 1,
        words: shown(from, to, said_by, &words)?,
        body: body(world, from, to, kind, &words)?,
    })
}

/// What bears the message out. `removed_by=2 number=3`: member 2's word, its third, that the
/// addressee is to go, in 2's first incarnation or `of_incarnation=9`, said in generation `course`
/// or else in that of the message. `let_in_by=2`: 2's invitation of the sender, and the sender's
/// joining.
/// `by_link=1`: the sender's joining by link 1, and with `made_by=2 uses=3` 2's making of it.
/// `outlived_by=9`: the addressee's joining as incarnation 9.
fn shown(
    from: u8,
    to: u8,
    (from_incarnation, generation): (u64, u64),
    words: &Words,
) -> Result<Vec<Arc<SignedChange>>, String> {
    let word = |author: PeerId, incarnation, number, change| {
        let signature = None;
        Arc::new(SignedChange { author, incarnation, number, generation, change, signature })
    };
    let joined = |peer: u8| Membership::Joined {
        name: format!("person {peer}"),
        address: format!("h:{peer}"),
        proof: None,
    };
    let number = words.or("number", 1)?;
    let mut shown = Vec::new();
    if words.text("removed_by").is_some() {
        let by = words.peer_or("removed_by", id(to))?;
        let removing = Membership::Removing { peer: id(to) };
        let incarnation = words.or("of_incarnation", first_incarnation(by.0[0]))?;
        shown.push(word(by, incarnation, number, removing));
    }
    if words.text("let_in_by").is_some() {
        let by = words.peer_or("let_in_by", id(to))?;
        let invited = Membership::Invited { peer: id(from), address: format!("h:{from}") };
        shown.push(word(by, first_incarnation(by.0[0]), number, invited));
        shown.push(word(id(from), from_incarnation, 0, joined(from)));
    }
    if words.text("by_link").is_some() {
        let link = link_id(words.or("by_link", 0)?);
        if words.text("made_by").is_some() {
            let by = words.peer_or("made_by", id(to))?;
            let (uses_max, expires_at_ms) = (words.or("uses", 1)?, u64::MAX);
            let made = Membership::InviteLinkCreated { link, uses_max, expires_at_ms };
            shown.push(word(by, first_incarnation(by.0[0]), number, made));
        }
        let (name, address) = (format!("person {from}"), format!("h:{from}"));
        let proof = Some(InviteLinkProof { link, signature: [0; 64] });
        let joined = Membership::Joined { name, address, proof };
        shown.push(word(id(from), from_incarnation, 0, joined));
    }
    if words.text("outlived_by").is_some() {
        shown.push(word(id(to), words.or("outlived_by", 0)?, 0, joined(to)));
    }
    Ok(shown)
}

fn body(world: &World, from: u8, to: u8, kind: &str, words: &Words) -> Result<Body, String> {
    let image = world.peers.get(&from).map(|peer| &peer.disk.image);
    let term = words.or("term", image.map_or(1, |image| image.hard_state.term))?;
    let end = image.and_then(|image| image.entries.last());
    let end = end.map_or(Position::default(), |e| Position { term: e.term, index: e.index });
    let last = words.position_or("last", end)?;
    let attach = words.or("attach", 1)?;
    Ok(match kind {
        "Attach" => {
            Body::Attach(Attach { term, attach, look: last, relay: words.or("relay", false)? })
        }
        "Append" => {
            let previous = words.position_or("after", end)?;
            let entries = entries(world, from, to, previous, words)?;
            let commit = words.or("commit", 0)?;
            Body::Append(Append {
                term,
                attach,
                previous,
                entries,
                commit,
                past: past(words)?,
                reign: None,
                last: None,
            })
        }
        "Heartbeat" => Body::Heartbeat(Heartbeat {
            term,
            number: words.or("number", 1_000)?,
            interval_us: world.config.heartbeat_us,
            sent_us: words.or("sent", 0)?,
            lease_us: 0,
            probe: words.or("probe", false)?,
            commit: words.or("commit", 0)?,
            positions: positions(words)?,
            pasts: Vec::new(),
            ranking: None,
        }),
        "Acknowledge" => Body::Acknowledge(Acknowledge {
            term,
            attach,
            synced: words.or("synced", end.index)?,
            received: 0,
            heartbeat: words.or("heard", 0)?,
            receipt: Receipt::default(),
            ranking_version: 0,
        }),
        "ReportDelays" => Body::ReportDelays(ReportDelays {
            term,
            row: Vec::new(),
            preferences: Vec::new(),
            host_weight: 100,
            unchanged: false,
            past: past(words)?,
        }),
        "Submit" => Body::Submit(Submit { term, author: None, submissions: submissions(words)? }),
        "Nominate" => Body::Nominate(Nominate { term, last }),
        "Solicit" => Body::Solicit(Nominate { term, last }),
        "RequestVote" => {
            let host = words.text("hand_over_by");
            let target = words.peer_or("hand_over_to", id(from))?;
            let hand_over = host.map(|_| words.peer_or("hand_over_by", target)).transpose()?;
            let hand_over =
                hand_over.map(|host| permission(host, words.or("of_term", term), target));
            let hand_over = hand_over.transpose()?;
            let end = End { last, hash: hash_of_end(image) };
            Body::RequestVote(RequestVote { term, end, hand_over, past: past(words)? })
        }
        "Vote" => {
            let end = words.text("for").map(position).transpose()?;
            let granted = words.or("granted", true)?.then(|| granted(world, from, to, term, end));
            Body::Vote(Vote { term, granted, host_alive: None })
        }
        "FetchLog" => Body::FetchLog(FetchLog { term, fetch: 1, look: last }),
        "FetchLogAnswer" => Body::FetchLogAnswer(FetchLogAnswer {
            term,
            fetch: words.or("fetch", 1)?,
            previous: words.position_or("after", last)?,
            entries: entries(world, from, to, words.position_or("after", last)?, words)?,
            last,
            look_back: None,
        }),
        "Withdraw" => {
            let reason = match words.text("reason") {
                Some("HostHeard") => WithdrawReason::HostHeard,
                _ => WithdrawReason::Unfit,
            };
            Body::Withdraw(Withdraw { term, reason })
        }
        "Announce" => {
            let image = world.peers.get(&to).map(|peer| &peer.disk.image);
            let end = image.and_then(|image| image.entries.last());
            let end = end.map(|e| Position { term: e.term, index: e.index }).unwrap_or_default();
            let end = words.position_or("after", end)?;
            let reign = match words.text("votes") {
                Some(_) => made(world, from, to, end, &term.to_string(), words)?.pop(),
                None => None,
            };
            Body::Announce(Announce { term, reign })
        }
        "HandOver" => Body::HandOver(permission(
            words.peer_or("host", id(from))?,
            Ok(term),
            words.peer_or("target", id(to))?,
        )?),
        "Refused" => Body::Refused(Refused {
            term,
            reason: match words.text("reason") {
                Some("StaleTerm") => RefusedReason::StaleTerm,
                Some("WrongIncarnation") => {
                    RefusedReason::WrongIncarnation { incarnation: words.or("incarnation", 9)? }
                }
                Some("Outlived") => RefusedReason::Outlived { is_here: false },
                Some("Removed") => {
                    RefusedReason::Removed { by: Some(words.peer_or("by", id(from))?) }
                }
                _ => RefusedReason::NotMember,
            },
        }),
        "FindHost" => Body::FindHost,
        "FindHostAnswer" => {
            let host = Some(words.peer_or("host", id(from))?);
            Body::FindHostAnswer(FindHostAnswer { term, host })
        }
        "Goodbye" => Body::Goodbye,
        other => return Err(format!("no message {other} can be made up")),
    })
}

fn hash_of_end(image: Option<&Image>) -> Hash {
    image.and_then(|image| image.entries.last()).map_or(Hash::default(), |entry| entry.hash)
}

/// A vote for the log that the addressee has, or for another end.
fn granted(world: &World, from: u8, to: u8, term: u64, for_end: Option<Position>) -> Granted {
    let image = world.peers.get(&to).map(|peer| &peer.disk.image);
    let last = image.and_then(|image| image.entries.last());
    let last = last.map_or(Position::default(), |e| Position { term: e.term, index: e.index });
    let last = for_end.unwrap_or(last);
    let end = End { last, hash: hash_of_end(image) };
    let incarnation = image.map_or(first_incarnation(to), |image| image.incarnation);
    let generation = image.map_or(0, |image| image.generation);
    let ballot = Ballot { generation, term, candidate: id(to), incarnation, end };
    Granted { end, signature: vote(&ballot, from).signature }
}

fn vote(ballot: &Ballot, voter: u8) -> SignedVote {
    let incarnation = first_incarnation(voter);
    let signed = signed_vote(ChatId::default(), ballot, id(voter), incarnation);
    SignedVote { incarnation, signature: sign(id(voter), &signed) }
}

fn permission(host: PeerId, term: Result<u64, String>, target: PeerId) -> Result<HandOver, String> {
    let host_incarnation = first_incarnation(host.0[0]);
    Ok(HandOver { host, host_incarnation, term: term?, target, signature: None })
}

/// `past=boot,term,term/index`.
fn past(words: &Words) -> Result<Option<Past>, String> {
    let Some(text) = words.text("past") else { return Ok(None) };
    let parts: Vec<_> = text.split(',').collect();
    let [boot, term, acknowledged] = parts[..] else {
        return Err("past=boot,term,term/index".into());
    };
    let number = |text: &str| text.parse().map_err(|why| format!("past: {why}"));
    let acknowledged = position(acknowledged)?;
    let (boot, term) = (number(boot)?, number(term)?);
    Ok(Some(Past { boot, term, acknowledged, signature: None }))
}

/// `receipt=5:9`: peer 5 has got and read everything up to 9.
fn positions(words: &Words) -> Result<Vec<(PeerId, Receipt)>, String> {
    let Some(text) = words.text("receipt") else { return Ok(Vec::new()) };
    let (peer, index) = text.split_once(':').ok_or("receipt=peer:index")?;
    let peer = peer.parse().map_err(|why| format!("receipt: {why}"))?;
    let index = index.parse().map_err(|why| format!("receipt: {why}"))?;
    Ok(vec![(id(peer), Receipt { delivered: index, read: index })])
}

/// `numbers=3..4`.
fn submissions(words: &Words) -> Result<Vec<Submission>, String> {
    let text = words.text("numbers").unwrap_or("1..1");
    let (first, last) = text.split_once("..").ok_or("numbers=first..last")?;
    let number = |text: &str| text.parse::<u64>().map_err(|why| format!("numbers: {why}"));
    let payload = |number: u64| match words.text("kind") {
        Some("TermStart") => Payload::TermStart(Reign::default()),
        _ => Payload::Message {
            request_id: format!("crafted {number}"),
            sealed: Bytes::from(format!("crafted {number}")),
        },
    };
    let submissions = (number(first)?..=number(last)?).map(|number| Submission {
        number,
        created_at_ms: 0,
        trace: None,
        payload: payload(number),
        signature: None,
    });
    Ok(submissions.collect())
}

/// `entries=5,5,6`: one entry per term, following `previous` in the addressee's log: a message, or
/// `kind=TermStart votes=2,3`, with votes that those have given for that very place. `kinds` says
/// what each of them is; `VoterChange:23` makes 2 and 3 the voters. `entries=log`: what the
/// sender's own log has after `previous`.
fn entries(
    world: &World,
    from: u8,
    to: u8,
    previous: Position,
    words: &Words,
) -> Result<Vec<Arc<Entry>>, String> {
    match words.text("entries") {
        Some("log") => {
            let own = world.peers.get(&from).map(|peer| &peer.disk.image.entries[..]);
            let after = own.unwrap_or_default().iter().filter(|it| it.index > previous.index);
            Ok(after.cloned().collect())
        }
        Some(terms) => made(world, from, to, previous, terms, words),
        None => Ok(Vec::new()),
    }
}

fn made(
    world: &World,
    from: u8,
    to: u8,
    previous: Position,
    terms: &str,
    words: &Words,
) -> Result<Vec<Arc<Entry>>, String> {
    let own = world.peers.get(&to).map(|peer| &peer.disk.image.entries[..]).unwrap_or_default();
    let before = (previous.index as usize).checked_sub(1).and_then(|offset| own.get(offset));
    let mut hash = before.map_or(Hash::default(), |entry| entry.hash);
    if words.text("chain") == Some("broken") {
        hash = Hash([7; 32]);
    }
    let mut entries = Vec::new();
    let mut course = words.or("course", before.map_or(0, |entry| entry.generation))?;
    let mut before_term = previous.term;
    let mut kinds = words.text("kinds").into_iter().flat_map(|kinds| kinds.split(','));
    for (index, term) in (previous.index.saturating_add(1)..=u64::MAX).zip(terms.split(',')) {
        let term = term.parse().map_err(|why| format!("entries: {why}"))?;
        let mut entry = Entry {
            index,
            term,
            author: words.peer_or("author", id(from))?,
            incarnation: first_incarnation(words.peer_or("author", id(from))?.0[0]),
            number: words.or("number", 0)?,
            generation: course,
            created_at_ms: 0,
            trace: None,
            payload: match kinds.next().or(words.text("kind")) {
                Some("Recovered") => Payload::Membership(Membership::Recovered { generation: 55 }),
                Some("Message") => Payload::Message {
                    request_id: "made up".into(),
                    sealed: Bytes::from_static(b"made up"),
                },
                Some("VoterChange") => {
                    let voter = words.peer_or("peer", id(from))?;
                    let voters = [(voter, first_incarnation(voter.0[0]))];
                    Payload::VoterChange(VoterSet(voters.into()))
                }
                Some(kind) if kind.starts_with("VoterChange:") => {
                    let peers = kind.bytes().skip("VoterChange:".len()).map(|digit| digit - b'0');
                    let voters = peers.map(|peer| (id(peer), first_incarnation(peer)));
                    Payload::VoterChange(VoterSet(voters.collect()))
                }
                Some("Removed") => Payload::Membership(Membership::Removed {
                    peer: words.peer_or("peer", id(from))?,
                }),
                Some("TermStart") => Payload::TermStart(Reign::default()),
                None if words.text("votes").is_some() => Payload::TermStart(Reign::default()),
                _ => Payload::Message {
                    request_id: format!("crafted {index}"),
                    sealed: Bytes::from(format!("crafted {index}")),
                },
            },
            signature: None,
            previous: hash,
            hash: Hash::default(),
        };
        if let Payload::Membership(Membership::Recovered { generation }) = &entry.payload {
            course = *generation;
            entry.generation = course;
        }
        if let Payload::TermStart(reign) = &mut entry.payload {
            reign.last_term = before_term;
        }
        if let Payload::TermStart(reign) = entry.payload.clone() {
            let ballot = ballot_of(&entry, &reign);
            let mut votes = BTreeMap::new();
            for voter in words.text("votes").unwrap_or_default().split_terminator(',') {
                let voter = voter.parse().map_err(|why| format!("votes: {why}"))?;
                votes.insert(id(voter), vote(&ballot, voter));
            }
            entry.payload = Payload::TermStart(Reign { votes, ..reign });
        }
        if let Payload::VoterChange(_) = &entry.payload {
            let signed = signed_entry(ChatId::default(), &entry);
            entry.signature = Some(sign(id(from), &signed));
        }
        before_term = term;
        entry.hash = entry.computed_hash();
        hash = entry.hash;
        entries.push(Arc::new(entry));
    }
    Ok(entries)
}
