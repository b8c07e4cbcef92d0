//! What lies on this machine: the key and its certificate, the disk, and the stores.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::{Finding, Level, Report, Section, blocking};
use crate::cli::output::{count, short};
use crate::config::Settings;
use crate::crypto::identity::{CERTIFICATE_FILE, CertificateState, KEY_FILE, inspect};
use crate::storage::{DataDir, StorageError, free_bytes, is_in_memory, sync_times};

/// How many syncs are measured, and for how long at most.
const SYNCS: usize = 100;
const SYNCS_MAX: Duration = Duration::from_millis(1_500);
/// From here on a host hands over (docs/architecture.md, "When something is full").
const SYNC_BAD: Duration = Duration::from_millis(500);
/// From here on people notice that a message takes its time.
const SYNC_SLOW: Duration = Duration::from_millis(50);

/// The end of the year 9998: demes gives its certificates the last day of 9999, "no end".
const NO_END_S: u64 = 253_370_764_800;

/// Looks at the key, the certificate, and who else can read them.
pub fn key(report: &mut Report, data_dir: &Path) -> Result<()> {
    let section = Section::Key;
    let with = |check, level, text: String, todo: &str| Finding {
        section,
        check,
        level,
        text,
        todo: todo.to_owned(),
    };
    if !data_dir.exists() {
        let text = "there is no key yet: the first start makes it";
        return report.skipped(section, "key", text);
    }
    let mode = fs::metadata(data_dir).map_or(0, |data| data.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        let path = data_dir.display();
        let text = format!("others of this machine can look into {path} (mode {mode:03o})");
        let todo = format!("run `chmod 700 {path}`");
        report.add(with("data_dir_mode", Level::Warning, text, &todo))?;
    }
    let seen = inspect(data_dir);
    match &seen.key {
        Ok(Some(peer)) => {
            let id = peer.to_string();
            report.ok(
                section,
                "key",
                format!("only you can read the key of peer {}", short(&id)),
            )?;
        }
        Ok(None) if data_dir.join("chats").exists() => {
            let text = format!("the key {KEY_FILE} is gone from {}", data_dir.display());
            let todo = "restore it from a backup: without it, the next start makes another peer, \
                        which is no member of your chats";
            report.add(with("key", Level::Problem, text, todo))?;
        }
        Ok(None) => report.skipped(section, "key", "no key yet: the first start makes it")?,
        // Its text says what to do.
        Err(error) => report.add(with("key", Level::Problem, error.to_string(), ""))?,
    }
    let (level, text, todo) = certificate(seen.certificate, seconds_now());
    if seen.certificate != CertificateState::Missing || matches!(seen.key, Ok(Some(_))) {
        report.add(with("certificate", level, text, todo))?;
    }
    Ok(())
}

fn certificate(state: CertificateState, now_s: u64) -> (Level, String, &'static str) {
    let anew = "start the peer again: it makes a new one from the key";
    match state {
        CertificateState::Missing => {
            (Level::Warning, format!("there is no certificate {CERTIFICATE_FILE}"), anew)
        }
        CertificateState::Unusable => {
            (Level::Warning, format!("{CERTIFICATE_FILE} is no certificate of a peer"), anew)
        }
        CertificateState::OtherKey(peer) => {
            let id = peer.to_string();
            let text = format!("{CERTIFICATE_FILE} belongs to another key, of peer {}", short(&id));
            (Level::Warning, text, anew)
        }
        CertificateState::Dated(from_s, until_s) if now_s < from_s || now_s > until_s => {
            let text = format!(
                "the certificate is valid from {} to {}, and this machine's clock says {}",
                date(from_s),
                date(until_s),
                date(now_s)
            );
            (Level::Problem, text, "set the clock; if it is right, start the peer again")
        }
        CertificateState::Dated(_, until_s) => {
            let end = match until_s >= NO_END_S {
                true => "does not end".to_owned(),
                false => format!("is valid until {}", date(until_s)),
            };
            (Level::Ok, format!("the certificate belongs to it, and {end}"), "")
        }
    }
}

