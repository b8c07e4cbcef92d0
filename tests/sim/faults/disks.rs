//! Disks stall, fail, fill up, lie, rot, and are swapped for old copies or new ones.
//!
//! What takes a voter's memory away happens only as long as a majority of every voter set in force
//! keeps its own: no protocol promises anything beyond that.

use demes_protocol::event::Event;
use demes_protocol::types::{Incarnation, MemberState, PeerId, VoterSet};

use super::super::plan::{Action, Draw, Who, ms};
use super::super::queue::What;
use super::super::world::{MS, Peer, SECOND, World};
use super::{down, span};

/// The longest that a write takes.
const STALL_US_MAX: u64 = 30 * SECOND;

/// Whoever is not shown its own past by then, though a host serves, is repaired all the same.
const WATCH_US_MAX: u64 = 10 * SECOND;

/// No write returns for a while (R24).
pub fn stall(draw: &mut Draw, _rest_us: u64) -> Action {
    let (who, for_us) = (draw.who(), draw.span(500 * MS, STALL_US_MAX));
    Action::new(format!("{who}'s disk stalls for {}", ms(for_us)), move |world| {
        if let Some(peer) = world.find(who) {
            // One that begins later may end sooner.
            let until = &mut world.peers[peer].disk.stalled_until;
            *until = (*until).max(world.now + for_us);
        }
    })
}

/// The next write fails, and whether it happened is unknown (R38).
pub fn failed_write(draw: &mut Draw, _rest_us: u64) -> Action {
    let who = draw.who();
    Action::new(format!("{who}'s next write fails"), move |world| {
        if let Some(peer) = world.find(who) {
            world.peers[peer].disk.fails = true;
        }
    })
}

/// Free space falls below the reserve (R38).
pub fn full(draw: &mut Draw, rest_us: u64) -> Action {
    let (who, for_us) = (draw.who(), span(draw, rest_us));
    Action::new(format!("{who}'s disk is full for {}", ms(for_us)), move |world| {
        if let Some(peer) = world.find(who) {
            world.peers[peer].disk_is_full = true;
            let epoch = world.peers[peer].epoch;
            world.at(0, What::DiskState { peer, epoch });
            world.at(for_us, What::Room { peer });
        }
    })
}

/// The power fails, and the disk had lied about its last batch: a part of it is not there (R37).
pub fn torn_tail(draw: &mut Draw, _rest_us: u64) -> Action {
    let (who, pick, down_us) = (draw.who(), draw.prng.next_u64(), down(draw));
    let words = format!("{who} is killed and finds its last batch torn after {}", ms(down_us));
    Action::new(words, move |world| {
        if let Some(peer) = world.spared(who) {
            world.kill(peer, down_us, false);
            world.peers[peer].disk.tear(pick);
        }
    })
}

/// A bit of some record flips; the process goes on or is started again.
pub fn flipped_bit(draw: &mut Draw, _rest_us: u64) -> Action {
    let (who, pick, down_us) = (draw.who(), draw.prng.next_u64(), down(draw));
    let is_restarted = draw.chance(70);
    let then = if is_restarted { " and it is killed" } else { "" };
    Action::new(format!("a bit flips on {who}'s disk{then}"), move |world| {
        if let Some(peer) = world.spared(who) {
            let record = world.peers[peer].disk.flip(pick);
            world.log(|| format!("   in {record:?}"));
            if is_restarted {
                world.kill(peer, down_us, false);
            }
        }
    })
}

/// Somebody copies the store, for later.
pub fn copy(draw: &mut Draw, _rest_us: u64) -> Action {
    let who = draw.who();
    Action::new(format!("{who}'s store is copied"), move |world| {
        if let Some(peer) = world.find(who) {
            world.peers[peer].disk.make_copy();
        }
    })
}

/// An old copy takes the place of the store (R9).
///
/// Whoever restores a copy must be noticed by somebody who knows better before that matters. So
/// this happens while a host serves, and nothing else goes wrong until it is noticed: if the only
/// one who knew were gone as well, two voters' memories would be gone, and that is one too many
/// for three.
pub fn old_copy(draw: &mut Draw, _rest_us: u64) -> Action {
    let (who, down_us) = (draw.who(), draw.below(200 * MS));
    Action::new(format!("{who}'s store is replaced by the copy"), move |world| {
        if let Some(peer) = world.spared(who)
            && world.is_calm()
            && !world.hosts(peer)
        {
            if world.peers[peer].disk.copy_needs_nobody() {
                return;
            }
            world.kill(peer, down_us, false);
            if world.put_copy_back(peer) {
                world.at(WATCH_US_MAX, What::StopWatching { peer });
            }
        }
    })
}

