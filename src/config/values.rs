//! From merged values to the settings: types, and the relations between keys.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use config::{Value, ValueKind};

use super::keys::{self, KEYS};
use super::{
    BOOTSTRAP_CHAT, ConfigError, Resolved, Settings, bootstrap_chats, invalid, origin_of, unknown,
};
use crate::protocol::config::Config as ProtocolConfig;
use crate::protocol::time::MS;
use crate::serve::{Limits, OnStop};
use crate::telemetry::{self, Counting, LogFormat, MetricsSettings};

/// The merged values by their dotted keys. Every key is there, and of its kind.
pub(super) struct Values(pub BTreeMap<String, Value>);

impl Values {
    pub fn settings(mut self, data_dir: PathBuf, file: PathBuf) -> Result<Settings, ConfigError> {
        let bootstrap = match self.0.remove(BOOTSTRAP_CHAT) {
            Some(value) => bootstrap_chats(&value)?,
            None => Vec::new(),
        };
        let client_listen: SocketAddr = self.address("client.listen").expect("never empty");
        if !client_listen.ip().is_loopback() {
            let must = "be a loopback address such as 127.0.0.1:7444: what is said there, \
                        the token too, is not encrypted";
            return Err(self.invalid("client.listen", must.into()));
        }
        let peer_listen = self.address("peer.listen").expect("never empty");
        Ok(Settings {
            data_dir,
            file,
            name: self.text("peer.name"),
            peer_listen,
            advertise: advertised(self.text("peer.advertise"), peer_listen),
            on_stop: match self.text("peer.on_stop").as_str() {
                "keep-seat" => OnStop::KeepSeat,
                _ => OnStop::Goodbye,
            },
            client_listen,
            require_token: self.boolean("client.require_token"),
            health_listen: self.address("health.listen"),
            metrics_listen: self.address("metrics.listen"),
            auto_accept: self.boolean("invite.auto_accept"),
            invite_timeout: Duration::from_secs(self.integer("invite.timeout_s")),
            storage_reserve_bytes: self.integer("storage.reserve_mib") << 20,
            protocol: self.protocol()?,
            limits: self.limits(),
            telemetry: self.telemetry(),
            bootstrap,
            origins: self.origins(),
        })
    }

    fn limits(&self) -> Limits {
        let limit = |key: &str| self.integer(&format!("limits.{key}"));
        let size = |key: &str| usize::try_from(limit(key)).unwrap_or(usize::MAX);
        let number = |key: &str| u32::try_from(limit(key)).unwrap_or(u32::MAX);
        Limits {
            peer_connections_max: size("peer_connections_max"),
            stranger_connections_max: size("stranger_connections_max"),
            handshakes_max: size("handshakes_max"),
            client_connections_max: size("client_connections_max"),
            client_idle: Duration::from_secs(limit("client_idle_s")),
            peer_streams_max: number("peer_streams_max"),
            client_streams_max: number("client_streams_max"),
            chats_max: size("chats_max"),
            invites_pending_max: size("invites_pending_max"),
            first_contact_per_minute_peer: number("first_contact_per_minute_peer"),
            first_contact_per_minute: number("first_contact_per_minute"),
            calls_per_second_peer: number("calls_per_second_peer"),
            feed_stall: Duration::from_secs(limit("feed_stall_s")),
        }
    }

