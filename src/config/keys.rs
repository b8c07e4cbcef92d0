//! The table of all keys: name, kind, default and meaning.

use config::ValueKind;
use serde_json::{Value, json};

use super::is_name;
use crate::wire::address::Address;

/// One key of the configuration.
pub(super) struct Key {
    /// Section and key, as in `peer.listen`.
    pub name: &'static str,
    pub kind: Kind,
    /// As the text of a variable would have it.
    pub default: &'static str,
    /// What it means, for the file.
    pub meaning: &'static str,
}

/// What a key's value can be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A person's name.
    Name,
    /// Any text.
    Text,
    /// `host:port` that others can dial, or empty.
    Dialable,
    /// An IP address and a port to listen on.
    Listen,
    /// The same, or empty.
    ListenOrOff,
    /// An `http://` or `https://` address, or empty.
    Endpoint,
    Boolean,
    /// A whole number from the first to the second.
    Integer(u64, u64),
    /// From 0 to 1.
    Ratio,
    /// One of these.
    Choice(&'static [&'static str]),
}

impl Key {
    /// Reads the text of a variable or flag. The error completes "must …".
    pub fn parse(&self, text: &str) -> Result<ValueKind, String> {
        let value = match self.kind {
            Kind::Boolean => text.parse().ok().map(ValueKind::Boolean),
            Kind::Integer(..) => text.parse().ok().map(ValueKind::I64),
            Kind::Ratio => text.parse().ok().map(ValueKind::Float),
            _ => Some(ValueKind::String(text.to_owned())),
        };
        let value = value.ok_or_else(|| self.kind.must())?;
        self.check(&value)?;
        Ok(value)
    }

    /// Whether the key may have this value. The error completes "must …".
    pub fn check(&self, value: &ValueKind) -> Result<(), String> {
        let fits = match (self.kind, value) {
            (Kind::Boolean, ValueKind::Boolean(_)) | (Kind::Text, ValueKind::String(_)) => true,
            (Kind::Integer(least, most), ValueKind::I64(number)) => {
                u64::try_from(*number).is_ok_and(|number| (least..=most).contains(&number))
            }
            (Kind::Ratio, ValueKind::Float(ratio)) => (0.0..=1.0).contains(ratio),
            (Kind::Ratio, ValueKind::I64(ratio)) => (0..=1).contains(ratio),
            (Kind::Name, ValueKind::String(text)) => is_name(text),
            (Kind::Dialable, ValueKind::String(text)) => text.is_empty() || is_dialable(text),
            (Kind::Listen, ValueKind::String(text)) => is_socket_address(text),
            (Kind::ListenOrOff, ValueKind::String(text)) => {
                text.is_empty() || is_socket_address(text)
            }
            (Kind::Endpoint, ValueKind::String(text)) => {
                text.is_empty() || text.starts_with("http://") || text.starts_with("https://")
            }
            (Kind::Choice(choices), ValueKind::String(text)) => choices.contains(&text.as_str()),
            _ => false,
        };
        if fits { Ok(()) } else { Err(self.kind.must()) }
    }
}

impl Kind {
    fn must(self) -> String {
        match self {
            Kind::Name => "be text of 1 to 64 characters on one line".into(),
            Kind::Text => "be text".into(),
            Kind::Dialable => {
                "be a name or IP address and a port, as in \"ana.example:7443\"".into()
            }
            Kind::Listen => "be an IP address and a port, as in \"0.0.0.0:7443\"".into(),
            Kind::ListenOrOff => "be an IP address and a port, or \"\" for none".into(),
            Kind::Endpoint => "begin with http:// or https://, or be \"\" for none".into(),
            Kind::Boolean => "be true or false".into(),
            Kind::Integer(least, u64::MAX) => format!("be a whole number of at least {least}"),
            Kind::Integer(least, most) => format!("be a whole number from {least} to {most}"),
            Kind::Ratio => "be a number from 0 to 1".into(),
            Kind::Choice(choices) => format!("be one of: {}", choices.join(", ")),
        }
    }
}

