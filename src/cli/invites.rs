//! Commands about invitations: `invite`, `invites`, `revoke`, `accept`, `decline`.

use std::io::Read as _;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use jiff::{Span, SpanRelativeTo};
use serde_json::json;
use tokio::time::interval;
use tonic::{Response, Status};

use super::client::{Client, connect, invite_timeout_s, request_id, required};
use super::output::{Output, Table, clean, local_time, short};
use super::{ChatArg, Failure, Global, json, pb};
use crate::protocol::types::INVITE_LINK_USES_MAX;
use crate::wire::link::PREFIX;
use crate::wire::reason::Reason;

/// How long a link may be good for at most, in seconds; the peer's own limit.
const VALID_S_MAX: i64 = 90 * 24 * 3_600;
/// More than a link or a name could have.
const STDIN_BYTES_MAX: u64 = 4_096;
/// Longer than any name, and shorter than any link.
const LINK_CHARS_MIN: usize = 72;
/// Between looks at how far a join is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub struct InviteArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// Where the invited person's peer listens; without the id, the key seen first is pinned
    #[arg(value_name = "[PEERID@]HOST:PORT")]
    address: Option<String>,
    /// How long the invitation is resent, in seconds [default: `invite.timeout_s`]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
    /// Make a link instead, by which whoever has it can join
    #[arg(long, conflicts_with_all = ["address", "timeout"])]
    link: bool,
    /// How many people the link lets in
    #[arg(long, value_name = "N", default_value_t = 1, requires = "link",
          conflicts_with = "address",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(INVITE_LINK_USES_MAX)))]
    uses: u32,
    /// How long the link is good for, such as 12h or 30d; 90d at most
    #[arg(long, value_name = "TIME", default_value = "7d", requires = "link",
          conflicts_with = "address",
          value_parser = seconds)]
    expires: u32,
}

#[derive(Args, Debug)]
pub struct RevokeArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// The link, its id or the beginning of that; or the invited peer's id or address; `-` reads
    /// it from standard input
    #[arg(value_name = "LINK|PEER|-")]
    invite: String,
}

#[derive(Args, Debug)]
pub struct AcceptArgs {
    /// The chat of the invitation: its name, its id, or the beginning of its id; or an invite link;
    /// `-` reads it from standard input, where no other user of the machine sees it
    #[arg(value_name = "CHAT|LINK|-")]
    invite: String,
}

#[derive(Args, Debug)]
pub struct DeclineArgs {
    #[command(flatten)]
    chat: ChatArg,
}

/// Reads a length of time.
fn seconds(text: &str) -> Result<u32, String> {
    let span: Span = text.parse().map_err(|_| "a time is like 30m, 12h or 7d".to_owned())?;
    let whole = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let seconds = whole.map_or(0, |length| length.as_secs());
    match u32::try_from(seconds) {
        Ok(seconds @ 1..) if i64::from(seconds) <= VALID_S_MAX => Ok(seconds),
        _ => Err("a link is good for 1 second to 90 days".to_owned()),
    }
}

/// Invites one person, or makes a link.
pub async fn invite(global: &Global, args: InviteArgs) -> Result<()> {
    let Some(address) = args.address else {
        if args.link {
            return create_link(global, args).await;
        }
        let chat = clean(&args.chat.chat);
        return Err(Failure::usage(format!(
            "whom? name the address of their peer: demes invite '{chat}' ben.example:7443\n\
             or make a link, by which whoever has it can join: demes invite '{chat}' --link"
        ))
        .into());
    };
    let request = pb::InviteMemberRequest {
        chat: args.chat.chat,
        address,
        timeout_s: invite_timeout_s(global, args.timeout)?,
        request_id: request_id()?,
    };
    let response = connect(global).await?.invite_member(request).await?.into_inner();
    let invite = required(response.invite)?;
    global.output().emit(
        || json!({ "invite": json::invite(&invite) }),
        || {
            let until = local_time(invite.expires_at.as_ref());
            let (address, chat) = (clean(&invite.address), clean(&invite.chat_name));
            format!("{address} is invited to {chat}; the invitation is resent until {until}\n")
        },
    )?;
    Ok(())
}

