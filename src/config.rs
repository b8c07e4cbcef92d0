//! The configuration, and the only reader of configuration files, environment and flags.
//!
//! Four layers, each over the one before: built-in defaults, a TOML file, variables called
//! `DEMES__SECTION__KEY`, flags. One table, `KEYS`, says what keys there are; the file written at
//! the first start, the checks and `demes config` all come from it. Whatever is wrong is refused
//! before anything starts, with the name of the key and where the value came from.

mod keys;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use config::{FileFormat, Format, Map, Source, Value, ValueKind};
use etcetera::BaseStrategy;

use crate::protocol::config::Config as ProtocolConfig;
use crate::protocol::time::MS;
use crate::protocol::types::{ADDRESS_BYTES_MAX, NAME_CHARS_MAX};
use crate::rpc::{BootstrapChat, Limits, OnStop};
use crate::telemetry::{self, LogFormat};
use keys::{KEYS, Key};

pub use keys::default_file;

/// The name of the configuration file, wherever it is.
pub const FILE_NAME: &str = "demes.toml";
/// What a variable must begin with. The two underscores keep the variables apart that Kubernetes
/// makes for a service called `demes`, such as `DEMES_PORT`.
const VARIABLE_PREFIX: &str = "DEMES__";
/// The one key that is a list of tables, and so has its place in the file only.
const BOOTSTRAP_CHAT: &str = "bootstrap.chat";

/// What the command line says about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// Where the peer keeps its identity and chats.
    pub data_dir: Option<PathBuf>,
    /// The file to read; it must exist.
    pub file: Option<PathBuf>,
    /// Keys that flags set: the key, the flag, and its text.
    pub flags: Vec<Flag>,
}

/// One flag that sets a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flag {
    /// As in `peer.listen`.
    pub key: &'static str,
    /// As in `--listen`.
    pub flag: &'static str,
    /// What the person wrote.
    pub text: String,
}

/// What became of all layers: checked, and complete.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Where the peer keeps its identity and chats.
    pub data_dir: PathBuf,
    /// The configuration file, whether it exists or not.
    pub file: PathBuf,
    /// The person's name.
    pub name: String,
    /// Where the peer listens for other peers.
    pub peer_listen: SocketAddr,
    /// What other peers are told to dial; none: the address that the peer listener gets.
    pub advertise: Option<String>,
    /// Whether a stopping peer gives its seat among the voters up, or keeps it.
    pub on_stop: OnStop,
    /// Where the peer listens for the person's own programs.
    pub client_listen: SocketAddr,
    /// Where the peer answers health checks in plaintext; none: nowhere.
    pub health_listen: Option<SocketAddr>,
    /// Whether invitations of known peers are accepted without asking.
    pub auto_accept: bool,
    /// How long invitations are resent, unless the caller says otherwise.
    pub invite_timeout: Duration,
    /// Free space that the peer leaves on the disk.
    pub storage_reserve_bytes: u64,
    /// The protocol's timers and limits.
    pub protocol: ProtocolConfig,
    /// What the listeners take at most.
    pub limits: Limits,
    /// Logs and traces.
    pub telemetry: telemetry::Settings,
    /// Chats that are founded without a person.
    pub bootstrap: Vec<BootstrapChat>,
    /// Every key with its value and where that came from, in the order of the file.
    pub origins: Vec<Resolved>,
}

/// One key's value and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// As in `peer.listen`.
    pub key: String,
    /// As it would stand in the file.
    pub value: String,
    /// `default`, a file, a variable or a flag.
    pub origin: String,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML:\n{error}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        error: String,
    },
    /// A key that does not exist.
    #[error("there is no key `{key}` ({origin}){hint}")]
    UnknownKey {
        /// As it was written.
        key: String,
        /// Where it was written.
        origin: String,
        /// What may have been meant.
        hint: String,
    },
    /// A value that the key cannot have.
    #[error("`{key}` = {value} ({origin}) must {must}")]
    Invalid {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Where the value came from.
        origin: String,
        /// What it must be or do.
        must: String,
    },
    /// There is no place for the peer's data.
    #[error("no home directory is known: name a directory with --data-dir")]
    NoHome,
}

