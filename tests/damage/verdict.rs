//! What becomes of a store that is opened as `demes up` opens it.

use std::path::Path;

use demes::protocol::config::Config;
use demes::protocol::event::{Persist, Recovered};
use demes::protocol::replica::Replica;
use demes::protocol::sign::Signer;
use demes::protocol::time::Instant;
use demes::protocol::types::{Payload, Submission};
use demes::storage::{ChatStore, DataDir, StorageError};

use super::sample::{CHAT, ME, Truth, chain, chat_file, peer_records};

/// How a case ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Everything is there, and can be gone on with.
    Intact,
    /// The last batch is cut from its first bad record on, and the tail is in doubt.
    Cut,
    /// Refused when it is opened. The outbox is taken along whole.
    Damaged,
    /// Refused when it is opened. The outbox, or a part of it, is lost.
    OutboxLost,
    /// Found by whoever reads, writes or closes it, and refused from then on.
    DamagedWithin,
    /// Refused as an older copy.
    Older,
    /// Refused because there is no file.
    Gone,
    /// The storage library ended the process, and the next start refuses the store.
    Ends,
}

impl Verdict {
    pub const ALL: [Self; 8] = [
        Self::Intact,
        Self::Cut,
        Self::Damaged,
        Self::OutboxLost,
        Self::DamagedWithin,
        Self::Older,
        Self::Gone,
        Self::Ends,
    ];

    fn of(error: &StorageError) -> Self {
        assert!(error.needs_repair(), "not a clear refusal: {error}");
        match error {
            StorageError::Older { .. } => Self::Older,
            StorageError::NotThere { .. } => Self::Gone,
            _ => Self::Damaged,
        }
    }

    /// redb writes when it closes, and may stumble over damage only then. That leaves a marker.
    fn or_found_in_closing(self, file: &Path) -> Self {
        let marker = file.with_extension("redb.damaged");
        if self == Self::Intact && marker.exists() { Self::DamagedWithin } else { self }
    }

    /// What a first and a second start say together. The second says the same as the first, but for
    /// damage in a place that nothing needs until redb writes there: that may be found late, with
    /// everything that was read until then as it must be.
    fn and_then(self, second: Self) -> Self {
        match (self, second) {
            (Self::DamagedWithin | Self::Ends, Self::Damaged) => self,
            (Self::Intact, Self::Damaged | Self::DamagedWithin) => Self::DamagedWithin,
            _ => {
                assert_eq!(second, self, "a second start says something else");
                self
            }
        }
    }
}

/// Opens the chat twice, goes on with it where that is possible, and repairs it where it must be.
pub fn examine(dir: &Path, truth: &Truth) -> Verdict {
    let data = DataDir::open(dir).expect("the directory is sound");
    let mut truth = truth.clone();
    let first = look(&data, &mut truth, true).or_found_in_closing(&chat_file(dir));
    start_again(&data, &mut truth, first)
}

/// A start after one that has ended the process.
pub fn examine_after_end(dir: &Path, truth: &Truth) {
    let data = DataDir::open(dir).expect("the directory is sound");
    start_again(&data, &mut truth.clone(), Verdict::Ends);
}

/// Gives what the two starts say together.
fn start_again(data: &DataDir, truth: &mut Truth, first: Verdict) -> Verdict {
    let both = first.and_then(look(data, truth, false));
    let has_begun = !matches!(both, Verdict::Intact | Verdict::Cut);
    let lost = has_begun && begins_anew(data, truth) != truth.recovered.outbox;
    if both == Verdict::Damaged && lost { Verdict::OutboxLost } else { both }
}

fn look(data: &DataDir, truth: &mut Truth, goes_on: bool) -> Verdict {
    let (mut store, recovered) = match data.open_chat(CHAT) {
        Ok(opened) => opened,
        Err(error) => return Verdict::of(&error),
    };
    // The rules take what was recovered as it is, and have assertions of their own.
    let _ = Replica::new(
        Config::default(),
        ME,
        Signer::new(CHAT, |_| [0; 64]),
        recovered.clone(),
        Instant(0),
        1,
    );
    let is_cut = recovered.tail_in_doubt;
    assert_recovered(&recovered, truth);
    match read_all(&store, truth, is_cut) {
        Ok(()) if is_cut => return Verdict::Cut,
        Ok(()) => {}
        Err(error) => return Verdict::of(&error).max(Verdict::DamagedWithin),
    }
    if goes_on {
        let entries = chain(truth.entries.last(), 3);
        let persist =
            Persist { commit: entries.last().map(|e| e.index), entries, ..Persist::default() };
        if let Err(error) = store.persist(&persist) {
            return Verdict::of(&error).max(Verdict::DamagedWithin);
        }
        truth.apply(&persist);
    }
    Verdict::Intact
}

