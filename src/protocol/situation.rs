//! A replica as a model checker tells it from others: without what cannot change what it will do.
//!
//! Two replicas of one peer with equal situations do the same from now on, apart from a shift of
//! their clocks and from the numbers that they count with. So moments are taken by their distance
//! from the replica's own clock, and numbers that only name things are taken out. Every struct is
//! taken apart whole, so that a new field does not compile before somebody decides what it means.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use super::durable::{Durability, Kept, Later};
use super::election::{Adoption, Candidacy, Nomination, RENEW_US, Search, Suspicion};
use super::host::{Batch, HandingOver, HeartbeatSent, Hosting, Presence, Progress, RECALL_US};
use super::member::{Attached, Following, Lease, Outbox, PAST_AGAIN, RELAY_US, Sources, Trial};
use super::part::Part;
use super::replica::{Replica, Stopping};
use super::sender::{GATHER_US, SHOWN_US};
use super::time::{Instant, Micros};
use super::types::{Index, PeerId, Term};
use super::world::World;

/// What is left of a replica: a hash, and the numbers that other peers repeat.
pub struct Situation<H> {
    pub hasher: H,
    /// In an order that follows from what is hashed.
    pub counts: Vec<Count>,
    pub scale: Scale,
    now: Instant,
}

/// How moments are told apart. A driver that uses this calls a replica only at multiples of
/// `quantum_us`, and never lets a timer of `future_us` or more ahead come due.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Deadlines are rounded up to multiples of this.
    pub quantum_us: Micros,
    /// What is this long ago is long ago. At least the longest span that a rule looks back.
    pub past_us: Micros,
    /// What is this far ahead is far ahead.
    pub future_us: Micros,
}

/// A number that one peer counts and others repeat. Only its place among the others of its kind
/// matters, and of a heartbeat only when it was sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Count {
    /// An attach of a member.
    Attach { member: PeerId, number: u64 },
    /// A member's request for a part of another's log.
    Fetch { member: PeerId, number: u64 },
    /// A heartbeat of the host of `term`; 0 is none.
    Heartbeat { term: Term, number: u64 },
    /// The host of `term`, this replica, sent that heartbeat, and perhaps some before it that are
    /// not listed, so long ago (`past_us`: long ago), with that commit index.
    Sent { term: Term, number: u64, ago_us: Micros, commit: Index },
}

impl<H: Hasher> Situation<H> {
    pub fn new(hasher: H, scale: Scale) -> Self {
        Self { hasher, counts: Vec::new(), scale, now: Instant::default() }
    }

    /// Something that is to come: all that is past is due.
    fn due(&mut self, at: Instant) {
        let ahead = at.since(self.now).min(self.scale.future_us);
        ahead.div_ceil(self.scale.quantum_us).hash(&mut self.hasher);
    }

    fn due_if(&mut self, at: Option<Instant>) {
        at.is_some().hash(&mut self.hasher);
        if let Some(at) = at {
            self.due(at);
        }
    }

    /// Something that was.
    fn was(&mut self, at: Instant) {
        let ago = self.now.since(at).min(self.scale.past_us);
        (ago / self.scale.quantum_us).hash(&mut self.hasher);
    }

    fn was_if(&mut self, at: Option<Instant>) {
        at.is_some().hash(&mut self.hasher);
        if let Some(at) = at {
            self.was(at);
        }
    }

    fn hash(&mut self, value: impl Hash) {
        value.hash(&mut self.hasher);
    }
}

