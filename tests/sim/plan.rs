//! Everything that will be done and go wrong in one run, drawn from its seed beforehand: a list of
//! steps, so that a run that fails can be shortened by leaving steps out.

use std::fmt;
use std::sync::Arc;

use demes_protocol::config::Config;
use demes_protocol::prng::Prng;

use super::liars::Lie;
use super::world::{MS, SECOND, World};
use super::{faults, liars, liveness, workload};

/// How many peers there are in a run; some twice, because they tell more.
const MEMBERS: [usize; 12] = [1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7, 9];
/// When the chat has grown up and things begin to go wrong.
const FAULTS_FROM: u64 = 3 * SECOND;
/// What a sync takes at least, while all is well.
const SYNC_US_MIN: u64 = 50;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// Something that is done by people, or goes wrong: its words, and what it does to the world.
#[derive(Clone)]
pub struct Action {
    words: String,
    happen: Arc<dyn Fn(&mut World) + Send + Sync>,
}

impl Action {
    pub fn new(words: String, happen: impl Fn(&mut World) + Send + Sync + 'static) -> Self {
        Self { words, happen: Arc::new(happen) }
    }

    pub fn happen(&self, world: &mut World) {
        (self.happen)(world);
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// An action and its moment, in microseconds from the beginning.
#[derive(Clone)]
pub struct Step {
    pub at: u64,
    pub action: Action,
}

/// Whom a step is about. A role is looked up at the moment itself.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    Peer(usize),
    Host,
    /// The first on the list of candidates after the host.
    Heir,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Peer(peer) => write!(f, "{}", peer + 1),
            Who::Host => f.write_str("the host"),
            Who::Heir => f.write_str("the host's heir"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>11.6} {}", self.at as f64 / 1e6, self.action.words)
    }
}

/// A length of time for people.
pub fn ms(us: u64) -> String {
    format!("{} ms", us.div_ceil(MS))
}

/// One run.
#[derive(Clone)]
pub struct Plan {
    pub seed: u64,
    /// Another number, and everything that is drawn during the run comes out otherwise, while the
    /// steps stay the same. It helps to shorten the plan of a run that fails.
    pub luck: u64,
    pub members: usize,
    /// One-way delays in microseconds, from the first to the second.
    pub distances: Vec<Vec<u64>>,
    pub config: Config,
    /// What a sync takes at most, while nothing is wrong with the disk.
    pub sync_us_max: u64,
    /// And at least.
    pub sync_us_min: u64,
    /// Loops take time, so that several events come into one turn.
    pub is_busy: bool,
    pub steps: Vec<Step>,
    /// Then whatever is to be healed heals.
    pub faults_until: u64,
    /// Everything heals, and not only a majority of the voters.
    pub heals_everything: bool,
    /// The longest time without a confirmation while a majority is connected.
    pub confirmed_within_us: u64,
    /// For everything else that is drawn for the healing.
    pub healing_seed: u64,
}

/// Draws from a seed.
pub struct Draw {
    pub prng: Prng,
    pub members: usize,
}

impl Draw {
    pub fn below(&mut self, end: u64) -> u64 {
        self.prng.below(end)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.prng.below(100) < percent
    }

    /// A length of time, short ones as probable as long ones.
    pub fn span(&mut self, min: u64, max: u64) -> u64 {
        let mut doublings = 0;
        while min << (doublings + 1) < max {
            doublings += 1;
        }
        let floor = min << self.below(doublings + 1);
        (floor + self.below(floor)).min(max)
    }

    pub fn peer(&mut self) -> usize {
        self.below(self.members as u64) as usize
    }

    /// Anybody, or one in a role that matters.
    pub fn who(&mut self) -> Who {
        match self.below(10) {
            0..3 => Who::Host,
            3 => Who::Heir,
            _ => Who::Peer(self.peer()),
        }
    }

    /// Some of the peers, at least one and not all.
    pub fn side(&mut self) -> Vec<usize> {
        let mut side: Vec<_> = (0..self.members).filter(|_| self.chance(50)).collect();
        if side.is_empty() || side.len() == self.members {
            side = vec![self.peer()];
        }
        side
    }
}

