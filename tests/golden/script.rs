//! The commands of a script. `T` is a time like `250ms` or `2s`, `A->B` a way from peer to peer.
//!
//! - `chat N`: a running chat of N members with their voters and a published ranking; `founder`:
//!   the first peer alone; `invite A B`, `uninvite A B`, `join B via A`, `decline B via A`
//! - `invite-link A L uses N for T` (link L, made by A), `revoke-link A L`, `join B via A with L`
//! - `set KEY VALUE`, `distance A B T` (round trip), `show KIND...`, `hide KIND...`: beforehand
//! - `say A TEXT`, `say-many A N`, `read A INDEX`, `rename A NAME`, `agree A BYTES
//!   CHANGES` (the quota), `leave A`, `remove A B` (A
//!   wants B to go)
//! - `deliver`, `deliver A->B [KIND]`, `deliver-one A->B [KIND]`, `double A->B [KIND]` (twice),
//!   `drop`, `drop A->B [KIND]`
//! - `advance T`: time only; `run T`: time, and messages arrive at once
//! - `autosync A on|off`, `sync A`, `sync A took T`
//! - `cut A B`, `cut A->B`, `part A B | C D`: ways carry nothing; `heal`: they do again, over new
//!   connections; `uncut`: they do again, and nobody notices
//! - `link A B up|down|refused`, `detach A B`: what A is told of its connection to B
//! - `crash A` (nobody is told), `kill A` (redials are refused), `restart A`, `torn A`
//! - `copy A`, `put-back A`, `wipe A`: of the disk of a peer that does not run
//! - `recover A as GENERATION`, `follow A GENERATION`: likewise (R30)
//! - `hand-over A [to B]`, `stop A`, `disk A fit|full|stalling|stalled`
//! - `inject A->B KIND KEY=VALUE...`: a made-up message arrives (see `craft.rs`)
//! - `status [A...]`, `people A`, `log A` (in memory), `stored A` (on disk), `in-flight`

use bytes::Bytes;
use demes_protocol::event::{DiskState, Event, LinkState, Proposal};
use demes_protocol::message::Message;
use demes_protocol::quota::Quota;
use demes_protocol::types::{Membership, Payload, Policy};

use super::craft;
use super::disk::{Disk, Image};
use super::text;
use super::world::{SYNC_US, World, id, link_id};

/// A chat that is not complete after this time never will be.
/// Measured, ranked, and quiet again.
const GROWN_AT_US: u64 = 6_500_000;
const GROWN_WITHIN_US: u64 = 60_000_000;
const STEP_US: u64 = 50_000;

/// Runs a script and returns it with the transcripts that it gives.
pub fn run(script: &str) -> Result<String, String> {
    let mut runner = Runner { world: World::new(), copy: None };
    let mut output = String::new();
    for (number, line) in script.lines().enumerate() {
        let Some(command) = line.strip_prefix("> ") else {
            if !line.starts_with("  ") {
                output += &format!("{line}\n");
            }
            continue;
        };
        output += &format!("> {command}\n");
        runner.command(command).map_err(|why| format!("line {}: {command}: {why}", number + 1))?;
        for line in runner.world.lines.drain(..) {
            output += &format!("  {line}\n");
        }
    }
    Ok(output)
}

struct Runner {
    world: World,
    copy: Option<Image>,
}

fn number(word: &str) -> Result<u8, String> {
    word.parse().map_err(|_| format!("not a peer: {word}"))
}

fn count(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("not a number: {word}"))
}

fn way(word: &str) -> Result<(u8, u8), String> {
    let (from, to) = word.split_once("->").ok_or(format!("not a way: {word}"))?;
    Ok((number(from)?, number(to)?))
}

/// In microseconds.
fn time(word: &str) -> Result<u64, String> {
    if let Some(ms) = word.strip_suffix("ms") {
        return Ok(count(ms)? * 1_000);
    }
    let seconds = word.strip_suffix('s').ok_or(format!("not a time: {word}"))?;
    Ok(count(seconds)? * 1_000_000)
}

impl Runner {
    fn command(&mut self, command: &str) -> Result<(), String> {
        let words: Vec<_> = command.split_whitespace().collect();
        let known = self.person(&words)? || self.network(&words)? || self.process(&words)?;
        if known || self.preparation(&words)? || self.question(&words)? {
            Ok(())
        } else {
            Err("no such command".into())
        }
    }

    // ---- beforehand ----