impl Replica {
    /// Adds this replica's situation. Everything that it wanted done must have been taken.
    pub fn situation<H: Hasher>(&self, into: &mut Situation<H>) {
        // The configuration and the peer's own name never change. Random numbers are for spans
        // of back-off, which a driver makes all alike, and for whom to ask first. A majority that
        // is lost is only told of. How long things take, as echoes, votes, late heartbeats and
        // long searches show it, makes no span longer where the longest lease is the shortest one,
        // too, which a driver sees to.
        let Self {
            config: _,
            signer: _,
            me,
            incarnation,
            boot,
            generation,
            now,
            prng: _,
            hard_state,
            log,
            outbox,
            kept,
            durability,
            part,
            lease: Lease { until, suspect_at },
            sources,
            search,
            nominated,
            fetch_count,
            report_at,
            renewed_at,
            world,
            disk,
            disk_since: _,
            stopping,
            fault,
            has_gone,
            knows_own_words,
            is_over_quota,
            ready,
            ready_count,
        } = self;
        let Kept { read, furthest, doubt, pasts, evidence, removed_by } = kept;
        let Durability {
            persisted_ready,
            term_ready,
            synced,
            unsynced,
            commit_persisted,
            checkpoint_index,
            flush_at,
            pasts_due_at,
            later,
            syncs,
        } = durability;
        let Sources {
            // Its hash stands for all of it.
            reign,
            hint,
            distrusted,
            attach_count,
            relay_at,
            relay_behind,
            seek_host_at,
        } = sources;
        let World {
            links,
            apart_since: _,
            round_trips,
            lateness: _,
            ranking,
            receipts,
            goodbyes,
            heard_terms,
            newer_incarnations,
            other_generations,
            key_in_use,
            sent_away_by,
            shown_by_link,
            foreign_words_of,
            // So little is added in a model that nobody comes near what they may.
            added: _,
        } = world;
        let Search { suspicion, nominations, adoption, vain_votes } = search;
        let host = part.host(*me);
        let none = BTreeMap::new();
        let (attached, relays) = match part {
            Part::Follower(following) => {
                // Its host is that of the other parts, too.
                let Following { host: _, attached, relays } = &**following;
                (attached.as_ref(), relays)
            }
            Part::Candidate(_) | Part::Host(_) => (None, &none),
        };
        debug_assert!(ready.is_empty(), "what is to be done was not taken");
        into.now = *now;
        // The hash of the last entry stands for all of the log's content.
        into.hash((incarnation, boot, generation, hard_state));
        into.hash((log.last_hash(), log.commit(), log.base()));
        outbox.situation(*ready_count, into);
        into.hash((read, furthest, doubt, synced, commit_persisted, checkpoint_index));
        into.hash(unsynced.len());
        for (number, index) in unsynced {
            into.hash((ready_count - number, index));
        }
        into.hash(ready_count - persisted_ready);
        into.hash((term_ready > persisted_ready).then(|| ready_count - term_ready));
        into.due_if(*flush_at);
        into.hash((host, hint, reign.as_ref().map(|reign| reign.hash)));
        into.hash(distrusted.len());
        for (peer, distrust) in distrusted {
            into.hash((peer, distrust.term));
            into.due(distrust.until);
        }
        into.due_if(renewed_at.map(|at| at + RENEW_US));
        into.hash(vain_votes.len());
        for (peer, (count, until)) in vain_votes {
            into.hash((peer, count));
            into.due(*until);
        }
        into.counts.push(Count::Attach { member: *me, number: *attach_count });
        part.situation(*ready_count, hard_state.term, into);
        into.hash(attached.is_some());
        if let Some(attached) = attached {
            attached.situation(*me, host, hard_state.term, into);
            into.due(self.attach_ends_at(attached));
        }
        into.hash(relays.len());
        for (peer, progress) in relays {
            into.hash(peer);
            progress.situation(*peer, (0, 0), into);
        }
        into.due(*relay_at);
        into.hash(relay_behind.map(|(peer, _)| peer));
        into.due_if(relay_behind.map(|(_, until)| until));
        into.due(*until);
        into.due(*suspect_at);
        into.hash(suspicion.is_some());
        if let Some(suspicion) = suspicion {
            suspicion.situation(into);
        }
        into.hash(nominated);
        into.hash(nominations.len());
        for (peer, nomination) in nominations {
            into.hash(peer);
            nomination.situation(into);
        }
        into.counts.push(Count::Fetch { member: *me, number: *fetch_count });
        into.hash(adoption.is_some());
        if let Some(adoption) = adoption {
            adoption.situation(*me, into);
        }
        into.due(*seek_host_at);
        into.due(*report_at);
        into.hash((ranking.term, ranking.version, &ranking.candidates));
        into.hash((goodbyes, links, round_trips, syncs, heard_terms, newer_incarnations));
        into.hash((other_generations, key_in_use, disk, fault, has_gone, removed_by, sent_away_by));
        into.hash((evidence, foreign_words_of, is_over_quota, knows_own_words));
        for (link, joined) in shown_by_link {
            into.hash((link, joined.len()));
            for (who, at) in joined {
                into.hash(who);
                into.due(*at + SHOWN_US);
            }
        }
        into.hash(shown_by_link.len());
        into.hash((pasts, receipts));
        into.due_if(*pasts_due_at);
        match stopping {
            Some(Stopping::HandingOver { deadline }) => into.due_if(Some(*deadline)),
            Some(Stopping::SaidGoodbye) => into.hash(2_u8),
            None => into.hash(3_u8),
        }
        // The ids of requests are kept for programs.
        let Later { outbox_remove_through, request_ids: _ } = later;
        into.hash(outbox_remove_through);
    }
}