/// A value for programs; as text it is how the value would stand in the file.
pub(super) fn to_json(value: &ValueKind) -> Value {
    match value {
        ValueKind::Boolean(value) => json!(value),
        ValueKind::I64(number) => json!(number),
        ValueKind::Float(number) => json!(number),
        ValueKind::String(text) => json!(text),
        ValueKind::Array(values) => values.iter().map(|value| to_json(&value.kind)).collect(),
        ValueKind::Table(table) => {
            table.iter().map(|(key, value)| (key.clone(), to_json(&value.kind))).collect()
        }
        other => json!(other.to_string()),
    }
}

/// Whether the text has the form `host:port`.
pub(super) fn is_dialable(text: &str) -> bool {
    Address::parse(text).is_ok()
}

fn is_socket_address(text: &str) -> bool {
    text.parse::<std::net::SocketAddr>().is_ok()
}

const HEAD: &str = "\
# The configuration of this peer. Every key is here with its default; take the `#` away to set one.
#
# A variable DEMES__SECTION__KEY (such as DEMES__PEER__NAME) goes before this file, and a flag of
# `demes up` before both. `demes config` shows the result and where each value comes from.
";

const BOOTSTRAP: &str = "
# Chats that are founded without a person, for peers that run as services. All members list the
# same chat; the first address founds it once, and the others accept only from that address.
#
#     [[bootstrap.chat]]
#     name = \"team\"
#     members = [\"peer-0.example:7443\", \"peer-1.example:7443\", \"peer-2.example:7443\"]
";

/// The commented file that the first start writes.
pub fn default_file() -> String {
    let mut text = HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        let (its_section, name) = key.name.split_once('.').expect("keys have a section");
        if its_section != section {
            section = its_section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        for line in key.meaning.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        let value =
            key.parse(key.default).map(|value| to_json(&value)).expect("defaults are valid");
        text.push_str(&format!("#{name} = {value}\n"));
    }
    text.push_str(BOOTSTRAP);
    text
}

const fn key(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default, meaning }
}

/// An hour: no timer is longer.
const MS_MAX: u64 = 3_600_000;
const MS: Kind = Kind::Integer(0, MS_MAX);
const MS_FROM_1: Kind = Kind::Integer(1, MS_MAX);
const BYTES: Kind = Kind::Integer(65_536, 1 << 30);

