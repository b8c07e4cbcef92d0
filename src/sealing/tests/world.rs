//! A log and the participants who read it.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use demes_content::{Content, Kind};
use demes_protocol::types::{ChatId, Hash, Incarnation, Index, Number, PeerId, Signature};
use ed25519_dalek::{Signer as _, SigningKey};
use tempfile::TempDir;

use crate::{
    Duty, Keying, Logged, NotSealed, Place, RefreshLimits, Sealed, Sealer, SealingError, Shown,
    Suite, Unreadable, VaultKey,
};

pub const CHAT: ChatId = ChatId([7; 16]);

/// A committed entry.
#[derive(Clone, Debug)]
pub enum Entry {
    Seat { peer: PeerId, incarnation: Incarnation, package: Bytes },
    Left(PeerId),
    Keying { author: PeerId, keying: Keying },
    Sealed { author: PeerId, incarnation: Incarnation, number: Number, sealed: Bytes },
}

/// A chat's log, which everybody reads alike.
#[derive(Default)]
pub struct Log(pub Vec<Entry>);

impl Log {
    pub fn add(&mut self, entry: Entry) -> Index {
        self.0.push(entry);
        self.0.len() as Index
    }
}

/// The hash that stands for an entry's.
pub fn hash(index: Index) -> Hash {
    Hash([index as u8; 32])
}

pub fn text(text: &str) -> Content {
    let kind = Kind::Text(text.to_owned());
    Content { created_at_ms: 1, head: None, request_id: String::new(), kind }
}

/// A participant: its keys, its disk, and the process that may be gone.
pub struct Side {
    pub key: SigningKey,
    pub place: Place,
    pub dir: TempDir,
    pub vault_key: VaultKey,
    pub sealer: Option<Sealer>,
    /// By number: durable beside the vault.
    pub outbox: BTreeMap<Number, Sealed>,
    pub said: Number,
    /// What its entries have come to, by index.
    pub shown: BTreeMap<Index, Shown>,
    pub now_ms: u64,
}

impl Side {
    pub fn new(seed: u8, suite: Suite) -> Self {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let me = PeerId(key.verifying_key().to_bytes());
        let place = Place { chat: CHAT, me, incarnation: u64::from(seed), suite };
        let dir = tempfile::tempdir().unwrap();
        let vault_key = VaultKey::random().unwrap();
        let sealer = Some(Sealer::open(dir.path(), &vault_key, place).unwrap());
        Self {
            key,
            place,
            dir,
            vault_key,
            sealer,
            outbox: BTreeMap::new(),
            said: 0,
            shown: BTreeMap::new(),
            now_ms: 1_000,
        }
    }

    pub fn me(&self) -> PeerId {
        self.place.me
    }

    pub fn sealer(&mut self) -> &mut Sealer {
        self.sealer.as_mut().expect("it runs")
    }

    /// The process ends and begins again.
    pub fn restart(&mut self) -> Result<(), SealingError> {
        self.sealer = None;
        self.sealer = Some(Sealer::open(self.dir.path(), &self.vault_key, self.place)?);
        Ok(())
    }

    pub fn publish(&mut self, log: &mut Log) -> Result<Index, SealingError> {
        let key = self.key.clone();
        let certify = move |signed: &[u8]| -> Signature { key.sign(signed).to_bytes() };
        let package = self.sealer().publish_seat(&certify)?;
        let Place { me: peer, incarnation, .. } = self.place;
        Ok(log.add(Entry::Seat { peer, incarnation, package }))
    }

    pub fn duty(&mut self) -> Duty {
        let now_ms = self.now_ms;
        self.sealer().duty(&RefreshLimits::default(), now_ms, 0)
    }

    /// Does at once what the log wants of it.
    pub fn work(&mut self, log: &mut Log) -> Result<bool, SealingError> {
        match self.duty() {
            Duty::Nothing => return Ok(false),
            Duty::Seat => drop(self.publish(log)?),
            Duty::Found | Duty::Key(_) | Duty::Refresh | Duty::Wait => {
                let author = self.me();
                match self.sealer().key()? {
                    Some(keying) => drop(log.add(Entry::Keying { author, keying })),
                    None => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    pub fn read(&mut self, log: &Log) -> Result<(), SealingError> {
        loop {
            let index = self.sealer().position() + 1;
            let Some(entry) = log.0.get(index as usize - 1) else { return Ok(()) };
            let me = self.me();
            let now_ms = self.now_ms;
            let logged = match entry {
                Entry::Seat { peer, incarnation, package } => {
                    Logged::Seat { peer: *peer, incarnation: *incarnation, package }
                }
                Entry::Left(peer) => Logged::Left { peer: *peer },
                Entry::Keying { author, keying } => Logged::Keying { author: *author, keying },
                Entry::Sealed { author, incarnation, number, sealed } => {
                    let own = self.outbox.get(number).filter(|_| *author == me);
                    Logged::Sealed {
                        author: *author,
                        incarnation: *incarnation,
                        number: *number,
                        sealed,
                        own: own.map(|own| &own.own),
                    }
                }
            };
            let sealer = self.sealer.as_mut().expect("it runs");
            let shown = sealer.take(index, hash(index), now_ms, &logged)?;
            self.shown.insert(index, shown);
        }
    }

    /// Seals a text as the next number, and says it.
    pub fn say(&mut self, log: &mut Log, said: &str) -> Result<Index, NotSealed> {
        let number = self.said + 1;
        let sealed = self.sealer().seal(number, &text(said))?;
        let entry = self.entry(number, &sealed);
        self.said = number;
        self.outbox.insert(number, sealed);
        Ok(log.add(entry))
    }

    pub fn entry(&self, number: Number, sealed: &Sealed) -> Entry {
        let Place { me: author, incarnation, .. } = self.place;
        Entry::Sealed { author, incarnation, number, sealed: sealed.sealed.clone() }
    }

    pub fn flush(&mut self) -> Result<(), SealingError> {
        let now_ms = self.now_ms;
        self.sealer().flush(0, now_ms)
    }

    /// The text that an entry has come to.
    pub fn saw(&self, index: Index) -> Result<&str, Option<Unreadable>> {
        match self.shown.get(&index) {
            Some(Shown::Content(content)) => match &content.kind {
                Kind::Text(text) => Ok(text),
                _ => Err(None),
            },
            Some(Shown::Unreadable(reason)) => Err(Some(*reason)),
            _ => Err(None),
        }
    }

    pub fn epoch(&mut self) -> Option<u64> {
        self.sealer().group().map(|group| group.epoch())
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// All read, and work, until nobody has anything to do.
pub fn settle(log: &mut Log, sides: &mut [&mut Side]) {
    for _ in 0..100 {
        let mut has_worked = false;
        for side in sides.iter_mut() {
            side.read(log).unwrap();
            if side.work(log).unwrap() {
                has_worked = true;
                // The others see it before they do anything of their own.
                break;
            }
        }
        if !has_worked {
            return;
        }
    }
    panic!("it does not come to rest");
}

/// A chat of these, in one group.
pub fn chat(seeds: &[u8], suite: Suite) -> (Log, Vec<Side>) {
    let mut log = Log::default();
    let mut sides: Vec<Side> = seeds.iter().map(|seed| Side::new(*seed, suite)).collect();
    let mut all: Vec<&mut Side> = sides.iter_mut().collect();
    settle(&mut log, &mut all);
    (log, sides)
}
