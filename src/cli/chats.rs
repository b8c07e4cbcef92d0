//! Commands about chats as a whole: `new`, `chats`, `rename`, `quota`, `remove`, `leave`,
//! `hand-over`.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::client::{Client, connect, get_chat, invite_timeout_s, no_chats, request_id, required};
use super::messages::PAGE_SIZE_MAX;
use super::output::{People, Table, chat_state, clean, count, quota_text, short};
use super::{ChatArg, Global, json, pb};
use crate::protocol::quota::Quota;
use crate::wire::entry::to_quota;

#[derive(Args, Debug)]
pub struct NewArgs {
    /// The chat's name, up to 64 characters
    #[arg(value_name = "NAME")]
    name: String,
    /// Whom to invite
    #[arg(value_name = "[PEERID@]HOST:PORT")]
    addresses: Vec<String>,
    /// How long the invitations are resent, in seconds [default: `invite.timeout_s`]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
}

#[derive(Args, Debug)]
pub struct QuotaArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// How many MiB each member may add in a day
    #[arg(value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    mib: Option<u64>,
    /// How many invitations, links, names and joins: those too
    #[arg(long, value_name = "NUMBER", requires = "mib",
          value_parser = clap::value_parser!(u64).range(16..=1_000_000))]
    changes: Option<u64>,
}

#[derive(Args, Debug)]
pub struct RenameArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// The new name, up to 64 characters
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Args, Debug)]
pub struct RemoveArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// Who is to go: name, id, or beginning of the id
    #[arg(value_name = "PEER")]
    peer: String,
}

#[derive(Args, Debug)]
pub struct LeaveArgs {
    #[command(flatten)]
    chat: ChatArg,
}

#[derive(Args, Debug)]
pub struct HandOverArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// The member who shall host: name, id, or beginning of the id [default: the best ranked]
    #[arg(value_name = "PEER")]
    peer: Option<String>,
}

/// Founds a chat.
pub async fn new(global: &Global, args: NewArgs) -> Result<()> {
    let request = pb::CreateChatRequest {
        name: args.name,
        addresses: args.addresses,
        invite_timeout_s: invite_timeout_s(global, args.timeout)?,
        request_id: request_id()?,
    };
    let invited = request.addresses.len() as u64;
    let response = connect(global).await?.create_chat(request).await?.into_inner();
    let chat = required(response.chat)?;
    global.output().emit(
        || json!({ "chat": json::chat(&chat) }),
        || {
            let name = clean(&chat.name);
            let mut text = format!("{name} is founded ({})\n", short(&chat.chat_id));
            if invited > 0 {
                let invitations = count(invited, "invitation");
                text += &format!("{invitations} on the way; `demes invites` shows how far\n");
            }
            text
        },
    )?;
    Ok(())
}

/// Lists the chats.
pub async fn list(global: &Global) -> Result<()> {
    let mut client = connect(global).await?;
    let me = client.get_peer(pb::GetPeerRequest {}).await?.into_inner().peer_id;
    let chats = client.list_chats(pb::ListChatsRequest {}).await?.into_inner().chats;
    let unread = unread_in(&mut client, &chats, &me).await;
    global.output().emit(
        || {
            let all = chats.iter().zip(&unread);
            let all = all.map(|(chat, unread)| {
                let mut value = json::chat(chat);
                value["unread"] = json!(unread);
                value
            });
            json!({ "chats": all.collect::<Vec<_>>() })
        },
        || match chats.is_empty() {
            true => format!("{}\n", no_chats()),
            false => chat_lines(&chats, &unread),
        },
    )?;
    Ok(())
}

/// How many messages of others the person `me` has not read, chat by chat.
pub async fn unread_in(client: &mut Client, chats: &[pb::Chat], me: &str) -> Vec<Option<u64>> {
    let mut unread = Vec::with_capacity(chats.len());
    for chat in chats {
        unread.push(unread_of(client, chat, me).await);
    }
    unread
}

/// How many messages of others this person has not read: at most a page of them, and none where it
/// cannot be told.
async fn unread_of(client: &mut Client, chat: &pb::Chat, me: &str) -> Option<u64> {
    let read = chat.members.iter().find(|member| member.peer_id == me)?.read;
    if read >= chat.committed {
        return Some(0);
    }
    let request = pb::ListMessagesRequest {
        chat: chat.chat_id.clone(),
        page_size: PAGE_SIZE_MAX as i32,
        page_token: String::new(),
        from: Some(pb::list_messages_request::From::After(read)),
    };
    let page = client.list_messages(request).await.ok()?.into_inner();
    Some(page.messages.iter().filter(|message| message.author_peer_id != me).count() as u64)
}

/// Gives a chat another name.
pub async fn rename(global: &Global, args: RenameArgs) -> Result<()> {
    let mut client = connect(global).await?;
    let chat = get_chat(&mut client, &args.chat.chat).await?;
    let (id, name) = (chat.chat_id.clone(), args.name.clone());
    let request = pb::UpdateChatRequest { chat: id, name, quota: None, request_id: request_id()? };
    let renamed = client.update_chat(request).await?.into_inner();
    global.output().emit(
        || json!({ "chat_id": chat.chat_id, "sequence": renamed.sequence }),
        || {
            let (old, new) = (clean(&chat.name), clean(&args.name));
            format!("{old} is called {new} now ({})\n", short(&chat.chat_id))
        },
    )?;
    Ok(())
}

