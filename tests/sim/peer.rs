//! One person's peer, as the simulation sees it from outside.

use demes_protocol::Replica;
use demes_protocol::event::{DiskState, Status};
use demes_protocol::types::PeerId;

use super::disk::Disk;
use super::liars::Lie;
use super::process::Wish;
use super::queue::What;
use super::traps::Trap;

/// One person's peer.
pub struct Peer {
    pub id: PeerId,
    /// Absent while no process runs, and before the peer has joined.
    pub replica: Option<Replica>,
    /// What the replica said after its last step.
    pub status: Status,
    pub disk: Disk,
    /// The person wants to be in the chat.
    pub wants_in: bool,
    pub wish: Wish,
    /// The answer to the invitation is on its way.
    pub has_answered: bool,
    /// There is a store, and the chat's log names its incarnation.
    pub joined: bool,
    /// Counts the starts of the process.
    pub epoch: u64,
    /// Counts those and the awakenings, none of which a connection outlives.
    pub network_epoch: u64,
    /// Added to the world's time to get the peer's own.
    pub clock_us: i64,
    /// The process gets no time. With `asleep_since`, the whole machine does not.
    pub frozen: bool,
    pub asleep_since: Option<u64>,
    /// What happens meanwhile.
    pub held: Vec<What>,
    /// The loop works on what it has taken in.
    pub busy_until: u64,
    /// When the process ended, its address went with it.
    pub vanished: bool,
    /// The replica found that going on would be wrong.
    pub is_stopped: bool,
    /// The store was found damaged; nothing starts until somebody repairs it.
    pub is_damaged: bool,
    /// It stays down, whatever was planned.
    pub is_lost: bool,
    pub tick_at: u64,
    pub disk_is_full: bool,
    pub disk_state: DiskState,
    /// What it says of delays is made up (`liars`).
    pub lie: Option<Lie>,
    pub trap: Option<Trap>,
    /// The trap closes around this `Ready`.
    pub trapped_ready: Option<u64>,
}

impl Peer {
    /// A peer that does not run, and is in the chat or not.
    pub fn new(id: PeerId, disk: Disk, joined: bool) -> Self {
        Self {
            id,
            replica: None,
            status: Status::default(),
            disk,
            wants_in: joined,
            wish: Wish::Join,
            has_answered: false,
            joined,
            epoch: 0,
            network_epoch: 0,
            clock_us: 0,
            frozen: false,
            asleep_since: None,
            held: Vec::new(),
            busy_until: 0,
            vanished: false,
            is_stopped: false,
            is_damaged: false,
            is_lost: false,
            tick_at: u64::MAX,
            disk_is_full: false,
            disk_state: DiskState::Fit,
            lie: None,
            trap: None,
            trapped_ready: None,
        }
    }
}
