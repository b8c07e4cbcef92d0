//! Everything that can happen to a chat, in every order: a small world in which the acts of the
//! table are done as `life.rs` does them, explored to its end.

use std::collections::{BTreeSet, VecDeque};

use super::super::phase::{Act, Change, Phase, decide};

/// A chat's file. It begins without anything that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct File {
    incarnation: u8,
    /// It has never run.
    is_new: bool,
    waits: bool,
    is_sound: bool,
    was_removed: bool,
}

/// One chat at one peer, as far as its life goes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct World {
    life: Life,
    file: Option<File>,
    /// The loop runs this incarnation.
    running: Option<u8>,
    /// The loop has ended it, and said so in this way.
    told: Option<Told>,
    /// What the repair has begun.
    begun: Option<u8>,
    /// An accepted invitation, and whether a task brings it.
    answer: Option<u8>,
    is_bringing: bool,
    /// An invitation that is not answered.
    is_invited: bool,
    /// What was queued is kept aside.
    aside: bool,
    /// Something was queued, and neither sent nor given up by the person.
    owed: bool,
    /// The incarnations that files were made in.
    made: BTreeSet<u8>,
    /// That of the record, and whether its file was only about to be made then.
    recorded: u8,
    is_claimed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Life {
    #[default]
    Absent,
    Running,
    Repairing,
    Faulty {
        then_repair: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Told {
    Left,
    Unusable,
}

/// What happens, named as people and tests name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Invite,
    Join,
    TakenOn,
    JoinFails,
    Leave,
    IsGone,
    Removed,
    Spoil,
    LoopFindsDamage,
    LoopIsHeard,
    RepairBegins,
    RepairEnds,
    RepairIsHopeless,
    Queue,
    Send,
    CrashAndStart,
    /// Between two writes: the incarnation is noted, the file is made, it runs.
    CrashWhileTakenOn(u8),
    CrashWhileRepairing,
    CrashWhileForgetting,
}

const STEPS: [Step; 21] = [
    Step::Invite,
    Step::Join,
    Step::TakenOn,
    Step::JoinFails,
    Step::Leave,
    Step::IsGone,
    Step::Removed,
    Step::Spoil,
    Step::LoopFindsDamage,
    Step::LoopIsHeard,
    Step::RepairBegins,
    Step::RepairEnds,
    Step::RepairIsHopeless,
    Step::Queue,
    Step::Send,
    Step::CrashAndStart,
    Step::CrashWhileTakenOn(1),
    Step::CrashWhileTakenOn(2),
    Step::CrashWhileTakenOn(3),
    Step::CrashWhileRepairing,
    Step::CrashWhileForgetting,
];
/// Incarnations are drawn at random; here they are counted, and so many are enough.
const INCARNATIONS_MAX: u8 = 4;

impl World {
    fn phase(&self) -> Phase {
        match self.life {
            Life::Absent => Phase::Absent,
            Life::Running if self.running.is_none() => Phase::Ending,
            Life::Running if self.file.is_some_and(|file| file.was_removed) => Phase::Readable,
            Life::Running => Phase::Running,
            Life::Repairing => Phase::Repairing,
            Life::Faulty { .. } => Phase::Faulty,
        }
    }

    /// Draws an incarnation.
    fn draw(&self) -> Option<u8> {
        let used = self.made.iter().copied().chain(self.answer).max().unwrap_or(0);
        (used < INCARNATIONS_MAX).then_some(used + 1)
    }

    /// Makes a file; what was there is kept aside, and carried unless this peer was removed.
    fn make(&mut self, incarnation: u8) {
        assert!(self.running.is_none(), "the loop has the file that would be replaced: {self:?}");
        assert!(self.made.insert(incarnation), "two files of one incarnation: {self:?}");
        let before = self.file;
        let waits = before.is_some_and(|file| file.waits && !file.was_removed);
        self.aside |= before.is_some_and(|file| file.waits);
        self.file =
            Some(File { incarnation, is_new: true, waits, is_sound: true, was_removed: false });
    }

    fn run(&mut self) {
        let file = self.file.as_mut().expect("what runs has a file");
        file.is_new = false;
        let incarnation = file.incarnation;
        assert!(self.running.is_none(), "it runs twice: {self:?}");
        self.running = Some(incarnation);
        (self.life, self.begun) = (Life::Running, None);
    }

    /// The file goes, unless something waits in it.
    fn forget(&mut self) {
        assert!(self.running.is_none(), "the loop has the file that would go: {self:?}");
        self.aside |= self.file.is_some_and(|file| file.waits);
        (self.life, self.file, self.recorded) = (Life::Absent, None, 0);
    }

    fn unusable(&mut self) {
        self.life = match self.answer {
            Some(_) => Life::Faulty { then_repair: true },
            None => Life::Repairing,
        };
        self.begun = None;
    }

    fn drop_invitation(&mut self) {
        (self.answer, self.is_bringing, self.is_invited) = (None, false, false);
    }

    /// What becomes of the world with this step; `None` where it cannot happen.
    fn after(&self, step: Step) -> Option<Self> {
        let mut next = self.clone();
        let phase = self.phase();
        match step {
            // It may come at the very moment in which this peer begins to take part.
            Step::Invite if !self.is_invited => next.is_invited = true,
            Step::Join if self.is_invited && self.answer.is_none() => {
                next.answer = Some(self.draw()?);
                next.is_bringing = true;
                match decide(phase, Change::Accept) {
                    Act::Wait => return None,
                    Act::DropInvitation => next.drop_invitation(),
                    Act::BringInstead => {
                        (next.life, next.begun) = (Life::Faulty { then_repair: true }, None);
                    }
                    Act::Bring => {}
                    act => panic!("{act:?} in {self:?}"),
                }
            }
            Step::TakenOn if self.is_bringing => {
                let answer = self.answer?;
                match decide(phase, Change::TakenOn) {
                    Act::Wait => {
                        assert_eq!(phase, Phase::Ending, "nobody will say more: {self:?}");
                        return None;
                    }
                    Act::DropInvitation => {
                        assert_eq!(phase, Phase::Running, "it is of use: {self:?}");
                        next.drop_invitation();
                    }
                    act => {
                        match act {
                            Act::EndAndBegin => next.running = None,
                            Act::Begin => {}
                            act => panic!("{act:?} in {self:?}"),
                        }
                        let is_good = self.recorded != answer;
                        (next.recorded, next.is_claimed) = (answer, true);
                        next.drop_invitation();
                        match is_good {
                            true => {
                                next.make(answer);
                                next.run();
                            }
                            false => next.unusable(),
                        }
                    }
                }
            }
            Step::JoinFails if self.is_bringing => {
                next.drop_invitation();
                if decide(phase, Change::AnswerOver) == Act::Repair
                    && self.life == (Life::Faulty { then_repair: true })
                {
                    next.unusable();
                }
            }
            Step::Leave => match decide(phase, Change::Leave) {
                Act::SayLeaving => {
                    assert_eq!(phase, Phase::Running, "nobody hears it: {self:?}");
                    next.owed = false;
                }
                Act::EndAndForget => {
                    (next.running, next.owed) = (None, false);
                    next.forget();
                }
                Act::GiveUp => {
                    next.aside |= self.file.is_some_and(|file| file.waits);
                    (next.life, next.begun) = (Life::Absent, None);
                    (next.file, next.recorded, next.owed) = (None, 0, false);
                    next.drop_invitation();
                }
                _ => return None,
            },
            Step::IsGone if phase == Phase::Running => {
                (next.running, next.told) = (None, Some(Told::Left));
            }
            Step::Removed if phase == Phase::Running => next.file.as_mut()?.was_removed = true,
            Step::Spoil => next.file.as_mut()?.is_sound = false,
            Step::LoopFindsDamage if self.running.is_some() && !self.file?.is_sound => {
                (next.running, next.told) = (None, Some(Told::Unusable));
            }
            Step::LoopIsHeard => {
                let is_joining = self.answer.is_some();
                let told = next.told.take()?;
                let change = match told {
                    Told::Left => Change::Left,
                    Told::Unusable => Change::Unusable { is_joining },
                };
                match (told, decide(phase, change)) {
                    (Told::Left, Act::Forget) => next.forget(),
                    (Told::Unusable, Act::Repair) => next.life = Life::Repairing,
                    (Told::Unusable, Act::Ail) => next.life = Life::Faulty { then_repair: true },
                    (_, act) => panic!("the loop's word is lost ({act:?}) in {self:?}"),
                }
            }
            Step::RepairBegins if phase == Phase::Repairing && self.begun.is_none() => {
                assert_eq!(decide(phase, Change::Wanted), Act::BeginAnew);
                let incarnation = self.draw()?;
                next.make(incarnation);
                (next.begun, next.recorded) = (Some(incarnation), incarnation);
                next.is_claimed = false;
            }
            Step::RepairEnds if self.begun.is_some() => {
                assert_eq!(decide(phase, Change::TakenBack), Act::Run, "{self:?}");
                (next.recorded, next.is_claimed) = (self.begun?, false);
                next.run();
                next.drop_invitation();
            }
            Step::RepairIsHopeless if phase == Phase::Repairing && self.begun.is_none() => {
                assert_eq!(decide(phase, Change::Hopeless), Act::Ail);
                next.life = Life::Faulty { then_repair: false };
            }
            Step::Queue if phase == Phase::Running && !self.owed => {
                next.file.as_mut()?.waits = true;
                next.owed = true;
            }
            Step::Send if phase == Phase::Running && self.file?.waits => {
                next.file.as_mut()?.waits = false;
                (next.owed, next.aside) = (false, false);
            }
            Step::CrashAndStart => next.start(),
            Step::CrashWhileTakenOn(writes) if self.is_bringing => {
                let answer = self.answer.filter(|answer| *answer != self.recorded)?;
                if matches!(decide(phase, Change::TakenOn), Act::Wait | Act::DropInvitation) {
                    return None;
                }
                (next.recorded, next.is_claimed) = (answer, true);
                next.running = None;
                if writes > 1 {
                    next.make(answer);
                }
                if writes > 2 {
                    next.run();
                }
                next.start();
            }
            Step::CrashWhileRepairing if phase == Phase::Repairing && self.begun.is_none() => {
                next.make(self.draw()?);
                next.start();
            }
            Step::CrashWhileForgetting if self.told == Some(Told::Left) => {
                next.recorded = 0;
                next.start();
            }
            _ => return None,
        }
        Some(next)
    }

    /// As `Kept::start` and `life::start` do it.
    fn start(&mut self) {
        (self.life, self.running, self.told) = (Life::Absent, None, None);
        (self.begun, self.is_bringing) = (None, false);
        let in_file = self.file.filter(|file| file.is_sound).map(|file| file.incarnation);
        if self.answer.is_some_and(|a| a == self.recorded || Some(a) == in_file) {
            self.drop_invitation();
        }
        let is_outlived = |file: File| {
            ![0, file.incarnation].contains(&self.recorded) && (self.is_claimed || !file.is_new)
        };
        match self.file {
            Some(file) if !file.is_sound || is_outlived(file) => self.unusable(),
            Some(file) if file.is_new => {
                self.unusable();
                self.begun = (self.life == Life::Repairing).then_some(file.incarnation);
            }
            Some(file) => {
                if !file.was_removed {
                    self.drop_invitation();
                }
                self.run();
            }
            None if self.recorded == 0 => {}
            None => self.unusable(),
        }
        self.is_bringing = self.answer.is_some();
    }

    fn check(&self) {
        let file = self.file.map(|file| file.incarnation);
        if let Some(running) = self.running {
            assert_eq!(file, Some(running), "it runs on a file that is not there: {self:?}");
            assert_eq!(self.life, Life::Running, "what runs is also being repaired: {self:?}");
        }
        let is_repairing = self.life == Life::Repairing;
        assert!(!(is_repairing && self.is_bringing), "it comes back in two ways: {self:?}");
        let is_forgotten = self.life == (Life::Faulty { then_repair: true }) && !self.is_bringing;
        assert!(!is_forgotten, "nobody will repair it: {self:?}");
        let waits = self.aside || self.file.is_some_and(|file| file.waits);
        assert!(waits || !self.owed, "what was queued is lost: {self:?}");
        let is_member = matches!(self.phase(), Phase::Running) && self.is_bringing;
        assert!(!is_member, "who takes part is joining: {self:?}");
        if let Some(begun) = self.begun {
            assert_eq!(file, Some(begun), "the repair goes on with another file: {self:?}");
        }
    }
}

/// Every world that can be reached from the chat's being absent, or here and sound.
fn explore() -> BTreeSet<World> {
    let mut here = World::default();
    here.make(1);
    here.recorded = 1;
    here.run();
    let mut seen = BTreeSet::from([World::default(), here.clone()]);
    let mut queue = VecDeque::from([World::default(), here]);
    while let Some(world) = queue.pop_front() {
        for next in STEPS.into_iter().filter_map(|step| world.after(step)) {
            next.check();
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    seen
}

#[test]
fn in_whatever_order_things_happen_nothing_is_lost_and_no_file_has_two_owners() {
    let seen = explore();
    assert!(seen.len() > 500, "only {} worlds were seen", seen.len());
    // Nothing is a dead end: the person can always leave, or join once invited.
    for world in &seen {
        let is_stuck = STEPS.into_iter().all(|step| world.after(step).is_none());
        assert!(!is_stuck, "nothing can happen any more: {world:?}");
    }
}

/// What never comes right after something, because that has ruled it out. Every other two meet.
const NEVER: [(Step, &[Step]); 8] = [
    (Step::Join, &[Step::Join, Step::LoopIsHeard, Step::RepairBegins, Step::RepairEnds]),
    (Step::TakenOn, &[Step::Join, Step::TakenOn, Step::LoopIsHeard, Step::RepairEnds]),
    (Step::Leave, &[Step::LoopIsHeard, Step::RepairBegins, Step::RepairEnds]),
    (
        Step::Removed,
        &[Step::TakenOn, Step::Removed, Step::LoopIsHeard, Step::RepairBegins, Step::RepairEnds],
    ),
    (Step::LoopIsHeard, &[Step::Removed, Step::LoopIsHeard, Step::RepairEnds]),
    (Step::RepairBegins, &[Step::TakenOn, Step::Removed, Step::LoopIsHeard, Step::RepairBegins]),
    (
        Step::RepairEnds,
        &[Step::Join, Step::TakenOn, Step::LoopIsHeard, Step::RepairBegins, Step::RepairEnds],
    ),
    (Step::CrashAndStart, &[Step::LoopIsHeard]),
];

#[test]
fn every_two_that_can_meet_have_met() {
    let seen = explore();
    let happen = NEVER.map(|(step, _)| step);
    for (first, expected) in NEVER {
        let after: Vec<World> = seen.iter().filter_map(|world| world.after(first)).collect();
        let never = |second: &Step| after.iter().all(|world| world.after(*second).is_none());
        let never: Vec<Step> = happen.into_iter().filter(never).collect();
        assert_eq!(never, expected, "right after {first:?}");
    }
}