/// The link alone goes to stdout, so that it can be piped; what to know about it to stderr.
async fn create_link(global: &Global, args: InviteArgs) -> Result<()> {
    let request = pb::CreateInviteLinkRequest {
        chat: args.chat.chat,
        uses_max: args.uses,
        valid_s: args.expires,
        request_id: request_id()?,
    };
    let response = connect(global).await?.create_invite_link(request).await?;
    let link = required(response.into_inner().link)?;
    let output = global.output();
    output.emit(|| json!({ "link": json::link(&link) }), || format!("{}\n", link.text))?;
    if !output.is_json() {
        let until = local_time(link.expires_at.as_ref());
        let (uses, chat) = (link.uses_max, short(&link.chat_id));
        let people = if uses == 1 { "1 person".into() } else { format!("{uses} people") };
        output.note(&format!(
            "it lets in {people} until {until}; whoever has it can come in\n\
             end it with `demes revoke {chat} {}`",
            short(&link.link_id)
        ));
    }
    Ok(())
}

/// Lists invitations, sent and received, and links.
pub async fn list(global: &Global) -> Result<()> {
    let response = connect(global).await?.list_invites(pb::ListInvitesRequest {}).await?;
    let pb::ListInvitesResponse { invites, links } = response.into_inner();
    global.output().emit(
        || {
            json!({
                "invites": invites.iter().map(json::invite).collect::<Vec<_>>(),
                "links": links.iter().map(json::link).collect::<Vec<_>>(),
            })
        },
        || invite_lines(&invites, &links),
    )?;
    Ok(())
}

/// Ends a link, or takes an invitation back.
pub async fn revoke(global: &Global, args: RevokeArgs) -> Result<()> {
    let invite = given(args.invite)?;
    let request =
        pb::RevokeInviteRequest { chat: args.chat.chat, invite, request_id: request_id()? };
    connect(global).await?.revoke_invite(request).await?;
    global.output().emit(|| json!({}), || "it lets nobody in any more\n".into())?;
    Ok(())
}

/// What an argument says; `-` means standard input. A link is a secret, and every user of a machine
/// sees the arguments of its processes.
fn given(argument: String) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument);
    }
    let mut text = String::new();
    let read = std::io::stdin().take(STDIN_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::refused(format!("stdin cannot be read: {error}")))?;
    match text.trim() {
        "" => Err(Failure::refused("stdin is empty: give it the link")),
        given => Ok(given.to_owned()),
    }
}

/// Takes part.
pub async fn accept(global: &Global, args: AcceptArgs) -> Result<()> {
    let output = global.output();
    let invite = given(args.invite)?;
    let client = connect(global).await?;
    let request = match link_in(&invite) {
        Some(link) => pb::AcceptInviteRequest { chat: String::new(), link },
        None => pb::AcceptInviteRequest { chat: invite, link: String::new() },
    };
    let mut calling = client.clone();
    let accepting = calling.accept_invite(request);
    let chat_id = watch(accepting, client, output).await?.into_inner().chat_id;
    output.emit(
        || json!({ "chat_id": chat_id }),
        || format!("you take part; talk with `demes chat {}`\n", short(&chat_id)),
    )?;
    Ok(())
}

/// The link that is meant. It may have lost its beginning where it was copied, or got capitals
/// there.
fn link_in(invite: &str) -> Option<String> {
    let text: String = invite.split_whitespace().collect();
    let begins = text.get(..PREFIX.len()).is_some_and(|it| it.eq_ignore_ascii_case(PREFIX));
    let rest = if begins { &text[PREFIX.len()..] } else { &text };
    let is_bare = || {
        let is_of_link = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        rest.len() >= LINK_CHARS_MIN && rest.chars().all(is_of_link)
    };
    // An invitation's chat and inviter are hexadecimal, and have an @ between them.
    let is_id = || rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    (begins || (is_bare() && !is_id())).then(|| format!("{PREFIX}{rest}"))
}

