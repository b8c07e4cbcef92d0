//! Who reaches whom, and why not; and whose clock differs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use super::running::Running;
use super::{Finding, Level, Report, Section};
use crate::cli::output::{People, Table, clean, count, milliseconds};
use crate::cli::status::absence;
use crate::cli::{errors, pb};
use crate::wire::reason::Reason;

/// Left to tell what was found.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// A clock that differs by more is told.
const CLOCK_MAX_US: i64 = 2_000_000;
/// The largest chat whose table fits a terminal.
const TABLE_MAX: usize = 10;

/// Has the peer try every member, and tells what comes of it; the same for programs as the result.
pub async fn check(report: &mut Report, running: &mut Running, until: Instant) -> Result<Value> {
    let others = running.chats.iter().flat_map(|chat| chat.members.iter().skip(1));
    let others: Vec<_> =
        others.filter(|it| it.state() != pb::MemberState::Invited).map(|it| &it.peer_id).collect();
    if others.is_empty() {
        let text = "there is nobody else in your chats yet".to_owned();
        report.ok(Section::Members, "members", text)?;
        return Ok(json!([]));
    }
    let people = People::of_all(&running.chats);
    let end = until - LAST_WORDS;
    let mut checked = Vec::new();
    let mut client = running.client.clone();
    let unasked = loop_through(report, &mut client, end, |report, one| {
        report.add(judge(&one, running, &people))?;
        checked.push(one);
        Ok(())
    })
    .await?;
    match unasked {
        Unasked::Nobody => {}
        Unasked::Late => {
            let text = format!("of the members, {} were tried in the time given", checked.len());
            let todo = "give it more time with --timeout".to_owned();
            let (section, check, level) = (Section::Members, "members", Level::Warning);
            report.add(Finding { section, check, level, text, todo })?;
        }
        Unasked::Because(why) => report.skipped(Section::Members, "members", &why)?,
    }
    if let Some(finding) = clocks(&checked, &people) {
        report.add(finding)?;
    }
    for chat in &running.chats {
        tell_reach(report, chat, &checked)?;
    }
    Ok(checked.iter().map(|one| to_json(one, &people)).collect())
}

/// Who was not tried.
enum Unasked {
    Nobody,
    Late,
    Because(String),
}

async fn loop_through(
    report: &mut Report,
    client: &mut crate::cli::client::Client,
    end: Instant,
    mut each: impl FnMut(&mut Report, pb::CheckMembersResponse) -> Result<()>,
) -> Result<Unasked> {
    report.progress("trying the members");
    let call = client.check_members(pb::CheckMembersRequest {});
    let mut stream = match timeout_at(end, call).await {
        Ok(Ok(stream)) => stream.into_inner(),
        Ok(Err(status)) => return Ok(Unasked::Because(refusal(&status))),
        Err(_) => return Ok(Unasked::Late),
    };
    let mut tried = 0;
    loop {
        match timeout_at(end, stream.message()).await {
            Ok(Ok(Some(one))) => each(report, one)?,
            Ok(Ok(None)) => return Ok(Unasked::Nobody),
            Ok(Err(status)) => return Ok(Unasked::Because(refusal(&status))),
            Err(_) => return Ok(Unasked::Late),
        }
        tried += 1;
        report.progress(&format!("trying the members: {tried} answered so far"));
    }
}

fn refusal(status: &Status) -> String {
    if status.code() == Code::Unimplemented {
        return "the running peer is older than this question: start it again".to_owned();
    }
    let text = errors::of_status(status).text;
    format!("the members could not be tried: {}", text.replace('\n', "; "))
}

