//! `demes demo`: five real peers on this machine talk, the host is killed in the middle of it, the
//! next one takes over, the killed one comes back, and at the end everything confirmed is
//! everywhere.
//!
//! Read `story` for what happens; `cluster` and `peer` are the processes, `proxy` the distances
//! between them, `timeline` what is shown, and `check` the promise.

pub mod check;
pub mod cluster;
pub mod peer;
pub mod proxy;
pub mod timeline;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use self::check::Confirmed;
use self::cluster::{Cluster, STEP_LIMIT, say};
use self::peer::{Client, until};
use self::timeline::{Moment, Ranked, Started, Timeline, in_ms};
use crate::wire::pb;

/// The people, and how long bytes take to each of them, one way, in milliseconds. Ada founds the
/// chat, though others are better placed to host it.
const PEOPLE: [(&str, u64); 5] = [("Ada", 8), ("Ben", 6), ("Cleo", 2), ("Dan", 12), ("Eve", 4)];
const ADA: usize = 0;
const CHAT: &str = "Friday";
/// Between two lines of the conversation, so that a person can follow.
const PACE: Duration = Duration::from_millis(450);
/// Between two messages around the kill.
const FAST_PACE: Duration = Duration::from_millis(60);

const BEFORE: [(usize, &str); 6] = [
    (0, "Everyone here? Nobody runs a server for this."),
    (1, "Here. So where does it live?"),
    (4, "On our own disks. Most of us have every word."),
    (3, "And who decides what comes first?"),
    (0, "One of us at a time. Right now it is me."),
    (2, "And if you close your laptop?"),
];
const ADAS_LAST: &str = "Let us see. I am pulling the pl";
/// Said at a fast pace while nobody hosts. The next host speaks too.
const MEANWHILE: [(usize, &str); 6] = [
    (1, "Ada?"),
    (2, "She is gone."),
    (4, "Does anyone still read me?"),
    (3, "I do."),
    (1, "Me too, in the same order."),
    (2, "I am the best placed of us: my turn."),
];
const AFTER: [(usize, &str); 3] = [
    (4, "That was quick."),
    (3, "Did she lose what she was saying?"),
    (2, "It waits in her outbox. Wait for her."),
];
const ADAS_RETURN: &str = "Back. And I can read all of it.";