/// Waits for the call, and says meanwhile what hinders it.
async fn watch(
    accepting: impl Future<Output = Result<Response<pb::AcceptInviteResponse>, Status>>,
    mut client: Client,
    output: Output,
) -> Result<Response<pb::AcceptInviteResponse>> {
    let mut accepting = std::pin::pin!(accepting);
    let mut looks = interval(LOOK_EVERY);
    looks.tick().await;
    let mut said = String::new();
    loop {
        tokio::select! {
            accepted = &mut accepting => return Ok(accepted?),
            _ = looks.tick() => {
                let invites = client.list_invites(pb::ListInvitesRequest {}).await?.into_inner();
                let mut joining = invites.invites.iter();
                let joining = joining.find(|invite| invite.state() == pb::InviteState::Joining);
                let Some(says) = joining.map(joining_text) else { continue };
                if says != said {
                    output.note(&says);
                    said = says;
                }
            }
        }
    }
}

/// How far a join is.
fn joining_text(invite: &pb::Invite) -> String {
    let hindrance = match invite.problem.as_str() {
        "" => return format!("asking {} to be taken on …", clean(&invite.address)),
        problem => match Reason::named(problem) {
            Some(Reason::AddressUnreachable) => {
                format!("{} cannot be reached", clean(&invite.address))
            }
            Some(Reason::NoHost) => "nobody hosts the chat at the moment".into(),
            Some(Reason::InviteNotFound) => "whoever was asked does not know the invitation".into(),
            _ => clean(problem),
        },
    };
    format!("{hindrance}; trying again …")
}

/// Declines.
pub async fn decline(global: &Global, args: DeclineArgs) -> Result<()> {
    let request = pb::DeclineInviteRequest { chat: args.chat.chat };
    connect(global).await?.decline_invite(request).await?;
    global.output().emit(|| json!({}), || "declined\n".into())?;
    Ok(())
}

fn invite_lines(invites: &[pb::Invite], links: &[pb::InviteLink]) -> String {
    let mut parts = Vec::new();
    let mut received = String::new();
    for invite in invites.iter().filter(|invite| invite.incoming) {
        let heading = match invite.by_link {
            true => format!("you join {} by a link of", short(&invite.chat_id)),
            false => {
                let (chat, id) = (clean(&invite.chat_name), short(&invite.chat_id));
                format!("{} invites you to {chat} ({id})", who(invite))
            }
        };
        // The whole id: it is the inviter's fingerprint, which people compare.
        received += &format!(
            "{heading}\n  fingerprint {}\n  {}\n",
            invite.peer_id,
            incoming_state(invite),
        );
    }
    let mut sent = Table::new(["CHAT", "INVITED", "ADDRESS", "STATE", "UNTIL"]);
    for invite in invites.iter().filter(|invite| !invite.incoming) {
        sent.row(vec![
            clean(&invite.chat_name),
            who(invite),
            clean(&invite.address),
            state(invite).into(),
            local_time(invite.expires_at.as_ref()),
        ]);
    }
    let mut made = Table::new(["CHAT", "LINK", "STATE", "LEFT", "UNTIL"]);
    for link in links {
        made.row(vec![
            clean(&link.chat_name),
            short(&link.link_id).into(),
            link_state(link).into(),
            format!("{} of {}", link.uses_left, link.uses_max),
            local_time(link.expires_at.as_ref()),
        ]);
    }
    let mut texts = String::new();
    for link in links.iter().filter(|link| is_usable(link) && !link.text.is_empty()) {
        texts += &format!("{}  {}\n", short(&link.link_id), link.text);
    }
    parts.push(received);
    parts.extend(invites.iter().any(|invite| !invite.incoming).then(|| sent.render("")));
    parts.extend((!links.is_empty()).then(|| made.render("")));
    parts.push(texts);
    parts.retain(|part| !part.is_empty());
    match parts.is_empty() {
        true => "no invitations\n".into(),
        false => parts.join("\n"),
    }
}

fn is_usable(link: &pb::InviteLink) -> bool {
    link.state() == pb::InviteLinkState::Open
}

