//! This peer's own connections to the other members: one task and one connection for each.
//!
//! A connection that closes is dialled again at once; whether that is refused says that the other
//! process is gone (R14). No polling: the moment of the close is told by the connection itself. A
//! peer that cannot be reached is dialled with growing pauses, and again as soon as it dials us: it
//! counts only while both directions work (R25).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::calls::Calls;
use super::dial::{self, Connection, DialError, secure};
use crate::crypto::Identity;
use crate::protocol::event::LinkState;
use crate::protocol::types::PeerId;
use crate::runtime::handle::{Contact, Handle};

const REDIAL_MIN: Duration = Duration::from_millis(50);
const REDIAL_MAX: Duration = Duration::from_secs(2);
/// Where TCP has no answer by then, it is begun anew when the peer dials us; alone it would repeat
/// itself only seconds later.
const DIAL_SLOW: Duration = Duration::from_millis(500);
const PING_EVERY: Duration = Duration::from_secs(1);
/// On a line that is full they are further apart: by as many times what one has waited.
const PING_EVERY_MAX: Duration = Duration::from_secs(4);
const ROOM_FOR_PINGS: u32 = 8;
/// A ping is late when it takes three times as long as the slowest of the last ones, within these.
const LATE_MIN: Duration = Duration::from_millis(750);
const LATE_MAX: Duration = Duration::from_secs(2);
const RECENT_PINGS: usize = 8;
/// Where nothing at all comes from the peer for so long again, neither an answer to a late ping or
/// to a dial nor what the peer says by itself, it is out of reach; on links that are slower, after
/// four times the slowest ping.
const SILENT_MIN: Duration = Duration::from_millis(1_250);
/// For so long one dials beside a late ping, and the others wait: where a line is full, all pings
/// over it are late, and all those handshakes would be more than it carries in seconds.
const DIAL_TURN: Duration = Duration::from_secs(1);
/// Pings in quick succession when a connection is new (R12).
const PING_BURST: u32 = 3;

