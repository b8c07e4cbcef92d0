//! `status`: this peer and its chats in lines, or one chat in full.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::chats::{chat_lines, unread_in};
use super::client::{connect, get_chat};
use super::output::{
    People, Table, chat_state, clean, count, local_time, milliseconds, quota_text, short,
};
use super::{Global, json, pb};

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The chat: its name, its id, or the beginning of its id [default: all in lines]
    #[arg(value_name = "CHAT")]
    chat: Option<String>,
}

/// Shows this peer and its chats, or one chat.
pub async fn run(global: &Global, args: StatusArgs) -> Result<()> {
    let mut client = connect(global).await?;
    if let Some(chat) = args.chat {
        let chat = get_chat(&mut client, &chat).await?;
        global.output().emit(|| json!({ "chat": json::chat(&chat) }), || chat_text(&chat))?;
        return Ok(());
    }
    let peer = client.get_peer(pb::GetPeerRequest {}).await?.into_inner();
    let chats = client.list_chats(pb::ListChatsRequest {}).await?.into_inner().chats;
    let unread = unread_in(&mut client, &chats, &peer.peer_id).await;
    global.output().emit(
        || {
            let chats: Vec<_> = chats.iter().map(json::chat).collect();
            json!({ "peer": json::peer(&peer), "chats": chats })
        },
        || peer_text(&peer, &chats, &unread),
    )?;
    Ok(())
}

fn peer_text(peer: &pb::GetPeerResponse, chats: &[pb::Chat], unread: &[Option<u64>]) -> String {
    let mut text = format!(
        "{}, demes {}\n  invite me   {}@{}\n  programs    {}\n  {}\n",
        clean(&peer.name),
        peer.version,
        peer.peer_id,
        peer.address,
        peer.client_address,
        count(chats.len() as u64, "chat"),
    );
    if !chats.is_empty() {
        text.push('\n');
        text += &chat_lines(chats, unread);
    }
    text
}

/// Everything about one chat.
fn chat_text(chat: &pb::Chat) -> String {
    let people = People::of(chat);
    if !chat.removed_by_peer_id.is_empty() {
        // What else there is to say of the chat, this peer does not hear any more.
        let (name, state) = (clean(&chat.name), chat_state(chat, &people));
        let (id, confirmed) = (&chat.chat_id, chat.committed);
        return format!("{name} ({id})\n  {state}\n  readable up to {confirmed}\n");
    }
    let voters = chat.members.iter().filter(|member| member.voter).count();
    let mut text = format!(
        "{} ({})\n  {}, term {}\n  {} of {voters} voters in contact, {} make a majority\n",
        clean(&chat.name),
        chat.chat_id,
        chat_state(chat, &people),
        chat.term,
        chat.voters_in_contact,
        chat.majority,
    );
    text += &format!("  confirmed up to {}", chat.committed);
    if chat.last > chat.committed {
        text += &format!(", {} on the way", chat.last - chat.committed);
    }
    if chat.queued > 0 {
        text += &format!(", {} of yours queued", chat.queued);
    }
    text += "\n";
    if let Some(quota) = &chat.quota {
        text += &format!("  each member may add {}\n", quota_text(quota));
    }
    if chat.over_quota {
        text += "  you have added as much as you may in a day: the rest waits\n";
    }
    for evidence in &chat.evidence {
        let (name, what) = (people.name(&evidence.peer_id), clean(&evidence.what));
        text += &format!("  {name} is not to be trusted: {what} (term {})\n", evidence.term);
    }
    text += &recovery_text(chat, &people);
    text += "\nmembers\n";
    text += &member_table(chat, &people);
    let ranking = chat.ranking.clone().unwrap_or_default();
    if !ranking.candidates.is_empty() {
        text += "\nline of succession: the less far from all others, the better\n";
        text += &candidate_table(&ranking, chat, &people);
    }
    if !ranking.delays.is_empty() {
        text += "\ndelays in ms, from row to column\n";
        text += &delay_table(&ranking, &people);
    }
    text
}

/// What the person should know of recoveries of the chat (R30); mostly nothing.
fn recovery_text(chat: &pb::Chat, people: &People) -> String {
    let (own, id) = (chat.generation.as_str(), short(&chat.chat_id));
    let is_founded = |generation: &str| generation.chars().all(|digit| digit == '0');
    let mut text = String::new();
    if !is_founded(own) {
        text += &format!("  recovered, as generation {own}\n");
    }
    let mut others: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for member in chat.members.iter().filter(|member| !member.other_generation.is_empty()) {
        let name = people.name(&member.peer_id);
        others.entry(&member.other_generation).or_default().push(name);
    }
    for (generation, names) in others {
        let names = names.join(", ");
        text += &match is_founded(generation) {
            true => format!(
                "  {names}: without that recovery; `demes recover {id} --follow {own}` there takes \
                 part\n"
            ),
            false => format!(
                "  this chat was recovered by others ({names}) as generation {generation};\n  \
                 `demes recover {id} --follow {generation}` takes part in that\n"
            ),
        };
    }
    if chat.majority_lost {
        text += &format!(
            "  a majority has been away for long; if it is lost for ever, `demes recover {id}` is \
             the last resort\n"
        );
    }
    text
}

