//! `chat`: a plain chat, line by line. What is typed is sent; what happens is printed.
//!
//! It works with a terminal and with pipes. At the end of the input it stays until its own messages
//! are confirmed, or says what still waits.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, IsTerminal as _};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::client::{Client, connect, get_chat, opened, pick_chat, request_id};
use super::errors::reason_of;
use super::messages::last_messages;
use super::output::{Output, People, chat_state, clean, count, event_text, stdout_closed};
use super::send::checked_text;
use super::{AnyChatArg, Failure, Global, pb};
use crate::wire::reason::Reason;
use pb::event::Kind;

/// How many earlier messages are shown on entering.
const HISTORY: u32 = 20;
/// How long to wait for confirmations when the input has ended.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// What is confirmed sooner than this is not first said to be queued, where the line just typed
/// stands on the screen.
const SAY_QUEUED_AFTER: Duration = Duration::from_millis(500);
/// Lines that have been read and not been sent yet; reading waits beyond it.
const LINES_MAX: usize = 16;

#[derive(Args, Debug)]
pub struct ChatArgs {
    #[command(flatten)]
    chat: AnyChatArg,
}

/// Talks until the input ends.
pub async fn run(global: &Global, args: ChatArgs) -> Result<()> {
    if global.json {
        let text = "`chat` is for people; programs use `demes feed --json` and `demes send --json`";
        return Err(Failure::usage(text).into());
    }
    let mut client = connect(global).await?;
    let chat = pick_chat(&mut client, args.chat.chat.as_deref()).await?;
    let mut talk = Talk {
        output: global.output(),
        people: People::of(&chat),
        state: String::new(),
        after: chat.committed,
        waiting: BTreeMap::new(),
        unsaid: VecDeque::new(),
        is_typed: std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
        chat_id: chat.chat_id.clone(),
        client,
    };
    talk.enter(&chat).await?;
    talk.go_on().await
}

/// One person in one chat.
struct Talk {
    output: Output,
    client: Client,
    chat_id: String,
    people: People,
    /// The last state that was printed.
    state: String,
    /// The last sequence that was printed.
    after: u64,
    /// Own texts that are queued and not confirmed, by request id.
    waiting: BTreeMap<String, String>,
    /// Those of which it was not said yet that they are queued, and when it is to be said.
    unsaid: VecDeque<(Instant, String)>,
    /// Whether a person types, and so sees each line already.
    is_typed: bool,
}

impl Talk {
    /// Prints the chat, who hosts, and what was said before.
    async fn enter(&mut self, chat: &pb::Chat) -> Result<()> {
        let members = chat.members.iter().map(|member| self.people.name(&member.peer_id));
        let members = members.collect::<Vec<_>>().join(", ");
        self.output.line(&format!("{}: {members}", self.output.bold(&clean(&chat.name))))?;
        for event in last_messages(&mut self.client, &self.chat_id, HISTORY, 0).await? {
            self.show(&event)?;
        }
        self.mark_read().await;
        self.show_state(chat)
    }

    async fn go_on(&mut self) -> Result<()> {
        let mut lines = read_lines();
        let mut feed = self.feed().await?;
        let watch = pb::WatchChatRequest { chat: self.chat_id.clone() };
        let mut states = opened(self.client.watch_chat(watch)).await?;
        let mut closed = std::pin::pin!(stdout_closed());
        let mut input_ended = None;
        loop {
            if input_ended.is_some() && self.waiting.is_empty() {
                return Ok(());
            }
            tokio::select! {
                line = lines.recv(), if input_ended.is_none() => match line {
                    Some(line) => self.send(line?).await?,
                    None => input_ended = Some(Instant::now() + CONFIRM_TIMEOUT),
                },
                response = feed.message() => match response {
                    Ok(Some(response)) => self.take(response.events).await?,
                    Ok(None) => return Err(ended().into()),
                    // Our own printing was slow for a while: go on from where it stands.
                    Err(status) if reason_of(&status) == Some(Reason::SlowConsumer) => {
                        feed = self.feed().await?;
                    }
                    Err(status) => return Err(status.into()),
                },
                response = states.message() => match response? {
                    Some(response) => self.show_state(&response.chat.unwrap_or_default())?,
                    None => return Err(ended().into()),
                },
                () = &mut closed => return Ok(()),
                () = sleep_until(self.due()), if !self.unsaid.is_empty() => self.say_queued()?,
                () = sleep_until(input_ended.unwrap_or_else(Instant::now)),
                    if input_ended.is_some() => return self.say_what_waits(),
            }
        }
    }