/// Reads all layers, with the environment of this process.
///
/// # Errors
/// When anything is unknown or wrong; the text names the key and its origin.
pub fn load(arguments: &Arguments) -> Result<Settings, ConfigError> {
    let (data_dir, file) = locate(arguments)?;
    let text = match fs::read_to_string(&file) {
        Ok(text) => Some(text),
        // Only a file that somebody named must be there.
        Err(error) if error.kind() == io::ErrorKind::NotFound && arguments.file.is_none() => None,
        Err(error) => return Err(ConfigError::Read { path: file, error }),
    };
    let login_name = login_name(|name| env::var(name).ok());
    merge(Layers {
        data_dir,
        file,
        text,
        variables: env::vars_os().collect(),
        flags: arguments.flags.clone(),
        login_name,
    })
}

/// Where the data and the configuration file are: `--data-dir` brings its own file along, unless
/// `--config` names another.
///
/// # Errors
/// When neither a flag nor the environment names a directory.
pub fn locate(arguments: &Arguments) -> Result<(PathBuf, PathBuf), ConfigError> {
    let xdg = || etcetera::base_strategy::Xdg::new().map_err(|_| ConfigError::NoHome);
    let data_dir = match &arguments.data_dir {
        Some(data_dir) => data_dir.clone(),
        None => xdg()?.data_dir().join("demes"),
    };
    let file = match (&arguments.file, &arguments.data_dir) {
        (Some(file), _) => file.clone(),
        (None, Some(data_dir)) => data_dir.join(FILE_NAME),
        (None, None) => xdg()?.config_dir().join("demes").join(FILE_NAME),
    };
    Ok((data_dir, file))
}

/// Writes the commented file of defaults if there is no file yet, and says whether it did.
///
/// # Errors
/// When the directory or the file cannot be made.
pub fn write_default_file(path: &Path) -> io::Result<bool> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => io::Write::write_all(&mut file, default_file().as_bytes()).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Everything that the result depends on.
struct Layers {
    data_dir: PathBuf,
    file: PathBuf,
    text: Option<String>,
    variables: Vec<(OsString, OsString)>,
    flags: Vec<Flag>,
    login_name: String,
}

/// One layer in the form that the `config` crate merges: keys with values that know their origin.
#[derive(Clone, Debug, Default)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }
    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn merge(layers: Layers) -> Result<Settings, ConfigError> {
    let file = match &layers.text {
        Some(text) => file_layer(&layers.file, text)?,
        None => Layer::default(),
    };
    let merged = config::Config::builder()
        .add_source(default_layer(&layers.login_name))
        .add_source(file)
        .add_source(variable_layer(&layers.variables)?)
        .add_source(flag_layer(&layers.flags)?)
        .build()
        .expect("every layer was parsed and checked before");
    let table = merged.cache.into_table().expect("layers are tables");
    let mut values = BTreeMap::new();
    flatten("", table, &mut values);
    Values(values).settings(layers.data_dir, layers.file)
}

fn default_layer(login_name: &str) -> Layer {
    let origin = "default".to_owned();
    Layer(
        KEYS.iter()
            .map(|key| {
                let text = if key.name == "peer.name" { login_name } else { key.default };
                let value = key.parse(text).expect("defaults are valid");
                (key.name.to_owned(), Value::new(Some(&origin), value))
            })
            .collect(),
    )
}

