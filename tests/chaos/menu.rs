//! The faults: what each is called, how often it is in the deck, and what it wants of the machine.

use demes::protocol::prng::Prng;

use crate::draw::shuffle;

/// The faults of the menu.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    HostKilled,
    MemberKilled,
    HostAndAnotherKilled,
    AllKilled,
    HostStopped,
    MemberStopped,
    HandedOver,
    HostFrozen,
    MemberFrozen,
    HostAndAnotherFrozen,
    HostHiccup,
    HostUnplugged,
    MemberUnplugged,
    HostSwitchedOff,
    HostMute,
    HostDeaf,
    HostToMemberCut,
    HostAndMemberApart,
    HostInMinority,
    HostInMajority,
    EqualParts,
    BridgeMember,
    HostFlapping,
    Moved,
    DelaysStep,
    DelaysMixed,
    Lossy,
    Overtaken,
    Resets,
    SmallPackets,
    NarrowQuiet,
    NarrowLoaded,
    DiskShort,
    DiskFull,
    SlowSyncs,
    VerySlowSyncs,
    HostSlowSyncs,
    OwnFileSlow,
    HostSyncFails,
    MemberWriteFails,
    ClockBent,
    OldCopy,
    HostOldCopy,
    StoreDamaged,
    HostStoreDamaged,
    StoreLost,
    Recovered,
    KeyTwice,
    LeaveAtOnce,
    AllButOneLeave,
    Storm,
}

use Fault::*;

/// What a fault wants that not every machine has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Want {
    /// A peer with a small disk.
    Disk,
    /// The switch between the peers.
    Switch,
    /// The library between a peer and its disk and clock.
    Shim,
}

/// How often each is in the deck, and what it is called. With 0 it is played only where `--only`
/// names it.
const MENU: [(Fault, u8, &str); 51] = [
    (HostKilled, 3, "host killed"),
    (MemberKilled, 1, "member killed"),
    (HostAndAnotherKilled, 2, "host and another killed"),
    (AllKilled, 1, "all killed"),
    (HostStopped, 2, "host stopped (SIGTERM)"),
    (MemberStopped, 1, "member stopped (SIGTERM)"),
    (HandedOver, 1, "host hands over"),
    (HostFrozen, 2, "host frozen"),
    (MemberFrozen, 1, "member frozen"),
    (HostAndAnotherFrozen, 1, "host and another frozen"),
    (HostHiccup, 1, "host frozen < 200 ms"),
    (HostUnplugged, 2, "host unplugged"),
    (MemberUnplugged, 1, "member unplugged"),
    (HostSwitchedOff, 1, "host's interface off"),
    (HostMute, 1, "nothing from the host arrives"),
    (HostDeaf, 1, "nothing arrives at the host"),
    (HostToMemberCut, 1, "host → one member cut"),
    (HostAndMemberApart, 1, "host ↔ one member cut"),
    (HostInMinority, 1, "split, host in the minority"),
    (HostInMajority, 1, "split, host in the majority"),
    (EqualParts, 1, "split into equal parts"),
    (BridgeMember, 1, "two halves, one member sees both"),
    (HostFlapping, 1, "host's cable flaps"),
    (Moved, 1, "delays change"),
    (DelaysStep, 1, "delays step up"),
    (DelaysMixed, 1, "delays step up, mixed"),
    (Lossy, 1, "packets are lost"),
    (Overtaken, 1, "packets overtake each other"),
    (Resets, 1, "connections are reset"),
    (SmallPackets, 1, "smaller packets"),
    (NarrowQuiet, 1, "narrow links, quiet"),
    (NarrowLoaded, 1, "narrow links, loaded"),
    (DiskShort, 1, "host's disk below its reserve"),
    (DiskFull, 1, "host's disk full"),
    (SlowSyncs, 1, "slow syncs at all"),
    (VerySlowSyncs, 1, "very slow syncs at all"),
    (HostSlowSyncs, 1, "slow syncs at the host"),
    (OwnFileSlow, 1, "host's own file slow, links made"),
    (HostSyncFails, 1, "a sync fails at the host"),
    (MemberWriteFails, 1, "a write fails at a member"),
    (ClockBent, 1, "clocks bent"),
    (OldCopy, 1, "old copy, another host"),
    (HostOldCopy, 1, "old copy of the host"),
    (StoreDamaged, 1, "store damaged"),
    (HostStoreDamaged, 1, "host's store damaged"),
    (StoreLost, 1, "store lost"),
    (Recovered, 1, "recovered by hand"),
    (KeyTwice, 1, "one key twice"),
    (LeaveAtOnce, 1, "two leave at once"),
    (AllButOneLeave, 1, "all but one leave"),
    (Storm, 2, "several at random"),
];

impl Fault {
    /// What it is called in reports.
    pub fn name(self) -> &'static str {
        let entry = MENU.iter().find(|(fault, ..)| *fault == self);
        entry.expect("the menu has every fault").2
    }

    /// What it wants of the machine.
    pub fn wants(self) -> Option<Want> {
        match self {
            DiskShort | DiskFull => Some(Want::Disk),
            Lossy | Overtaken | Resets | SmallPackets | NarrowQuiet | NarrowLoaded => {
                Some(Want::Switch)
            }
            SlowSyncs | VerySlowSyncs | HostSlowSyncs | OwnFileSlow => Some(Want::Shim),
            HostSyncFails | MemberWriteFails | ClockBent => Some(Want::Shim),
            _ => None,
        }
    }
}

/// All of them.
pub fn every() -> impl Iterator<Item = Fault> {
    MENU.iter().map(|(fault, ..)| *fault)
}

/// The faults in an order drawn from the seed, each as often as the menu says. The host is killed
/// first, so that the shortest run has that.
pub fn deck(prng: &mut Prng, only: &[String]) -> Vec<Fault> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part));
    let mut deck: Vec<Fault> = MENU
        .iter()
        .filter(|(.., name)| wanted(name))
        .flat_map(|(fault, count, _)| {
            let least = u8::from(!only.is_empty());
            (0..(*count).max(least)).map(|_| *fault)
        })
        .collect();
    shuffle(prng, &mut deck);
    if let Some(place) = deck.iter().position(|fault| *fault == HostKilled) {
        deck.swap(0, place);
    }
    deck
}