/// Measures the disk, and compares its free space with the reserve.
pub async fn disk(
    report: &mut Report,
    data_dir: &Path,
    settings: Option<&Settings>,
    until: Instant,
) -> Result<()> {
    let section = Section::Disk;
    if !data_dir.exists() {
        let text = "there is no data directory yet: the first start makes it";
        return report.skipped(section, "disk", text);
    }
    report.progress("measuring the disk");
    let left = until.saturating_duration_since(Instant::now()) / 2;
    let (dir, limit) = (data_dir.to_owned(), SYNCS_MAX.min(left));
    let latest = until.min(Instant::now() + Duration::from_secs(4));
    let times = blocking(latest, move || sync_times(&dir, SYNCS, limit)).await;
    let check = "disk_speed";
    match times {
        Some(Ok(times)) => {
            let (level, text, todo) = speed(&times);
            let todo = todo.to_owned();
            report.add(Finding { section, check, level, text, todo })?;
        }
        Some(Err(error)) => {
            let (level, text) = (Level::Problem, error.to_string());
            report.add(Finding {
                section,
                check: "disk_writable",
                level,
                text,
                todo: "".into(),
            })?;
        }
        None => {
            let text = "the disk did not sync a few small writes in four seconds".to_owned();
            let todo = "look at the disk and at what else writes to it: a host whose syncs take \
                        two seconds pauses, and after twenty the peer ends"
                .to_owned();
            report.add(Finding { section, check, level: Level::Problem, text, todo })?;
        }
    }
    if is_in_memory(data_dir) {
        report.add(Finding {
            section,
            check: "disk_kind",
            level: Level::Warning,
            text: format!("{} is in memory: it is gone with a restart", data_dir.display()),
            todo: "keep the data on a disk (--data-dir): what the others count as stored here \
                   must not get lost"
                .into(),
        })?;
    }
    space(report, data_dir, settings)
}

fn speed(times: &[Duration]) -> (Level, String, &'static str) {
    let (middle, slow) = (percentile(times, 50), percentile(times, 99));
    let text = format!(
        "a sync takes {} (p50), {} (p99 of {})",
        show(middle),
        show(slow),
        count(times.len() as u64, "sync")
    );
    if slow >= SYNC_BAD {
        let todo = "use a faster disk, or find what else writes to it: this peer hands over, and \
                    holds up its chats, when a sync takes half a second";
        return (Level::Problem, text, todo);
    }
    if middle >= SYNC_SLOW {
        let todo = "every message waits for a sync on a majority of the members' disks; an SSD \
                    takes about a millisecond";
        return (Level::Warning, text, todo);
    }
    (Level::Ok, text, "")
}

/// The nearest rank; the times are sorted, and there is one at least.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

fn space(report: &mut Report, data_dir: &Path, settings: Option<&Settings>) -> Result<()> {
    let section = Section::Disk;
    let free = match free_bytes(data_dir) {
        Ok(free) => free,
        Err(error) => {
            let (level, text) = (Level::Problem, error.to_string());
            let todo = String::new();
            return report.add(Finding { section, check: "disk_space", level, text, todo });
        }
    };
    let Some(settings) = settings else {
        return report.ok(section, "disk_space", format!("{} free", size(free)));
    };
    let reserve = settings.storage_reserve_bytes;
    let text = format!("{} free; {} are kept in reserve", size(free), size(reserve));
    let (level, todo) = if free < reserve {
        let todo = "make room: below the reserve, messages are refused with STORAGE_FULL, and this \
                    peer hosts nothing";
        (Level::Problem, todo)
    } else if free < reserve.saturating_mul(4) {
        (Level::Warning, "make room before it goes below the reserve (`storage.reserve_mib`)")
    } else {
        (Level::Ok, "")
    };
    report.add(Finding { section, check: "disk_space", level, text, todo: todo.into() })
}