/// What is to be said of one member.
fn judge(one: &pb::CheckMembersResponse, running: &Running, people: &People) -> Finding {
    let with = |check, level, text: String, todo: String| Finding {
        section: Section::Members,
        check,
        level,
        text,
        todo,
    };
    let name = people.name(&one.peer_id);
    let address = clean(&one.address);
    if one.outward() != pb::Reach::Reached {
        let (why, todo) = outward(one.outward());
        let is_missed = running.chats.iter().any(|chat| is_there(chat, &one.peer_id));
        let level = match one.outward() {
            pb::Reach::Refused => Level::Warning,
            _ if is_missed => Level::Problem,
            _ => Level::Warning,
        };
        let text = format!("you do not reach {name} at {address}: {why}");
        return with("outward", level, text, todo.to_owned());
    }
    let there = format!("you reach {name} at {address} in {}", milliseconds(one.round_trip_us));
    let own = clean(&one.own_address);
    match one.inward() {
        pb::Reach::Reached => {
            let clock = clock_text(one).map_or_else(String::new, |text| format!("; {text}"));
            with("inward", Level::Ok, format!("{there}, and they reach you{clock}"), String::new())
        }
        pb::Reach::Unspecified => {
            let (why, todo) = unasked(&one.inward_problem);
            let text = format!("{there}; whether they reach you is not known: {why}");
            with("inward", Level::Warning, text, todo.to_owned())
        }
        reach => {
            let dialled = match clean(&one.inward_address) {
                dialled if dialled.is_empty() => own,
                dialled => dialled,
            };
            let (why, todo) = inward(reach);
            let text = format!("{there}; they do not reach you at {dialled}: {why}");
            let kept = match dialled == running.peer.address {
                true => "",
                false => {
                    ". Chats keep the address that you joined with: leave and be invited again \
                     to tell another one"
                }
            };
            with("inward", Level::Problem, text, format!("{todo}{kept}"))
        }
    }
}

/// Whether the chat's host has the member for present; where this peer hosts, that is itself.
fn is_there(chat: &pb::Chat, peer_id: &str) -> bool {
    let is_member = chat.members.iter().any(|member| member.peer_id == peer_id);
    let is_guest = chat.role() != pb::Role::Host && chat.serving;
    is_member && is_guest && absence(chat, peer_id).is_none()
}

fn outward(reach: pb::Reach) -> (&'static str, &'static str) {
    match reach {
        pb::Reach::Refused => (
            "nobody listens there",
            "their peer is not running, or listens elsewhere: `demes doctor` there says more",
        ),
        pb::Reach::NoAnswer => (
            "no answer",
            "their machine is off, or a firewall or router on the way drops it: that port must be \
             open to you",
        ),
        pb::Reach::NoRoute => {
            ("this machine has no way there", "join the network or VPN that the address is in")
        }
        pb::Reach::NameUnknown => (
            "this machine does not know that name",
            "correct the name in the DNS, or your resolver",
        ),
        pb::Reach::OtherPeer => (
            "another peer answers there",
            "the address has become somebody else's: they must leave, and be invited at the one \
             that they have now",
        ),
        _ => (
            "what answers there is no peer",
            "another program has taken that port there, or it is an older demes: update it",
        ),
    }
}

fn inward(reach: pb::Reach) -> (&'static str, &'static str) {
    match reach {
        pb::Reach::Refused => (
            "nobody listens there",
            "see that this address and port lead to this peer (`peer.listen`): forward the port, \
             or correct `peer.advertise`",
        ),
        pb::Reach::NoAnswer => (
            "no answer",
            "open that port to them in this machine's firewall, and forward it in the router",
        ),
        pb::Reach::NoRoute => (
            "their machine has no way there",
            "advertise an address of a network that both of you are in (`peer.advertise`)",
        ),
        pb::Reach::NameUnknown => (
            "their machine does not know that name",
            "advertise an IP address, or a name that the others can look up (`peer.advertise`)",
        ),
        pb::Reach::OtherPeer => (
            "another peer answers there",
            "that address leads to somebody else's peer: correct `peer.advertise`",
        ),
        _ => (
            "what answers there is no peer",
            "another program has that port (correct `peer.advertise`, or what forwards the port), \
             or their demes is older: update it",
        ),
    }
}

fn unasked(problem: &str) -> (&'static str, &'static str) {
    // It has a reason's name, or else a code's.
    match Reason::named(problem) {
        Some(Reason::RateLimited) => ("they were asked too often", "wait a minute"),
        Some(Reason::ChatNotFound) => (
            "they do not take you for a member",
            "they may not have caught up with the chat yet: look again in a moment",
        ),
        None if problem == "UNIMPLEMENTED" => {
            ("their demes is older than the question", "ask them to install a newer one")
        }
        _ => ("they did not answer in time", "look again in a moment"),
    }
}

