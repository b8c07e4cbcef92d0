//! `chat`: a plain chat, line by line. What is typed is sent; what happens is printed.
//!
//! It works at terminals, with an editor where they can do what one needs, and with pipes. At the
//! end of the input it stays until its own messages are confirmed, or says what still waits.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

use super::client::{Client, connect, get_chat, opened, pick_chat, request_id};
use super::errors::{EXIT_INTERRUPTED, EXIT_QUEUED, EXIT_TERMINATED, of_status, reason_of};
use super::messages::last_messages;
use super::output::{Output, People, chat_state, clean, count, event_text, hanging, stdout_closed};
use super::send::checked_text;
use super::slash::{HELP, Said, read};
use super::typing::{Screen, Typed, open};
use super::{AnyChatArg, Failure, Global, pb};
use crate::wire::reason::Reason;
use pb::event::Kind;

/// How many earlier messages are shown on entering.
const HISTORY: u32 = 20;
/// How long to wait for confirmations when the input has ended.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take to say what is queued: who leaves does not wait for one that hangs.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// What is confirmed sooner than this is not first said to be queued.
const SAY_QUEUED_AFTER: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub struct ChatArgs {
    #[command(flatten)]
    chat: AnyChatArg,
}

/// Talks until the input ends.
pub async fn run(global: &Global, args: ChatArgs) -> Result<ExitCode> {
    if global.json {
        let text = "`chat` is for people; programs use `demes feed --json` and `demes send --json`";
        return Err(Failure::usage(text).into());
    }
    let mut client = connect(global).await?;
    let chat = pick_chat(&mut client, args.chat.chat.as_deref()).await?;
    let me = client.get_peer(pb::GetPeerRequest {}).await?.into_inner().peer_id;
    // Before the editor, which has the keyboard to itself for a while and puts back what was there.
    let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let output = global.output();
    let (typed, screen) = open(output);
    let mut talk = Talk {
        output,
        screen,
        people: People::of(&chat),
        state: String::new(),
        after: chat.committed,
        waiting: BTreeMap::new(),
        unsaid: VecDeque::new(),
        chat_id: chat.chat_id.clone(),
        me,
        client,
    };
    talk.enter(&chat).await?;
    talk.go_on(typed, signals).await
}

/// One person in one chat.
struct Talk {
    output: Output,
    screen: Screen,
    client: Client,
    chat_id: String,
    /// The own peer's id.
    me: String,
    people: People,
    /// The last state that was printed.
    state: String,
    /// The last sequence that was printed.
    after: u64,
    /// Own texts that are queued and not confirmed, by request id.
    waiting: BTreeMap<String, String>,
    /// Those of which it was not said yet that they are queued, and when it is to be said.
    unsaid: VecDeque<(Instant, String)>,
}

impl Talk {
    /// Prints the chat, who hosts, and what was said before.
    async fn enter(&mut self, chat: &pb::Chat) -> Result<()> {
        let members = chat.members.iter().map(|member| self.people.name(&member.peer_id));
        let members = members.collect::<Vec<_>>().join(", ");
        let name = self.output.bold(&clean(&chat.name));
        self.screen.line(&format!("{name}: {members}")).await?;
        for event in last_messages(&mut self.client, &self.chat_id, HISTORY, 0).await? {
            self.show(&event).await?;
        }
        self.mark_read().await;
        if self.screen.is_typed {
            self.notice("/help says what can be typed here").await?;
        }
        self.show_state(chat).await
    }