    fn protocol(&self) -> Result<ProtocolConfig, ConfigError> {
        let ms = |key: &str| self.integer(&format!("timers.{key}")) * MS;
        let limit = |key: &str| self.integer(&format!("limits.{key}"));
        let size = |key: &str| usize::try_from(limit(key)).unwrap_or(usize::MAX);
        let protocol = ProtocolConfig {
            heartbeat_us: ms("heartbeat_ms"),
            heartbeat_far_us: ms("heartbeat_far_ms"),
            heartbeat_idle_us: ms("heartbeat_idle_ms"),
            idle_after_us: ms("idle_after_ms"),
            lease_min_us: ms("lease_ms_min"),
            lease_max_us: ms("lease_ms_max"),
            pause_percent: self.integer("timers.pause_percent"),
            round_min_us: ms("round_ms_min"),
            fallback_min_us: ms("fallback_ms_min"),
            fallback_max_us: ms("fallback_ms_max"),
            report_us: ms("report_ms"),
            publish_us: ms("publish_ms"),
            rank_quantum_us: self.integer("timers.rank_quantum_us"),
            resend_min_us: ms("resend_ms_min"),
            resend_max_us: ms("resend_ms_max"),
            flush_us: ms("flush_ms"),
            steady_us: ms("steady_ms"),
            silent_critical_us: ms("silent_critical_ms"),
            silent_us: ms("silent_ms"),
            back_us: ms("back_ms"),
            back_max_us: ms("back_ms_max"),
            move_gain_percent: self.integer("timers.move_gain_percent"),
            move_gain_us: ms("move_gain_ms"),
            move_after_us: ms("move_after_ms"),
            tenure_us: ms("tenure_ms"),
            move_every_us: ms("move_every_ms"),
            voters_max: size("voters_max"),
            in_flight_max: limit("in_flight_max"),
            outbox_max: size("outbox_max"),
            append_bytes_max: size("append_bytes_max"),
            unacknowledged_bytes_max: size("unacknowledged_bytes_max"),
            uncommitted_max: limit("uncommitted_max"),
            window_entries: size("window_entries"),
            window_bytes: size("window_bytes"),
            checkpoint_every: limit("checkpoint_every"),
            // L8: how much others take of it is not each peer's to choose.
            quota: Default::default(),
            host_weight: u32::try_from(self.integer("peer.host_weight")).unwrap_or(u32::MAX),
        };
        match protocol.check() {
            Ok(()) => Ok(protocol),
            Err((key, must)) => {
                let name = KEYS
                    .iter()
                    .map(|known| known.name)
                    .find(|name| name.split_once('.').is_some_and(|(_, last)| last == key));
                Err(self.invalid(name.unwrap_or(key), must))
            }
        }
    }

    fn telemetry(&self) -> telemetry::Settings {
        let endpoint = self.text("telemetry.otlp_endpoint");
        telemetry::Settings {
            otlp_endpoint: (!endpoint.is_empty()).then_some(endpoint),
            log_level: self.text("telemetry.log_level"),
            log_format: match self.text("telemetry.log_format").as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
            color: false,
            sampling_ratio: match self.kind("telemetry.sampling_ratio") {
                ValueKind::Float(ratio) => *ratio,
                _ => self.integer("telemetry.sampling_ratio") as f64,
            },
            metrics: MetricsSettings {
                prometheus: self.address("metrics.listen").is_some(),
                otlp_interval: match self.integer("metrics.otlp_interval_s") {
                    0 => None,
                    seconds => Some(Duration::from_secs(seconds)),
                },
                counting: match self.text("metrics.otlp_temporality").as_str() {
                    "delta" => Counting::Delta,
                    _ => Counting::Cumulative,
                },
            },
        }
    }

    fn origins(&self) -> Vec<Resolved> {
        KEYS.iter()
            .map(|key| Resolved {
                key: key.name.into(),
                value: keys::to_json(self.kind(key.name)),
                origin: origin_of(&self.0[key.name]),
            })
            .collect()
    }

    fn kind(&self, key: &str) -> &ValueKind {
        &self.0[key].kind
    }

    fn text(&self, key: &str) -> String {
        match self.kind(key) {
            ValueKind::String(text) => text.clone(),
            _ => String::new(),
        }
    }

    /// An address, or none where it is left empty.
    fn address(&self, key: &str) -> Option<SocketAddr> {
        self.text(key).parse().ok()
    }

    fn boolean(&self, key: &str) -> bool {
        *self.kind(key) == ValueKind::Boolean(true)
    }

    fn integer(&self, key: &str) -> u64 {
        match *self.kind(key) {
            ValueKind::I64(number) => u64::try_from(number).unwrap_or_default(),
            ValueKind::U64(number) => number,
            _ => 0,
        }
    }

    fn invalid(&self, key: &str, must: String) -> ConfigError {
        match self.0.get(key) {
            Some(value) => invalid(key, value, must),
            None => unknown(key, "protocol"),
        }
    }
}

/// What other peers are told to dial. Who listens on every interface cannot be dialled by that
/// address, so the one that this machine uses towards other networks stands in for it; without any
/// network, loopback. With port 0 only the listener knows, and the answer is none.
pub(super) fn advertised(advertise: String, listen: SocketAddr) -> Option<String> {
    if !advertise.is_empty() {
        return Some(advertise);
    }
    if listen.port() == 0 || !listen.ip().is_unspecified() {
        return None;
    }
    let ip = outward_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Some(SocketAddr::new(ip, listen.port()).to_string())
}

/// Asks the routing table; connecting a UDP socket sends nothing. The address is one that is kept
/// for documentation, so it lies behind the default route.
fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}