fn file_layer(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let origin = path.display().to_string();
    let table = FileFormat::Toml.parse(Some(&origin), text).map_err(|error| {
        ConfigError::Syntax { path: path.to_owned(), error: error.to_string().trim_end().into() }
    })?;
    let mut values = BTreeMap::new();
    flatten("", table, &mut values);
    for (name, value) in &values {
        if name == BOOTSTRAP_CHAT {
            bootstrap_chats(value)?;
            continue;
        }
        let key = find(name).ok_or_else(|| unknown(name, &origin))?;
        key.check(&value.kind).map_err(|must| invalid(name, value, must))?;
    }
    Ok(Layer(values.into_iter().collect()))
}

/// Only what begins with `DEMES__` counts. The text is read by the kind of the key and never
/// guessed at, so that a person may be called 007.
fn variable_layer(variables: &[(OsString, OsString)]) -> Result<Layer, ConfigError> {
    let mut layer = Map::new();
    for (variable, text) in variables {
        let Some(name) = variable.to_str().and_then(|name| name.strip_prefix(VARIABLE_PREFIX))
        else {
            continue;
        };
        let origin = format!("variable {}", variable.to_string_lossy());
        let key = find_by_variable(name)
            .ok_or_else(|| unknown(&name.to_lowercase().replace("__", "."), &origin))?;
        let value = parse_text(key, text, &origin)?;
        layer.insert(key.name.to_owned(), value);
    }
    Ok(Layer(layer))
}

fn flag_layer(flags: &[Flag]) -> Result<Layer, ConfigError> {
    let mut layer = Map::new();
    for Flag { key, flag, text } in flags {
        let key = find(key).expect("flags name keys that exist");
        let value = parse_text(key, OsStr::new(text), &format!("flag {flag}"))?;
        layer.insert(key.name.to_owned(), value);
    }
    Ok(Layer(layer))
}

fn parse_text(key: &Key, text: &OsStr, origin: &String) -> Result<Value, ConfigError> {
    let wrong = |must: String| ConfigError::Invalid {
        key: key.name.into(),
        value: format!("{:?}", text.to_string_lossy()),
        origin: origin.clone(),
        must,
    };
    let text = text.to_str().ok_or_else(|| wrong("be UTF-8 text".into()))?;
    Ok(Value::new(Some(origin), key.parse(text).map_err(wrong)?))
}

fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn find_by_variable(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name.to_uppercase().replace('.', "__") == name)
}

/// Names the key that was probably meant: the same last part in another section, or nearly the same.
fn unknown(name: &str, origin: &str) -> ConfigError {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let meant = KEYS.iter().find(|key| last(key.name) == last(name)).or_else(|| {
        let begins = |a: &str, b: &str| a.len() >= 4 && b.starts_with(a);
        KEYS.iter().find(|key| begins(&last(name), &last(key.name)))
    });
    let hint = match meant {
        _ if name == BOOTSTRAP_CHAT => "; chats to found can only be listed in the file".into(),
        Some(key) => format!("; did you mean `{}`?", key.name),
        None => "; `demes config` lists all keys".into(),
    };
    ConfigError::UnknownKey { key: name.into(), origin: origin.into(), hint }
}

fn invalid(name: &str, value: &Value, must: String) -> ConfigError {
    ConfigError::Invalid {
        key: name.into(),
        value: keys::show(&value.kind),
        origin: origin_of(value),
        must,
    }
}

fn origin_of(value: &Value) -> String {
    value.origin().unwrap_or("default").to_owned()
}

/// Turns nested tables into dotted keys.
fn flatten(prefix: &str, table: Map<String, Value>, flat: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value.kind {
            ValueKind::Table(table) => flatten(&name, table, flat),
            _ => drop(flat.insert(name, value)),
        }
    }
}

