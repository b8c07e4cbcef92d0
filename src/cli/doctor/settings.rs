//! The configuration: whether it loads, where its values come from, and whether others can dial the
//! address that they are told.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Result;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout_at};

use super::{Finding, Level, Report, Section};
use crate::cli::{Global, pb};
use crate::config::{self, Settings};

/// How long a name may take to be looked up.
const LOOKUP_MAX: Duration = Duration::from_secs(2);
/// Keys that are named; more are counted.
const NAMED_MAX: usize = 6;

/// Loads the configuration as `demes up` would without flags.
pub fn load(report: &mut Report, global: &Global) -> Result<Option<Settings>> {
    match config::load(&global.arguments()) {
        Ok(settings) => {
            report.ok(Section::Configuration, "configuration", origins(&settings))?;
            Ok(Some(settings))
        }
        Err(error) => {
            let (section, check, level) = (Section::Configuration, "configuration", Level::Problem);
            let text = format!("the configuration is refused: {error}");
            let todo = "correct it there; `demes up` does not start before. `demes config` shows \
                        the result"
                .to_owned();
            report.add(Finding { section, check, level, text, todo })?;
            Ok(None)
        }
    }
}

/// Which values are not the defaults, and who says so.
fn origins(settings: &Settings) -> String {
    let file = settings.file.display().to_string();
    let named = settings.origins.iter().filter(|it| it.origin != "default").map(|it| {
        let from = if it.origin == file { "file" } else { it.origin.as_str() };
        format!("{} ({from})", it.key)
    });
    let named: Vec<_> = named.collect();
    let file = match settings.file.exists() {
        true => format!("{file} is good"),
        false => format!("there is no {file}, which need not be"),
    };
    let total = settings.origins.len();
    match named.len() {
        0 => format!("{file}; without flags of `demes up`, all {total} values are the defaults"),
        count if count > NAMED_MAX => {
            let some = named[..NAMED_MAX].join(", ");
            format!("{file}; {count} of {total} values are set: {some} and others")
        }
        count => format!("{file}; {count} of {total} values are set: {}", named.join(", ")),
    }
}

/// Whether the listeners' ports are free, as far as the configuration names them.
pub fn ports(report: &mut Report, settings: &Settings) -> Result<()> {
    let listeners = [
        (Some(settings.peer_listen), "peer.listen", "--listen"),
        (Some(settings.client_listen), "client.listen", "--client-listen"),
        (settings.health_listen, "health.listen", "--health-listen"),
        (settings.metrics_listen, "metrics.listen", "--metrics-listen"),
    ];
    let mut free = Vec::new();
    let mut taken = false;
    for (address, key, flag) in listeners {
        let Some(address) = address else { continue };
        match TcpListener::bind(address) {
            Ok(_) => free.push(address.to_string()),
            Err(error) => {
                taken = true;
                report.add(port(address, key, flag, &error))?;
            }
        }
    }
    if !taken {
        let text = format!("the ports to listen on are free: {}", free.join(", "));
        report.ok(Section::Configuration, "ports", text)?;
    }
    Ok(())
}

fn port(address: SocketAddr, key: &str, flag: &str, error: &std::io::Error) -> Finding {
    let (why, todo) = match error.kind() {
        ErrorKind::AddrInUse => (
            "another program listens there".to_owned(),
            format!("stop it, or choose another port with `{key}` or {flag}"),
        ),
        ErrorKind::AddrNotAvailable => (
            "this machine has no such address".to_owned(),
            format!("choose one that it has with `{key}` or {flag}; 0.0.0.0 stands for all"),
        ),
        ErrorKind::PermissionDenied => (
            "this user may not listen there".to_owned(),
            format!("choose a port above 1023 with `{key}` or {flag}"),
        ),
        _ => (error.to_string(), format!("choose another address with `{key}` or {flag}")),
    };
    Finding {
        section: Section::Configuration,
        check: "ports",
        level: Level::Problem,
        text: format!("cannot listen on {address} (`{key}`): {why}"),
        todo,
    }
}

/// Whether others can dial what they are told: `own` is what the running peer tells them, without
/// it what the configuration says.
pub async fn address(
    report: &mut Report,
    settings: Option<&Settings>,
    own: Option<&str>,
    chats: &[pb::Chat],
    until: Instant,
) -> Result<()> {
    let configured = settings.map(|settings| match &settings.advertise {
        Some(address) => address.clone(),
        None => settings.peer_listen.to_string(),
    });
    let Some(address) = own.map(str::to_owned).or(configured) else { return Ok(()) };
    let others = others_of(chats);
    report.progress(&format!("looking at the address {address}"));
    let name = host_of(&address);
    let resolved = match name.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => {
            let until = until.min(Instant::now() + LOOKUP_MAX);
            let found = timeout_at(until, lookup_host(&address)).await;
            found.ok().and_then(Result::ok).into_iter().flatten().map(|it| it.ip()).collect()
        }
    };
    let mut finding = judge(&address, &resolved, &others);
    if own.is_none() {
        // Flags of `demes up` are not known here.
        finding.text = format!("by the configuration, {}", finding.text);
    }
    report.add(finding)?;
    addresses_in_chats(report, own, chats)
}

