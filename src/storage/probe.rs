//! What a disk is like, measured where it counts: in the data directory, by small syncs such as the
//! stores make. For `demes doctor`; nothing is left behind.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::StorageError;

/// What one sync covers; the stores write pages of that size.
const BLOCK_BYTES: usize = 4_096;
/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of Linux.
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Writes and syncs a block up to `rounds` times, for about `limit` at most, and says how long each
/// took, the shortest first; at least one. The file, of `rounds` blocks, is gone afterwards.
///
/// # Errors
/// When the directory cannot be written, or its disk is full.
pub fn sync_times(
    dir: &Path,
    rounds: usize,
    limit: Duration,
) -> Result<Vec<Duration>, StorageError> {
    let failed = |doing| move |error| StorageError::io(doing, dir, error);
    let mut builder = tempfile::Builder::new();
    let file = builder.prefix(".doctor-").tempfile_in(dir).map_err(failed("write to"))?;
    let file = file.as_file();
    // The file's size is settled first: the stores seldom grow theirs.
    let block = [0x5a; BLOCK_BYTES];
    for round in 0..rounds {
        file.write_all_at(&block, place(round)).map_err(failed("write to"))?;
    }
    file.sync_all().map_err(failed("sync a file in"))?;
    let begun = Instant::now();
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let started = Instant::now();
        file.write_all_at(&block, place(round)).map_err(failed("write to"))?;
        file.sync_data().map_err(failed("sync a file in"))?;
        times.push(started.elapsed());
        if begun.elapsed() >= limit {
            break;
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// Whether what is written to `dir` lives in memory only, and is gone when the machine stops.
pub fn is_in_memory(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|file_system| {
        MEMORY_FILE_SYSTEMS.iter().any(|magic| i128::from(*magic) == i128::from(file_system.f_type))
    })
}

fn place(round: usize) -> u64 {
    (round * BLOCK_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let times = sync_times(dir.path(), 5, Duration::from_secs(60)).expect("it is writable");
        assert_eq!(times.len(), 5);
        assert!(times.is_sorted());
        let one = sync_times(dir.path(), 5, Duration::ZERO).expect("it is writable");
        assert_eq!(one.len(), 1, "the limit ends it after the first");
        assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
        assert!(sync_times(&dir.path().join("nowhere"), 5, Duration::ZERO).is_err());
    }
}
