//! What happens in the demo, told to a person as a live timeline or to a program as JSON lines.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// A queued message further up than this is not rewritten but told again: it may have scrolled
/// away.
const REWRITE_LINES_MAX: usize = 20;
/// The columns for a message's text.
const TEXT_COLUMNS: usize = 46;

/// One thing that happened.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Moment {
    /// The peers' processes answer calls.
    Started { peers: Vec<Started> },
    /// A chat was founded and invitations went out.
    Founded { by: String, chat: String, chat_id: String, invited: usize },
    /// A person accepted the invitation.
    Accepted { name: String },
    /// Everybody votes.
    Voters { voters: usize, majority: u32 },
    /// A host serves.
    Host { name: String, term: u64, after_kill_ms: Option<f64> },
    /// The line of succession that the host has published.
    Ranking { candidates: Vec<Ranked> },
    /// A message is durable in its sender's outbox.
    Queued { author: String, text: String, request_id: String },
    /// A message is durable at a majority.
    Confirmed { author: String, text: String, request_id: String, sequence: u64, took_ms: f64 },
    /// The host's process was killed.
    Killed { name: String, pid: u32 },
    /// The first message that was sent after the kill is confirmed.
    Failover { sequence: u64, after_kill_ms: f64 },
    /// The killed peer has been started again.
    Back { name: String },
    /// It has everything that the others have.
    CaughtUp { name: String, sequence: u64, took_ms: f64 },
    /// The final check held.
    Checked { feeds: usize, events: u64, messages: u64, confirmed: u64 },
    /// The final check did not hold.
    CheckFailed { problems: Vec<String> },
}

/// A peer of the demo.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Started {
    pub name: String,
    pub peer_id: String,
    /// How long bytes take to it, one way.
    pub delay_ms: f64,
}

/// A ranked candidate.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Ranked {
    pub name: String,
    /// The sum of the shortest delays to and from all others.
    pub farness_ms: Option<f64>,
}

/// Tells moments as they happen. Time counts from `new`.
pub struct Timeline {
    begun: Instant,
    json: bool,
    /// Queued messages are rewritten in place when they are confirmed.
    live: bool,
    colour: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    names: Vec<String>,
    lines: usize,
    /// The line on which a queued message stands, and the time shown there.
    queued: HashMap<String, (usize, String)>,
}

