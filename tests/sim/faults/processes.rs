//! Processes are killed, frozen and put to sleep, and clocks jump.

use super::super::plan::{Action, Draw, ms};
use super::super::traps::{DOINGS, MOMENTS, Trap};
use super::super::world::{MS, SECOND, World};
use super::{down, numbers};

/// The longest that a process gets no time.
const FROZEN_US_MAX: u64 = 120 * SECOND;

/// The process is gone at once, and what it was writing is lost or not. Redials are refused, or
/// the address is gone as well.
pub fn kill(draw: &mut Draw, _rest_us: u64) -> Action {
    let (who, down_us, vanishes) = (draw.who(), down(draw), draw.chance(25));
    let with = if vanishes { " with its address" } else { "" };
    let words = format!("{who} is killed{with}, and is back after {}", ms(down_us));
    Action::new(words, move |world| {
        if let Some(peer) = world.find(who) {
            world.kill(peer, down_us, vanishes);
        }
    })
}

/// The process ends at a certain step of the protocol.
pub fn kill_in_step(draw: &mut Draw, _rest_us: u64) -> Action {
    let doing = DOINGS[draw.below(DOINGS.len() as u64) as usize];
    let moment = MOMENTS[draw.below(MOMENTS.len() as u64) as usize];
    let skips = if draw.chance(70) { 0 } else { draw.below(6) };
    let who = draw.who();
    let trap = Trap { doing, moment, skips, down_us: down(draw) };
    Action::new(format!("{who} will be killed {trap}"), move |world| {
        if let Some(peer) = world.find(who).filter(|peer| world.peers[*peer].replica.is_some()) {
            world.peers[peer].trap = Some(trap);
            world.peers[peer].trapped_ready = None;
        }
    })
}

/// Several processes end at once.
pub fn kill_several(draw: &mut Draw, _rest_us: u64) -> Action {
    let (side, down_us) = (draw.side(), down(draw));
    let words = format!("{} are killed, and are back after {}", numbers(&side), ms(down_us));
    Action::new(words, move |world| {
        side.iter().for_each(|peer| world.kill(*peer, down_us, false));
    })
}

/// All machines lose their power, and come back one by one.
pub fn power_cut(draw: &mut Draw, _rest_us: u64) -> Action {
    let (down_us, apart_us) = (down(draw), draw.below(2 * SECOND));
    let words = format!("the power fails for {}", ms(down_us));
    Action::new(words, move |world| {
        for peer in 0..world.peers.len() {
            world.kill(peer, down_us + apart_us * peer as u64, true);
        }
    })
}

/// The process gets no time; what happens meanwhile piles up.
pub fn freeze(draw: &mut Draw, rest_us: u64) -> Action {
    let who = draw.who();
    let for_us = draw.span(100 * MS, FROZEN_US_MAX).min(rest_us);
    Action::new(format!("{who} is frozen for {}", ms(for_us)), move |world| {
        if let Some(peer) = world.find(who) {
            world.freeze(peer, for_us, false);
        }
    })
}

/// The machine sleeps: its clock stands, and its connections are gone when it wakes.
pub fn sleep(draw: &mut Draw, rest_us: u64) -> Action {
    let who = draw.who();
    let for_us = draw.span(SECOND, FROZEN_US_MAX).min(rest_us);
    Action::new(format!("{who}'s machine sleeps for {}", ms(for_us)), move |world| {
        if let Some(peer) = world.find(who) {
            world.freeze(peer, for_us, true);
        }
    })
}

/// The clock is suddenly later.
pub fn clock_jump(draw: &mut Draw, _rest_us: u64) -> Action {
    let (who, by_us) = (draw.who(), draw.span(50 * MS, 600 * SECOND));
    Action::new(format!("{who}'s clock jumps by {}", ms(by_us)), move |world| {
        if let Some(peer) = world.find(who) {
            world.jump_clock(peer, by_us);
        }
    })
}

impl World {
    /// Ends the process; some of what was being written may have become durable.
    pub fn kill(&mut self, peer: usize, down_us: u64, vanishes: bool) {
        if self.peers[peer].replica.is_none() {
            return;
        }
        self.counts.add("processes killed");
        self.peers[peer].vanished = vanishes;
        let durable = self.prng.below(3);
        self.end_process_losing(peer, durable);
        self.start_later(peer, down_us);
    }
}