impl Plan {
    /// Five members who come in one after the other, each as far from each. After a while the host
    /// is killed once, and nothing more happens.
    pub fn of_far_members(seed: u64, one_way_us: u64) -> Self {
        let mut plan = Self::of_far_chat(seed, one_way_us);
        let kill = Action::new("the host is killed".to_owned(), |world| {
            if let Some(host) = world.find(Who::Host) {
                world.kill(host, 2 * SECOND, false);
            }
        });
        plan.add(40 * SECOND, kill);
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// The same, with leases of at least `lease_us` and distances that differ a little. The host
    /// ends in one of several ways and stays away, and perhaps who comes next with it, as far as
    /// the voters bear that.
    pub fn of_far_failover(seed: u64, one_way_us: u64, lease_us: u64) -> Self {
        let mut plan = Self::of_far_chat(seed, one_way_us);
        let mut draw = Draw { prng: Prng::new(seed ^ 0xfa11), members: plan.members };
        plan.config.lease_min_us = lease_us;
        plan.config.lease_max_us = plan.config.lease_max_us.max(2 * lease_us);
        for distance in plan.distances.iter_mut().flatten() {
            *distance += draw.below(1 + one_way_us / 5);
        }
        let (vanishes, with_heir) = (draw.chance(50), draw.chance(20));
        let words = format!("the host is killed, heir: {with_heir}, address: {vanishes}");
        let kill = Action::new(words, move |world| {
            let host = world.find(Who::Host);
            let voters = host.map_or(0, |host| world.peers[host].status.voters.len());
            let heir = world.find(Who::Heir).filter(|_| with_heir && voters >= 5);
            if voters < 3 {
                return;
            }
            for peer in host.into_iter().chain(heir) {
                world.kill(peer, 120 * SECOND, vanishes);
            }
            world.failover.lost_at = Some(world.now);
        });
        plan.add(40 * SECOND + draw.below(SECOND), kill);
        plan.faults_until = 100 * SECOND;
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// Members who come in long before the host is killed, or not at all.
    fn of_far_chat(seed: u64, one_way_us: u64) -> Self {
        let mut plan = Self::of_five(seed, one_way_us);
        plan.steps.retain(|step| step.at < 10 * SECOND);
        plan
    }

    /// Five members who come in, and nothing more.
    pub fn of_five(seed: u64, one_way_us: u64) -> Self {
        Self::of_some(seed, 5, one_way_us)
    }

    /// So many members who come in, and nothing more.
    pub fn of_some(seed: u64, members: usize, one_way_us: u64) -> Self {
        let mut draw = Draw { prng: Prng::new(seed), members };
        let mut plan = Self {
            members: draw.members,
            distances: vec![vec![one_way_us; draw.members]; draw.members],
            config: Config::default(),
            sync_us_max: 2 * MS,
            sync_us_min: SYNC_US_MIN,
            is_busy: false,
            steps: Vec::new(),
            faults_until: 60 * SECOND,
            heals_everything: true,
            ..Self::new(seed, None)
        };
        plan.draw_growth(&mut draw);
        plan
    }

    /// An hour of the same chat, in which people talk and nothing goes wrong, but that the last
    /// member lies, and passes the hosting on whenever it has got it.
    pub fn of_a_liar(seed: u64, lie: Lie) -> Self {
        let mut plan = Self { faults_until: HOUR, ..Self::of_five(seed, 40 * MS) };
        plan.add(MINUTE, liars::lie_from_now_on(plan.members - 1, lie));
        for at in (MINUTE..HOUR).step_by(10 * SECOND as usize) {
            plan.add(at, workload::say(at as usize / 7 % plan.members, 1));
            plan.add(at + SECOND, liars::pass_it_on());
        }
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// The plan of a seed. `keep` leaves only those steps.
    pub fn new(seed: u64, keep: Option<&[usize]>) -> Self {
        let mut draw = Draw { prng: Prng::new(seed), members: 0 };
        draw.members = MEMBERS[draw.below(MEMBERS.len() as u64) as usize];
        let members = draw.members;
        let distances = geography(&mut draw);
        let length = if draw.chance(10) { 150 * SECOND } else { 30 * SECOND };
        let mut plan = Self {
            seed,
            luck: 0,
            members,
            distances,
            config: config(&mut draw),
            sync_us_max: [500, 2 * MS, 20 * MS][draw.below(3) as usize],
            sync_us_min: SYNC_US_MIN,
            is_busy: draw.chance(20),
            steps: Vec::new(),
            faults_until: length,
            heals_everything: draw.chance(30),
            confirmed_within_us: liveness::CONFIRMED_WITHIN_US,
            healing_seed: draw.prng.next_u64(),
        };
        plan.draw_growth(&mut draw);
        plan.draw_deeds(&mut draw);
        plan.draw_faults(&mut draw);
        plan.draw_liar(&mut draw);
        plan.steps.sort_by_key(|step| step.at);
        if let Some(keep) = keep {
            let all = std::mem::take(&mut plan.steps);
            let kept = all.into_iter().enumerate().filter(|(number, _)| keep.contains(number));
            plan.steps = kept.map(|(_, step)| step).collect();
        }
        plan
    }

    /// Members come in at the beginning; some come late, and some decline at first.
    fn draw_growth(&mut self, draw: &mut Draw) {
        for peer in 1..self.members {
            let mut at = 100 * MS;
            if draw.chance(10) {
                self.add(at, workload::decline(peer));
                at += SECOND;
            }
            if draw.chance(20) {
                at += draw.below(self.faults_until - SECOND);
            }
            if draw.chance(10) {
                self.add(at, workload::make_link(0, peer as u8, 1));
                self.add(at + SECOND, workload::join_by_link(peer, peer as u8));
            } else {
                self.add(at, workload::join(peer));
            }
        }
    }

    fn draw_deeds(&mut self, draw: &mut Draw) {
        let gap_us_max = [100 * MS, 400 * MS, 2 * SECOND][draw.below(3) as usize];
        let mut at = 200 * MS;
        while at < self.faults_until {
            let deed = workload::draw(draw, self.faults_until - at);
            self.add(at, deed);
            at += 10 * MS + draw.below(gap_us_max);
        }
    }

    /// Each run has faults of some kinds only, so that unlike ones do not hide each other.
    fn draw_faults(&mut self, draw: &mut Draw) {
        let gap_us_max = match draw.below(8) {
            0 => return,
            1 => 700 * MS,
            2..5 => 2 * SECOND,
            _ => 5 * SECOND,
        };
        let kinds = draw.prng.next_u64() | draw.prng.next_u64();
        let mut at = FAULTS_FROM;
        while at < self.faults_until {
            if let Some(fault) = faults::draw(draw, kinds, self.faults_until - at) {
                self.add(at, fault);
            }
            at += 50 * MS + draw.below(gap_us_max);
        }
    }

    /// One of the members may lie about its delays, to the end and beyond.
    fn draw_liar(&mut self, draw: &mut Draw) {
        if draw.chance(20) {
            let (peer, at) = (draw.peer(), draw.below(self.faults_until));
            self.add(at, liars::lie_from_now_on(peer, Lie::draw(draw)));
        }
    }

    pub fn add(&mut self, at: u64, action: Action) {
        self.steps.push(Step { at, action });
    }
}

/// Small windows, and often short times, so that their edges are met in a short run.
fn config(draw: &mut Draw) -> Config {
    let config = Config {
        window_entries: 40,
        checkpoint_every: 25,
        voters_max: [7, 7, 7, 5, 3][draw.below(5) as usize],
        ..Config::default()
    };
    let config = match draw.below(3) {
        0 => config,
        _ => Config {
            silent_critical_us: 2_500 * MS,
            silent_us: 5 * SECOND,
            back_us: SECOND,
            back_max_us: 4 * SECOND,
            move_after_us: 3 * SECOND,
            tenure_us: 5 * SECOND,
            move_every_us: 10 * SECOND,
            ..config
        },
    };
    config.check().expect("the relations hold");
    config
}

/// Where the peers are: in one room, in one city, or all over the world.
fn geography(draw: &mut Draw) -> Vec<Vec<u64>> {
    let near = 50;
    let far = [100, 100, 2 * MS, 20 * MS, 80 * MS][draw.below(5) as usize];
    let count = draw.members;
    let mut distances = vec![vec![near; count]; count];
    let pairs = (0..count).flat_map(|from| (0..from).map(move |to| (from, to)));
    for (from, to) in pairs {
        let distance = near + draw.below(far);
        distances[from][to] = distance;
        // Routes differ by direction, sometimes.
        let is_symmetric = draw.chance(70);
        distances[to][from] = if is_symmetric { distance } else { near + draw.below(far) };
    }
    distances
}
