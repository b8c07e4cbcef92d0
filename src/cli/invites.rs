//! Commands about invitations: `invite`, `invites`, `accept`, `decline`.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::client::{connect, invite_timeout_s, required};
use super::output::{Table, clean, local_time, short};
use super::{ChatArg, Global, json, pb};

#[derive(Args, Debug)]
pub struct InviteArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// Where the invited person's peer listens; without the id, the key seen first is pinned
    #[arg(value_name = "[PEERID@]HOST:PORT")]
    address: String,
    /// How long the invitation is resent, in seconds [default: `invite.timeout_s`]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
}

#[derive(Args, Debug)]
pub struct AnswerArgs {
    #[command(flatten)]
    chat: ChatArg,
}

/// Invites one person.
pub async fn invite(global: &Global, args: InviteArgs) -> Result<()> {
    let request = pb::InviteMemberRequest {
        chat: args.chat.chat,
        address: args.address,
        timeout_s: invite_timeout_s(global, args.timeout)?,
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

/// Lists invitations, sent and received.
pub async fn list(global: &Global) -> Result<()> {
    let response = connect(global).await?.list_invites(pb::ListInvitesRequest {}).await?;
    let invites = response.into_inner().invites;
    global.output().emit(
        || json!({ "invites": invites.iter().map(json::invite).collect::<Vec<_>>() }),
        || invite_lines(&invites),
    )?;
    Ok(())
}

/// Takes part.
pub async fn accept(global: &Global, args: AnswerArgs) -> Result<()> {
    let request = pb::AcceptInviteRequest { chat: args.chat.chat };
    let chat_id = connect(global).await?.accept_invite(request).await?.into_inner().chat_id;
    global.output().emit(
        || json!({ "chat_id": chat_id }),
        || format!("you take part; talk with `demes chat {}`\n", short(&chat_id)),
    )?;
    Ok(())
}

/// Declines.
pub async fn decline(global: &Global, args: AnswerArgs) -> Result<()> {
    let request = pb::DeclineInviteRequest { chat: args.chat.chat };
    connect(global).await?.decline_invite(request).await?;
    global.output().emit(|| json!({}), || "declined\n".into())?;
    Ok(())
}

fn invite_lines(invites: &[pb::Invite]) -> String {
    let mut text = String::new();
    for invite in invites.iter().filter(|invite| invite.incoming) {
        // The whole id: it is the inviter's fingerprint, which people compare.
        text += &format!(
            "{} invites you to {} ({})\n  fingerprint {}\n  {}\n",
            who(invite),
            clean(&invite.chat_name),
            short(&invite.chat_id),
            invite.peer_id,
            incoming_state(invite),
        );
    }
    let mut sent = Table::new(["CHAT", "INVITED", "ADDRESS", "STATE", "UNTIL"]);
    let mut any = false;
    for invite in invites.iter().filter(|invite| !invite.incoming) {
        any = true;
        sent.row(vec![
            clean(&invite.chat_name),
            who(invite),
            clean(&invite.address),
            state(invite).into(),
            local_time(invite.expires_at.as_ref()),
        ]);
    }
    match (text.is_empty(), any) {
        (true, false) => "no invitations\n".into(),
        (_, false) => text,
        (true, true) => sent.render(""),
        (false, true) => format!("{text}\n{}", sent.render("")),
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
        assert_eq!(invite_lines(&[invite]), expected);
        assert_eq!(invite_lines(&[]), "no invitations\n");
    }
}