/// In the order of the file.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("peer.name", Kind::Name, "me",
        "The name that the others see, 1 to 64 characters. Without it: your login name."),
    key("peer.listen", Kind::Listen, "0.0.0.0:7443",
        "Where this peer listens for other peers."),
    key("peer.advertise", Kind::Dialable, "",
        "What the others are told to dial, `host:port`. Without it: the address that the peer\n\
         listens on, or, when that is 0.0.0.0, this machine's address in its network."),
    key("peer.on_stop", Kind::Choice(&["goodbye", "keep-seat"]), "goodbye",
        "What happens to this peer's vote when it stops: \"goodbye\" hands it over, \"keep-seat\"\n\
         keeps it for a peer that will be back at once, as a pod is."),
    key("peer.host_weight", Kind::Integer(0, 10_000), "100",
        "How willing this peer is to host, in percent: its farness counts as 100 / weight of what\n\
         was measured. 0 stands last in the line."),
    key("client.listen", Kind::Listen, "127.0.0.1:7444",
        "Where this peer listens for your own programs. Only loopback addresses are allowed."),
    key("client.require_token", Kind::Boolean, "true",
        "Whether programs must show the token of your data directory there; on its socket,\n\
         which only you can open, none must."),
    key("health.listen", Kind::ListenOrOff, "",
        "Where health checks are answered in plaintext, for Kubernetes; \"\" for nowhere."),
    key("invite.auto_accept", Kind::Boolean, "false",
        "Accept invitations of people that you already share a chat with, without asking."),
    key("invite.timeout_s", Kind::Integer(1, 30 * 86_400), "900",
        "How long an invitation is resent, unless said otherwise."),
    key("storage.reserve_mib", Kind::Integer(0, 1 << 20), "64",
        "Free space to leave on the disk. Below it, nothing new is taken."),
    key("timers.heartbeat_ms", MS_FROM_1, "50",
        "Between signs of life of the host while messages flow."),
    key("timers.heartbeat_far_ms", MS_FROM_1, "100",
        "The same towards members that are more than 30 ms of round trip away."),
    key("timers.heartbeat_idle_ms", MS_FROM_1, "250",
        "The same when no message came for `idle_after_ms`."),
    key("timers.idle_after_ms", MS, "10000",
        "When a chat counts as idle."),
    key("timers.lease_ms_min", MS_FROM_1, "250",
        "How long a member takes the host for alive after a sign of life, at least; three\n\
         heartbeats or more."),
    key("timers.lease_ms_max", MS_FROM_1, "2000",
        "The same, at most; three idle heartbeats or more."),
    key("timers.pause_percent", Kind::Integer(0, 100), "80",
        "A host out of contact with a majority for this share of the lease confirms nothing;\n\
         50 to 99."),
    key("timers.round_ms_min", MS_FROM_1, "15",
        "How long one candidate has to win an election, at least."),
    key("timers.fallback_ms_min", MS_FROM_1, "20",
        "The first span of the random back-off when every candidate has failed."),
    key("timers.fallback_ms_max", MS_FROM_1, "2000",
        "Its greatest span."),
    key("timers.report_ms", MS_FROM_1, "1000",
        "Between measured delays, and between reports of them to the host."),
    key("timers.publish_ms", MS_FROM_1, "5000",
        "Between published lines of succession."),
    key("timers.rank_quantum_us", Kind::Integer(0, 1_000_000), "1000",
        "Farness is rounded to this, so that noise does not reorder the line of succession."),
    key("timers.resend_ms_min", MS_FROM_1, "100",
        "How long an unanswered message waits before it is sent again, at first."),
    key("timers.resend_ms_max", MS_FROM_1, "5000",
        "The same, at most."),
    key("timers.flush_ms", MS, "50",
        "How long a confirmation may wait before it is written down here."),
    key("timers.steady_ms", MS, "0",
        "How long a new member that has caught up must be steady before it votes."),
    key("timers.silent_critical_ms", MS_FROM_1, "10000",
        "How long a voter is silent before its vote is taken out, where one more loss would\n\
         stop the chat."),
    key("timers.silent_ms", MS_FROM_1, "60000",
        "The same where more losses can be borne."),
    key("timers.back_ms", MS_FROM_1, "10000",
        "How long a member that was away must be steady before it votes again. It doubles each\n\
         time for one that keeps coming and going."),
    key("timers.back_ms_max", MS_FROM_1, "600000",
        "How far that doubles."),
    key("timers.move_gain_percent", Kind::Integer(0, 99), "25",
        "The chat moves to a better host by itself if that is better by this share,"),
    key("timers.move_gain_ms", MS, "10",
        "and by this much in the sum of its delays to and from all others,"),
    key("timers.move_after_ms", MS_FROM_1, "60000",
        "and has been so for this long without a break,"),
    key("timers.tenure_ms", MS_FROM_1, "300000",
        "and the host has hosted for this long if it was elected,"),
    key("timers.move_every_ms", MS_FROM_1, "600000",
        "or for this long if it was handed over to."),
    key("limits.chats_max", Kind::Integer(1, 10_000), "256",
        "The most chats that this peer takes part in."),
    key("limits.invites_pending_max", Kind::Integer(1, 10_000), "256",
        "The most invitations that wait for your answer; more are refused."),
    key("limits.peer_connections_max", Kind::Integer(1, 65_536), "1024",
        "The most connections of members; beyond it the one that was silent longest is closed."),
    key("limits.stranger_connections_max", Kind::Integer(8, 65_536), "64",
        "The same of peers that you share no chat with. They take no member's place."),
    key("limits.handshakes_max", Kind::Integer(8, 1_024), "128",
        "The same of peers that have not proven yet who they are."),
    key("limits.client_connections_max", Kind::Integer(1, 65_536), "256",
        "Connections of your programs. One without a call gives way; if there is none, more wait."),
    key("limits.client_idle_s", Kind::Integer(1, 86_400), "300",
        "How long a program may stay connected without a call."),
    key("limits.peer_streams_max", Kind::Integer(8, 4_096), "64",
        "The most calls at one time on one connection of another peer; more wait."),
    key("limits.client_streams_max", Kind::Integer(8, 4_096), "256",
        "The most calls at one time on one connection of a program; more wait."),
    key("limits.first_contact_per_minute_peer", Kind::Integer(1, 1_000_000), "120",
        "The most calls in a minute of one peer that you share no chat with; more are refused."),
    key("limits.first_contact_per_minute", Kind::Integer(1, 1_000_000), "1200",
        "The same of all such peers together."),
    key("limits.calls_per_second_peer", Kind::Integer(100, 10_000_000), "20000",
        "The most calls and messages in a second of any one peer; more are refused."),
    key("limits.feed_stall_s", Kind::Integer(1, 3_600), "30",
        "How long a program may leave its feed unread before the feed is ended."),
    key("limits.voters_max", Kind::Integer(1, 15), "7",
        "The most members that count for majorities; odd, up to 15."),
    key("limits.in_flight_max", Kind::Integer(1, 1 << 20), "256",
        "The most unconfirmed messages that one person has at the host."),
    key("limits.outbox_max", Kind::Integer(1, 10_000_000), "10000",
        "The most messages that wait to be sent; more are refused."),
    key("limits.append_bytes_max", BYTES, "1048576",
        "The most bytes of messages in one frame between peers."),
    key("limits.unacknowledged_bytes_max", BYTES, "4194304",
        "The most bytes on their way to one member."),
    key("limits.uncommitted_max", Kind::Integer(1, 1 << 20), "8192",
        "The most messages that the host takes ahead of their confirmation."),
    key("limits.window_entries", Kind::Integer(1, 1 << 24), "8192",
        "How many confirmed messages are kept in memory for each chat."),
    key("limits.window_bytes", BYTES, "8388608",
        "How many bytes of them."),
    key("limits.checkpoint_every", Kind::Integer(1, 1 << 24), "4096",
        "How many messages lie between checkpoints."),
    key("metrics.listen", Kind::ListenOrOff, "",
        "Where Prometheus is told the metrics in plaintext, as /metrics: \"127.0.0.1:7446\", or\n\
         \"\" for nowhere."),
    key("metrics.otlp_interval_s", Kind::Integer(0, 3_600), "60",
        "How often metrics go to `telemetry.otlp_endpoint`, if that is set; 0 sends none there,\n\
         for a collector that only takes traces."),
    key("metrics.otlp_temporality", Kind::Choice(&["cumulative", "delta"]), "cumulative",
        "Whether those count since the start, or since they were last sent."),
    key("telemetry.otlp_endpoint", Kind::Endpoint, "",
        "Where traces and metrics go, by OTLP over gRPC, such as \"http://127.0.0.1:4317\";\n\
         \"\" for nowhere."),
    key("telemetry.log_level", Kind::Text, "info",
        "error, warn, info, debug or trace; or directives such as \"info,demes::runtime=debug\"."),
    key("telemetry.log_format", Kind::Choice(&["text", "json"]), "text",
        "How a log line looks."),
    key("telemetry.sampling_ratio", Kind::Ratio, "1.0",
        "The share of messages' traces to keep; failovers and hand-overs always are."),
];
