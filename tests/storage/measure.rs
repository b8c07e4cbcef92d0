//! What the store costs, for people to read.

use super::*;

/// Prints what the store costs; the figures are for people, so nothing depends on them. For a
/// large log: `DEMES_MEASURE_ENTRIES=1000000 cargo test --release --test storage -- --nocapture
/// measure`.
#[test]
fn measure_opening_and_persisting() {
    let count = std::env::var("DEMES_MEASURE_ENTRIES").ok().and_then(|text| text.parse().ok());
    let count: u64 = count.unwrap_or(20_000);
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let padding = "x".repeat(300);
    let mut log = Log::new(Checkpoint::default(), vec![], 0);
    let (mut index, mut hash) = (0, Hash::default());
    let mut batch_of = |size: u64| -> Vec<Arc<Entry>> {
        let batch = (0..size).map(|_| {
            index += 1;
            let message = message(index, 1, &padding, hash);
            hash = message.hash;
            message
        });
        batch.collect()
    };
    for size in [1_u64, 16, 256] {
        let mut spans = Vec::new();
        for _ in 0..(count / size / 4).clamp(8, 2_000) {
            let batch = batch_of(size);
            for entry in &batch {
                log.append(entry.clone());
            }
            let end = batch.last().unwrap().index;
            log.commit_to(end);
            let persist = Persist { commit: Some(end), ..append(&batch) };
            spans.push(store.persist(&persist).unwrap());
        }
        spans.sort_unstable();
        let (p50, p99) = (spans[spans.len() / 2], spans[spans.len() * 99 / 100]);
        println!("persist {size:>4} entries and a commit index: p50 {p50:?} p99 {p99:?}");
    }
    while log.last().index < count {
        let batch = batch_of(1_000);
        for entry in &batch {
            log.append(entry.clone());
        }
        log.commit_to(batch.last().unwrap().index);
        log.shrink_window(8_192, 8 << 20, u64::MAX);
        store.persist(&append(&batch)).unwrap();
    }
    let checkpoint = Some(Arc::new(log.checkpoint()));
    store.persist(&Persist { checkpoint, ..Persist::default() }).unwrap();
    store.persist(&append(&batch_of(4_096))).unwrap();
    drop(store);
    let started = Instant::now();
    let (store, recovered) = ChatStore::open(&file(dir.path())).unwrap();
    let spent = started.elapsed();
    println!("open {} entries, {} of them read: {spent:?}", index, recovered.entries.len());
    let started = Instant::now();
    let page = store.reader().messages_before(Index::MAX, 1_000).unwrap();
    println!("newest {} messages: {:?}", page.messages.len(), started.elapsed());
    let started = Instant::now();
    let (mut from, mut seen) = (1, 0);
    while from < count {
        let entries = store.reader().entries(from, Index::MAX, 1 << 20).unwrap();
        seen += entries.len();
        from = entries.last().unwrap().index + 1;
    }
    println!("read {seen} entries by 1 MiB: {:?}", started.elapsed());
    let memory = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines =
        memory.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    println!("{:?}, file {} MiB", lines.collect::<Vec<_>>(), {
        fs::metadata(file(dir.path())).unwrap().len() >> 20
    });
}