impl Part {
    fn situation<H: Hasher>(&self, ready_count: u64, term: Term, into: &mut Situation<H>) {
        match self {
            Part::Follower(_) => into.hash(0_u8),
            Part::Candidate(Candidacy {
                since,
                refusals,
                votes,
                own_vote_ready,
                deadline,
                was_handed_over,
            }) => {
                into.hash((
                    1_u8,
                    votes,
                    refusals,
                    was_handed_over,
                    own_vote_ready.map(|number| ready_count - number),
                ));
                into.due(*deadline);
                // How long the own vote takes to be durable, the others' may take too.
                into.was_if(own_vote_ready.map(|_| *since));
            }
            Part::Host(hosting) => {
                into.hash(2_u8);
                hosting.situation(term, into);
            }
        }
    }
}

impl Hosting {
    fn situation<H: Hasher>(&self, term: Term, into: &mut Situation<H>) {
        // A heartbeat's number only has to be a new one.
        let Self {
            since,
            votes_us: _,
            term_start,
            serving,
            paused,
            paused_since,
            progress,
            submissions,
            reports,
            publish_at,
            published_at,
            heartbeat: _,
            measured_from: _,
            heartbeat_at,
            heartbeats_sent,
            intervals_us,
            active_at,
            announce_at,
            receipts_version,
            receipts_changed,
            own_receipt,
            pasts,
            pasts_version,
            gathered_at,
            hand_over,
            hand_over_from,
            presences,
            next_voters,
            better,
            settled_at,
            joined,
        } = self;
        into.was(*since);
        into.was(*paused_since);
        into.hash((term_start, serving, paused, submissions, reports, intervals_us, pasts));
        into.hash(progress.len());
        for (peer, progress) in progress {
            into.hash(peer);
            progress.situation(*peer, (*receipts_version, *pasts_version), into);
            let told = progress.receipts_version_sent;
            let untold: Vec<_> =
                receipts_changed.iter().filter(|(_, version)| **version > told).collect();
            into.hash((told == 0, untold.iter().map(|(peer, _)| *peer).collect::<Vec<_>>()));
        }
        into.hash(own_receipt);
        into.due(*publish_at);
        into.was(*published_at);
        into.due(*heartbeat_at);
        for (place, sent) in heartbeats_sent.iter().enumerate() {
            let HeartbeatSent { number, at, commit, pace_us } = *sent;
            let ago_us = into.now.since(at).min(into.scale.past_us);
            // Of those that are long ago, the last of each commit index stands for all of them.
            let next = heartbeats_sent.get(place + 1);
            let stands_for_all = next.is_none_or(|next| next.commit != commit);
            if ago_us < into.scale.past_us || stands_for_all {
                into.hash(pace_us);
                into.counts.push(Count::Sent { term, number, ago_us, commit });
            }
        }
        into.was(*active_at);
        into.due_if(gathered_at.map(|at| at + GATHER_US));
        into.due(*announce_at);
        into.hash(hand_over.is_some());
        if let Some(HandingOver { target, tried, deadline, sent }) = hand_over {
            into.hash((target, tried, sent));
            into.due(*deadline);
        }
        into.hash(presences.len());
        for (peer, presence) in presences {
            let Presence { absence, known_since, undialled_since, back_at, wait_us } = presence;
            into.hash((peer, absence, wait_us));
            into.was(*known_since);
            into.was_if(*undialled_since);
            into.was_if(*back_at);
        }
        into.hash(next_voters.as_ref().map(|(voters, _)| voters));
        into.was_if(next_voters.as_ref().map(|(_, since)| *since));
        into.hash(better.map(|(peer, _)| peer));
        into.was_if(better.map(|(_, since)| since));
        into.due(*hand_over_from);
        into.due(*settled_at);
        into.hash(joined);
    }
}