fn clock_text(one: &pb::CheckMembersResponse) -> Option<String> {
    let ahead = one.clock_ahead_us?;
    Some(format!("clock {} ± {}", signed(ahead), milliseconds(one.clock_error_us)))
}

fn signed(us: i64) -> String {
    let sign = if us < 0 { '−' } else { '+' };
    match us.unsigned_abs() {
        us if us >= 10_000_000 => format!("{sign}{} s", us / 1_000_000),
        us => format!("{sign}{}", milliseconds(us)),
    }
}

/// Whether this machine's clock agrees with the others', or who differs.
fn clocks(checked: &[pb::CheckMembersResponse], people: &People) -> Option<Finding> {
    let compared: Vec<_> =
        checked.iter().filter_map(|one| Some((one, one.clock_ahead_us?))).collect();
    let (section, check) = (Section::Members, "clock");
    let members = count(compared.len() as u64, "member");
    let differs = |(one, ahead): &&(&pb::CheckMembersResponse, i64)| {
        let error = i64::try_from(one.clock_error_us).unwrap_or(i64::MAX);
        ahead.saturating_abs().saturating_sub(error) > CLOCK_MAX_US
    };
    let off: Vec<_> = compared.iter().filter(differs).collect();
    let Some((_, first)) = off.first() else {
        let most = compared.iter().map(|(_, ahead)| ahead.unsigned_abs()).max()?;
        let most = signed(i64::try_from(most).unwrap_or(i64::MAX)).replace('+', "");
        let text = format!("the clock agrees with those of {members}, within {most}");
        let todo = String::new();
        return Some(Finding { section, check, level: Level::Ok, text, todo });
    };
    let agree = off.iter().all(|(_, ahead)| ahead.signum() == first.signum());
    let level = Level::Warning;
    if agree && off.len() * 2 > compared.len() {
        let (side, by) = (if *first > 0 { "behind" } else { "ahead" }, signed(*first));
        let text = format!(
            "this machine's clock is {side}: {} of {members} differ from it, by about {by}",
            off.len()
        );
        let todo = "set it by NTP (`timedatectl set-ntp true`): the times of messages are wrong, \
                    and invitations end at the wrong time; nothing is lost by it"
            .to_owned();
        return Some(Finding { section, check, level, text, todo });
    }
    let named =
        off.iter().map(|(one, by)| format!("{} by {}", people.name(&one.peer_id), signed(*by)));
    let text =
        format!("clocks differ from this machine's: {}", named.collect::<Vec<_>>().join(", "));
    let todo = "whoever is wrong should set theirs by NTP".to_owned();
    Some(Finding { section, check, level, text, todo })
}

/// Who reaches whom in a chat of three or more: this peer's row and column as just tried, the
/// others' as they have last measured.
fn tell_reach(
    report: &mut Report,
    chat: &pb::Chat,
    checked: &[pb::CheckMembersResponse],
) -> Result<()> {
    let active = |member: &&pb::Member| member.state() != pb::MemberState::Invited;
    let ids: Vec<_> =
        chat.members.iter().filter(active).map(|member| member.peer_id.as_str()).collect();
    if !(3..=TABLE_MAX).contains(&ids.len()) || !chat.removed_by_peer_id.is_empty() {
        return Ok(());
    }
    let people = People::of(chat);
    let known = known_reach(chat, checked);
    let mut table = Table::default();
    let mut header = vec![String::new()];
    header.extend(ids.iter().map(|id| people.name(id)));
    table.row(header);
    for from in &ids {
        let mut row = vec![people.name(from)];
        row.extend(ids.iter().map(|to| {
            let mark = match known.get(&(*from, *to)) {
                _ if from == to => "·",
                Some(true) => "✓",
                Some(false) => "✗",
                None => "?",
            };
            mark.to_owned()
        }));
        table.row(row);
    }
    let title = format!("who reaches whom in {} (row to column)", clean(&chat.name));
    report.text(&format!("\n  {title}\n{}", table.render("    ")))
}