/// What opening gave is what was synced, but for what a cut takes away. An older checkpoint with
/// more entries says the same as a newer one with fewer.
fn assert_recovered(recovered: &Recovered, truth: &Truth) {
    let known = &truth.recovered;
    assert!(recovered.boot > known.boot, "the boot number falls");
    let base = recovered.checkpoint.index() as usize;
    let last = base + recovered.entries.len();
    let is_whole = last == truth.entries.len() && recovered.commit == known.commit;
    assert!(is_whole || recovered.tail_in_doubt, "entries are gone in silence");
    assert!(recovered.entries == truth.entries[base..last], "other entries");
    assert!(recovered.commit == known.commit.min(last as u64), "another commit index");
    let hash = base.checked_sub(1).map(|place| truth.entries[place].hash);
    assert_eq!(recovered.checkpoint.hash(), hash.unwrap_or_default());
    let expected = Recovered {
        boot: recovered.boot,
        checkpoint: recovered.checkpoint.clone(),
        entries: recovered.entries.clone(),
        commit: recovered.commit,
        tail_in_doubt: recovered.tail_in_doubt,
        ..known.clone()
    };
    assert!(*recovered == expected, "another vote, outbox or position");
}

/// Everything that programs and other members can be given.
fn read_all(store: &ChatStore, truth: &Truth, is_cut: bool) -> Result<(), StorageError> {
    let reader = store.reader();
    reader.check()?;
    let entries = reader.entries(1, u64::MAX, usize::MAX)?;
    assert!(entries == truth.entries[..entries.len()], "other entries are read");
    assert!(is_cut || entries.len() == truth.entries.len(), "fewer entries are read");
    let newest = reader.messages_before(u64::MAX, 1_000)?.messages;
    let oldest = reader.messages_after(0, u64::MAX, 1_000)?.messages;
    assert!(newest == entries && oldest == entries, "the history is another one");
    for (request_id, index) in &truth.requests {
        assert_eq!(reader.index_of_request(request_id)?, Some(*index), "a request is forgotten");
    }
    assert!(store.carried()?.is_empty());
    Ok(())
}

/// The repair works, takes along nothing that was not there, and the chat opens again. Gives what
/// it takes along.
fn begins_anew(data: &DataDir, truth: &Truth) -> Vec<Submission> {
    const ANEW: u64 = 78;
    let anew = data.begin_anew(CHAT, ANEW).expect("it begins anew");
    let recovered = &anew.recovered;
    assert!(recovered.entries.is_empty() && recovered.outbox.is_empty());
    assert_eq!((recovered.incarnation, recovered.boot), (ANEW, 1));
    // An older copy may have what has left the outbox since; the log then says so.
    let known = truth.recovered.hard_state;
    assert!(recovered.hard_state.term <= known.term);
    let carried = anew.store.carried().expect("it is new");
    assert!(carried.is_sorted_by(|a, b| a.number < b.number), "a submission is taken along twice");
    for submission in &carried {
        let text = format!("s{}", submission.number);
        let is_own = matches!(&submission.payload,
            Payload::Message { request_id, .. } if *request_id == text);
        assert!(is_own && submission.number <= truth.recovered.last_number);
    }
    drop(anew);
    let (_, recovered) = data.open_chat(CHAT).expect("it opens again");
    assert_eq!((recovered.incarnation, recovered.boot), (ANEW, 2));
    carried
}

/// The same for the peer's own store, which nobody else has: all of it, or a refusal.
pub fn examine_peer(dir: &Path) -> Verdict {
    let data = DataDir::open(dir).expect("the directory is sound");
    let first = look_at_peer(&data).or_found_in_closing(&dir.join("peer.redb"));
    start_peer_again(&data, first)
}

/// A start after one that has ended the process.
pub fn examine_peer_after_end(dir: &Path) {
    let data = DataDir::open(dir).expect("the directory is sound");
    start_peer_again(&data, Verdict::Ends);
}

fn look_at_peer(data: &DataDir) -> Verdict {
    let store = match data.peer_store() {
        Ok(store) => store,
        Err(error) => return Verdict::of(&error),
    };
    for (table, key, bytes) in peer_records() {
        assert_eq!(store.get(&table, &key).expect("it was checked"), Some(bytes));
    }
    match store.put("table1", "key01", &[2; 90]) {
        Ok(()) => Verdict::Intact,
        Err(error) => Verdict::of(&error).max(Verdict::DamagedWithin),
    }
}

fn start_peer_again(data: &DataDir, first: Verdict) -> Verdict {
    let both = first.and_then(look_at_peer(data));
    if both != Verdict::Intact {
        data.repair_peer_store().expect("it is repaired");
        data.peer_store().expect("it opens again");
    }
    both
}
