//! Every metric of a peer, and how numbers get into them.
//!
//! `TABLE` is the one place that has names, kinds, units, attributes and meanings;
//! `docs/metrics.md` and the alarms of `k8s/` are tested against it. Names follow OpenTelemetry:
//! dots, no units, no plural of what is a level. Prometheus shows them with underscores, with the
//! unit and, for counters, with `_total` at the end ([`prometheus_name`]).
//!
//! What happens is counted where it happens, with [`add`] and [`record`]: one load while nobody
//! asked for metrics. What *is* — roles, queues, lag — is read only when somebody collects
//! (`serve::observe`), so it costs the loop nothing.
//!
//! Attributes are ids, states and reasons out of fixed lists: never a text, name or address.
//! Durations have no chat: they tell how disk and network do, and a histogram for each chat would
//! be too many series.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::KeyValue;

use super::instruments::Instruments;

/// The id of a chat: a hash, never its name.
pub const CHAT: &str = "demes.chat.id";
/// Another member: the first 8 digits of its peer's id, which is a key; never a name.
pub const PEER: &str = "demes.peer.id";
/// What happened in an election: `suspected` the host, `started` standing for it, `won`, `lost`.
pub const ELECTION_EVENT: &str = "demes.election.event";
/// Why a message was dropped: `link_down`, `queue_full` or `stream_full`.
pub const DROP_REASON: &str = "demes.drop.reason";
/// This peer's own connection to another one: `up`, `down` or `refused`.
pub const LINK_STATE: &str = "demes.link.state";
/// Which listener: `peer`, `client`, `health` or `metrics`.
pub const LISTENER: &str = "demes.listener";
/// How a repair ended: `begun_anew` or `failed`.
pub const REPAIR_OUTCOME: &str = "demes.repair.outcome";
/// Why something was refused: the reason of the error, or its gRPC code.
pub const ERROR_TYPE: &str = "error.type";
/// The method of a call, or `_OTHER` for one that does not exist.
pub const RPC_METHOD: &str = "rpc.method";
/// `grpc`.
pub const RPC_SYSTEM: &str = "rpc.system.name";
/// The name of a gRPC code.
pub const RPC_STATUS: &str = "rpc.response.status_code";
/// `user` or `system`.
pub const CPU_MODE: &str = "cpu.mode";
/// The version of the program.
pub const VERSION: &str = "service.version";

/// A member that is this many entries behind counts as lagging.
pub const LAGGING_ENTRIES: u64 = 256;
/// Series of [`Metric::MemberLag`] at one peer, of all chats that it hosts together; of more, those
/// furthest behind. The SDK takes 2,000 of one metric and merges the rest, and while all of them
/// change it holds those of two collections.
pub const MEMBER_LAG_SERIES_MAX: usize = 512;

/// What a metric measures; the index of its row in [`TABLE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "each is described in its row")]
pub enum Metric {
    EntryCommitted,
    FeedEvents,
    ConfirmDuration,
    DeliveryDuration,
    CommitDuration,
    SyncDuration,
    CallDuration,
    ElectionEvents,
    HostChanges,
    HostTenure,
    ChatOpen,
    ChatAiling,
    ChatHosting,
    ChatServing,
    ChatPaused,
    ChatStopped,
    ChatTerm,
    LogLast,
    LogCommit,
    VoterSeats,
    VoterInContact,
    VoterMajority,
    MemberJoined,
    MemberUnreachable,
    MemberLag,
    MemberLagging,
    OutboxMessages,
    InboxInputs,
    WritesWaiting,
    PeerQueueMessages,
    PeerQueueLongest,
    PeerDropped,
    PeerLinks,
    Connections,
    InputRejected,
    StorageFree,
    StorageReserve,
    StorageDamages,
    StorageRepairs,
    BuildInfo,
    CpuTime,
    MemoryUsage,
    FileDescriptors,
    Uptime,
}

/// How a metric's values come together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Counts up, where it happens.
    Counter,
    /// Counts up and down, where it happens.
    UpDownCounter,
    /// Durations, where they end; the upper bounds of its buckets in seconds.
    Histogram(Buckets),
    /// A total that is read when metrics are collected.
    ObservedCounter,
    /// A level that is read when metrics are collected, and adds up over peers.
    ObservedUpDownCounter,
    /// A level that is read when metrics are collected.
    ObservedGauge,
}

