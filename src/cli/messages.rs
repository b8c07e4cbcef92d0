//! Commands that read messages: `feed`, `history`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tonic::Status;

use super::client::{Client, connect, get_chat, no_chats, opened, pick_chat};
use super::errors::{of_status, reason_of};
use super::output::{Output, People, clean, event_text, short, stdout_closed};
use super::{AnyChatArg, Global, json, pb};
use crate::wire::reason::Reason;
use pb::event::Kind;

/// The most messages of one page; the peer's own limit.
pub const PAGE_SIZE_MAX: u32 = 500;
/// The most messages that are asked for at one time.
const NUMBER_MAX: i64 = 100_000;

#[derive(Args, Debug)]
pub struct FeedArgs {
    /// The chat: its name, its id, or the beginning of its id [default: all chats]
    #[arg(value_name = "CHAT")]
    chat: Option<String>,
    /// Begin after this sequence [default: from the beginning]
    #[arg(long, value_name = "N", requires = "chat")]
    after: Option<u64>,
    /// Begin with the last N messages
    #[arg(short = 'n', value_name = "N", conflicts_with = "after",
          value_parser = clap::value_parser!(u32).range(1..=NUMBER_MAX))]
    number: Option<u32>,
    /// Begin with what happens from now on
    #[arg(long, conflicts_with_all = ["after", "number"])]
    new: bool,
    /// Show sequences
    #[arg(short = 's', long)]
    sequences: bool,
}

#[derive(Args, Debug)]
pub struct HistoryArgs {
    #[command(flatten)]
    chat: AnyChatArg,
    /// How many messages
    #[arg(short = 'n', value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=NUMBER_MAX))]
    number: u32,
    /// The newest before this sequence [default: the newest]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    before: u64,
    /// Show sequences
    #[arg(short = 's', long)]
    sequences: bool,
}

/// Follows one chat, or all, until the peer or the person ends it.
pub async fn feed(global: &Global, args: FeedArgs) -> Result<()> {
    let output = global.output().with_sequences(args.sequences);
    let mut client = connect(global).await?;
    let chats = match &args.chat {
        Some(chat) => vec![get_chat(&mut client, chat).await?],
        None => client.list_chats(pb::ListChatsRequest {}).await?.into_inner().chats,
    };
    let is_all = args.chat.is_none() && !args.new && args.number.is_none() && args.after.is_none();
    let mut following = Following { output, is_all, one: None, known: BTreeMap::new() };
    let mut cursors = Vec::new();
    for chat in chats {
        let has_failed = args.chat.is_none() && !chat.fault.is_empty();
        if has_failed && (args.new || args.number.is_some()) {
            continue; // it gives nothing, and the others do
        }
        let after = match (args.after, args.number) {
            (Some(after), _) => Some(after),
            (None, Some(number)) => {
                let last = last_messages(&mut client, &chat.chat_id, number, 0).await?;
                Some(last.first().map_or(chat.committed, |first| first.sequence - 1))
            }
            (None, None) if args.new => Some(chat.committed),
            // Without cursors, chats that come later are followed, too.
            (None, None) => args.chat.as_ref().map(|_| 0),
        };
        if args.chat.is_some() {
            following.one = Some(chat.chat_id.clone());
        }
        cursors.extend(after.map(|after| (chat.chat_id.clone(), after)));
        following.learn(chat);
    }
    let mut cursors: BTreeMap<String, u64> = cursors.into_iter().collect();
    if cursors.is_empty() && (args.new || args.number.is_some()) {
        return Err(no_chats().into());
    }
    loop {
        let ended = tokio::select! {
            ended = following.follow(&mut client, &mut cursors) => ended?,
            // As behind `demes feed | head -1`, where the next event may be hours away.
            () = stdout_closed() => return Ok(()),
        };
        // Whoever reads our output was slow for a while; nothing is lost by going on from there.
        if reason_of(&ended) != Some(Reason::SlowConsumer) {
            let mut failure = of_status(&ended);
            if let Some((chat, after)) =
                following.one.as_ref().and_then(|it| cursors.get_key_value(it))
            {
                let chat = short(chat);
                failure.text += &format!("\ngo on with `demes feed {chat} --after {after}`");
            }
            return Err(failure.into());
        }
    }
}

/// What is followed, and what is known of it.
struct Following {
    output: Output,
    /// All chats from their beginnings, those that come later too: only without cursors are they
    /// all sent, and what has been shown is sent again after a break.
    is_all: bool,
    /// The chat, where it is one that was named.
    one: Option<String>,
    /// Names of chats and of their members, by the chats' ids.
    known: BTreeMap<String, (String, People)>,
}

impl Following {
    fn learn(&mut self, chat: pb::Chat) {
        let people = People::of(&chat);
        self.known.insert(chat.chat_id, (clean(&chat.name), people));
    }

    /// Shows events behind the cursors, which move along; returns how the stream ended.
    async fn follow(
        &mut self,
        client: &mut Client,
        cursors: &mut BTreeMap<String, u64>,
    ) -> Result<Status> {
        let behind = cursors.iter().filter(|_| !self.is_all);
        let behind =
            behind.map(|(chat, after)| pb::FeedCursor { chat: chat.clone(), after: *after });
        let request = pb::FeedRequest { cursors: behind.collect() };
        let mut feed = opened(client.feed(request)).await?;
        let shown = cursors.clone();
        loop {
            let response = match feed.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Ok(Status::unavailable("the feed has ended")),
                Err(status) => return Ok(status),
            };
            let mut lines = String::new();
            for event in response.events {
                let is_shown = shown.get(&event.chat_id).is_some_and(|it| event.sequence <= *it);
                if is_shown && event.sequence > 0 {
                    continue;
                }
                let is_news = matches!(event.kind, Some(Kind::Member(_) | Kind::Policy(_)));
                if !self.output.is_json() && (is_news || !self.known.contains_key(&event.chat_id)) {
                    // Names of people and chats that have just come.
                    if let Ok(chat) = get_chat(client, &event.chat_id).await {
                        self.learn(chat);
                    }
                }
                let after = cursors.entry(event.chat_id.clone()).or_default();
                *after = event.sequence.max(*after);
                if let Some(line) = self.line(&event) {
                    lines += &line;
                    lines.push('\n');
                }
            }
            self.output.write(&lines)?;
        }
    }

    fn line(&self, event: &pb::Event) -> Option<String> {
        if self.output.is_json() {
            return Some(json::event(event).to_string());
        }
        let nobody = (short(&event.chat_id).to_owned(), People::default());
        let (name, people) = self.known.get(&event.chat_id).unwrap_or(&nobody);
        let text = event_text(self.output, event, people)?;
        Some(match self.one {
            Some(_) => text,
            None => format!("{}  {text}", self.output.bold(name)),
        })
    }
}

/// Shows earlier messages, oldest first.
pub async fn history(global: &Global, args: HistoryArgs) -> Result<()> {
    let output = global.output().with_sequences(args.sequences);
    let mut client = connect(global).await?;
    let chat = pick_chat(&mut client, args.chat.chat.as_deref()).await?;
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