/// Whether the first reaches the second, where that is known.
fn known_reach<'a>(
    chat: &'a pb::Chat,
    checked: &'a [pb::CheckMembersResponse],
) -> BTreeMap<(&'a str, &'a str), bool> {
    let mut known = BTreeMap::new();
    let delays = chat.ranking.iter().flat_map(|ranking| &ranking.delays);
    for delay in delays {
        let (from, to) = (delay.from_peer_id.as_str(), delay.to_peer_id.as_str());
        // What was measured before they went says nothing of now.
        if absence(chat, from).is_none() && absence(chat, to).is_none() {
            known.insert((from, to), true);
        }
    }
    let Some(me) = chat.members.first().map(|member| member.peer_id.as_str()) else { return known };
    for one in checked.iter().filter(|one| one.chat_ids.contains(&chat.chat_id)) {
        let them = one.peer_id.as_str();
        known.insert((me, them), one.outward() == pb::Reach::Reached);
        match one.inward() {
            pb::Reach::Unspecified => drop(known.remove(&(them, me))),
            reach => drop(known.insert((them, me), reach == pb::Reach::Reached)),
        }
    }
    known
}

fn to_json(one: &pb::CheckMembersResponse, people: &People) -> Value {
    let reach = |reach: pb::Reach| match reach {
        pb::Reach::Unspecified => Value::Null,
        reach => Value::from(reach.as_str_name().trim_start_matches("REACH_").to_lowercase()),
    };
    json!({
        "peer_id": one.peer_id,
        "name": people.name(&one.peer_id),
        "address": one.address,
        "chat_ids": one.chat_ids,
        "outward": reach(one.outward()),
        "round_trip_us": one.round_trip_us,
        "own_address": one.own_address,
        "inward": reach(one.inward()),
        "inward_address": one.inward_address,
        "inward_problem": one.inward_problem,
        "clock_ahead_us": one.clock_ahead_us,
        "clock_error_us": one.clock_error_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::sample_chat;

    fn clock(ahead_us: i64, error_us: u64) -> pb::CheckMembersResponse {
        pb::CheckMembersResponse {
            peer_id: "b".repeat(64),
            clock_ahead_us: Some(ahead_us),
            clock_error_us: error_us,
            ..Default::default()
        }
    }

    #[test]
    fn a_clock_is_wrong_only_beyond_what_the_way_explains() {
        let people = People::of(&sample_chat());
        let told = |checked: &[_]| clocks(checked, &people).expect("clocks were compared");
        assert_eq!(clocks(&[], &people), None);
        let good = told(&[clock(1_200, 300), clock(-400, 200)]);
        assert_eq!(good.level, Level::Ok);
        assert_eq!(good.text, "the clock agrees with those of 2 members, within 1.2 ms");
        assert_eq!(told(&[clock(2_900_000, 1_000_000)]).level, Level::Ok);
        let own = told(&[clock(60_000_000, 10), clock(61_000_000, 10), clock(5, 10)]);
        assert_eq!(own.level, Level::Warning);
        assert!(own.text.starts_with("this machine's clock is behind: 2 of 3"), "{own:?}");
        let theirs = told(&[clock(-9_000_000, 10), clock(5, 10), clock(5, 10)]);
        assert_eq!(theirs.text, "clocks differ from this machine's: Ben by −9000.0 ms");
    }

    #[test]
    fn what_was_tried_now_goes_before_what_was_measured_once() {
        let chat = sample_chat();
        let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        let checked = [pb::CheckMembersResponse {
            peer_id: b.clone(),
            chat_ids: vec![chat.chat_id.clone()],
            outward: pb::Reach::Reached.into(),
            inward: pb::Reach::Refused.into(),
            ..Default::default()
        }];
        let known = known_reach(&chat, &checked);
        assert_eq!(known.get(&(&*a, &*b)), Some(&true));
        assert_eq!(known.get(&(&*b, &*a)), Some(&false), "though it was measured once");
        assert_eq!(known.get(&(&*a, &*c)), Some(&true));
        assert_eq!(known.get(&(&*c, &*a)), None);
    }
}
