//! `send`: one message, and what is sure about it.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tokio::signal::ctrl_c;
use tokio::time::sleep;
use tonic::{Code, Request, Response, Status};

use super::client::{Client, connect, get_chat, pick_chat, request_id};
use super::errors::{EXIT_INTERRUPTED, EXIT_QUEUED, EXIT_UNREACHABLE, of_status, reason_of};
use super::output::{Output, People, chat_state, clean};
use super::slash::control_in;
use super::{Failure, Global, pb};
use crate::protocol::types::TEXT_CHARS_MAX;
use crate::wire::reason::Reason;

/// Beyond this it is said that the message waits, and for what.
const SAY_AFTER: Duration = Duration::from_millis(500);
/// The mark that some programs put before a text in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';
const UTF_16_MARKS: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];

#[derive(Args, Debug)]
#[command(override_usage = "demes send [OPTIONS] [CHAT] <TEXT>")]
pub struct SendArgs {
    /// The chat: its name, its id, or the beginning of its id [default: the only one]
    #[arg(value_name = "CHAT")]
    first: String,
    /// The text, up to 2,048 characters; - reads it from stdin
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    second: Option<String>,
    /// Words of a text that should have been quoted.
    #[arg(hide = true)]
    rest: Vec<String>,
    /// Return once the message is on this disk, without waiting for a majority
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for a majority, in seconds; what is queued then is sent later
    #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with = "no_wait",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
}

/// Sends one message.
pub async fn run(global: &Global, args: SendArgs) -> Result<ExitCode> {
    let output = global.output();
    let (chat, text) = match &args.second {
        Some(text) if args.rest.is_empty() => (Some(args.first.as_str()), text),
        Some(text) => {
            let words = [std::slice::from_ref(text), &args.rest].concat().join(" ");
            return Err(unquoted(&args.first, &words).into());
        }
        None => (None, &args.first),
    };
    let mut client = connect(global).await?;
    if chat.is_none() {
        refuse_name(&mut client, text).await?;
    }
    let text = if text == "-" { read_stdin()? } else { text.to_owned() };
    let text = checked_text(&text)?;
    let chat = pick_chat(&mut client, chat).await?;
    let request = pb::SendMessageRequest {
        chat: chat.chat_id.clone(),
        text,
        request_id: request_id()?,
        wait: pb::Wait::Queued.into(),
    };
    let (sent, late) = match args.no_wait {
        true => (client.send_message(request).await?.into_inner(), ExitCode::SUCCESS),
        false => {
            let timeout = Duration::from_secs(u64::from(args.timeout));
            confirmed(&mut client, request, timeout, output).await?
        }
    };
    output.emit(
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
    Ok(if sent.state() == pb::MessageState::Committed { ExitCode::SUCCESS } else { late })
}

/// Waits for a majority until the time is over, or the person has had enough. The answer says how
/// far the message has come, and with it comes how to exit if it is only queued.
async fn confirmed(
    client: &mut Client,
    request: pb::SendMessageRequest,
    timeout: Duration,
    output: Output,
) -> Result<(pb::SendMessageResponse, ExitCode)> {
    let mut asking = client.clone();
    let mut call = Request::new(request.clone());
    call.get_mut().set_wait(pb::Wait::Committed);
    call.set_timeout(timeout);
    let sending = async { asking.send_message(call).await.map(Response::into_inner) };
    let mut sending = std::pin::pin!(sending);
    let mut interrupted = std::pin::pin!(ctrl_c());
    let mut is_said = false;
    let late = loop {
        tokio::select! {
            sent = &mut sending => match sent {
                Ok(sent) => return Ok((sent, ExitCode::from(EXIT_QUEUED))),
                Err(status) if !is_late(&status) => return Err(perhaps_queued(&status).into()),
                Err(_) => break EXIT_QUEUED,
            },
            () = sleep(SAY_AFTER), if !is_said => {
                is_said = true;
                let looked = tokio::select! {
                    looked = get_chat(client, &request.chat) => looked,
                    _ = &mut interrupted => break EXIT_INTERRUPTED,
                };
                if let Ok(chat) = looked {
                    let state = chat_state(&chat, &People::of(&chat));
                    output.note(&format!("not confirmed yet: {state}; Ctrl-C leaves it queued"));
                }
            }
            _ = &mut interrupted => break EXIT_INTERRUPTED,
        }
    };
    // A repeat with the same id gets the first result: what has become of the message by now.
    let sent = client.send_message(request).await?.into_inner();
    Ok((sent, ExitCode::from(late)))
}

/// A peer that went away meanwhile may have the text on its disk, and sends it when it is back.
fn perhaps_queued(status: &Status) -> Failure {
    let mut failure = of_status(status);
    if failure.code == EXIT_UNREACHABLE {
        failure.text += "\nyour text may be queued all the same: see what `demes chats` shows as \
                         QUEUED before you send it again";
    }
    failure
}

/// Whether only the confirmation is missing.
fn is_late(status: &Status) -> bool {
    let waits = matches!(reason_of(status), Some(Reason::NoMajority | Reason::NoHost));
    waits || matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

fn unquoted(chat: &str, words: &str) -> Failure {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let chat = match chat.chars().all(char::is_alphanumeric) {
        true => chat.to_owned(),
        false => quoted(chat),
    };
    Failure::usage(format!(
        "a text of several words is quoted: demes send {chat} {}",
        quoted(&clean(words))
    ))
}

/// A chat's name alone is not what its person wants to say in the only chat.
async fn refuse_name(client: &mut Client, text: &str) -> Result<()> {
    let chats = client.list_chats(pb::ListChatsRequest {}).await?.into_inner().chats;
    let is_named = |chat: &pb::Chat| {
        let is_id = text.len() >= 4 && chat.chat_id.starts_with(text);
        is_id || chat.name.to_lowercase() == text.to_lowercase()
    };
    if chats.iter().any(is_named) {
        let text = clean(text);
        let failure = format!("there is no text: demes send '{text}' 'See you at eight.'");
        return Err(Failure::usage(failure).into());
    }
    Ok(())
}

/// A text without a byte order mark; refuses what no peer would take, before anything is sent.
pub fn checked_text(text: &str) -> Result<String, Failure> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::refused("the text is empty: there is nothing to send"));
    }
    if text.trim().is_empty() {
        return Err(Failure::refused("the text is blank: there is nothing to send"));
    }
    let text = text.replace("\r\n", "\n");
    if let Some(bad) = control_in(&text) {
        let code = u32::from(bad);
        return Err(Failure::refused(format!(
            "the text has a control character in it (U+{code:04X}): take it out"
        )));
    }
    match text.chars().count() {
        ..=TEXT_CHARS_MAX => Ok(text),
        chars => Err(Failure::refused(format!(
            "the text has {chars} characters; a message has at most {TEXT_CHARS_MAX}: split it"
        ))),
    }
}