/// Keeps a connection to every peer of the roster until `stop`.
pub async fn keep_links(handle: Handle, identity: Arc<Identity>, stop: CancellationToken) {
    let mut roster = handle.roster();
    let turns = Arc::new(Semaphore::new(1));
    let mut links: BTreeMap<PeerId, (Contact, CancellationToken)> = BTreeMap::new();
    loop {
        let wanted = Arc::clone(&roster.borrow_and_update());
        links.retain(|peer, (contact, stop)| {
            let keep = wanted.get(peer).is_some_and(|wanted| {
                wanted.address == contact.address
                    && Arc::ptr_eq(&wanted.send_queue, &contact.send_queue)
            });
            if !keep {
                stop.cancel();
            }
            keep
        });
        for (&peer, contact) in wanted.iter() {
            links.entry(peer).or_insert_with(|| {
                let stop = stop.child_token();
                let link = Link {
                    handle: handle.clone(),
                    identity: Arc::clone(&identity),
                    peer,
                    contact: contact.clone(),
                    turns: Arc::clone(&turns),
                };
                let stopped = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = link.run() => {}
                        () = stopped.cancelled() => {}
                    }
                });
                (contact.clone(), stop)
            });
        }
        tokio::select! {
            changed = roster.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// The connection to one peer.
struct Link {
    handle: Handle,
    identity: Arc<Identity>,
    peer: PeerId,
    contact: Contact,
    /// Who may dial beside a late ping.
    turns: Arc<Semaphore>,
}

impl Link {
    async fn run(self) {
        let mut told = None;
        let mut backoff = Backoff::new(REDIAL_MIN, REDIAL_MAX);
        let mut newer = None;
        loop {
            let connected = match newer.take() {
                Some(connection) => Ok(connection),
                None => self.connect().await,
            };
            let state = match connected {
                Ok(connection) => {
                    backoff.reset();
                    self.contact.send_queue.set_up(true);
                    self.handle.link(self.peer, LinkState::Up).await;
                    newer = self.serve(&connection).await;
                    self.contact.send_queue.set_up(false);
                    self.handle.link(self.peer, LinkState::Down).await;
                    told = Some(LinkState::Down);
                    // Dialled again at once: the answer says whether the process is gone.
                    continue;
                }
                Err(DialError::Refused) => LinkState::Refused,
                Err(error) => {
                    tracing::debug!(peer = ?self.peer, %error, "cannot connect");
                    LinkState::Down
                }
            };
            if told != Some(state) {
                told = Some(state);
                self.handle.link(self.peer, state).await;
            }
            let pause = jitter(backoff.pause());
            if timeout(pause, self.contact.send_queue.until_dialled()).await.is_ok() {
                backoff.reset();
            }
        }
    }

    /// A connection over which one call was answered.
    async fn connect(&self) -> Result<Connection, DialError> {
        let tcp = self.connect_tcp().await?;
        // What has come so far is left to end by itself: over a long link the peer's own dial
        // arrives in the midst of it, and two who began anew for that would never connect.
        let connection = secure(&self.identity, tcp, Some(self.peer)).await?;
        connection.ping().await.map_err(|error| DialError::Other(error.to_string()))?;
        Ok(connection)
    }

    async fn connect_tcp(&self) -> Result<TcpStream, DialError> {
        loop {
            let slow = async {
                sleep(DIAL_SLOW).await;
                self.contact.send_queue.until_dialled().await;
            };
            tokio::select! {
                connected = dial::connect(&self.contact.address) => return connected,
                () = slow => {}
            }
        }
    }

    /// Works until the connection closes, or is dead; gives the one that takes its place, if there
    /// is one already.
    async fn serve(&self, connection: &Connection) -> Option<Connection> {
        let mut calls = Calls::new(&self.handle, self.peer, connection.channel.clone());
        let sending = async {
            loop {
                for (chat, message, trace) in self.contact.send_queue.drain().await {
                    calls.send(chat, message, trace);
                }
            }
        };
        tokio::select! {
            () = connection.closed.cancelled() => None,
            newer = self.measure(connection) => newer,
            () = sending => None,
        }
    }

    /// Pings, until one gets no answer. What is dead says nothing (a middlebox forgot the
    /// connection, or an address moved), and neither does what is merely slow. So the peer is
    /// dialled beside a ping that is late, and not where anything else comes over the connection: a
    /// handshake would be much for a line that is full. A connection that comes to be meanwhile,
    /// which takes several round trips, shows that the older one is dead.
    async fn measure(&self, connection: &Connection) -> Option<Connection> {
        let mut recent = VecDeque::new();
        for count in 1_u32.. {
            let slowest: Duration = recent.iter().copied().max().unwrap_or(LATE_MAX);
            let patience = (slowest * 3).clamp(LATE_MIN, LATE_MAX);
            let ping = connection.ping();
            tokio::pin!(ping);
            let took = tokio::select! {
                biased;
                answered = &mut ping => answered.ok()?,
                () = silence(|| connection.heard(), patience) => {
                    let heard = || connection.heard() + self.contact.send_queue.heard();
                    tokio::select! {
                        biased;
                        answered = ping => answered.ok()?,
                        newer = self.overtake() => return newer,
                        () = silence(heard, (slowest * 4).max(SILENT_MIN)) => return None,
                    }
                }
            };
            recent.truncate(RECENT_PINGS - 1);
            recent.push_front(took);
            let rtt_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.handle.round_trip(self.peer, rtt_us).await;
            if count >= PING_BURST {
                // Where it has waited for something, there is little room.
                let waited = took.saturating_sub(recent.iter().copied().min().unwrap_or(took));
                sleep((waited * ROOM_FOR_PINGS).clamp(PING_EVERY, PING_EVERY_MAX)).await;
            }
        }
        None
    }

    /// Another connection to the peer; none if nobody listens there any more.
    async fn overtake(&self) -> Option<Connection> {
        let mut backoff = Backoff::new(REDIAL_MIN, REDIAL_MAX);
        loop {
            let turn = self.turns.acquire().await;
            let connecting = self.connect();
            tokio::pin!(connecting);
            let connected = match timeout(DIAL_TURN, &mut connecting).await {
                Ok(connected) => connected,
                Err(_) => {
                    drop(turn);
                    connecting.await
                }
            };
            match connected {
                Ok(connection) => return Some(connection),
                Err(DialError::Refused) => return None,
                Err(_) => sleep(jitter(backoff.pause())).await,
            }
        }
    }
}

/// Until nothing has been heard for so long; `heard` counts what is.
async fn silence(heard: impl Fn() -> u64, lasts: Duration) {
    loop {
        let before = heard();
        sleep(lasts).await;
        if heard() == before {
            return;
        }
    }
}

/// Three quarters to five quarters of `wait`, so that peers do not dial in step.
fn jitter(wait: Duration) -> Duration {
    let share = getrandom::u32().unwrap_or(0) % 512;
    wait * (768 + share) / 1_024
}