/// The buckets of a histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Buckets {
    /// From half a millisecond to a minute: disks, and messages round the world.
    Wide,
    /// Those that OpenTelemetry's conventions give to calls.
    Calls,
}

impl Buckets {
    /// The upper bounds, in seconds.
    pub fn bounds(self) -> Vec<f64> {
        match self {
            Self::Wide => vec![
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
                10.0, 30.0, 60.0,
            ],
            Self::Calls => vec![
                0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
            ],
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Row {
    /// Which one.
    pub metric: Metric,
    /// As OpenTelemetry has it.
    pub name: &'static str,
    /// How its values come together.
    pub kind: Kind,
    /// By UCUM; what is counted, in braces; empty for states and numbers.
    pub unit: &'static str,
    /// The attributes of each value.
    pub attributes: &'static [&'static str],
    /// One sentence.
    pub meaning: &'static str,
}

const fn row(
    metric: Metric,
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    attributes: &'static [&'static str],
    meaning: &'static str,
) -> Row {
    Row { metric, name, kind, unit, attributes, meaning }
}

const WIDE: Kind = Kind::Histogram(Buckets::Wide);
const CALLS: Kind = Kind::Histogram(Buckets::Calls);

/// All metrics, in the order of [`Metric`].
#[rustfmt::skip]
pub const TABLE: &[Row] = {
    use Kind::{
        Counter, ObservedCounter as Total, ObservedGauge as Gauge, ObservedUpDownCounter as Level,
        UpDownCounter,
    };
    use Metric as M;
    &[
    row(M::EntryCommitted, "demes.entry.committed", Counter, "{entry}", &[CHAT],
        "Entries (messages, members, hosts, voters) that have become committed at this peer."),
    row(M::FeedEvents, "demes.feed.events", Counter, "{event}", &[CHAT],
        "Committed entries that were given to feeds of this person's programs."),
    row(M::ConfirmDuration, "demes.message.confirm.duration", WIDE, "s", &[],
        "From taking a submission of this person to its confirmation by a majority."),
    row(M::DeliveryDuration, "demes.message.delivery.duration", WIDE, "s", &[],
        "From sending, by the author's clock, to the commit at this peer, by its own clock; of \
         the first message of each batch."),
    row(M::CommitDuration, "demes.entry.commit.duration", WIDE, "s", &[],
        "At the host: from appending an entry to its commit; of the last entry of each write."),
    row(M::SyncDuration, "demes.storage.sync.duration", WIDE, "s", &[],
        "One write to a chat's store, with its sync."),
    row(M::CallDuration, "rpc.server.call.duration", CALLS, "s",
        &[RPC_SYSTEM, RPC_METHOD, RPC_STATUS, ERROR_TYPE],
        "Calls that this peer answered, from their request to the end of their response."),
    row(M::ElectionEvents, "demes.election.events", Counter, "{event}", &[CHAT, ELECTION_EVENT],
        "What this peer did in elections: suspected a host, started to stand, won, lost."),
    row(M::HostChanges, "demes.host.changes", Counter, "{change}", &[CHAT],
        "How often this peer learned of another host than before."),
    row(M::HostTenure, "demes.host.tenure", Gauge, "s", &[CHAT],
        "How long this peer has been hosting the chat; 0 while it does not."),
    row(M::ChatOpen, "demes.chat.open", Level, "{chat}", &[],
        "Chats that run at this peer."),
    row(M::ChatAiling, "demes.chat.faulty", Level, "{chat}", &[],
        "Chats that do not run here, because their store cannot be used or is being repaired."),
    row(M::ChatHosting, "demes.chat.hosting", Gauge, "", &[CHAT],
        "1 while this peer is the chat's host, paused or not."),
    row(M::ChatServing, "demes.chat.serving", Gauge, "", &[CHAT],
        "1 while the chat goes on here: this peer hosts it, or is attached to its host."),
    row(M::ChatPaused, "demes.chat.paused", Gauge, "", &[CHAT],
        "1 while this peer hosts, and confirms nothing for want of a majority or of its disk."),
    row(M::ChatStopped, "demes.chat.stopped", Gauge, "", &[CHAT],
        "1 once the chat has stopped at this peer for good; `demes status` says why."),
    row(M::ChatTerm, "demes.chat.term", Gauge, "", &[CHAT],
        "The term of the chat's host, as this peer knows it."),
    row(M::LogLast, "demes.log.last", Gauge, "", &[CHAT],
        "The index of the last entry that this peer has, committed or not."),
    row(M::LogCommit, "demes.log.commit", Gauge, "", &[CHAT],
        "The index of the last entry that is committed at this peer."),
    row(M::VoterSeats, "demes.voter.seats", Gauge, "{voter}", &[CHAT],
        "Members that count for majorities."),
    row(M::VoterInContact, "demes.voter.in_contact", Gauge, "{voter}", &[CHAT],
        "Voters in contact with this peer, itself included if it votes."),
    row(M::VoterMajority, "demes.voter.majority", Gauge, "{voter}", &[CHAT],
        "How many voters make a majority."),
    row(M::MemberJoined, "demes.member.joined", Gauge, "{member}", &[CHAT],
        "Members that have joined, this peer included."),
    row(M::MemberUnreachable, "demes.member.unreachable", Gauge, "{member}", &[CHAT],
        "Joined members that this peer has no connection to."),
    row(M::MemberLag, "demes.member.lag", Gauge, "{entry}", &[CHAT, PEER],
        "At the host: committed entries that a member has not told it has; of the 512 furthest \
         behind."),
    row(M::MemberLagging, "demes.member.lagging", Gauge, "{member}", &[CHAT],
        "Reachable members that are 256 committed entries or more behind."),
    row(M::OutboxMessages, "demes.outbox.messages", Level, "{message}", &[CHAT],
        "Submissions of this person that wait for a majority."),
    row(M::InboxInputs, "demes.loop.inbox.inputs", Level, "{input}", &[],
        "Inputs that wait for the loop; 4,096 is full."),
    row(M::WritesWaiting, "demes.storage.writes", Level, "{write}", &[CHAT],
        "Writes that wait for a chat's storage thread, the one under way included."),
    row(M::PeerQueueMessages, "demes.peer.queue.messages", Level, "{message}", &[],
        "Messages on their way to all other peers."),
    row(M::PeerQueueLongest, "demes.peer.queue.longest", Gauge, "{message}", &[],
        "Messages on their way to the one peer for which most wait; 4,096 is full."),
    row(M::PeerDropped, "demes.peer.dropped", Counter, "{message}", &[DROP_REASON],
        "Messages to other peers that were dropped; what matters is sent again."),
    row(M::PeerLinks, "demes.peer.links", Level, "{peer}", &[LINK_STATE],
        "Peers of this peer's chats, by the state of its own connection to them."),
    row(M::Connections, "demes.server.connections", UpDownCounter, "{connection}", &[LISTENER],
        "Connections that others have open here."),
    row(M::InputRejected, "demes.input.rejected", Counter, "{rejection}", &[ERROR_TYPE],
        "Calls, messages and handshakes that this peer refused."),
    row(M::StorageFree, "demes.storage.free", Gauge, "By", &[],
        "Bytes that may still be written to the file system of the data directory."),
    row(M::StorageReserve, "demes.storage.reserve", Gauge, "By", &[],
        "Free space below which nothing new is taken (`storage.reserve_mib`)."),
    row(M::StorageDamages, "demes.storage.damages", Counter, "{event}", &[],
        "How often a chat's store was found damaged, or older than the others know it to be."),
    row(M::StorageRepairs, "demes.storage.repairs", Counter, "{repair}", &[REPAIR_OUTCOME],
        "Repairs of chats that have ended, begun anew or failed."),
    row(M::BuildInfo, "demes.build.info", Gauge, "", &[VERSION],
        "Always 1; its attribute is the version of the program."),
    row(M::CpuTime, "process.cpu.time", Total, "s", &[CPU_MODE],
        "Processor time of the process."),
    row(M::MemoryUsage, "process.memory.usage", Level, "By", &[],
        "Physical memory that the process uses."),
    row(M::FileDescriptors, "process.unix.file_descriptor.count", Level, "{file_descriptor}", &[],
        "File descriptors that the process has open."),
    row(M::Uptime, "process.uptime", Gauge, "s", &[],
        "How long the process has been running."),
    ]
};

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

impl Metric {
    /// Its row.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}

/// Whether anybody has asked for metrics.
pub fn is_enabled() -> bool {
    INSTRUMENTS.get().is_some()
}

/// Takes the instruments, once in a process; says whether they were the first.
pub(super) fn enable(instruments: Instruments) -> bool {
    let is_first = INSTRUMENTS.set(instruments).is_ok();
    // What alarms watch is there from the start: Prometheus sees no rise in a counter that begins
    // with 1.
    add(Metric::StorageDamages, 0, &[]);
    for (metric, attribute, values) in WATCHED {
        for value in values {
            add(metric, 0, &[KeyValue::new(attribute, *value)]);
        }
    }
    is_first
}

/// Counters that alarms watch, and the values of their attributes that do so.
const WATCHED: [(Metric, &str, &[&str]); 3] = [
    (Metric::StorageRepairs, REPAIR_OUTCOME, &["begun_anew", "failed"]),
    (Metric::PeerDropped, DROP_REASON, &["link_down", "queue_full", "stream_full"]),
    (
        Metric::InputRejected,
        ERROR_TYPE,
        &["NOT_GENUINE", "HANDSHAKE_FAILED", "HANDSHAKE_TIMEOUT", "NO_KEY"],
    ),
];

/// Counts; nothing happens while metrics are off.
pub fn add(metric: Metric, count: u64, attributes: &[KeyValue]) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.add(metric, count, attributes);
    }
}

