//! What becomes of a chat at this peer when something happens to it: the whole table. `life.rs`
//! does what it says, one change of a chat after the other.

/// What a chat is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It is not here. An answer to an invitation may be on its way.
    Absent,
    /// The loop has it, and this peer takes part.
    Running,
    /// The loop has it to be read: somebody has removed this peer.
    Readable,
    /// The loop has ended it, which is not known here yet.
    Ending,
    /// It cannot be run as it is. A task asks the others to take this peer back.
    Repairing,
    /// It cannot be run. Nothing is tried before the next start, or before an answer that is on its
    /// way has come to its end.
    Faulty,
}

/// What happens to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The person accepts an invitation or a link.
    Accept,
    /// The host has taken this peer on.
    TakenOn,
    /// What the person answered has come to its end otherwise.
    AnswerOver,
    /// The person leaves.
    Leave,
    /// The loop: this peer has left.
    Left,
    /// The loop: the file cannot be used any more. Whether an answer is on its way.
    Unusable { is_joining: bool },
    /// The repair: the chat has a host, and this peer in it.
    Wanted,
    /// The repair: the host has taken this peer back.
    TakenBack,
    /// The repair: nothing will help.
    Hopeless,
}

/// What is done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Nothing,
    /// Asks again in a moment.
    Wait,
    /// The invitation is of no use, and all that goes.
    DropInvitation,
    /// The answer is brought to the host.
    Bring,
    /// The same in place of the repair, which ends.
    BringInstead,
    /// A new file begins in the answer's incarnation; what was there is kept aside.
    Begin,
    /// The same, once the loop has let the old file go.
    EndAndBegin,
    /// A new file begins in another incarnation; what was there is kept aside.
    BeginAnew,
    /// The loop runs what the repair has begun.
    Run,
    /// The others are told by the log, and the loop ends the chat when they know.
    SayLeaving,
    /// The chat goes from here: its record, its file unless something waits in it.
    Forget,
    /// The same, once the loop has let it go.
    EndAndForget,
    /// The repair and the answer end, and the file is kept aside.
    GiveUp,
    /// The others are asked to take this peer back.
    Repair,
    /// Its fault is shown.
    Ail,
}

/// What is done about a change in a phase. Whatever cannot happen there changes nothing.
pub fn decide(phase: Phase, change: Change) -> Act {
    match (phase, change) {
        (Phase::Ending, Change::Accept | Change::TakenOn | Change::Leave) => Act::Wait,
        // Whoever takes part has nothing to answer, and nothing to be taken on for.
        (Phase::Running, Change::Accept | Change::TakenOn) => Act::DropInvitation,
        (Phase::Repairing, Change::Accept) => Act::BringInstead,
        (Phase::Absent | Phase::Readable | Phase::Faulty, Change::Accept) => Act::Bring,
        (Phase::Absent | Phase::Faulty, Change::TakenOn) => Act::Begin,
        (Phase::Readable, Change::TakenOn) => Act::EndAndBegin,
        (Phase::Faulty, Change::AnswerOver) => Act::Repair,
        (Phase::Running, Change::Leave) => Act::SayLeaving,
        (Phase::Readable, Change::Leave) => Act::EndAndForget,
        (Phase::Repairing | Phase::Faulty, Change::Leave) => Act::GiveUp,
        (Phase::Ending, Change::Left) => Act::Forget,
        (Phase::Ending, Change::Unusable { is_joining: true }) => Act::Ail,
        (Phase::Ending, Change::Unusable { is_joining: false }) => Act::Repair,
        (Phase::Repairing, Change::Wanted) => Act::BeginAnew,
        (Phase::Repairing, Change::TakenBack) => Act::Run,
        (Phase::Repairing, Change::Hopeless) => Act::Ail,
        _ => Act::Nothing,
    }
}
