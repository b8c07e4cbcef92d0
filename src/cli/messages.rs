//! Commands about messages: `send`, `feed`, `history`.

use std::io::{IsTerminal as _, Read};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tonic::{Code, Status};

use super::client::{Client, connect, get_chat, opened, request_id};
use super::errors::{of_status, reason_of};
use super::output::{Output, People, event_text, short, stdout_closed};
use super::{ChatArg, Failure, Global, json, pb};
use crate::protocol::types::TEXT_CHARS_MAX;
use crate::wire::reason::Reason;

/// The most messages of one page; the peer's own limit.
const PAGE_SIZE_MAX: u32 = 500;

#[derive(Args, Debug)]
pub struct SendArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// The text, up to 2,048 characters; - reads it from stdin
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    text: String,
    /// Return once the message is on this disk, without waiting for a majority
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args, Debug)]
pub struct FeedArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// Begin after this sequence [default: from the beginning]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    after: u64,
}

#[derive(Args, Debug)]
pub struct HistoryArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// How many messages
    #[arg(short = 'n', value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    number: u32,
    /// The newest before this sequence [default: the newest]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    before: u64,
}

/// Sends one message.
pub async fn send(global: &Global, args: SendArgs) -> Result<()> {
    let text = if args.text == "-" { read_stdin()? } else { args.text };
    check_text(&text)?;
    let mut client = connect(global).await?;
    let sent = send_text(&mut client, &args.chat.chat, text, !args.no_wait).await?;
    global.output().emit(
        || {
            json!({
                "chat_id": sent.chat_id,
                "request_id": sent.request_id,
                "state": sent.state().as_str_name(),
                "sequence": sent.sequence,
            })
        },
        || match sent.state() {
            pb::MessageState::Committed => format!("sent ({})\n", sent.sequence),
            _ => "queued; it will be sent when a majority is reachable\n".into(),
        },
    )?;
    Ok(())
}

/// Follows a chat until the peer or the person ends it.
pub async fn feed(global: &Global, args: FeedArgs) -> Result<()> {
    let output = global.output();
    let mut client = connect(global).await?;
    let chat = get_chat(&mut client, &args.chat.chat).await?;
    let people = People::of(&chat);
    let mut after = args.after;
    loop {
        let ended = tokio::select! {
            ended = follow(&mut client, &chat.chat_id, &mut after, output, &people) => ended?,
            // As behind `demes feed | head -1`, where the next event may be hours away.
            () = stdout_closed() => return Ok(()),
        };
        // Whoever reads our output was slow for a while; nothing is lost by going on from there.
        if reason_of(&ended) != Some(Reason::SlowConsumer) {
            let mut failure = of_status(&ended);
            let chat = short(&chat.chat_id);
            failure.text += &format!("\ngo on with `demes feed {chat} --after {after}`");
            return Err(failure.into());
        }
    }
}

/// Shows earlier messages, oldest first.
pub async fn history(global: &Global, args: HistoryArgs) -> Result<()> {
    let output = global.output();
    let mut client = connect(global).await?;
    let chat = get_chat(&mut client, &args.chat.chat).await?;
    let messages = last_messages(&mut client, &chat.chat_id, args.number, args.before).await?;
    let people = People::of(&chat);
    output.emit(
        || json!({ "messages": messages.iter().map(json::event).collect::<Vec<_>>() }),
        || {
            let lines = messages.iter().filter_map(|event| event_text(output, event, &people));
            lines.map(|line| line + "\n").collect()
        },
    )?;
    // A person who looks on is told how to look further back.
    if let Some(first) = messages.first()
        && messages.len() as u64 == u64::from(args.number)
        && !output.is_json()
        && std::io::stdout().is_terminal()
    {
        let (chat, before) = (short(&chat.chat_id), first.sequence);
        output.note(&output.dim(&format!("earlier: `demes history {chat} --before {before}`")));
    }
    Ok(())
}