fn bootstrap_chats(value: &Value) -> Result<Vec<BootstrapChat>, ConfigError> {
    let wrong = |must: &str| invalid(BOOTSTRAP_CHAT, value, must.to_owned());
    let chats = value.clone().into_array().map_err(|_| wrong("be tables [[bootstrap.chat]]"))?;
    let mut bootstrap = Vec::with_capacity(chats.len());
    for chat in chats {
        let mut chat = chat.into_table().map_err(|_| wrong("be tables [[bootstrap.chat]]"))?;
        let name = match chat.remove("name").map(|name| name.kind) {
            Some(ValueKind::String(name)) if is_name(&name) => name,
            _ => return Err(wrong("have a `name` of 1 to 64 characters in each table")),
        };
        let members = chat.remove("members").and_then(|members| members.into_array().ok());
        let members = members.unwrap_or_default().into_iter().map(|member| match member.kind {
            ValueKind::String(address) if keys::is_dialable(&address) => Ok(address),
            _ => Err(wrong("have `members` of the form \"[PEERID@]host:port\"")),
        });
        let members = members.collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            return Err(wrong("have `members`, the first of which founds the chat"));
        }
        if let Some(other) = chat.keys().next() {
            return Err(unknown(&format!("{BOOTSTRAP_CHAT}.{other}"), &origin_of(value)));
        }
        bootstrap.push(BootstrapChat { name, members });
    }
    Ok(bootstrap)
}

fn is_name(text: &str) -> bool {
    let length = text.chars().count();
    (1..=NAME_CHARS_MAX).contains(&length) && !text.chars().any(char::is_control)
}

/// Whom the operating system takes the person for; `me` if it does not say.
fn login_name(variable: impl Fn(&str) -> Option<String>) -> String {
    let names = ["USER", "LOGNAME"].into_iter().filter_map(variable);
    names.map(|name| name.trim().to_owned()).find(|name| is_name(name)).unwrap_or("me".into())
}

/// The merged values by their dotted keys. Every key is there, and of its kind.
struct Values(BTreeMap<String, Value>);

impl Values {
    fn settings(mut self, data_dir: PathBuf, file: PathBuf) -> Result<Settings, ConfigError> {
        let bootstrap = match self.0.remove(BOOTSTRAP_CHAT) {
            Some(value) => bootstrap_chats(&value)?,
            None => Vec::new(),
        };
        let client_listen: SocketAddr = self.address("client.listen").expect("never empty");
        if !client_listen.ip().is_loopback() {
            let must = "be a loopback address such as 127.0.0.1:7444: demes has no access tokens \
                        yet, and whoever reaches this address can read and write your chats";
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
            health_listen: self.address("health.listen"),
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
            handshakes_max: size("handshakes_max"),
            peer_streams_max: number("peer_streams_max"),
            client_streams_max: number("client_streams_max"),
            chats_max: size("chats_max"),
            invites_pending_max: size("invites_pending_max"),
            first_contact_per_minute_peer: number("first_contact_per_minute_peer"),
            first_contact_per_minute: number("first_contact_per_minute"),
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
            voters_max: size("voters_max"),
            in_flight_max: limit("in_flight_max"),
            outbox_max: size("outbox_max"),
            append_bytes_max: size("append_bytes_max"),
            unacknowledged_bytes_max: size("unacknowledged_bytes_max"),
            uncommitted_max: limit("uncommitted_max"),
            window_entries: size("window_entries"),
            window_bytes: size("window_bytes"),
            checkpoint_every: limit("checkpoint_every"),
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
            sampling_ratio: match self.kind("telemetry.sampling_ratio") {
                ValueKind::Float(ratio) => *ratio,
                _ => self.integer("telemetry.sampling_ratio") as f64,
            },
        }
    }