/// Reads and verifies every store. Only while no peer has them.
pub async fn stores(report: &mut Report, data_dir: &Path, until: Instant) -> Result<()> {
    let section = Section::Disk;
    if !data_dir.join("chats").is_dir() {
        return report.skipped(section, "stores", "no peer has ever run here: there are no stores");
    }
    report.progress("reading the stores");
    let dir = data_dir.to_owned();
    match blocking(until, move || check_stores(&dir)).await {
        None => report.skipped(section, "stores", "the stores: there was no time to read them all"),
        Some(Err(error)) => report.add(bad_store(&error)),
        Some(Ok(checked)) => {
            let good = checked.iter().filter(|checked| checked.is_ok()).count();
            for error in checked.iter().filter_map(|checked| checked.as_ref().err()) {
                report.add(bad_store(error))?;
            }
            if good == checked.len() {
                let chats = count((good - 1) as u64, "chat");
                let text = format!("the stores of {chats} and of the peer are whole");
                report.ok(section, "stores", text)?;
            }
            Ok(())
        }
    }
}

/// Takes the directory, as a peer would, so that none starts meanwhile.
fn check_stores(path: &Path) -> Result<Vec<Result<(), StorageError>>, StorageError> {
    let dir = DataDir::open(path)?;
    let mut checked = vec![dir.check_peer_store()];
    for chat in dir.chats()? {
        checked.push(dir.check_chat(chat));
    }
    Ok(checked)
}

/// What a store says of itself also says what to do.
fn bad_store(error: &StorageError) -> Finding {
    let level = match error {
        StorageError::InUse { .. } => Level::Skipped,
        _ => Level::Problem,
    };
    let (text, todo) = (error.to_string(), String::new());
    Finding { section: Section::Disk, check: "stores", level, text, todo }
}

fn show(time: Duration) -> String {
    let us = time.as_micros();
    format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10)
}

fn size(bytes: u64) -> String {
    match (bytes >> 20, bytes >> 30) {
        (mib, 0) => format!("{mib} MiB"),
        (mib, gib) if gib < 10 => format!("{gib}.{} GiB", (mib % 1_024) * 10 / 1_024),
        (_, gib) => format!("{gib} GiB"),
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    time.map_or_else(|| "never".into(), |it| it.to_zoned(TimeZone::UTC).date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_judged_by_its_slow_syncs() {
        let ms = Duration::from_millis;
        let mut times = vec![ms(1); 99];
        times.push(ms(9));
        let (level, text, _) = speed(&times);
        assert_eq!(level, Level::Ok);
        assert_eq!(text, "a sync takes 1.00 ms (p50), 1.00 ms (p99 of 100 syncs)");
        assert_eq!(speed(&[ms(60), ms(60), ms(70)]).0, Level::Warning);
        let (level, text, todo) = speed(&[ms(1), ms(1), ms(800)]);
        assert_eq!(level, Level::Problem);
        assert!(text.contains("800.00 ms (p99 of 3 syncs)") && !todo.is_empty(), "{text}");
    }

    #[test]
    fn a_certificate_out_of_its_time_is_a_problem_of_the_clock() {
        let (level, text, todo) = certificate(CertificateState::Dated(86_400, 172_800), 0);
        assert_eq!(level, Level::Problem);
        assert!(text.contains("from 1970-01-02 to 1970-01-03"), "{text}");
        assert!(todo.contains("clock"), "{todo}");
        assert_eq!(certificate(CertificateState::Dated(0, 10), 5).0, Level::Ok);
        assert_eq!(certificate(CertificateState::Missing, 5).0, Level::Warning);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size((3 << 30) + (512 << 20)), "3.5 GiB");
        assert_eq!(size(100 << 30), "100 GiB");
    }
}
