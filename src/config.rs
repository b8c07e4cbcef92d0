//! The configuration, and the only reader of configuration files, environment and flags.
//!
//! Five layers, each over the one before: built-in defaults, what flags of an earlier `demes up`
//! said about the directory, a TOML file, variables called `DEMES__SECTION__KEY`, flags. One table,
//! `KEYS`, says what keys there are; the file written at the first start, the checks and `demes
//! config` all come from it. Whatever is wrong is refused before anything starts, with the name of
//! the key and where the value came from.

mod keys;
mod values;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use config::{FileFormat, Format, Map, Source, Value, ValueKind};
use etcetera::BaseStrategy;

use crate::protocol::config::Config as ProtocolConfig;
use crate::protocol::types::NAME_CHARS_MAX;
use crate::serve::{BootstrapChat, Limits, OnStop};
use crate::telemetry;
use keys::{KEYS, Key};
use values::Values;

pub use keys::default_file;

/// The name of the configuration file, wherever it is.
pub const FILE_NAME: &str = "demes.toml";
/// The file in the data directory with what an earlier `demes up` was told by flags.
pub const REMEMBERED_FILE: &str = "up.toml";
/// What of it belongs to the directory, and so is remembered: who this is, and where it listens.
const REMEMBERED_KEYS: [&str; 4] = ["peer.name", "peer.listen", "peer.advertise", "client.listen"];
/// Names the data directory, where no flag does.
const DATA_DIR_VARIABLE: &str = "DEMES_DATA_DIR";
/// The longest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
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
    /// Whether programs must show a token there.
    pub require_token: bool,
    /// Where the peer answers health checks in plaintext; none: nowhere.
    pub health_listen: Option<SocketAddr>,
    /// Where the peer tells Prometheus its metrics in plaintext; none: nowhere.
    pub metrics_listen: Option<SocketAddr>,
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
    /// Its text is how the value would stand in the file.
    pub value: serde_json::Value,
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
    #[error("no home directory is known: name a directory with --data-dir or DEMES_DATA_DIR")]
    NoHome,
}

/// Reads all layers, with the environment of this process.
///
/// # Errors
/// When anything is unknown or wrong; the text names the key and its origin.
pub fn load(arguments: &Arguments) -> Result<Settings, ConfigError> {
    let (data_dir, file) = locate(arguments)?;
    let text = match read(&file) {
        Ok(text) => Some(text),
        // Only a file that somebody named must be there.
        Err(error) if is_absence(&error) && arguments.file.is_none() => None,
        Err(error) => return Err(ConfigError::Read { path: file, error }),
    };
    let login_name = login_name(|name| env::var(name).ok());
    let remembered = remembered(&data_dir)?;
    let mut settings = merge(Layers {
        data_dir,
        remembered,
        file,
        text,
        variables: env::vars_os().collect(),
        flags: arguments.flags.clone(),
        login_name,
    })?;
    settings.telemetry.color = wants_color(&io::stderr());
    Ok(settings)
}

fn remembered(data_dir: &Path) -> Result<Option<String>, ConfigError> {
    let path = data_dir.join(REMEMBERED_FILE);
    match read(&path) {
        Ok(text) => Ok(Some(text)),
        // A directory of somebody else is refused by whoever uses it.
        Err(error) if is_absence(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(None)
        }
        Err(error) => Err(ConfigError::Read { path, error }),
    }
}

/// Remembers for later starts what flags say about the directory, beside what earlier ones said.
///
/// # Errors
/// When the file cannot be written.
pub fn remember(data_dir: &Path, flags: &[Flag]) -> io::Result<()> {
    let is_remembered = |flag: &&Flag| REMEMBERED_KEYS.contains(&flag.key);
    let new: Vec<&Flag> = flags.iter().filter(is_remembered).collect();
    if new.is_empty() {
        return Ok(());
    }
    let path = data_dir.join(REMEMBERED_FILE);
    let earlier = read(&path).ok().and_then(|text| file_layer(&path, &text).ok());
    let mut keys = earlier.unwrap_or_default().0;
    for Flag { key, text, .. } in new {
        keys.insert((*key).to_owned(), Value::new(None, text.clone()));
    }
    let mut text = "# What the flags of the last `demes up` said, for those that leave them out; \
                    demes.toml goes before it.\n"
        .to_owned();
    for (key, value) in keys.into_iter().collect::<BTreeMap<_, _>>() {
        text += &format!("{key} = {}\n", keys::to_json(&value.kind));
    }
    put_whole(&path, &text, true).map(drop)
}