fn link_state(link: &pb::InviteLink) -> &'static str {
    match link.state() {
        pb::InviteLinkState::Open => "open",
        pb::InviteLinkState::Queued => "waits for a majority",
        pb::InviteLinkState::UsedUp => "used up",
        pb::InviteLinkState::Expired => "ran out",
        pb::InviteLinkState::Revoked => "revoked",
        pb::InviteLinkState::Unspecified => "unknown",
    }
}

fn who(invite: &pb::Invite) -> String {
    match (invite.name.is_empty(), invite.peer_id.is_empty()) {
        (false, _) => clean(&invite.name),
        (true, false) => short(&invite.peer_id).into(),
        (true, true) => "?".into(),
    }
}

fn incoming_state(invite: &pb::Invite) -> String {
    match invite.state() {
        pb::InviteState::Pending => {
            let id = short(&invite.chat_id);
            let until = local_time(invite.expires_at.as_ref());
            format!("`demes accept {id}` or `demes decline {id}`, until {until}")
        }
        pb::InviteState::Joining => joining_text(invite),
        _ => state(invite).into(),
    }
}

fn state(invite: &pb::Invite) -> &'static str {
    match invite.state() {
        pb::InviteState::Sending => "not reached yet",
        pb::InviteState::Pending => "waits for an answer",
        pb::InviteState::Accepted => "accepted",
        pb::InviteState::Declined => "declined",
        pb::InviteState::Expired => "ran out",
        pb::InviteState::Joining => "joining",
        pb::InviteState::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_shows_the_fingerprint_and_what_to_do() {
        let invite = pb::Invite {
            chat_id: "c0ffee00".repeat(4),
            chat_name: "club".into(),
            incoming: true,
            peer_id: "a".repeat(64),
            name: "Ana".into(),
            state: pb::InviteState::Pending.into(),
            ..pb::Invite::default()
        };
        let expected = format!(
            "Ana invites you to club (c0ffee00)\n  fingerprint {}\n  \
             `demes accept c0ffee00` or `demes decline c0ffee00`, until --:--\n",
            "a".repeat(64)
        );
        assert_eq!(invite_lines(&[invite], &[]), expected);
        assert_eq!(invite_lines(&[], &[]), "no invitations\n");
    }

    #[test]
    fn links_are_listed_with_the_text_of_those_that_can_be_used() {
        let link = pb::InviteLink {
            link_id: "1ea7".repeat(16),
            chat_name: "club".into(),
            text: "demes:AXgB".into(),
            uses_max: 3,
            uses_left: 2,
            state: pb::InviteLinkState::Open.into(),
            ..pb::InviteLink::default()
        };
        let revoked = pb::InviteLink {
            link_id: "2ea7".repeat(16),
            state: pb::InviteLinkState::Revoked.into(),
            ..link.clone()
        };
        let expected = "\
CHAT  LINK      STATE    LEFT    UNTIL
club  1ea71ea7  open     2 of 3  --:--
club  2ea72ea7  revoked  2 of 3  --:--

1ea71ea7  demes:AXgB
";
        assert_eq!(invite_lines(&[], &[link, revoked]), expected);
    }

    #[test]
    fn a_link_is_known_without_its_beginning() {
        let rest = format!("AXgB{}", "zZ_-9".repeat(20));
        let link = format!("demes:{rest}");
        for given in
            [&link, &rest, &format!(" DEMES:{rest}\n"), &format!("Demes:AXgB\n{}", &rest[4..])]
        {
            assert_eq!(link_in(given).as_ref(), Some(&link), "{given:?}");
        }
        for name in ["Friday", &"c0ffee00".repeat(4), &"a".repeat(100), &"x ".repeat(32)] {
            assert_eq!(link_in(name), None, "{name}");
        }
    }

    #[test]
    fn times_are_lengths_of_up_to_90_days() {
        assert_eq!(seconds("12h"), Ok(12 * 3_600));
        assert_eq!(seconds("7d"), Ok(7 * 24 * 3_600));
        for bad in ["", "0s", "-1h", "91d", "7", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