/// Refuses what no peer would take, before anything is sent.
pub fn check_text(text: &str) -> Result<(), Failure> {
    let chars = text.chars().count();
    match chars {
        0 => Err(Failure::refused("the text is empty: there is nothing to send")),
        1..=TEXT_CHARS_MAX => Ok(()),
        _ => Err(Failure::refused(format!(
            "the text has {chars} characters; a message has at most {TEXT_CHARS_MAX}: split it"
        ))),
    }
}

/// The newest `number` messages before `before` (0: of all), oldest first.
pub async fn last_messages(
    client: &mut Client,
    chat: &str,
    number: u32,
    before: u64,
) -> Result<Vec<pb::Event>> {
    let mut pages = Vec::new();
    let mut missing = number;
    let mut page_token = String::new();
    while missing > 0 {
        let request = pb::ListMessagesRequest {
            chat: chat.to_owned(),
            page_size: missing.min(PAGE_SIZE_MAX) as i32,
            page_token,
            from: Some(pb::list_messages_request::From::Before(before)),
        };
        let page = client.list_messages(request).await?.into_inner();
        missing = missing.saturating_sub(page.messages.len() as u32);
        page_token = page.next_page_token;
        pages.push(page.messages);
        if page_token.is_empty() {
            break;
        }
    }
    // Each page is in order; the pages lead backwards.
    Ok(pages.into_iter().rev().flatten().collect())
}

/// Sends a text. With `confirmed` it waits for a majority until the call's deadline; the answer's
/// state says how far the message has come.
async fn send_text(
    client: &mut Client,
    chat: &str,
    text: String,
    confirmed: bool,
) -> Result<pb::SendMessageResponse> {
    let mut request = pb::SendMessageRequest {
        chat: chat.to_owned(),
        text,
        request_id: request_id()?,
        wait: pb::Wait::Committed.into(),
    };
    if confirmed {
        match client.send_message(request.clone()).await {
            Ok(sent) => return Ok(sent.into_inner()),
            Err(status) if !is_late(&status) => return Err(status.into()),
            Err(_) => {}
        }
    }
    // A repeat with the same id gets the first result: what has become of the message by now.
    request.set_wait(pb::Wait::Queued);
    Ok(client.send_message(request).await?.into_inner())
}

/// Whether only the confirmation is missing.
fn is_late(status: &Status) -> bool {
    let waits = matches!(reason_of(status), Some(Reason::NoMajority | Reason::NoHost));
    waits || matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

/// Shows events from `after` on, which moves along; returns how the stream ended.
async fn follow(
    client: &mut Client,
    chat: &str,
    after: &mut u64,
    output: Output,
    people: &People,
) -> Result<Status> {
    let cursor = pb::FeedCursor { chat: chat.to_owned(), after: *after };
    let mut feed = opened(client.feed(pb::FeedRequest { cursors: vec![cursor] })).await?;
    loop {
        let response = match feed.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Ok(Status::unavailable("the feed has ended")),
            Err(status) => return Ok(status),
        };
        let mut lines = String::new();
        for event in response.events {
            *after = event.sequence.max(*after);
            let line = match output.is_json() {
                true => Some(json::event(&event).to_string()),
                false => event_text(output, &event, people),
            };
            if let Some(line) = line {
                lines += &line;
                lines.push('\n');
            }
        }
        output.write(&lines)?;
    }
}

fn read_stdin() -> Result<String, Failure> {
    // No more than could be sent, and one byte to tell that there was more.
    let limit = 4 * TEXT_CHARS_MAX as u64 + 1;
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(limit).read_to_end(&mut bytes);
    read.map_err(|error| Failure::refused(format!("stdin cannot be read: {error}")))?;
    if bytes.len() as u64 == limit {
        return Err(Failure::refused(format!(
            "the text is too long; a message has at most {TEXT_CHARS_MAX} characters: split it"
        )));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::refused("stdin is not UTF-8 text; a message is text"))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_counted_in_characters() {
        assert_eq!(check_text(&"é".repeat(TEXT_CHARS_MAX)), Ok(()));
        assert!(check_text(&"a".repeat(TEXT_CHARS_MAX + 1)).is_err());
        assert!(check_text("").is_err());
    }
}