    async fn feed(&mut self) -> Result<Streaming<pb::FeedResponse>> {
        let cursor = pb::FeedCursor { chat: self.chat_id.clone(), after: self.after };
        let request = pb::FeedRequest { cursors: vec![cursor] };
        Ok(opened(self.client.feed(request)).await?)
    }

    /// Queues one line. A line that cannot be a message is said to be none, and the talk goes on.
    async fn send(&mut self, line: String) -> Result<()> {
        if line.trim().is_empty() {
            return Ok(());
        }
        let line = match checked_text(&line) {
            Ok(line) => line,
            Err(failure) => {
                let said = format!("not sent: {failure}");
                return Ok(self.output.line(&self.output.dim(&said))?);
            }
        };
        let request = pb::SendMessageRequest {
            chat: self.chat_id.clone(),
            text: line.clone(),
            request_id: request_id()?,
            wait: pb::Wait::Queued.into(),
        };
        let request_id = request.request_id.clone();
        self.client.send_message(request).await?;
        let say_at = Instant::now() + if self.is_typed { SAY_QUEUED_AFTER } else { Duration::ZERO };
        self.unsaid.push_back((say_at, request_id.clone()));
        self.waiting.insert(request_id, line);
        if self.is_typed { Ok(()) } else { self.say_queued() }
    }

    fn due(&self) -> Instant {
        self.unsaid.front().map_or_else(Instant::now, |(at, _)| *at)
    }

    /// Says that the oldest line that nothing was said of is queued, unless it is more by now.
    fn say_queued(&mut self) -> Result<()> {
        let unsaid = self.unsaid.pop_front().map(|(_, request_id)| request_id);
        if let Some(line) = unsaid.and_then(|request_id| self.waiting.get(&request_id)) {
            self.output.line(&self.output.dim(&format!("       … queued: {}", clean(line))))?;
        }
        Ok(())
    }

    /// Prints what happened, and tells the others that it was read.
    async fn take(&mut self, events: Vec<pb::Event>) -> Result<()> {
        let before = self.after;
        for event in &events {
            if matches!(event.kind, Some(Kind::Member(_))) {
                // Names of people who have just come.
                self.people = People::of(&get_chat(&mut self.client, &self.chat_id).await?);
            }
            self.show(event)?;
        }
        if self.after > before {
            self.mark_read().await;
        }
        Ok(())
    }

    async fn mark_read(&mut self) {
        let read = pb::MarkReadRequest { chat: self.chat_id.clone(), sequence: self.after };
        // Reading goes on without it, and a lost connection shows in the feed.
        let _ = self.client.mark_read(read).await;
    }

    fn show(&mut self, event: &pb::Event) -> Result<()> {
        self.after = self.after.max(event.sequence);
        let own = match &event.kind {
            Some(Kind::Message(message)) => self.waiting.remove(&message.request_id).is_some(),
            _ => false,
        };
        // Who hosts is printed as part of the state.
        let text = match event.kind {
            Some(Kind::Host(_)) => None,
            _ => event_text(self.output, event, &self.people),
        };
        if let Some(text) = text {
            self.output.line(&if own { format!("{text} ✓") } else { text })?;
        }
        Ok(())
    }

    /// Prints who hosts, or what the chat waits for, when it has changed.
    fn show_state(&mut self, chat: &pb::Chat) -> Result<()> {
        let state = chat_state(chat, &self.people);
        if state != self.state {
            self.output.line(&self.output.dim(&format!("       * {state}")))?;
            self.state = state;
        }
        Ok(())
    }

    fn say_what_waits(&self) -> Result<()> {
        let number = self.waiting.len() as u64;
        let messages = count(number, "message");
        let (are, they) = if number == 1 { ("is", "it") } else { ("are", "they") };
        self.output.line(&format!(
            "{messages} {are} still queued; {they} will be sent when a majority is reachable"
        ))?;
        Ok(())
    }
}

fn ended() -> Status {
    Status::unavailable("the peer has ended the stream")
}

/// The lines of stdin. A thread of its own reads them: it may hang there when the process ends.
fn read_lines() -> mpsc::Receiver<std::io::Result<String>> {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}
