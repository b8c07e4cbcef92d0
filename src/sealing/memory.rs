//! What mls-rs asks to be stored, held until the vault stores it.
//!
//! The library writes the group, past epochs and used key packages by separate calls; the vault
//! must have them together with what was opened, in one transaction (S7). So its calls end here,
//! and `take` gives what has changed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mls_rs_core::group::{EpochRecord, GroupState, GroupStateStorage};
use mls_rs_core::key_package::{KeyPackageData, KeyPackageStorage};
use zeroize::Zeroizing;

/// Bytes that must not stay in memory once they are not needed.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

/// All clones are one: groups, and copies of groups that are thrown away, share it. Only writing a
/// group to its storage changes it.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    state: Option<(Vec<u8>, Secret)>,
    epochs: BTreeMap<u64, Secret>,
    packages: BTreeMap<Vec<u8>, KeyPackageData>,
    changed: Changed,
}

/// What the vault has to store.
#[derive(Default)]
pub(crate) struct Changed {
    pub state: Option<Secret>,
    /// Past epochs that are new or have changed.
    pub epochs: BTreeMap<u64, Secret>,
}

impl Memory {
    /// What a vault has of a group.
    pub fn of(group: Vec<u8>, state: Secret, epochs: BTreeMap<u64, Secret>) -> Self {
        let state = Some((group, state));
        Self(Arc::new(Mutex::new(Kept { state, epochs, ..Kept::default() })))
    }

    /// What has changed since the last call.
    pub fn take(&self) -> Changed {
        std::mem::take(&mut self.lock().changed)
    }

    /// The past epochs that are kept.
    pub fn epochs(&self) -> Vec<u64> {
        self.lock().epochs.keys().copied().collect()
    }

    /// Forgets a past epoch (S8).
    pub fn forget(&self, epoch: u64) {
        let mut kept = self.lock();
        kept.epochs.remove(&epoch);
        kept.changed.epochs.remove(&epoch);
    }

    /// The private parts of the only key package, which leaves.
    pub fn take_package(&self) -> Option<KeyPackageData> {
        self.lock().packages.pop_first().map(|(_, package)| package)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GroupStateStorage for Memory {
    type Error = Infallible;

    fn state(&self, group: &[u8]) -> Result<Option<Secret>, Infallible> {
        let kept = self.lock();
        Ok(kept.state.as_ref().filter(|(id, _)| id == group).map(|(_, state)| state.clone()))
    }

    fn epoch(&self, _: &[u8], epoch: u64) -> Result<Option<Secret>, Infallible> {
        Ok(self.lock().epochs.get(&epoch).cloned())
    }

    fn write(
        &mut self,
        state: GroupState,
        inserts: Vec<EpochRecord>,
        updates: Vec<EpochRecord>,
    ) -> Result<(), Infallible> {
        let mut kept = self.lock();
        kept.changed.state = Some(state.data.clone());
        kept.state = Some((state.id, state.data));
        for record in inserts.into_iter().chain(updates) {
            kept.changed.epochs.insert(record.id, record.data.clone());
            kept.epochs.insert(record.id, record.data);
        }
        Ok(())
    }

    fn max_epoch_id(&self, _: &[u8]) -> Result<Option<u64>, Infallible> {
        Ok(self.lock().epochs.keys().next_back().copied())
    }
}

impl KeyPackageStorage for Memory {
    type Error = Infallible;

    fn delete(&mut self, id: &[u8]) -> Result<(), Infallible> {
        self.lock().packages.remove(id);
        Ok(())
    }

    fn insert(&mut self, id: Vec<u8>, package: KeyPackageData) -> Result<(), Infallible> {
        self.lock().packages.insert(id, package);
        Ok(())
    }

    fn get(&self, id: &[u8]) -> Result<Option<KeyPackageData>, Infallible> {
        Ok(self.lock().packages.get(id).cloned())
    }
}