    async fn go_on(
        &mut self,
        mut typed: mpsc::Receiver<io::Result<Typed>>,
        [mut interrupted, mut terminated]: [Signal; 2],
    ) -> Result<ExitCode> {
        let mut feed = self.feed().await?;
        let watch = pb::WatchChatRequest { chat: self.chat_id.clone() };
        let mut states = opened(self.client.watch_chat(watch)).await?;
        let mut closed = std::pin::pin!(stdout_closed());
        let mut input_ended = None;
        loop {
            if input_ended.is_some() && self.waiting.is_empty() {
                return self.leave(0).await;
            }
            tokio::select! {
                what = typed.recv(), if input_ended.is_none() => {
                    let what = what.unwrap_or(Ok(Typed::End))?;
                    if what == Typed::Interrupt {
                        return self.leave(EXIT_INTERRUPTED).await;
                    }
                    if !self.take_typed(what).await? {
                        input_ended = Some(Instant::now() + CONFIRM_TIMEOUT);
                        self.say_that_it_waits().await?;
                    }
                }
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
                    Some(response) => {
                        self.show_state(&response.chat.unwrap_or_default()).await?;
                    }
                    None => return Err(ended().into()),
                },
                () = &mut closed => return Ok(ExitCode::SUCCESS),
                _ = interrupted.recv() => return self.leave(EXIT_INTERRUPTED).await,
                _ = terminated.recv() => return self.leave(EXIT_TERMINATED).await,
                () = sleep_until(self.due()), if !self.unsaid.is_empty() => {
                    self.say_queued().await?;
                }
                () = sleep_until(input_ended.unwrap_or_else(Instant::now)),
                    if input_ended.is_some() => return self.leave(0).await,
            }
        }
    }

    async fn feed(&mut self) -> Result<Streaming<pb::FeedResponse>> {
        let cursor = pb::FeedCursor { chat: self.chat_id.clone(), after: self.after };
        let request = pb::FeedRequest { cursors: vec![cursor] };
        Ok(opened(self.client.feed(request)).await?)
    }

    /// Does what was typed. False when it was the end.
    async fn take_typed(&mut self, what: Typed) -> Result<bool> {
        let line = match what {
            Typed::Line(line) => line,
            Typed::NoText if self.screen.is_edited() => {
                self.notice("what came from the keyboard is no text (UTF-8): left out").await?;
                return Ok(true);
            }
            Typed::NoText => {
                self.notice("not sent: the line is no text (UTF-8)").await?;
                return Ok(true);
            }
            Typed::End | Typed::Interrupt => return Ok(false),
        };
        match read(&line) {
            Said::Nothing => {}
            Said::Quit => return Ok(false),
            Said::Help => self.screen.line(HELP).await?,
            Said::Who => self.say_who().await?,
            Said::Unclear(why) => self.notice(&format!("not sent: {why}")).await?,
            Said::Text(text) => self.send(&text).await?,
        }
        Ok(true)
    }

    /// Queues one text. One that cannot be a message is said to be none, and the talk goes on.
    async fn send(&mut self, text: &str) -> Result<()> {
        let text = match checked_text(text) {
            Ok(text) => text,
            Err(failure) => return self.notice(&format!("not sent: {failure}")).await,
        };
        let request = pb::SendMessageRequest {
            chat: self.chat_id.clone(),
            text: text.clone(),
            request_id: request_id()?,
            wait: pb::Wait::Queued.into(),
        };
        let request_id = request.request_id.clone();
        if let Err(status) = self.client.send_message(request).await {
            if reason_of(&status).is_none() {
                return Err(status.into());
            }
            return self.notice(&format!("not sent: {}", of_status(&status))).await;
        }
        let say_in = if self.screen.is_typed { SAY_QUEUED_AFTER } else { Duration::ZERO };
        self.unsaid.push_back((Instant::now() + say_in, request_id.clone()));
        self.waiting.insert(request_id, text);
        if self.screen.is_typed { Ok(()) } else { self.say_queued().await }
    }

    fn due(&self) -> Instant {
        self.unsaid.front().map_or_else(Instant::now, |(at, _)| *at)
    }

    /// Says that the oldest line that nothing was said of is queued, unless it is more by now.
    async fn say_queued(&mut self) -> Result<()> {
        let unsaid = self.unsaid.pop_front().map(|(_, request_id)| request_id);
        let unsaid = unsaid.and_then(|request_id| self.waiting.get(&request_id));
        match unsaid.map(|text| hanging(&clean(text))) {
            Some(text) => {
                let said = self.output.dim(&format!("       … queued: {text}"));
                Ok(self.screen.line(&said).await?)
            }
            None => Ok(()),
        }
    }

    async fn say_who(&mut self) -> Result<()> {
        let chat = get_chat(&mut self.client, &self.chat_id).await?;
        for member in &chat.members {
            let name = self.people.name(&member.peer_id);
            let mut is = Vec::new();
            is.extend((member.peer_id == self.me).then_some("you"));
            is.extend((member.peer_id == chat.host_peer_id && chat.serving).then_some("hosts"));
            is.extend((!member.reachable && member.peer_id != self.me).then_some("away"));
            match is.is_empty() {
                true => self.notice(&name).await?,
                false => self.notice(&format!("{name} ({})", is.join(", "))).await?,
            }
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
            self.show(event).await?;
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

    async fn show(&mut self, event: &pb::Event) -> Result<()> {
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
        // At a terminal that cannot take it off the screen, the own line stands there already.
        if own && self.screen.is_typed && !self.screen.is_edited() {
            return Ok(self.screen.line("       ✓").await?);
        }
        if let Some(text) = text {
            self.screen.line(&if own { format!("{text} ✓") } else { text }).await?;
        }
        Ok(())
    }

    /// Prints who hosts, or what the chat waits for, when it has changed.
    async fn show_state(&mut self, chat: &pb::Chat) -> Result<()> {
        let state = chat_state(chat, &self.people);
        if state != self.state {
            self.notice(&state).await?;
            self.state = state;
        }
        Ok(())
    }

    async fn notice(&self, text: &str) -> Result<()> {
        let text = self.output.dim(&format!("       * {}", indented(text)));
        Ok(self.screen.line(&text).await?)
    }

    /// A person who leaves is told why the program does not, yet.
    async fn say_that_it_waits(&self) -> Result<()> {
        if self.waiting.is_empty() || !self.screen.is_typed {
            return Ok(());
        }
        let (messages, are) =
            (count(self.waiting.len() as u64, "message"), are(self.waiting.len()));
        let text = format!("{messages} {are} not confirmed yet; Ctrl-C leaves without waiting");
        self.notice(&text).await
    }

    /// Says what is queued, of earlier talks too, and how to exit.
    async fn leave(&mut self, code: u8) -> Result<ExitCode> {
        let asked = timeout(LEAVE_TIMEOUT, get_chat(&mut self.client, &self.chat_id)).await;
        // A peer that has just gone keeps what is queued.
        let queued = asked.ok().and_then(Result::ok).map_or(0, |chat| chat.queued);
        let queued = queued.max(self.waiting.len() as u64);
        self.screen.close();
        if queued == 0 {
            return Ok(ExitCode::from(code));
        }
        let (messages, are) = (count(queued, "message"), are(queued as usize));
        let they = if queued == 1 { "it" } else { "they" };
        let text = format!(
            "{messages} {are} still queued; {they} will be sent when a majority is reachable"
        );
        self.screen.line(&text).await?;
        Ok(ExitCode::from(if code == 0 { EXIT_QUEUED } else { code }))
    }
}

fn are(number: usize) -> &'static str {
    if number == 1 { "is" } else { "are" }
}

/// A notice of several lines, the others below the first.
fn indented(text: &str) -> String {
    text.replace('\n', "\n       ")
}

fn ended() -> Status {
    Status::unavailable("the peer has ended the stream")
}