    fn origins(&self) -> Vec<Resolved> {
        KEYS.iter()
            .map(|key| Resolved {
                key: key.name.into(),
                value: keys::show(self.kind(key.name)),
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
fn advertised(advertise: String, listen: SocketAddr) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Layers {
        Layers {
            data_dir: "data".into(),
            file: "demes.toml".into(),
            text: None,
            variables: Vec::new(),
            flags: Vec::new(),
            login_name: "ana".into(),
        }
    }

    fn file(text: &str) -> Layers {
        Layers { text: Some(text.into()), ..layers() }
    }

    fn variables(variables: &[(&str, &str)]) -> Layers {
        let pair = |(name, text): &(&str, &str)| (name.into(), text.into());
        Layers { variables: variables.iter().map(pair).collect(), ..layers() }
    }

    fn error(layers: Layers) -> String {
        merge(layers).expect_err("must be refused").to_string()
    }

    #[test]
    fn defaults_are_those_of_the_protocol_and_the_listeners() {
        let settings = merge(layers()).expect("valid");
        assert_eq!(settings.protocol, ProtocolConfig::default());
        assert_eq!(settings.limits, Limits::default());
        assert_eq!(settings.telemetry, telemetry::Settings::default());
        assert_eq!(settings.name, "ana");
        assert_eq!(settings.health_listen, None);
    }

    #[test]
    fn each_layer_goes_before_the_one_below_and_says_so() {
        let origin = |layers: Layers| {
            let settings = merge(layers).expect("valid");
            let name = settings.origins.into_iter().find(|it| it.key == "peer.name");
            (settings.name, name.expect("is a key").origin)
        };
        let mut layers = layers();
        assert_eq!(origin(copy(&layers)), ("ana".into(), "default".into()));
        layers.text = Some("[peer]\nname = \"Ben\"\n".into());
        assert_eq!(origin(copy(&layers)), ("Ben".into(), "demes.toml".into()));
        layers.variables = vec![("DEMES__PEER__NAME".into(), "Cleo".into())];
        assert_eq!(origin(copy(&layers)), ("Cleo".into(), "variable DEMES__PEER__NAME".into()));
        layers.flags = vec![Flag { key: "peer.name", flag: "--name", text: "Dan".into() }];
        assert_eq!(origin(layers), ("Dan".into(), "flag --name".into()));
    }

    fn copy(of: &Layers) -> Layers {
        Layers {
            data_dir: of.data_dir.clone(),
            file: of.file.clone(),
            text: of.text.clone(),
            variables: of.variables.clone(),
            flags: of.flags.clone(),
            login_name: of.login_name.clone(),
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_origin_and_what_was_meant() {
        let text = error(file("[timers]\nheartbeat = 50\n"));
        assert_eq!(
            text,
            "there is no key `timers.heartbeat` (demes.toml); did you mean `timers.heartbeat_ms`?"
        );
        let text = error(variables(&[("DEMES__CLIENT__ADVERTISE", "a:1")]));
        assert!(text.contains("`client.advertise` (variable DEMES__CLIENT__ADVERTISE)"), "{text}");
        assert!(text.contains("did you mean `peer.advertise`?"), "{text}");
        assert!(error(file("peer = 3")).contains("no key `peer`"));
    }

    #[test]
    fn what_kubernetes_makes_for_a_service_called_demes_does_not_count() {
        let settings = merge(variables(&[
            ("DEMES_PORT", "tcp://10.0.0.1:7443"),
            ("DEMES_SERVICE_HOST", "10.0.0.1"),
            ("DEMES_PORT_7443_TCP_ADDR", "10.0.0.1"),
            ("DEMES_LISTEN", "1.2.3.4:5"),
        ]));
        assert_eq!(settings.expect("valid").peer_listen.to_string(), "0.0.0.0:7443");
    }

    #[test]
    fn text_in_variables_is_not_guessed_at() {
        for name in ["007", "true", "1e3", " x"] {
            let settings = merge(variables(&[("DEMES__PEER__NAME", name)])).expect("valid");
            assert_eq!(settings.name, name);
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_origin() {
        let text = error(file("[peer]\nlisten = 7443\n"));
        assert_eq!(
            text,
            "`peer.listen` = 7443 (demes.toml) must be an IP address and a port, as in \
             \"0.0.0.0:7443\""
        );
        let text = error(variables(&[("DEMES__LIMITS__CHATS_MAX", "many")]));
        assert_eq!(
            text,
            "`limits.chats_max` = \"many\" (variable DEMES__LIMITS__CHATS_MAX) must be a whole \
             number from 1 to 10000"
        );
        for wrong in ["name = 7", "name = \"\"", "on_stop = \"stay\"", "host_weight = -1"] {
            assert!(merge(file(&format!("[peer]\n{wrong}\n"))).is_err(), "{wrong}");
        }
        assert!(error(file("[peer\n")).contains("demes.toml is not valid TOML"));
    }

    #[test]
    fn a_relation_between_timers_is_refused_with_the_origin() {
        let text = error(file("[timers]\nlease_ms_min = 100\n"));
        assert_eq!(
            text,
            "`timers.lease_ms_min` = 100 (demes.toml) must be at least three heartbeats (150 ms)"
        );
        let text = error(variables(&[("DEMES__LIMITS__VOTERS_MAX", "4")]));
        assert!(text.contains("(variable DEMES__LIMITS__VOTERS_MAX) must be an odd number"));
    }

    #[test]
    fn programs_are_served_on_loopback_only() {
        assert!(error(file("[client]\nlisten = \"0.0.0.0:1\"\n")).contains("loopback"));
        assert!(merge(file("[client]\nlisten = \"[::1]:1\"\n")).is_ok());
    }

    #[test]
    fn the_first_file_parses_to_the_defaults_with_and_without_its_comment_signs() {
        let text = default_file();
        let defaults = merge(layers()).expect("valid");
        let parsed = merge(file(&text)).expect("valid");
        assert_eq!(parsed, defaults);
        let uncommented: Vec<&str> = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
                _ => line,
            })
            .collect();
        let mut parsed = merge(file(&uncommented.join("\n"))).expect("valid");
        assert!(parsed.origins.iter().all(|it| it.origin == "demes.toml"));
        assert_eq!(parsed.name, "me");
        parsed.name = defaults.name.clone();
        parsed.origins = defaults.origins.clone();
        assert_eq!(parsed, defaults);
    }

    #[test]
    fn the_first_file_is_written_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/demes.toml");
        assert!(write_default_file(&path).expect("written"));
        fs::write(&path, "# mine\n").expect("written");
        assert!(!write_default_file(&path).expect("left alone"));
        assert_eq!(fs::read_to_string(&path).expect("read"), "# mine\n");
    }

    #[test]
    fn bootstrap_chats_come_from_the_file() {
        let text = "[[bootstrap.chat]]\nname = \"team\"\nmembers = [\"a:1\", \"b:2\"]\n";
        let settings = merge(file(text)).expect("valid");
        assert_eq!(settings.bootstrap[0].members, ["a:1", "b:2"]);
        for wrong in ["name = \"team\"", "name = \"t\"\nmembers = [\"a\"]", "members = [\"a:1\"]"] {
            assert!(merge(file(&format!("[[bootstrap.chat]]\n{wrong}\n"))).is_err(), "{wrong}");
        }
        let more = format!("{text}color = 3\n");
        assert!(error(file(&more)).contains("no key `bootstrap.chat.color`"));
        assert!(error(variables(&[("DEMES__BOOTSTRAP__CHAT", "x")])).contains("in the file"));
    }

    #[test]
    fn who_listens_everywhere_advertises_an_address_that_can_be_dialled() {
        let everywhere = "0.0.0.0:7443".parse().expect("an address");
        let address = advertised(String::new(), everywhere).expect("an address");
        assert!(address.ends_with(":7443") && !address.starts_with("0.0.0.0"), "{address}");
        let loopback = "127.0.0.1:7443".parse().expect("an address");
        assert_eq!(advertised(String::new(), loopback), None);
        assert_eq!(advertised("ana.example:1".into(), everywhere), Some("ana.example:1".into()));
    }

    #[test]
    fn a_login_name_that_cannot_be_a_name_is_passed_over() {
        let name =
            |user: &'static str| login_name(move |key| (key == "USER").then(|| user.to_owned()));
        assert_eq!(name("ana"), "ana");
        assert_eq!(name(""), "me");
    }
}