fn member_table(chat: &pb::Chat, people: &People) -> String {
    let mut members: Vec<_> = chat.members.iter().collect();
    members.sort_by_cached_key(|member| (member.name.to_lowercase(), member.peer_id.clone()));
    let mut table = Table::new(["NAME", "PEER", "VOTES", "DELIVERED", "LAG", "READ", "STATE"]);
    for member in members {
        table.row(vec![
            people.name(&member.peer_id),
            short(&member.peer_id).into(),
            if member.voter { "yes" } else { "no" }.into(),
            member.delivered.to_string(),
            chat.committed.saturating_sub(member.delivered).to_string(),
            member.read.to_string(),
            member_state(member, chat),
        ]);
    }
    table.render("  ")
}

/// Whether a member is there, or why not, and since when.
fn member_state(member: &pb::Member, chat: &pb::Chat) -> String {
    let since = match &member.away_since {
        Some(since) => format!(" since {}", local_time(Some(since))),
        None => String::new(),
    };
    let why = absence(chat, &member.peer_id).unwrap_or_default();
    match (member.state(), absence_of(chat, &member.peer_id)) {
        (pb::MemberState::Invited, _) => "invited".into(),
        (pb::MemberState::Leaving, _) => "leaving".into(),
        (_, pb::Absence::Goodbye | pb::Absence::Silent) => format!("away{since}, {why}"),
        (_, pb::Absence::NotDialled) => format!("{why}{since}"),
        (_, pb::Absence::Returning) => format!("back, {why}"),
        _ if member.reachable => "online".into(),
        _ => format!("unreachable{since}"),
    }
}

/// Why the host counts a member as away; none for one that is there.
pub fn absence(chat: &pb::Chat, peer_id: &str) -> Option<&'static str> {
    match absence_of(chat, peer_id) {
        pb::Absence::Unspecified => None,
        pb::Absence::Goodbye => Some("said goodbye"),
        pb::Absence::Silent => Some("silent"),
        pb::Absence::NotDialled => Some("cannot be reached"),
        pb::Absence::Returning => Some("not steady yet"),
    }
}

fn absence_of(chat: &pb::Chat, peer_id: &str) -> pb::Absence {
    let candidates = chat.ranking.as_ref().map_or(&[][..], |ranking| &ranking.candidates);
    let candidate = candidates.iter().find(|candidate| candidate.peer_id == peer_id);
    candidate.map_or(pb::Absence::Unspecified, pb::Candidate::absence)
}

fn candidate_table(ranking: &pb::Ranking, chat: &pb::Chat, people: &People) -> String {
    let mut table = Table::new(["", "NAME", "FARNESS", "CLOSENESS", ""]);
    for (at, candidate) in ranking.candidates.iter().enumerate() {
        let (farness, closeness) = match candidate.farness_us {
            Some(us) => (milliseconds(us), closeness(us)),
            None if ranking.delays.is_empty() => ("-".into(), "not measured yet".into()),
            None => ("-".into(), "not reached by all".into()),
        };
        let hosts = candidate.peer_id == chat.host_peer_id;
        table.row(vec![
            (at + 1).to_string(),
            people.name(&candidate.peer_id),
            farness,
            closeness,
            if hosts { "host" } else { "" }.into(),
        ]);
    }
    table.render("  ")
}

/// The reciprocal of the farness, per second; without measurable delay there is no greater one.
fn closeness(farness_us: u64) -> String {
    match 10_000_000_u64.checked_div(farness_us) {
        Some(tenths) => format!("{}.{}/s", tenths / 10, tenths % 10),
        None => "∞".into(),
    }
}

fn delay_table(ranking: &pb::Ranking, people: &People) -> String {
    let ids: Vec<&str> = ranking.candidates.iter().map(|it| it.peer_id.as_str()).collect();
    // The columns bear the places in the line of succession: ten names would not fit beside each
    // other.
    let mut header = vec![String::new()];
    header.extend((1..=ids.len()).map(|place| place.to_string()));
    let mut table = Table::default().numbers_from(1);
    table.row(header);
    let places = ids.len().to_string().len();
    for (place, from) in (1..).zip(&ids) {
        let mut row = vec![format!("{place:>places$}  {}", people.name(from))];
        for to in &ids {
            let delay = ranking
                .delays
                .iter()
                .find(|delay| delay.from_peer_id == *from && delay.to_peer_id == *to);
            row.push(match delay {
                _ if from == to => "·".into(),
                Some(delay) => cell(delay.delay_us),
                None => "-".into(),
            });
        }
        table.row(row);
    }
    table.render("  ")
}