/// Plays the demo. The exit code is 0 only if the final check held. A signal ends it early and
/// takes the peers with it.
///
/// # Errors
/// When a peer cannot be started, or the chat does not get somewhere in time.
pub async fn run(json: bool) -> Result<ExitCode> {
    let timeline = Arc::new(Timeline::new(json));
    tokio::select! {
        held = story(&timeline) => Ok(if held? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        number = stop_signal() => Ok(ExitCode::from(128 + number?)),
    }
}

/// The whole story; whether the final check held.
async fn story(timeline: &Arc<Timeline>) -> Result<bool> {
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    let mut cluster = Cluster::new(&binary, &PEOPLE.map(|(name, _)| name), &delays())?;
    let confirmed = Arc::new(Mutex::new(Confirmed::default()));

    gather(&mut cluster, timeline).await?;
    let talk = Talk { timeline: timeline.clone(), confirmed: confirmed.clone() };
    talk.in_turn(&cluster, &BEFORE).await?;
    show_ranking(&cluster, timeline).await?;
    let interrupted = lose_the_host(&mut cluster, &talk).await?;
    talk.in_turn(&cluster, &AFTER).await?;
    bring_ada_back(&mut cluster, &talk, interrupted).await?;

    let feeds = cluster.feeds(cluster.chat_at(ADA).await?.committed).await?;
    let confirmed = confirmed.lock().unwrap_or_else(PoisonError::into_inner);
    match check::check(&feeds, &confirmed) {
        Ok(check::Seen { feeds, events, messages, confirmed }) => {
            timeline.tell(&Moment::Checked { feeds, events, messages, confirmed });
            Ok(true)
        }
        Err(problems) => {
            timeline.tell(&Moment::CheckFailed { problems });
            Ok(false)
        }
    }
}

/// Five peers start, and Ada gets everyone into her chat.
async fn gather(cluster: &mut Cluster, timeline: &Timeline) -> Result<()> {
    cluster.start_all().await?;
    let started = cluster.peers.iter().zip(delays()).map(|(peer, delay)| Started {
        name: peer.name.clone(),
        peer_id: peer.id.clone(),
        delay_ms: in_ms(delay),
    });
    timeline.tell(&Moment::Started { peers: started.collect() });

    cluster.create(CHAT).await?;
    timeline.tell(&Moment::Founded {
        by: cluster.peers[ADA].name.clone(),
        chat: CHAT.to_owned(),
        chat_id: cluster.chat.clone(),
        invited: cluster.peers.len() - 1,
    });
    for guest in 1..cluster.peers.len() {
        cluster.accept(guest).await?;
        timeline.tell(&Moment::Accepted { name: cluster.peers[guest].name.clone() });
    }
    cluster.settled().await?;
    let chat = cluster.chat_at(ADA).await?;
    timeline.tell(&Moment::Voters { voters: cluster.peers.len(), majority: chat.majority });
    let host = cluster.place_of(&chat.host_peer_id).context("the host is one of the five")?;
    let name = cluster.peers[host].name.clone();
    timeline.tell(&Moment::Host { name, term: chat.term, after_kill_ms: None });
    Ok(())
}

/// The list of candidates, once it is made from everybody's delays and has reached everybody.
async fn show_ranking(cluster: &Cluster, timeline: &Timeline) -> Result<()> {
    let full = |ranking: &pb::Ranking| {
        ranking.candidates.iter().filter(|one| one.farness_us.is_some()).count() == PEOPLE.len()
    };
    let complete = |chat: &pb::Chat| chat.ranking.as_ref().is_some_and(full);
    cluster.all_see("the ranked candidates", complete).await?;
    let ranking = cluster.chat_at(ADA).await?.ranking.unwrap_or_default();
    let ranked = ranking.candidates.iter().map(|candidate| Ranked {
        name: cluster.name_of(&candidate.peer_id),
        farness_ms: candidate.farness_us.map(|us| in_ms(Duration::from_micros(us))),
    });
    timeline.tell(&Moment::Ranking { candidates: ranked.collect() });
    tokio::time::sleep(2 * PACE).await; // time to read it
    Ok(())
}

/// The host is killed in the middle of a sentence, and the others talk on. Returns that sentence.
async fn lose_the_host(cluster: &mut Cluster, talk: &Talk) -> Result<Said> {
    let before = cluster.chat_at(ADA).await?;
    let next_host = next_host(cluster, before.term);
    tokio::pin!(next_host);
    let interrupted = talk.queue(Said::new(cluster, ADA, ADAS_LAST)).await?;
    let pid = cluster.peers[ADA].pid().context("Ada's peer runs")?;
    let killed = Instant::now();
    cluster.peers[ADA].kill()?;
    talk.timeline.tell(&Moment::Killed { name: cluster.peers[ADA].name.clone(), pid });

    let mut under_way = JoinSet::new();
    let mut lines = MEANWHILE.iter();
    let mut pace = tokio::time::interval(FAST_PACE);
    let mut hosted = false;
    let mut first = true;
    let lost = tokio::time::sleep(STEP_LIMIT);
    tokio::pin!(lost);
    while !hosted || lines.len() > 0 || !under_way.is_empty() {
        tokio::select! {
            _ = pace.tick(), if lines.len() > 0 => if let Some((author, text)) = lines.next() {
                under_way.spawn(talk.clone().speak(Said::new(cluster, *author, text)));
            },
            Some(spoken) = under_way.join_next() => {
                let sequence = spoken??;
                if std::mem::take(&mut first) {
                    let after_kill_ms = in_ms(killed.elapsed());
                    talk.timeline.tell(&Moment::Failover { sequence, after_kill_ms });
                }
            },
            host = &mut next_host, if !hosted => {
                let (id, term) = host?;
                let after_kill_ms = Some(in_ms(killed.elapsed()));
                let name = cluster.name_of(&id);
                talk.timeline.tell(&Moment::Host { name, term, after_kill_ms });
                hosted = true;
            },
            () = &mut lost => anyhow::bail!("no host took over:{}", cluster.describe().await),
        }
    }
    tokio::time::sleep(PACE).await;
    Ok(interrupted)
}

/// Ada's peer starts again, gets what it missed, and delivers what it had not got rid of.
async fn bring_ada_back(cluster: &mut Cluster, talk: &Talk, mut interrupted: Said) -> Result<()> {
    let started = Instant::now();
    cluster.peers[ADA].start().await?;
    let name = cluster.peers[ADA].name.clone();
    talk.timeline.tell(&Moment::Back { name: name.clone() });
    let goal = cluster.chat_at(1).await?.committed;
    let sequence = until(STEP_LIMIT, "Ada's peer to catch up", || async {
        let committed = cluster.chat_at(ADA).await.ok()?.committed;
        (committed >= goal).then_some(committed)
    });
    let sequence = sequence.await?;
    let took_ms = in_ms(started.elapsed());
    talk.timeline.tell(&Moment::CaughtUp { name, sequence, took_ms });
    interrupted.client = cluster.peers[ADA].client();
    talk.confirm(interrupted).await?;
    talk.in_turn(cluster, &[(ADA, ADAS_RETURN)]).await
}

/// The first host of a later term that serves, as soon as any of the survivors sees it.
fn next_host(
    cluster: &Cluster,
    above_term: u64,
) -> impl Future<Output = Result<(String, u64)>> + use<> {
    let mut watches = JoinSet::new();
    for survivor in cluster.peers.iter().skip(1) {
        watches.spawn(watch_for_host(survivor.client(), cluster.chat.clone(), above_term));
    }
    async move {
        watches.join_next().await.context("somebody survives")?.context("a watch does not panic")?
    }
}

async fn watch_for_host(
    mut client: Client,
    chat: String,
    above_term: u64,
) -> Result<(String, u64)> {
    let mut watch = client.watch_chat(pb::WatchChatRequest { chat }).await?.into_inner();
    while let Some(change) = watch.message().await? {
        let chat = change.chat.unwrap_or_default();
        if chat.term > above_term && chat.serving && !chat.host_peer_id.is_empty() {
            return Ok((chat.host_peer_id, chat.term));
        }
    }
    anyhow::bail!("a survivor stopped telling about the chat")
}

/// One line of the conversation, and where it is said.
struct Said {
    client: Client,
    chat: String,
    author: String,
    author_id: String,
    text: &'static str,
    request_id: String,
    begun: Instant,
}

impl Said {
    fn new(cluster: &Cluster, author: usize, text: &'static str) -> Self {
        let words = text.chars().filter(char::is_ascii_alphanumeric).take(40);
        let peer = &cluster.peers[author];
        Self {
            client: peer.client(),
            chat: cluster.chat.clone(),
            author: peer.name.clone(),
            author_id: peer.id.clone(),
            text,
            request_id: format!("demo-{}", words.collect::<String>()),
            begun: Instant::now(),
        }
    }
}

/// Says lines, and remembers what was confirmed.
#[derive(Clone)]
struct Talk {
    timeline: Arc<Timeline>,
    confirmed: Arc<Mutex<Confirmed>>,
}

impl Talk {
    /// One line after the other, at a pace that can be read.
    async fn in_turn(&self, cluster: &Cluster, lines: &[(usize, &'static str)]) -> Result<()> {
        for (author, text) in lines {
            self.clone().speak(Said::new(cluster, *author, text)).await?;
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    }

    async fn speak(self, said: Said) -> Result<u64> {
        let said = self.queue(said).await?;
        self.confirm(said).await
    }

    /// Until the line is durable in its author's outbox.
    async fn queue(&self, mut said: Said) -> Result<Said> {
        let request = pb::SendMessageRequest {
            chat: said.chat.clone(),
            text: said.text.to_owned(),
            request_id: said.request_id.clone(),
            wait: pb::Wait::Queued.into(),
        };
        said.client.send_message(request).await?;
        self.timeline.tell(&Moment::Queued {
            author: said.author.clone(),
            text: said.text.to_owned(),
            request_id: said.request_id.clone(),
        });
        Ok(said)
    }

    /// Until a majority has it: the same request again, which is never sent twice.
    async fn confirm(&self, said: Said) -> Result<u64> {
        let sequence = say(said.client.clone(), &said.chat, said.text, &said.request_id).await?;
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.note(&said.author_id, &said.request_id, sequence);
        self.timeline.tell(&Moment::Confirmed {
            author: said.author,
            text: said.text.to_owned(),
            request_id: said.request_id,
            sequence,
            took_ms: in_ms(said.begun.elapsed()),
        });
        Ok(sequence)
    }
}

fn delays() -> [Duration; 5] {
    PEOPLE.map(|(_, delay_ms)| Duration::from_millis(delay_ms))
}

/// The number of the first signal that asks the program to end.
async fn stop_signal() -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
        _ = hang_up.recv() => 1,
    })
}
