//! Mistakes that can be planted around the rules, one at a time, to see that the tests find each of
//! them. Those in the rules stand in `src/protocol/planted.rs`.
//!
//! Each stands at its place as `planted(Mistake::…)`. That is `false`, and the compiler removes
//! it, unless this crate is built with the feature `planted`, which nothing but `tests/planted`
//! asks for; a program that was built so refuses to run elsewhere (`may_run`).

/// The variable that names the mistake of a process, `NONE` included.
pub const VARIABLE: &str = "PLANTED_MISTAKE";

/// In place of a mistake's name.
pub const NONE: &str = "none";

macro_rules! mistakes {
    ($($(#[doc = $what:literal])+ $mistake:ident,)+) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mistake {
            $($(#[doc = $what])+ $mistake,)+
        }

        impl Mistake {
            pub const ALL: &[Self] = &[$(Self::$mistake),+];

            /// What it does.
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$mistake => concat!($($what),+).trim_ascii(),)+
                }
            }
        }
    };
}

mistakes! {
    // ---- keys and signatures (R39, R41) ----
    /// `verify` for `verify_strict`.
    LooseVerify,
    /// Any key passes for the pinned one.
    PinUnchecked,
    /// A certificate is enough, without a proof of its key.
    KeyUnproven,
    /// An entry from another peer may have any hash.
    EntryHashUnchecked,
    /// An entry from another peer needs no signature.
    EntryUnsigned,
    /// What bears a message out needs no signature.
    WordUnsigned,
    /// What is shown to a peer of its own past needs no signature.
    PastUnsigned,
    /// Votes count whoever has signed them.
    VotesUnchecked,
    /// Whoever asks for the host of a chat is taken for a member.
    StrangerIsMember,
    // ---- limits (R43, R44) ----
    /// An invite link lets people in after its end.
    LinkNeverExpires,
    /// Who makes keys may call with each of them as often as with one.
    KeysUnbounded,
    /// A peer may call as often as it likes.
    CallsUncounted,
    // ---- places and bytes (L7) ----
    /// A handshake may take as long as it likes.
    HandshakeForEver,
    /// Whoever connects need not greet.
    GreetingForEver,
    /// Whoever has greeted need not ask anything.
    SilenceForEver,
    /// Where all places are taken, newcomers wait.
    NobodyGivesWay,
    /// Strangers take the places of members.
    StrangersAmongMembers,
    /// One key may hold every place.
    KeyHoldsAll,
    /// A stranger may send messages as long as those of members.
    StrangersSayMuch,
    /// A stranger may have as much under way as a member.
    StrangersAskMuch,
    /// Requests to health may have any length.
    HealthAskedAtLength,
    // ---- the person's own doors (L9) ----
    /// The listener on loopback asks for no token.
    TokenUnchecked,
    /// It answers to every name.
    HostUnchecked,
    /// It answers pages in a browser.
    OriginUnchecked,
    /// A token that others could read stays the same.
    ReadTokenKept,
    /// Other users may open the socket.
    SocketForAll,
    /// New files are as the umask has them.
    FilesForAll,
    /// New directories are too.
    DirectoriesForAll,
    /// Rights that others have are left to them.
    RightsLeft,
    // ---- the store (R9, R37, R38) ----
    /// A write is there only for as long as the process lives.
    SyncSkipped,
    /// After a write that failed, further ones are tried.
    FailedSyncRetried,
    /// A write that failed counts as done.
    WriteErrorIgnored,
    /// The log is cut at any bad record, and not only in the last batch.
    CutsAtAnyBadRecord,
    /// A tail that was cut leaves no doubt.
    TornTailTrusted,
    /// A checkpoint is taken with whatever entry stands at its index.
    CheckpointUnbound,
    /// An older copy of a store is taken for the newest.
    OlderCopyTaken,
    /// A start does not count.
    BootNotRaised,
    // ---- messages ----
    /// Repeated requests are known from memory only.
    RequestsInMemoryOnly,
    /// What repeats something that is carried counts as new.
    CarriedNotKnown,
    /// What is new goes into the outbox before what is carried.
    CarriedOvertaken,
    /// What is carried is found in the log by its number.
    CarriedByNumber,
    /// A cursor beyond what is known to be committed is refused at once.
    ShownNotWaitedFor,
    /// A reader takes for written what is committed.
    DiskNotWaitedFor,
    /// A newer heartbeat does not replace the one that waits.
    OlderHeartbeatKept,
    /// The log and submissions are sent as fast as the connection takes them.
    Unpaced,
    /// A chat keeps its turn while anything of it waits.
    TurnsNotTaken,
    /// A reader is given once more what stands at its cursor.
    CursorOffByOne,
}

#[cfg(not(feature = "planted"))]
pub(crate) const fn planted(_mistake: Mistake) -> bool {
    false
}

/// Whether the program may run: always, but with mistakes in it only under `tests/planted`.
#[cfg(not(feature = "planted"))]
pub const fn may_run() -> bool {
    true
}

#[cfg(feature = "planted")]
pub use switch::may_run;
#[cfg(feature = "planted")]
pub(crate) use switch::planted;

#[cfg(feature = "planted")]
mod switch {
    use std::env;
    use std::sync::OnceLock;

    use super::{Mistake, NONE, VARIABLE};

    pub(crate) fn planted(mistake: Mistake) -> bool {
        static CHOSEN: OnceLock<Option<Mistake>> = OnceLock::new();
        let choose = || {
            let name = env::var(VARIABLE).ok().filter(|name| name != NONE)?;
            let chosen = Mistake::ALL.iter().find(|mistake| format!("{mistake:?}") == name);
            Some(*chosen.expect("the variable names a mistake"))
        };
        *CHOSEN.get_or_init(choose) == Some(mistake)
    }

    pub fn may_run() -> bool {
        env::var_os(VARIABLE).is_some()
    }
}