/// Shows how much each member may add to a chat in a day, or lets everybody add another amount.
pub async fn quota(global: &Global, args: QuotaArgs) -> Result<()> {
    let mut client = connect(global).await?;
    let chat = get_chat(&mut client, &args.chat.chat).await?;
    let default = Quota::default();
    let mut quota = chat.quota.unwrap_or_else(|| to_quota(default));
    if let Some(mib) = args.mib {
        quota.bytes_per_day = mib << 20;
        quota.changes_per_day = args.changes.unwrap_or(quota.changes_per_day);
        let (chat, request_id) = (chat.chat_id.clone(), request_id()?);
        let quota = Some(quota);
        let request = pb::UpdateChatRequest { chat, name: String::new(), quota, request_id };
        client.update_chat(request).await?;
    }
    global.output().emit(
        || json!({ "quota": json::quota(&quota) }),
        || format!("each member of {} may add {}\n", clean(&chat.name), quota_text(&quota)),
    )?;
    Ok(())
}

/// Removes a member.
pub async fn remove(global: &Global, args: RemoveArgs) -> Result<()> {
    let mut client = connect(global).await?;
    let chat = get_chat(&mut client, &args.chat.chat).await?;
    let request = pb::RemoveMemberRequest {
        chat: chat.chat_id.clone(),
        peer: args.peer.clone(),
        request_id: request_id()?,
    };
    let removed = client.remove_member(request).await?.into_inner();
    global.output().emit(
        || json!({ "sequence": removed.sequence }),
        || format!("{} is removed from {}\n", clean(&args.peer), clean(&chat.name)),
    )?;
    Ok(())
}

/// Leaves a chat.
pub async fn leave(global: &Global, args: LeaveArgs) -> Result<()> {
    let request = pb::LeaveChatRequest { chat: args.chat.chat, request_id: request_id()? };
    connect(global).await?.leave_chat(request).await?;
    global.output().emit(
        || json!({}),
        || "you are leaving; the chat disappears here when the others know\n".into(),
    )?;
    Ok(())
}

/// Lets another member host.
pub async fn hand_over(global: &Global, args: HandOverArgs) -> Result<()> {
    let mut client = connect(global).await?;
    let chat = get_chat(&mut client, &args.chat.chat).await?;
    let peer = args.peer.unwrap_or_default();
    let request = pb::ClientServiceHandOverRequest { chat: chat.chat_id.clone(), peer };
    let done = client.hand_over(request).await?.into_inner();
    global.output().emit(
        || json!({ "host_peer_id": done.host_peer_id, "term": done.term }),
        || {
            let host = People::of(&chat).name(&done.host_peer_id);
            format!("{host} hosts now (term {})\n", done.term)
        },
    )?;
    Ok(())
}

/// One line for each chat.
pub fn chat_lines(chats: &[pb::Chat], unread: &[Option<u64>]) -> String {
    let mut table = Table::new(["CHAT", "ID", "MEMBERS", "LAST", "UNREAD", "QUEUED", "STATE"]);
    for (chat, unread) in chats.iter().zip(unread) {
        let state = match chat.fault.is_empty() {
            true => chat_state(chat, &People::of(chat)),
            false => "stopped here".into(),
        };
        table.row(vec![
            clean(&chat.name),
            short(&chat.chat_id).into(),
            chat.members.len().to_string(),
            chat.committed.to_string(),
            match unread {
                Some(unread) if *unread >= u64::from(PAGE_SIZE_MAX) => format!("{unread}+"),
                Some(unread) => unread.to_string(),
                None => "?".into(),
            },
            chat.queued.to_string(),
            state,
        ]);
    }
    let mut text = table.render("");
    // Why, does not fit into a table.
    for chat in chats.iter().filter(|chat| !chat.fault.is_empty()) {
        let (name, id) = (clean(&chat.name), short(&chat.chat_id));
        text += &format!("\n{name} ({id}) is stopped here: {}\n", clean(&chat.fault));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chats_are_listed_in_lines() {
        let lines = chat_lines(&[super::super::output::tests::sample_chat()], &[Some(3)]);
        let expected = "\
CHAT  ID        MEMBERS  LAST  UNREAD  QUEUED  STATE
club  c0ffee00  3        42    3       0       hosted here
";
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_fault_stands_below_the_table() {
        let chat = super::super::output::tests::sample_chat();
        let chat = pb::Chat { fault: "it is bad: do this".into(), ..chat };
        let lines = chat_lines(&[chat], &[None]);
        let expected = "\
CHAT  ID        MEMBERS  LAST  UNREAD  QUEUED  STATE
club  c0ffee00  3        42    ?       0       stopped here

club (c0ffee00) is stopped here: it is bad: do this
";
        assert_eq!(lines, expected);
    }
}
