use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use demes::protocol::event::{Persist, Recovered};
use demes::protocol::log::{Checkpoint, Log};
use demes::protocol::types::{
    ChatId, Entry, HardState, Hash, Index, Payload, PeerId, Submission, Term,
};
use demes::storage::{ChatStore, DataDir, StorageError};

const CHAT: ChatId = ChatId([0xc4; 16]);

fn entry(index: Index, previous: Hash) -> Arc<Entry> {
    let sealed = Bytes::from(format!("<<the message at {index:09}>>"));
    let mut entry = Entry {
        index,
        term: 1 + index / 20,
        author: PeerId([1; 32]),
        session: 77,
        number: index,
        created_at_ms: 1_700_000_000_000 + index,
        trace: None,
        payload: Payload::Message { request_id: format!("r{index}"), sealed },
        signature: None,
        previous,
        hash: Hash::default(),
    };
    entry.hash = entry.computed_hash();
    Arc::new(entry)
}
fn chain(from: Option<&Arc<Entry>>, n: u64) -> Vec<Arc<Entry>> {
    let (mut i, mut h) = from.map_or((0, Hash::default()), |e| (e.index, e.hash));
    let mut out = vec![];
    for _ in 0..n {
        i += 1;
        let e = entry(i, h);
        h = e.hash;
        out.push(e);
    }
    out
}
fn submission(number: u64) -> Submission {
    let payload = Payload::Message {
        request_id: format!("s{number}"),
        sealed: Bytes::from_static(b"waiting"),
    };
    Submission { number, created_at_ms: number, trace: None, payload, signature: None }
}

#[test]
fn explore() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join(format!("{CHAT}.redb"));
    let mut store = ChatStore::create(dir.path(), CHAT, 77, &[]).unwrap().0;
    let entries = chain(None, 60);
    let mut log = Log::new(Checkpoint::default(), vec![], 0);
    for batch in entries.chunks(6) {
        for e in batch {
            log.append(e.clone());
        }
        let end = batch.last().unwrap().index;
        log.commit_to(end - 1);
        let p = Persist {
            hard_state: Some(HardState { term: batch[0].term, vote: Some(PeerId([9; 32])) }),
            entries: batch.to_vec(),
            commit: Some(end - 1),
            outbox_put: vec![submission(end / 6)],
            outbox_remove_through: Some((end / 6).saturating_sub(4)),
            request_ids: batch.iter().map(|e| (format!("r{}", e.index), e.index)).collect(),
            checkpoint: (end % 18 == 0).then(|| Arc::new(log.checkpoint())),
            read: Some(end / 2),
            truncate_from: None,
        };
        store.persist(&p).unwrap();
    }
    let crashed = fs::read(&path).unwrap();
    drop(store);
    let clean = fs::read(&path).unwrap();
    println!("{} {}", crashed.len(), clean.len());
    let truth = {
        let (s, r) = ChatStore::open(&path).unwrap();
        drop(s);
        r
    };
    let requests: BTreeMap<String, u64> =
        entries.iter().map(|e| (format!("r{}", e.index), e.index)).collect();
    for (name, image) in [("crashed", &crashed), ("clean", &clean)] {
        let places: Vec<usize> =
            image.iter().enumerate().filter(|(_, b)| **b != 0).map(|(i, _)| i).collect();
        println!("{name}: non-zero {}", places.len());
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut seed = 1u64;
        for n in 0..3000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let place = places[(seed >> 33) as usize % places.len()];
            let mask = 1u8 << ((seed >> 20) & 7);
            let mut bytes = image.clone();
            bytes[place] ^= mask;
            let _ = fs::remove_file(path.with_extension("redb.damaged"));
            fs::write(&path, &bytes).unwrap();
            let out = match ChatStore::open(&path) {
                Err(e) => {
                    let t = e.to_string();
                    let t = t.split('(').nth(1).unwrap_or(&t).split(')').next().unwrap().to_owned();
                    if matches!(e, StorageError::Damaged { .. }) {
                        format!(
                            "refused: {}",
                            t.chars()
                                .map(|c| if c.is_ascii_digit() { '#' } else { c })
                                .collect::<String>()
                        )
                    } else {
                        format!("OTHER {e}").chars().filter(|c| !c.is_ascii_digit()).collect()
                    }
                }
                Ok((s, mut r)) => {
                    r.boot = truth.boot;
                    let rd = s.reader();
                    let all = rd.entries(1, 60, usize::MAX);
                    let reqs: Vec<_> = requests
                        .iter()
                        .filter(|(k, v)| !matches!(rd.index_of_request(k), Ok(Some(x)) if x == **v))
                        .collect();
                    let mut o = String::from("open ");
                    if r != truth {
                        o += if r.tail_in_doubt { "doubt " } else { "DIFF " };
                        if r.hard_state != truth.hard_state {
                            o += "vows "
                        }
                        if r.outbox != truth.outbox {
                            o += "outbox "
                        }
                        if r.commit != truth.commit {
                            o += "commit "
                        }
                        if r.entries != truth.entries {
                            o += "entries "
                        }
                        if r.checkpoint != truth.checkpoint {
                            o += "checkpoint "
                        }
                        if r.read != truth.read {
                            o += "read "
                        }
                    }
                    match all {
                        Err(_) => o += "entries-found ",
                        Ok(a) if a == entries => {}
                        Ok(_) => o += "entries-WRONG ",
                    }
                    if !reqs.is_empty() {
                        o += "requests-wrong ";
                    }
                    let _ = n;
                    o
                }
            };
            *counts.entry(out).or_default() += 1;
        }
        for (k, v) in counts {
            println!("  {v:5} {k}");
        }
    }
}