fn read_stdin() -> Result<String, Failure> {
    // No more than could be sent with a mark before it, and one byte to tell that there was more.
    let limit = 4 * TEXT_CHARS_MAX as u64 + 4;
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(limit).read_to_end(&mut bytes);
    read.map_err(|error| Failure::refused(format!("stdin cannot be read: {error}")))?;
    to_text(bytes, limit)
}

fn to_text(bytes: Vec<u8>, limit: u64) -> Result<String, Failure> {
    // Without a mark, text of most languages has zeros in UTF-16, and never in UTF-8.
    if UTF_16_MARKS.iter().any(|mark| bytes.starts_with(mark)) || bytes.contains(&0) {
        return Err(Failure::refused(
            "stdin is UTF-16, or no text at all; a message is text in UTF-8\n\
             `iconv -f UTF-16 -t UTF-8 FILE | demes send CHAT -` converts it",
        ));
    }
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
        let longest = "é".repeat(TEXT_CHARS_MAX);
        assert_eq!(checked_text(&longest), Ok(longest.clone()));
        assert!(checked_text(&"a".repeat(TEXT_CHARS_MAX + 1)).is_err());
        assert!(checked_text("").is_err());
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_sent() {
        assert_eq!(checked_text("one\r\n\ttwo"), Ok("one\n\ttwo".into()));
        for bad in ["\u{1b}[31mred", "a\rb", "bell\u{7}", "\u{9b}2J"] {
            let failure = checked_text(bad).expect_err("refused");
            assert!(failure.text.contains("control character"), "{failure}");
        }
    }

    #[test]
    fn what_only_looks_like_a_text_is_none() {
        assert_eq!(checked_text("\u{feff}hi"), Ok("hi".into()));
        for blank in [" ", "\n\t\r\n", "\u{a0}\u{3000}", "\u{feff} "] {
            assert!(checked_text(blank).is_err(), "{blank:?}");
        }
        for utf_16 in [b"\xff\xfeh\0i\0".to_vec(), b"\xfe\xff\0h\0i".to_vec(), b"h\0i\0".to_vec()] {
            let failure = to_text(utf_16, 100).expect_err("refused");
            assert!(failure.text.contains("UTF-16"), "{failure}");
        }
        assert_eq!(to_text(b"hi\r\n".to_vec(), 100), Ok("hi".into()));
    }

    #[test]
    fn words_without_quotes_come_back_with_them() {
        let failure = unquoted("Friday", "it's late");
        assert!(failure.text.ends_with(r"demes send Friday 'it'\''s late'"), "{failure}");
        assert!(unquoted("my club", "a b").text.ends_with("demes send 'my club' 'a b'"));
    }
}
