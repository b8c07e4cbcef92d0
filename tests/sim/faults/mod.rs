//! The menu of what goes wrong. Each fault is one function with its own words; those of processes,
//! networks and disks stand in a file each.

mod disks;
mod networks;
mod processes;

use super::plan::{Action, Draw};
use super::world::{MS, SECOND};

/// Most faults last this long.
const SPAN_US_MIN: u64 = 100 * MS;
const SPAN_US_MAX: u64 = 10 * SECOND;
/// Processes stay away this long, if not longer.
const DOWN_US_MIN: u64 = 5 * MS;
const DOWN_US_MAX: u64 = 8 * SECOND;

/// Draws a fault, which may last for the given time at most.
type Fault = fn(&mut Draw, u64) -> Action;

/// Every kind of fault. What stands here twice happens twice as often.
const MENU: [Fault; 37] = [
    processes::kill,
    processes::kill,
    processes::kill_in_step,
    processes::kill_in_step,
    processes::kill_in_step,
    processes::kill_several,
    processes::power_cut,
    processes::freeze,
    processes::freeze,
    processes::sleep,
    processes::clock_jump,
    networks::loss,
    networks::duplicates,
    networks::delay,
    networks::far,
    networks::narrow,
    networks::one_way_cut,
    networks::isolation,
    networks::isolation,
    networks::split,
    networks::even_split,
    networks::bridge,
    networks::two_leaves,
    networks::lossy_outbound,
    networks::flapping,
    networks::slow_reader,
    networks::cannot_be_dialled,
    disks::stall,
    disks::failed_write,
    disks::full,
    disks::torn_tail,
    disks::flipped_bit,
    disks::copy,
    disks::old_copy,
    disks::old_copy_and_another_host,
    disks::slow_syncs,
    disks::wipe,
];

/// A fault of one of `kinds`, a set of bits; `None` where the one drawn is not among them.
pub fn draw(draw: &mut Draw, kinds: u64, rest_us: u64) -> Option<Action> {
    let kind = draw.below(MENU.len() as u64);
    (kinds >> kind & 1 == 1).then(|| MENU[kind as usize](draw, rest_us))
}

fn span(draw: &mut Draw, rest_us: u64) -> u64 {
    draw.span(SPAN_US_MIN, SPAN_US_MAX).min(rest_us)
}

fn down(draw: &mut Draw) -> u64 {
    draw.span(DOWN_US_MIN, DOWN_US_MAX)
}

/// Peers by their numbers.
fn numbers(peers: &[usize]) -> String {
    let numbers: Vec<_> = peers.iter().map(|peer| (peer + 1).to_string()).collect();
    numbers.join(", ")
}