/// What is to be said of an address that leads to `resolved`, among members at `others`.
fn judge(address: &str, resolved: &[IpAddr], others: &[String]) -> Finding {
    let (section, check) = (Section::Address, "address");
    let with = |level, text: String, todo: &str| Finding {
        section,
        check,
        level,
        text,
        todo: todo.to_owned(),
    };
    let set = "set `peer.advertise` (or --advertise) to a name or IP address of this machine that \
               the others reach, and its port";
    let told = format!("the others are told to dial {address}");
    if address.ends_with(":0") {
        let text =
            format!("{told}: port 0 is another one at every start, so nobody finds you again");
        return with(Level::Warning, text, "set `peer.listen` to a fixed port");
    }
    if resolved.is_empty() {
        let text = format!("{told}, and this machine does not know that name");
        return with(Level::Warning, text, "correct the name in `peer.advertise`, or in the DNS");
    }
    if resolved.iter().any(IpAddr::is_unspecified) {
        let text = format!("{told}, which is no address: it stands for all of one's own");
        return with(Level::Problem, text, set);
    }
    if !resolved.iter().all(IpAddr::is_loopback) {
        return with(Level::Ok, told, "");
    }
    let text = format!("{told}, which leads everybody to their own machine");
    let is_far = |other: &&String| !is_loopback(host_of(other));
    match others.iter().find(is_far) {
        Some(_) => with(Level::Problem, text, set),
        None if others.is_empty() => with(Level::Warning, text, set),
        None => with(Level::Ok, format!("{told}: all peers are on this machine"), ""),
    }
}

/// A chat goes on telling the address that this peer had when it joined.
fn addresses_in_chats(report: &mut Report, own: Option<&str>, chats: &[pb::Chat]) -> Result<()> {
    let Some(own) = own else { return Ok(()) };
    for chat in chats {
        let name = crate::cli::output::clean(&chat.name);
        let me = chat.members.iter().find(|member| is_own(chat, member));
        let Some(me) = me.filter(|me| !me.address.is_empty() && me.address != own) else {
            continue;
        };
        report.add(Finding {
            section: Section::Address,
            check: "address_in_chat",
            level: Level::Warning,
            text: format!(
                "the members of {name} dial you at {}, as you joined; this peer now says {own}",
                me.address
            ),
            todo: format!(
                "see that {} still leads here, or leave {name} and have yourself invited again",
                me.address
            ),
        })?;
    }
    Ok(())
}

/// `running::find` has put this peer first.
fn is_own(chat: &pb::Chat, member: &pb::Member) -> bool {
    chat.members.first().is_some_and(|first| first.peer_id == member.peer_id)
}

fn others_of(chats: &[pb::Chat]) -> Vec<String> {
    let members = chats.iter().flat_map(|chat| chat.members.iter().skip(1));
    members.map(|member| member.address.clone()).collect()
}

fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(address: &str, resolved: &[&str], others: &[&str]) -> Level {
        let resolved: Vec<_> = resolved.iter().map(|ip| ip.parse().expect("an address")).collect();
        let others: Vec<_> = others.iter().map(|&other| other.to_owned()).collect();
        let finding = judge(address, &resolved, &others);
        assert_eq!(finding.level == Level::Ok, finding.todo.is_empty(), "{finding:?}");
        finding.level
    }

    #[test]
    fn an_address_is_judged_by_where_it_leads_others() {
        let far = ["192.0.2.7:7443"];
        let near = ["127.0.0.1:7453", "[::1]:1", "localhost:2"];
        assert_eq!(level("192.0.2.1:7443", &["192.0.2.1"], &far), Level::Ok);
        assert_eq!(level("ana.example:7443", &["192.0.2.1"], &[]), Level::Ok);
        assert_eq!(level("0.0.0.0:7443", &["0.0.0.0"], &near), Level::Problem);
        assert_eq!(level("[::]:7443", &["::"], &[]), Level::Problem);
        assert_eq!(level("127.0.0.1:7443", &["127.0.0.1"], &near), Level::Ok);
        assert_eq!(level("127.0.0.1:7443", &["127.0.0.1"], &far), Level::Problem);
        assert_eq!(level("localhost:7443", &["127.0.0.1", "::1"], &[]), Level::Warning);
        assert_eq!(level("nowhere.example:7443", &[], &far), Level::Warning);
        assert_eq!(level("192.0.2.1:0", &["192.0.2.1"], &far), Level::Warning);
    }
}
