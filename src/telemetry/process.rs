//! What the kernel says of this process, out of `/proc/self`. Where there is none, nothing is said.

use std::fs;
use std::sync::LazyLock;
use std::time::Instant;

use opentelemetry::KeyValue;

use super::instruments::Readings;
use super::metrics::{CPU_MODE, Metric, VERSION};

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Begins to count the uptime.
pub(super) fn started() {
    LazyLock::force(&STARTED);
}

/// Adds what there is.
pub(super) fn read(readings: &mut Readings) {
    readings.add(Metric::BuildInfo, 1.0, &[KeyValue::new(VERSION, env!("CARGO_PKG_VERSION"))]);
    readings.add(Metric::Uptime, STARTED.elapsed().as_secs_f64(), &[]);
    if let Some((user, system)) = fs::read_to_string("/proc/self/stat").ok().and_then(cpu_ticks) {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        for (mode, ticks) in [("user", user), ("system", system)] {
            let seconds = ticks as f64 / ticks_per_second;
            readings.add(Metric::CpuTime, seconds, &[KeyValue::new(CPU_MODE, mode)]);
        }
    }
    if let Some(pages) = fs::read_to_string("/proc/self/statm").ok().and_then(resident_pages) {
        let bytes = pages as f64 * rustix::param::page_size() as f64;
        readings.add(Metric::MemoryUsage, bytes, &[]);
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        // The one that lists them is no part of the answer.
        let count = descriptors.count().saturating_sub(1);
        readings.add(Metric::FileDescriptors, count as f64, &[]);
    }
}

/// Fields 14 and 15. The second field, a name in parentheses, may have spaces in it.
fn cpu_ticks(stat: String) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn resident_pages(statm: String) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 10 20 30 40 55 66 0 0 20 0 9 0 100 200 300";
        assert_eq!(cpu_ticks(stat.into()), Some((55, 66)));
        assert_eq!(resident_pages("900 250 100 1 0 2 0".into()), Some(250));
        assert_eq!(cpu_ticks("nonsense".into()), None);
    }
}