/// Counts one up, and down again when what is returned is dropped.
#[must_use = "it counts down when it is dropped"]
pub fn hold(metric: Metric, attribute: KeyValue) -> Held {
    let held = is_enabled().then_some((metric, attribute));
    if let Some((metric, attribute)) = &held {
        level(*metric, 1, attribute);
    }
    Held(held)
}

/// See [`hold`].
pub struct Held(Option<(Metric, KeyValue)>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((metric, attribute)) = &self.0 {
            level(*metric, -1, attribute);
        }
    }
}

fn level(metric: Metric, change: i64, attribute: &KeyValue) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.change(metric, change, std::slice::from_ref(attribute));
    }
}

/// Notes how long something took; nothing happens while metrics are off.
pub fn record(metric: Metric, took: Duration, attributes: &[KeyValue]) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.record(metric, took.as_secs_f64(), attributes);
    }
}

/// Counts a refusal. Reasons come from a fixed list.
pub fn rejected(reason: &'static str) {
    if is_enabled() {
        add(Metric::InputRejected, 1, &[KeyValue::new(ERROR_TYPE, reason)]);
    }
}

/// The name that Prometheus has for a metric; of a histogram, the stem of its series.
pub fn prometheus_name(row: &Row) -> String {
    let unit = match row.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let total = match row.kind {
        Kind::Counter | Kind::ObservedCounter => "_total",
        _ => "",
    };
    format!("{}{unit}{total}", row.name.replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_their_metrics() {
        for (place, row) in TABLE.iter().enumerate() {
            assert_eq!(row.metric as usize, place, "{}", row.name);
        }
        assert_eq!(TABLE.len(), Metric::Uptime as usize + 1);
    }

    #[test]
    fn names_keep_to_opentelemetrys_rules() {
        for row in TABLE {
            let part = |part: &str| {
                part.starts_with(|c: char| c.is_ascii_lowercase())
                    && part.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            };
            assert!(row.name.split('.').all(part), "{}", row.name);
            let mut words = row.name.split(['.', '_']);
            let is_unit = |word| ["seconds", "bytes", "total", "ratio"].contains(&word);
            assert!(!words.any(is_unit), "{}: units are no part of names", row.name);
            // A name is never the namespace of another one.
            let below = format!("{}.", row.name);
            assert!(TABLE.iter().all(|other| !other.name.starts_with(&below)), "{}", row.name);
            assert!(TABLE.iter().filter(|other| other.name == row.name).count() == 1);
            assert!(row.meaning.ends_with('.') && !row.meaning.contains("  "), "{}", row.meaning);
            let is_unit = |unit: &str| unit.starts_with('{') && unit.ends_with('}');
            assert!(["", "s", "By"].contains(&row.unit) || is_unit(row.unit), "{}", row.name);
            assert!(!matches!(row.kind, Kind::Histogram(_)) || row.unit == "s", "{}", row.name);
        }
    }

    #[test]
    fn the_lag_that_counts_is_the_one_that_is_described() {
        let text = LAGGING_ENTRIES.to_string();
        assert!(Metric::MemberLagging.row().meaning.contains(&text));
        let text = MEMBER_LAG_SERIES_MAX.to_string();
        assert!(Metric::MemberLag.row().meaning.contains(&text));
    }
}