impl Progress {
    /// The newest versions are given; of versions only whether it was sent matters.
    fn situation<H: Hasher>(
        &self,
        member: PeerId,
        (receipts_version, pasts_version): (u64, u64),
        into: &mut Situation<H>,
    ) {
        let Self {
            incarnation,
            boot,
            attach,
            matched,
            next,
            in_flight,
            in_flight_bytes: _,
            sent_at,
            commit_sent,
            loading,
            contact,
            echoes: _,
            shortest_echo: _,
            echoed_at: _,
            first_heartbeat: _,
            copied_soon: _,
            late_until,
            receipt,
            receipts_version_sent,
            receipts_from,
            pasts_version_sent,
            ranking_version,
            ranking_sent: _,
            ranking_withheld: _,
            past,
            tells_reign,
            steady_since,
        } = self;
        into.counts.push(Count::Attach { member, number: *attach });
        into.hash((incarnation, boot, matched, next, commit_sent, loading, receipt));
        into.hash(in_flight.len());
        let recalled = sent_at.filter(|_| !in_flight.is_empty());
        into.due_if(recalled.map(|at| at + RECALL_US));
        for Batch { last, bytes, sent_at: _ } in in_flight {
            into.hash((last, bytes));
        }
        into.hash(*receipts_version_sent == receipts_version);
        into.hash(*matched >= *receipts_from);
        into.hash(*pasts_version_sent == pasts_version);
        into.was_if(*contact);
        into.due(*late_until);
        into.hash(ranking_version);
        into.hash((past, tells_reign));
        into.was_if(*steady_since);
    }
}

impl Attached {
    fn situation<H: Hasher>(
        &self,
        me: PeerId,
        host: Option<PeerId>,
        term: Term,
        into: &mut Situation<H>,
    ) {
        // What it has come up to is only shown.
        let Self {
            source,
            host: claims,
            term: claimed,
            is_proven,
            reign,
            trial,
            early,
            attach,
            look,
            since,
            patience_us,
            matched,
            end,
            caught_up: _,
            heartbeat,
            holes,
            acknowledge,
            echo,
            reported,
            told_past,
            interval_us,
        } = self;
        into.counts.push(Count::Attach { member: me, number: *attach });
        into.counts.push(Count::Heartbeat { term, number: *heartbeat });
        into.hash((
            source,
            look,
            matched,
            end,
            holes,
            acknowledge,
            echo,
            reported.is_some(),
            interval_us,
            patience_us,
        ));
        into.hash(told_past.map(|(_, past)| past));
        into.due_if(told_past.map(|(at, _)| at + PAST_AGAIN * *interval_us));
        into.hash((claims, claimed, is_proven, reign.as_ref().map(|reign| reign.hash)));
        into.hash(early.as_ref().map(|(heartbeat, _)| (heartbeat.commit, heartbeat.probe)));
        into.was_if(early.as_ref().map(|(_, at)| *at));
        into.hash(
            trial
                .as_ref()
                .map(|Trial { reading, entries, bytes: _ }| (reading.head().end, entries.len())),
        );
        into.was(*since);
        if Some(*source) != host || !is_proven {
            into.due(*since + RELAY_US);
        }
    }
}

impl Adoption {
    fn situation<H: Hasher>(&self, me: PeerId, into: &mut Situation<H>) {
        let Self { from, fetch, look, deadline, own_last, pieces, bytes } = self;
        into.counts.push(Count::Fetch { member: me, number: *fetch });
        into.hash((from, look, own_last, pieces.last().map(|entry| entry.hash), bytes));
        into.due(*deadline);
    }
}

impl Suspicion {
    fn situation<H: Hasher>(&self, into: &mut Situation<H>) {
        let Self {
            suspected,
            since: _,
            place,
            nominee,
            round_until,
            withdrawn,
            back_off,
            asked_at,
            has_withdrawn,
        } = self;
        into.hash((suspected, place, nominee, withdrawn, back_off, has_withdrawn));
        into.was_if(*asked_at);
        into.due(*round_until);
    }
}

impl Nomination {
    fn situation<H: Hasher>(&self, into: &mut Situation<H>) {
        let Self { at, until, incarnation, term, last } = self;
        into.hash((incarnation, term, last));
        into.was(*at);
        into.due(*until);
    }
}

impl Outbox {
    fn situation<H: Hasher>(&self, ready_count: u64, into: &mut Situation<H>) {
        let Self {
            queue,
            last_number,
            unsynced,
            synced_through,
            sent_through,
            resend_at,
            resend_span,
            window,
            is_put_off,
        } = self;
        into.hash((queue, last_number, synced_through, sent_through, resend_span, is_put_off));
        into.hash((*window).min(queue.len() as u64));
        into.hash(unsynced.len());
        for (ready, number) in unsynced {
            into.hash((ready_count - ready, number));
        }
        into.due_if(*resend_at);
    }
}