    fn preparation(&mut self, words: &[&str]) -> Result<bool, String> {
        let world = &mut self.world;
        match *words {
            ["founder"] => world.start(1)?,
            ["chat", members] => self.chat(number(members)?)?,
            ["set", key, value] => self.set(key, count(value)?)?,
            ["distance", a, b, rtt] => {
                let (a, b) = (number(a)?, number(b)?);
                world.round_trips.insert((a.min(b), a.max(b)), time(rtt)?);
            }
            ["show", ref kinds @ ..] => world.hidden.retain(|kind| !kinds.contains(&&kind[..])),
            ["hide", ref kinds @ ..] => {
                world.hidden.extend(kinds.iter().map(|kind| (*kind).to_owned()));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set(&mut self, key: &str, value: u64) -> Result<(), String> {
        let config = &mut self.world.config;
        match key {
            "in_flight_max" => config.in_flight_max = value,
            "uncommitted_max" => config.uncommitted_max = value,
            "unacknowledged_bytes_max" => config.unacknowledged_bytes_max = value as usize,
            "append_bytes_max" => config.append_bytes_max = value as usize,
            "outbox_max" => config.outbox_max = value as usize,
            "voters_max" => config.voters_max = value as usize,
            "window_bytes" => config.window_bytes = value as usize,
            "window_entries" => config.window_entries = value as usize,
            "checkpoint_every" => config.checkpoint_every = value,
            "quota_bytes" => config.quota.bytes = value,
            "quota_rare" => config.quota.rare = value,
            "steady_ms" => config.steady_us = value * 1_000,
            "back_ms" => config.back_us = value * 1_000,
            "tenure_ms" => config.tenure_us = value * 1_000,
            "move_after_ms" => config.move_after_us = value * 1_000,
            _ => return Err("no such key".into()),
        }
        Ok(())
    }

    /// Founds a chat and lets it grow, out of sight, the way every chat does.
    fn chat(&mut self, members: u8) -> Result<(), String> {
        let world = &mut self.world;
        world.quiet = true;
        world.start(1)?;
        world.pass(1_000_000, true)?;
        for newcomer in 2..=members {
            self.invite(1, newcomer)?;
            self.world.pass(STEP_US, true)?;
            while self.world.replica(newcomer).is_err() {
                self.world.join(newcomer, 1, false, None)?;
                self.world.pass(STEP_US, true)?;
            }
        }
        let deadline = self.world.now + GROWN_WITHIN_US;
        while !self.is_grown(usize::from(members)) || self.world.now < GROWN_AT_US {
            if self.world.now > deadline {
                return Err("the chat does not grow up".into());
            }
            self.world.pass(STEP_US, true)?;
        }
        self.world.quiet = false;
        for peer in self.world.running() {
            self.status(peer)?;
        }
        Ok(())
    }

    fn is_grown(&self, members: usize) -> bool {
        let voters = match members.min(self.world.config.voters_max) {
            2 => 2,
            n if n % 2 == 0 => n - 1,
            n => n,
        };
        let running = self.world.running();
        let mut all = running.iter().filter_map(|peer| self.world.replica(*peer).ok());
        all.all(|replica| {
            let status = replica.status();
            let candidates = &status.ranking.candidates;
            status.voters.len() == voters
                && status.commit == status.last
                && candidates.len() == members
                && candidates.iter().all(|c| c.farness_us.is_some() || members == 1)
        })
    }

    // ---- what people do ----

    fn person(&mut self, words: &[&str]) -> Result<bool, String> {
        match *words {
            ["say", peer, ref text @ ..] => self.say(number(peer)?, &text.join(" "))?,
            ["say-many", peer, times] => {
                for i in 1..=count(times)? {
                    self.say(number(peer)?, &format!("message {i}"))?;
                }
            }
            ["invite", by, newcomer] => self.invite(number(by)?, number(newcomer)?)?,
            ["uninvite", by, peer] => {
                let peer = id(number(peer)?);
                self.propose_membership(by, Membership::InviteRevoked { peer })?;
            }
            ["invite-link", by, link, "uses", uses_max, "for", length] => {
                let expires_at_ms = (self.world.now + time(length)?) / 1_000;
                let (link, uses_max) = (link_id(number(link)?), number(uses_max)?.into());
                let created = Membership::InviteLinkCreated { link, uses_max, expires_at_ms };
                self.propose_membership(by, created)?;
            }
            ["revoke-link", by, link] => {
                let link = link_id(number(link)?);
                self.propose_membership(by, Membership::InviteLinkRevoked { link })?;
            }
            ["join", newcomer, "via", host] => {
                self.world.join(number(newcomer)?, number(host)?, false, None)?;
            }
            ["join", newcomer, "via", host, "with", link] => {
                let link = Some(number(link)?);
                self.world.join(number(newcomer)?, number(host)?, false, link)?;
            }
            ["decline", newcomer, "via", host] => {
                self.world.join(number(newcomer)?, number(host)?, true, None)?;
            }
            ["rename", peer, name] => {
                let policy = Policy::named(name);
                self.propose(number(peer)?, Payload::Policy(policy))?;
            }
            ["agree", peer, bytes, rare] => {
                let quota = Some(Quota { bytes: count(bytes)?, rare: count(rare)? });
                let policy = Policy { chat_name: None, quota };
                self.propose(number(peer)?, Payload::Policy(policy))?;
            }
            ["leave", peer] => self.propose_membership(peer, Membership::Leaving)?,
            ["remove", by, peer] => {
                let peer = id(number(peer)?);
                self.propose_membership(by, Membership::Removing { peer })?;
            }
            ["read", peer, index] => {
                let index = count(index)?;
                self.world.event(number(peer)?, Event::MarkRead { index })?;
            }
            ["hand-over", peer] => {
                self.world.event(number(peer)?, Event::HandOver { target: None })?;
            }
            ["hand-over", peer, "to", target] => {
                let target = Some(id(number(target)?));
                self.world.event(number(peer)?, Event::HandOver { target })?;
            }
            ["stop", peer] => self.world.event(number(peer)?, Event::Stop)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn say(&mut self, peer: u8, text: &str) -> Result<(), String> {
        let next = self.world.replica(peer)?.next_number();
        let request_id = format!("{peer}.{next}");
        let sealed = Bytes::from(text.to_owned());
        self.propose(peer, Payload::Message { request_id, sealed })
    }

    fn invite(&mut self, by: u8, newcomer: u8) -> Result<(), String> {
        let invited = Membership::Invited { peer: id(newcomer), address: format!("h:{newcomer}") };
        self.propose(by, Payload::Membership(invited))
    }

    fn propose_membership(&mut self, by: &str, change: Membership) -> Result<(), String> {
        self.propose(number(by)?, Payload::Membership(change))
    }

    fn propose(&mut self, peer: u8, payload: Payload) -> Result<(), String> {
        if let Err(why) = self.world.replica(peer)?.can_propose(&payload) {
            self.world.line(format!("{peer} takes no submission: {why:?}"));
            return Ok(());
        }
        let proposal = Proposal { payload, created_at_ms: 0, trace: None, signature: None };
        self.world.event(peer, Event::Propose(proposal))
    }

    // ---- the network and time ----

    fn network(&mut self, words: &[&str]) -> Result<bool, String> {
        let world = &mut self.world;
        match *words {
            ["deliver"] => world.deliver_all()?,
            ["deliver", ref chosen @ ..] => {
                for message in self.take(chosen)? {
                    self.world.arrive(message)?;
                }
            }
            ["deliver-one", ref chosen @ ..] => {
                let mut taken = self.take(chosen)?;
                let first = taken.remove(0);
                for message in taken.into_iter().rev() {
                    self.world.in_flight.push_front(message);
                }
                self.world.arrive(first)?;
            }
            ["double", ref chosen @ ..] => {
                for message in self.take(chosen)? {
                    self.world.arrive(message.clone())?;
                    self.world.arrive(message)?;
                }
            }
            ["drop"] => world.in_flight.clear(),
            ["drop", ref chosen @ ..] => drop(self.take(chosen)?),
            ["advance", length] => world.pass(time(length)?, false)?,
            ["run", length] => world.pass(time(length)?, true)?,
            ["cut", one] => {
                world.cut.insert(way(one)?);
            }
            ["cut", a, b] => self.cut(number(a)?, number(b)?),
            ["part", ref sides @ ..] => {
                let mut sides = sides.split(|word| *word == "|");
                let (left, right) = (sides.next().unwrap_or(&[]), sides.next().unwrap_or(&[]));
                for a in left {
                    for b in right {
                        self.cut(number(a)?, number(b)?);
                    }
                }
            }
            ["heal"] => self.heal()?,
            ["uncut"] => world.cut.clear(),
            ["link", a, b, state] => {
                let state = match state {
                    "up" => LinkState::Up,
                    "down" => LinkState::Down,
                    "refused" => LinkState::Refused,
                    other => return Err(format!("not a state: {other}")),
                };
                let peer = id(number(b)?);
                world.event(number(a)?, Event::Link { peer, state })?;
            }
            ["detach", a, b] => {
                world.event(number(a)?, Event::Detached { peer: id(number(b)?) })?;
            }
            ["inject", one, kind, ref values @ ..] => {
                let (from, to) = way(one)?;
                let message = craft::message(world, from, to, kind, values)?;
                world.event(to, Event::Message(message))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take(&mut self, chosen: &[&str]) -> Result<Vec<Message>, String> {
        let (one, kind) = match *chosen {
            [one] => (one, None),
            [one, kind] => (one, Some(kind)),
            _ => return Err("A->B [KIND]".into()),
        };
        let (from, to) = way(one)?;
        let taken = self.world.take(from, to, kind);
        if taken.is_empty() { Err("nothing of that is on its way".into()) } else { Ok(taken) }
    }

    fn cut(&mut self, a: u8, b: u8) {
        self.world.cut.extend([(a, b), (b, a)]);
    }

    /// Connections over a cut way have broken, and come up again.
    fn heal(&mut self) -> Result<(), String> {
        let cut = std::mem::take(&mut self.world.cut);
        for state in [LinkState::Down, LinkState::Up] {
            for (from, to) in &cut {
                if self.world.replica(*from).is_ok() && self.world.replica(*to).is_ok() {
                    self.world.event(*from, Event::Link { peer: id(*to), state })?;
                }
            }
        }
        Ok(())
    }

    // ---- processes and disks ----

    fn process(&mut self, words: &[&str]) -> Result<bool, String> {
        let world = &mut self.world;
        match *words {
            ["crash", peer] => world.crash(number(peer)?)?,
            ["kill", peer] => world.kill(number(peer)?)?,
            ["restart", peer] => world.start(number(peer)?)?,
            ["torn", peer] => world.peer(number(peer)?)?.torn = true,
            ["autosync", peer, "off"] => world.peer(number(peer)?)?.autosync = false,
            ["autosync", peer, "on"] => {
                world.peer(number(peer)?)?.autosync = true;
                world.sync(number(peer)?)?;
            }
            ["sync", peer] => world.sync(number(peer)?)?,
            ["sync", peer, "took", span] => {
                world.sync_us = time(span)?;
                world.sync(number(peer)?)?;
                world.sync_us = SYNC_US;
            }
            ["copy", peer] => self.copy = Some(world.peer(number(peer)?)?.disk.image.clone()),
            ["put-back", peer] => {
                let copy = self.copy.clone().ok_or("nothing was copied")?;
                world.peer(number(peer)?)?.disk.image = copy;
            }
            ["wipe", peer] => {
                let peer = world.peer(number(peer)?)?;
                peer.disk = Disk::new(peer.disk.image.incarnation + 1_000, Vec::new());
            }
            ["recover", peer, "as", generation] => {
                world.recover(number(peer)?, count(generation)?)?;
            }
            ["follow", peer, generation] => {
                let generation = count(generation)?;
                let peer = world.peer(number(peer)?)?;
                peer.disk = Disk::new(peer.disk.image.incarnation + 1_000, Vec::new());
                peer.disk.image.generation = generation;
            }
            ["disk", peer, state] => {
                let state = match state {
                    "fit" => DiskState::Fit,
                    "full" => DiskState::Full,
                    "stalling" => DiskState::Stalling,
                    "stalled" => DiskState::Stalled,
                    other => return Err(format!("not a state: {other}")),
                };
                world.event(number(peer)?, Event::Disk(state))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    // ---- questions ----

    fn question(&mut self, words: &[&str]) -> Result<bool, String> {
        match *words {
            ["status"] => {
                for peer in self.world.running() {
                    self.status(peer)?;
                }
            }
            ["status", ref chosen @ ..] => {
                for peer in chosen {
                    self.status(number(peer)?)?;
                }
            }
            ["people", peer] => {
                for line in text::people(&self.world.replica(number(peer)?)?.status()) {
                    self.world.line(line);
                }
            }
            ["log", peer] => {
                let log = self.world.replica(number(peer)?)?.log();
                let commit = log.commit();
                for entry in log.entries_from(log.base() + 1, usize::MAX) {
                    let committed = if entry.index <= commit { "" } else { " (not committed)" };
                    self.world.line(format!("{}{committed}", text::entry(&entry)));
                }
            }
            ["stored", peer] => {
                let image = &self.world.peer(number(peer)?)?.disk.image;
                let (state, last) = (image.hard_state, image.entries.last());
                let vote = state.vote.map_or("nobody".into(), |vote| text::peer(&vote));
                let last = last.map_or("nothing".into(), |entry| text::entry(entry));
                let queued = image.outbox.len();
                let (term, commit) = (state.term, image.commit);
                let line = format!(
                    "term {term} vote {vote}, last {last}, commit {commit}, outbox {queued}"
                );
                self.world.line(line);
            }
            ["in-flight"] => {
                for message in self.world.in_flight.clone() {
                    self.world.line(text::message(&message));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn status(&mut self, peer: u8) -> Result<(), String> {
        let line = text::status(&self.world.replica(peer)?.status());
        self.world.line(format!("{peer} {line}"));
        Ok(())
    }
}