/// The same, but that another hosts by then, and that nobody reaches the peer for a while, in which
/// it goes on with the numbers that the copy has. What the peer had said was never heard by those
/// who could tell it so at once.
pub fn old_copy_and_another_host(draw: &mut Draw, _rest_us: u64) -> Action {
    let (who, apart_us) = (draw.who(), draw.span(500 * MS, 5 * SECOND));
    let (before, after, is_killed) = (1 + draw.below(4), 1 + draw.below(4), draw.chance(50));
    let words = format!("{who}'s copy comes back to another host, apart for {}", ms(apart_us));
    Action::new(words, move |world| {
        let Some(peer) = world.spared(who) else { return };
        if world.peers[peer].replica.is_none() || world.hosts(peer) {
            return;
        }
        world.peers[peer].disk.make_copy();
        world.at(200 * MS, What::Say { peer, count: before });
        world.later(
            SECOND,
            Action::new("it is killed".into(), move |world| {
                world.kill(peer, 10 * SECOND, false);
            }),
        );
        world.later(
            1_500 * MS,
            Action::new("the host changes".into(), move |world| {
                let Some(host) = world.host() else { return };
                match is_killed {
                    true => world.kill(host, 100 * MS, false),
                    false => world.tell(host, Event::HandOver { target: None }),
                }
            }),
        );
        world.later(
            5 * SECOND,
            Action::new("the copy is put back".into(), move |world| {
                let may =
                    world.is_calm_without(Some(peer)) && world.spared(Who::Peer(peer)).is_some();
                if !may || world.peers[peer].replica.is_some() {
                    return;
                }
                if world.put_copy_back(peer) {
                    world.counts.add("old copies that met another host");
                    world.part(&[peer], false, apart_us);
                    world.at(apart_us / 2, What::Say { peer, count: after });
                    world.at(apart_us + WATCH_US_MAX, What::StopWatching { peer });
                }
                world.start(peer);
            }),
        );
    })
}

/// Every sync of everybody takes long.
pub fn slow_syncs(draw: &mut Draw, rest_us: u64) -> Action {
    let (us, more_us) = (draw.span(50 * MS, 1_000 * MS), draw.span(MS, 200 * MS));
    let for_us = draw.span(SECOND, 20 * SECOND).min(rest_us);
    let words = format!("syncs take {} and more everywhere, for {}", ms(us), ms(for_us));
    Action::new(words, move |world| {
        world.slow_syncs = (us, more_us);
        world.at(for_us, What::FastSyncs);
    })
}

/// The store is gone, and the peer begins anew (R9).
pub fn wipe(draw: &mut Draw, _rest_us: u64) -> Action {
    let (who, down_us) = (draw.who(), down(draw));
    Action::new(format!("{who}'s store is lost"), move |world| {
        if let Some(peer) = world.spared(who)
            && world.peers[peer].joined
        {
            world.kill(peer, down_us, false);
            world.wipe(peer);
        }
    })
}

impl World {
    /// That peer, if the chat can spare its memory. While somebody leaves, it cannot: the voters
    /// might become two that cannot do without each other.
    fn spared(&self, who: Who) -> Option<usize> {
        self.find(who).filter(|peer| {
            let is_staying = |other: &Peer| {
                let members = other.status.members.values();
                members.into_iter().all(|member| member.state != MemberState::Leaving)
            };
            let everybody_stays = self.peers.iter().all(is_staying);
            let (id, incarnation) = (self.peers[*peer].id, self.peers[*peer].disk.incarnation());
            let sets = self.voter_sets();
            everybody_stays
                && sets.iter().all(|set| {
                    let others = set.0.iter().filter(|(other, incarnation)| {
                        **other != id && self.is_sound(other, **incarnation)
                    });
                    set.0.get(&id) != Some(&incarnation) || others.count() >= set.majority()
                })
        })
    }

    /// The copy takes the place of the store, and what was queued since is gone with that. Whether
    /// that forgets anything.
    fn put_copy_back(&mut self, peer: usize) -> bool {
        let forgets = self.peers[peer].disk.put_copy_back();
        let (id, disk) = (self.peers[peer].id, &self.peers[peer].disk);
        if forgets {
            self.oracle.unqueue((id, disk.incarnation(), disk.last_number()));
        }
        forgets
    }

    /// Whether somebody runs on an old copy and has not been shown that.
    pub fn watches_old_copy(&self) -> bool {
        self.peers.iter().any(|peer| peer.disk.is_old() && !peer.is_stopped)
    }

    /// Whether a host serves and nothing is wrong with anything.
    fn is_calm(&self) -> bool {
        self.is_calm_without(None)
    }

    /// The same, whatever that peer does.
    fn is_calm_without(&self, one: Option<usize>) -> bool {
        let one = one.map(|peer| self.peers[peer].id);
        let is_well = |peer: &Peer| {
            if Some(peer.id) == one {
                return true;
            }
            peer.trap.is_none()
                && !peer.disk_is_full
                && peer.disk.stalled_until <= self.now
                && peer.joined == peer.replica.is_some()
                && !peer.frozen
        };
        self.is_served() && self.network.is_calm() && self.peers.iter().all(is_well)
    }

    /// Every voter set that is in force in some log.
    pub fn voter_sets(&self) -> Vec<VoterSet> {
        let with_store = self.peers.iter().filter(|peer| peer.joined);
        with_store
            .map(|peer| match &peer.replica {
                Some(replica) => replica.log().voters().clone(),
                None => peer.disk.voters(),
            })
            .collect()
    }

    /// Whether every member has all that it ever promised to keep.
    pub fn is_everybody_sound(&self) -> bool {
        let members = self.peers.iter().filter(|peer| peer.wants_in);
        members.into_iter().all(|peer| self.is_sound(&peer.id, peer.disk.incarnation()))
    }

    /// Whether that voter has all that it ever promised to keep.
    pub fn is_sound(&self, peer: &PeerId, incarnation: Incarnation) -> bool {
        self.peers.iter().any(|other| {
            other.id == *peer
                && other.joined
                && !other.is_stopped
                && !other.is_damaged
                && other.disk.incarnation() == incarnation
                && other.disk.is_sound()
        })
    }
}