/// A delay in milliseconds, in five characters or fewer up to a minute and a half.
fn cell(us: u64) -> String {
    match us {
        0..100_000 => milliseconds(us).trim_end_matches(" ms").to_owned(),
        _ => (us / 1_000).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::output::tests::sample_chat;
    use super::*;

    #[test]
    fn a_chat_is_shown_in_full() {
        let expected = "\
club (c0ffee00c0ffee00c0ffee00c0ffee00)
  hosted here, term 3
  2 of 3 voters in contact, 2 make a majority
  confirmed up to 42

members
  NAME  PEER      VOTES  DELIVERED  LAG  READ  STATE
  Ana   aaaaaaaa  yes    42         0    42    online
  Ben   bbbbbbbb  yes    42         0    42    online
  Cleo  cccccccc  yes    40         2    40    unreachable

line of succession: the less far from all others, the better
     NAME  FARNESS  CLOSENESS
  1  Ana   12.0 ms  83.3/s              host
  2  Ben   20.0 ms  50.0/s
  3  Cleo  -        not reached by all

delays in ms, from row to column
             1    2    3
  1  Ana     ·  4.2  8.0
  2  Ben   4.3    ·    -
  3  Cleo    -    -    ·
";
        let mut chat = sample_chat();
        chat.members.reverse();
        assert_eq!(chat_text(&chat), expected, "members come by name");
    }

    #[test]
    fn an_absence_is_told_with_its_reason_and_its_time() {
        let mut chat = sample_chat();
        let mut row_of = |name: &str, absence: pb::Absence| {
            let at = chat.members.iter().position(|member| member.name == name).unwrap();
            chat.members[at].away_since =
                Some(prost_types::Timestamp { seconds: 1_000_000_000, nanos: 0 });
            chat.ranking.as_mut().unwrap().candidates[at].absence = absence.into();
            let text = chat_text(&chat);
            text.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned()
        };
        let since = local_time(Some(&prost_types::Timestamp { seconds: 1_000_000_000, nanos: 0 }));
        let row = row_of("Cleo", pb::Absence::Goodbye);
        assert!(row.ends_with(&format!(" away since {since}, said goodbye")), "{row}");
        let row = row_of("Ben", pb::Absence::NotDialled);
        assert!(row.ends_with(&format!(" cannot be reached since {since}")), "{row}");
    }

    #[test]
    fn ten_members_fit_into_eighty_columns() {
        let id = |at: usize| format!("{at:064x}");
        let member = |at| pb::Member {
            peer_id: id(at),
            name: format!("Member{at}"),
            state: pb::MemberState::Active.into(),
            voter: true,
            reachable: at != 3,
            away_since: (at == 3).then(|| prost_types::Timestamp::from(SystemTime::now())),
            ..Default::default()
        };
        let pairs = (0..10).flat_map(|from| (0..10).map(move |to| (from, to)));
        let delay =
            |(from, to)| pb::Delay { from_peer_id: id(from), to_peer_id: id(to), delay_us: 88_888 };
        let candidate = |at| pb::Candidate {
            peer_id: id(at),
            farness_us: Some(888_888),
            absence: if at == 3 { pb::Absence::Goodbye.into() } else { 0 },
        };
        let ranking = pb::Ranking {
            candidates: (0..10).map(candidate).collect(),
            delays: pairs.map(delay).collect(),
            ..Default::default()
        };
        let members = (0..10).map(member).collect();
        let chat = pb::Chat { members, ranking: Some(ranking), ..sample_chat() };
        let text = chat_text(&chat);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{text}");
    }

    #[test]
    fn recoveries_and_lost_majorities_are_said() {
        let generation = "00000000000000ab";
        let mut chat = pb::Chat { majority_lost: true, ..sample_chat() };
        chat.members[1].other_generation = generation.into();
        let text = chat_text(&chat);
        assert!(text.contains("by others (Ben) as generation 00000000000000ab;\n"), "{text}");
        assert!(text.contains("`demes recover c0ffee00 --follow 00000000000000ab`"), "{text}");
        assert!(text.contains("`demes recover c0ffee00` is the last resort\n"), "{text}");

        let mut chat = pb::Chat { generation: generation.into(), ..sample_chat() };
        chat.members[2].other_generation = "0".repeat(16);
        let text = chat_text(&chat);
        assert!(text.contains("  recovered, as generation 00000000000000ab\n"), "{text}");
        assert!(text.contains("  Cleo: without that recovery; `demes recover"), "{text}");
    }

    #[test]
    fn of_a_chat_that_one_was_removed_from_only_what_is_left_is_shown() {
        let chat = pb::Chat { removed_by_peer_id: "b".repeat(64), queued: 1, ..sample_chat() };
        let expected = "\
club (c0ffee00c0ffee00c0ffee00c0ffee00)
  Ben removed you; 1 message of yours not sent
  readable up to 42
";
        assert_eq!(chat_text(&chat), expected);
    }

    #[test]
    fn what_waits_is_said() {
        let chat = pb::Chat { last: 44, queued: 3, ..sample_chat() };
        assert!(chat_text(&chat).contains("up to 42, 2 on the way, 3 of yours queued\n"));
    }

    #[test]
    fn without_delay_there_is_no_greater_closeness() {
        assert_eq!(closeness(0), "∞");
    }
}