impl Timeline {
    /// Begins now. Colour and rewriting need a terminal, and colour that NO_COLOR is not set.
    pub fn new(json: bool) -> Self {
        let terminal = stdout().is_terminal() && !json;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            begun: Instant::now(),
            json,
            live: terminal,
            colour: terminal && !no_color,
            state: Mutex::default(),
        }
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Tells a moment that happens now. A reader who went away is no error.
    pub fn tell(&self, moment: &Moment) {
        let at = self.begun.elapsed();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text =
            if self.json { json_line(at, moment) } else { self.lines(at, moment, &mut state) };
        let mut out = stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn lines(&self, at: Duration, moment: &Moment, state: &mut State) -> String {
        if let Moment::Started { peers } = moment {
            state.names = peers.iter().map(|peer| peer.name.clone()).collect();
        }
        let text = self.text(moment, &state.names);
        let mut out = String::new();
        let mut clock = self.paint("2", &format!("{:>6.2} s", at.as_secs_f64()));
        if let Moment::Confirmed { request_id, .. } = moment
            && let Some((line, queued_at)) = state.queued.remove(request_id)
        {
            let up = state.lines - line;
            if self.live && up <= REWRITE_LINES_MAX {
                return format!("\x1b[{up}A\r{queued_at}  {text}\x1b[K\x1b[{up}B\r");
            }
        }
        if let Moment::Queued { request_id, .. } = moment {
            state.queued.insert(request_id.clone(), (state.lines, clock.clone()));
        }
        for line in text.lines() {
            out += &format!("{clock}  {line}\n");
            clock = " ".repeat(8);
            state.lines += 1;
        }
        out
    }

    fn text(&self, moment: &Moment, names: &[String]) -> String {
        let who = |name: &str| self.name(name, names);
        let said = |author: &str, text: &str| {
            let padded = format!("{author:<5}");
            let author = padded.replace(author, &who(author));
            format!("{author} {text:<TEXT_COLUMNS$}")
        };
        match moment {
            Moment::Started { peers } => {
                let peers = peers.iter().map(|peer| {
                    format!("{} {}", who(&peer.name), self.paint("2", &ms(peer.delay_ms)))
                });
                let peers = peers.collect::<Vec<_>>().join("  ");
                format!("{peers}\nfive peers, each a process with its own key, disk and distance\n")
            }
            Moment::Founded { by, chat, invited, .. } => {
                format!("{} founds “{chat}” and invites {invited}", who(by))
            }
            Moment::Accepted { name } => format!("{} accepts", who(name)),
            Moment::Voters { voters, majority } => {
                format!("all {voters} vote; a message is confirmed when {majority} disks have it")
            }
            Moment::Host { name, term, after_kill_ms: None } => {
                self.paint("1", &format!("♔ {name} hosts"))
                    + &self.paint("2", &format!("  term {term}"))
            }
            Moment::Host { name, term, after_kill_ms: Some(after) } => {
                let term =
                    self.paint("2", &format!("  term {term}, {} after the kill", ms(*after)));
                self.paint("1;32", &format!("♔ {name} hosts")) + &term
            }
            Moment::Ranking { candidates } => {
                let ranked = candidates.iter().zip(1..).map(|(candidate, place)| {
                    let score = candidate.farness_ms.map_or("unknown".to_owned(), ms);
                    format!("\n  {place}. {} {score:>8}", self.padded(&candidate.name, names))
                });
                let legend = self.paint("2", "shortest delays to and from all others, summed up");
                format!("who hosts next: {legend}{}", ranked.collect::<String>())
            }
            Moment::Queued { author, text, .. } => {
                format!("{} {}", said(author, text), self.paint("33", "QUEUED"))
            }
            Moment::Confirmed { author, text, sequence, took_ms, .. } => {
                let sequence = self.paint("32", &format!("✓ #{sequence}"));
                format!("{} {sequence}  {}", said(author, text), self.paint("2", &ms(*took_ms)))
            }
            Moment::Killed { name, pid } => {
                self.paint("1;31", &format!("✗ kill -9 {pid}: {name}, the host, is gone"))
            }
            Moment::Failover { sequence, after_kill_ms } => {
                let text = format!("⏱ {} from the kill to the next confirmed", ms(*after_kill_ms));
                self.paint("1;32", &format!("{text} message, #{sequence}"))
            }
            Moment::Back { name } => format!("{} is started again", who(name)),
            Moment::CaughtUp { name, sequence, took_ms } => {
                format!("{} has caught up to #{sequence} in {}", who(name), ms(*took_ms))
            }
            Moment::Checked { feeds, events, messages, confirmed } => {
                let all = format!("✓ {feeds} feeds of {events} entries are equal");
                let text = format!(
                    "{all}\n  all {confirmed} confirmed messages are in each of them, once"
                );
                let more = messages.saturating_sub(*confirmed);
                let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
                self.paint("1;32", &(text + &more))
            }
            Moment::CheckFailed { problems } => {
                self.paint("1;31", "✗ the final check failed") + "\n  " + &problems.join("\n  ")
            }
        }
    }

    fn padded(&self, name: &str, names: &[String]) -> String {
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let space = " ".repeat(width.saturating_sub(name.chars().count()));
        self.name(name, names) + &space
    }

    /// A person's name in that person's colour.
    fn name(&self, name: &str, names: &[String]) -> String {
        const COLOURS: [&str; 5] = ["36", "35", "33", "34", "32"];
        let place = names.iter().position(|known| known == name);
        place.map_or(name.to_owned(), |place| self.paint(COLOURS[place % COLOURS.len()], name))
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn json_line(at: Duration, moment: &Moment) -> String {
    #[derive(Serialize)]
    struct At<'a> {
        at_ms: f64,
        #[serde(flatten)]
        moment: &'a Moment,
    }
    let line = At { at_ms: in_ms(at), moment };
    serde_json::to_string(&line).expect("a moment has only text keys and finite numbers") + "\n"
}

/// Milliseconds with a tenth's resolution.
pub fn in_ms(length: Duration) -> f64 {
    (length.as_secs_f64() * 10_000.0).round() / 10.0
}

fn ms(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(live: bool) -> Timeline {
        let state = Mutex::default();
        Timeline { begun: Instant::now(), json: false, live, colour: false, state }
    }

    fn queued() -> Moment {
        let (author, text) = ("Ada".to_owned(), "hello".to_owned());
        Moment::Queued { author, text, request_id: "r1".into() }
    }

    fn confirmed() -> Moment {
        let (author, text, request_id) = ("Ada".into(), "hello".into(), "r1".into());
        Moment::Confirmed { author, text, request_id, sequence: 7, took_ms: 3.06 }
    }

    #[test]
    fn on_a_terminal_a_confirmed_message_replaces_its_queued_line() {
        let timeline = timeline(true);
        let mut state = State::default();
        let first = timeline.lines(Duration::ZERO, &queued(), &mut state);
        assert!(first.contains("Ada   hello") && first.trim_end().ends_with("QUEUED"), "{first:?}");
        timeline.lines(Duration::ZERO, &Moment::Accepted { name: "Ben".into() }, &mut state);
        let second = timeline.lines(Duration::ZERO, &confirmed(), &mut state);
        assert!(second.starts_with("\x1b[2A\r") && second.ends_with("\x1b[2B\r"), "{second:?}");
        assert!(second.contains("✓ #7  3.1 ms"), "{second:?}");
    }

    #[test]
    fn elsewhere_both_lines_stay() {
        let timeline = timeline(false);
        let mut state = State::default();
        timeline.lines(Duration::ZERO, &queued(), &mut state);
        let second = timeline.lines(Duration::ZERO, &confirmed(), &mut state);
        assert!(second.ends_with("✓ #7  3.1 ms\n") && !second.contains('\x1b'), "{second:?}");
    }

    #[test]
    fn a_json_line_is_one_object_with_its_time_and_its_event() {
        let line = json_line(Duration::from_millis(12), &confirmed());
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(object["event"], "confirmed");
        assert_eq!(object["at_ms"], 12.0);
        assert_eq!(object["sequence"], 7);
    }
}