/// A file may be anything that a person names, a device that never ends too.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is longer than any configuration (1 MiB)"));
    }
    Ok(text)
}

/// Whether there is no such file. Where the directory is none, whoever needs it says so.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Checks the text of a configuration file by itself, over the defaults.
///
/// # Errors
/// When anything in it is unknown or wrong.
pub fn check_file(text: &str) -> Result<(), ConfigError> {
    let layers = Layers {
        data_dir: PathBuf::new(),
        remembered: None,
        file: FILE_NAME.into(),
        text: Some(text.to_owned()),
        variables: Vec::new(),
        flags: Vec::new(),
        login_name: "me".into(),
    };
    merge(layers).map(drop)
}

/// Whether to write colours: only for a person at a terminal that has some, who has not set
/// `NO_COLOR`.
pub fn wants_color(stream: &impl IsTerminal) -> bool {
    let is_wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    is_wanted && stream.is_terminal() && !is_dumb_terminal()
}

/// Whether the terminal knows no control sequences, as far as TERM says.
pub fn is_dumb_terminal() -> bool {
    env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb")
}

/// Where the data and the configuration file are: a directory that `--data-dir` or DEMES_DATA_DIR
/// names brings its own file along, unless `--config` names another.
///
/// # Errors
/// When neither a flag nor the environment names a directory.
pub fn locate(arguments: &Arguments) -> Result<(PathBuf, PathBuf), ConfigError> {
    let xdg = || etcetera::base_strategy::Xdg::new().map_err(|_| ConfigError::NoHome);
    let variable = || env::var_os(DATA_DIR_VARIABLE).filter(|path| !path.is_empty());
    let named = arguments.data_dir.clone().or_else(|| variable().map(PathBuf::from));
    let data_dir = match &named {
        Some(data_dir) => data_dir.clone(),
        None => xdg()?.data_dir().join("demes"),
    };
    let file = match (&arguments.file, &named) {
        (Some(file), _) => file.clone(),
        (None, Some(data_dir)) => data_dir.join(FILE_NAME),
        (None, None) => xdg()?.config_dir().join("demes").join(FILE_NAME),
    };
    Ok((data_dir, file))
}

/// Writes the commented file of defaults if there is no file yet, and says whether it did. There
/// is all of it or nothing: half a file would be another configuration.
///
/// # Errors
/// When the directory or the file cannot be made.
pub fn write_default_file(path: &Path) -> io::Result<bool> {
    if path.try_exists()? {
        return Ok(false);
    }
    put_whole(path, &default_file(), false)
}

/// Writes a file whole or not at all, and says whether it did: one that is there stays, unless it
/// may be replaced.
fn put_whole(path: &Path, text: &str, replaces: bool) -> io::Result<bool> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    // It may lie in the data directory, of which nothing is for others.
    let private = fs::Permissions::from_mode(0o600);
    let mut file = tempfile::Builder::new().permissions(private).tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    let put = match replaces {
        true => file.persist(path),
        false => file.persist_noclobber(path),
    };
    match put {
        Ok(_) => Ok(true),
        Err(kept) if kept.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(kept) => Err(kept.error),
    }
}

/// Everything that the result depends on.
struct Layers {
    data_dir: PathBuf,
    /// What is remembered of earlier starts.
    remembered: Option<String>,
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
    let remembered = match &layers.remembered {
        Some(text) => file_layer(&layers.data_dir.join(REMEMBERED_FILE), text)?,
        None => Layer::default(),
    };
    let file = match &layers.text {
        Some(text) => file_layer(&layers.file, text)?,
        None => Layer::default(),
    };
    let merged = config::Config::builder()
        .add_source(default_layer(&layers.login_name))
        .add_source(remembered)
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

/// Names the key that was probably meant: the same last part in another section, or nearly the
/// same.
fn unknown(name: &str, origin: &str) -> ConfigError {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let meant = KEYS.iter().find(|key| last(key.name) == last(name)).or_else(|| {
        let begins = |a: &str, b: &str| a.len() >= 3 && b.starts_with(a);
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
        value: keys::to_json(&value.kind).to_string(),
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
            _ => Err(wrong("have `members` of the form \"host:port\"")),
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

#[cfg(test)]
mod tests;
