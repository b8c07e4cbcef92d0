//! Chats whose file can no longer be used (R9, R37): it is bad, gone, or not the newest. They begin
//! anew in another incarnation and fetch everything from the other members.
//!
//! That happens by itself, but only once the chat has a host that takes this peer back: until then
//! the file is left as it is. What nobody else has is refused, with words that say what a person
//! can do.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use tokio_util::sync::CancellationToken;

use super::life;
use super::node::{Node, now_ms};
use super::records::{self, ChatRecord};
use crate::links::backoff::Backoff;
use crate::peer::people::joining::{Attempt, Problem};
use crate::protocol::recovery::generation_text;
use crate::protocol::types::{ChatId, Generation, Incarnation};
use crate::runtime::driver::Ended;
use crate::runtime::handle::NotAdded;
use crate::storage::StorageError;
use crate::telemetry::metrics::{Metric, REPAIR_OUTCOME, add};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A chat begins anew at most so often: a disk that spoils everything must not fill the chat's log
/// with one incarnation after the other.
const RENEW_EVERY_MS: u64 = 600_000;

const NOBODY: &str = "Nobody else is known to have it: put back a copy of the file if it is bad, \
                      and start with `demes up --repair`, which takes what is there for the \
                      newest; or give the chat up here with `demes leave`";
const TOO_SOON: &str =
    "It was repaired a short while ago, and is again in some minutes: look at the disk";
const WAITS_FOR_HOST: &str = "It waits for the chat's host, which must take this peer back: a \
                              majority of the voters must be there for that";
const REMOVED: &str = "The others say that this peer is no longer a member: ask to be invited \
                       again, or give the chat up here with `demes leave`";

/// Why an attempt to repair a chat has not led further.
enum Obstacle {
    /// Another one may.
    Wait(String),
    /// None will.
    Final(String),
}

/// Reads the stores of all chats through, one after the other, once after the start: what opening
/// does not read may be bad as well, and others still have it. The loop hears of what is found.
pub async fn check_all(node: Arc<Node>) {
    for chat in node.handle.chats() {
        let reader = chat.reader.clone();
        let checked = tokio::task::spawn_blocking(move || reader.check());
        tokio::select! {
            checked = checked => match checked {
                Ok(Err(error)) if error.needs_repair() => {
                    tracing::error!(chat = ?chat.id, %error, "the check of a chat's store found \
                        damage: it is repaired from the other members; see to the disk");
                }
                // The chat, or this process, has come to its end meanwhile.
                Ok(Err(StorageError::Closed { .. })) => {}
                Ok(Err(error)) => {
                    tracing::warn!(chat = ?chat.id, %error, "a chat's store could not be checked");
                }
                Ok(Ok(())) | Err(_) => {}
            },
            () = node.stop.cancelled() => return,
        }
    }
}

/// What is wrong with a chat that the loop has ended.
pub fn fault(node: &Node, chat: ChatId, why: Ended) -> String {
    match why {
        Ended::BelowOwnPast => "the others know more of this peer than its store does: an older \
                                copy of it was put back"
            .to_owned(),
        Ended::Damaged | Ended::Left => {
            let what = node.dir.damage_of(chat).unwrap_or_default();
            format!("the chat's store is damaged ({what})")
        }
    }
}

/// A chat cannot be gone on with. `why` says what is wrong with it.
pub fn note_damage(chat: ChatId, why: &str) {
    add(Metric::StorageDamages, 1, &[]);
    tracing::error!(
        ?chat,
        fault = why,
        "a chat cannot be gone on with and is repaired from the \
        other members; the other chats go on. `demes status` shows it"
    );
}

/// What a repair is about, and what ends it.
struct Patient {
    chat: ChatId,
    why: String,
    over: CancellationToken,
}

/// Starts the task that asks the others to take this peer back, until it is `over`. What has begun
/// already, anew or not, is gone on with.
pub fn run(
    node: &Arc<Node>,
    chat: ChatId,
    why: String,
    over: CancellationToken,
    begun: Option<(Incarnation, Generation)>,
) {
    let node = Arc::clone(node);
    let patient = Patient { chat, why, over };
    tokio::spawn(async move {
        tokio::select! {
            () = repair(&node, &patient, begun) => {}
            () = patient.over.cancelled() => {}
            () = node.stop.cancelled() => {}
        }
    });
}

async fn repair(node: &Arc<Node>, patient: &Patient, mut begun: Option<(Incarnation, Generation)>) {
    let Patient { chat, why, over } = patient;
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let had_begun = begun.is_some();
        let obstacle = match step(node, patient, &mut begun).await {
            Ok(()) => {
                add(Metric::StorageRepairs, 1, &[KeyValue::new(REPAIR_OUTCOME, "begun_anew")]);
                tracing::info!(?chat, "the chat has begun anew and catches up");
                return;
            }
            Err(obstacle) => obstacle,
        };
        match obstacle {
            Obstacle::Wait(what) => {
                life::tell(node, *chat, over, format!("{why}. {what}"), false).await;
            }
            Obstacle::Final(what) => {
                let fault = format!("{why}. {what}");
                add(Metric::StorageRepairs, 1, &[KeyValue::new(REPAIR_OUTCOME, "failed")]);
                tracing::error!(
                    ?chat,
                    fault,
                    "the chat cannot be repaired: the fault says what to do"
                );
                life::tell(node, *chat, over, fault, true).await;
                return;
            }
        }
        if begun.is_some() != had_begun {
            backoff.reset();
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// One attempt: finds a host, begins anew, and is taken back.
async fn step(
    node: &Arc<Node>,
    patient: &Patient,
    begun: &mut Option<(Incarnation, Generation)>,
) -> Result<(), Obstacle> {
    let Patient { chat, over, .. } = patient;
    let record = records::get(&node.store, *chat).map_err(unwritable)?.unwrap_or_default();
    let contacts = record.contacts();
    if contacts.is_empty() {
        return Err(Obstacle::Final(NOBODY.to_owned()));
    }
    if begun.is_none() {
        find_host(node, patient, &record).await?;
        if is_too_soon(record.renewed_at_ms, now_ms()) {
            return Err(Obstacle::Wait(TOO_SOON.to_owned()));
        }
        *begun = life::begin_anew(node, *chat, over, record).await.map_err(unwritable)?;
    }
    let Some((incarnation, generation)) = *begun else { return over_by_now().await };
    // Only now it counts: a repair that has come to nothing fills nobody's log.
    let noted = life::note_begun(node, *chat, over, (incarnation, generation), now_ms());
    noted.await.map_err(unwritable)?;
    let mut attempt = Attempt::to_come_back(*chat, incarnation, generation, &contacts);
    for turn in 0..attempt.targets() {
        match attempt.make(node, turn).await {
            Ok(()) => {
                return match life::taken_back(node, *chat, over, attempt.contacts()).await {
                    Ok(()) => Ok(()),
                    // The next start goes on with it.
                    Err(NotAdded::Stopping) => over_by_now().await,
                    Err(NotAdded::Failed(what)) => Err(Obstacle::Final(what)),
                };
            }
            Err(Problem::Final(error)) => {
                let reason = error.reason.name();
                tracing::warn!(
                    ?chat,
                    reason,
                    "the host does not take this peer back: ask a member \
                    for a new invitation"
                );
                return Err(Obstacle::Wait(REMOVED.to_owned()));
            }
            Err(Problem::NotYet) => {}
            Err(Problem::Passing(error)) => {
                tracing::debug!(reason = error.reason.name(), "this peer is not taken back yet");
            }
        }
    }
    // It may be the wrong generation that a person has chosen.
    let Some(elsewhere) = attempt.elsewhere() else {
        return Err(Obstacle::Wait(WAITS_FOR_HOST.to_owned()));
    };
    life::hear(node, *chat, over, elsewhere).await;
    let (own, elsewhere) = (generation_text(generation), generation_text(elsewhere));
    Err(Obstacle::Wait(format!(
        "{WAITS_FOR_HOST}. It takes part in generation {own}, and a member was met in {elsewhere}: \
         `demes recover {chat} --follow {elsewhere}` goes there, while the peer is stopped"
    )))
}

/// The repair was ended meanwhile, and this task with it.
async fn over_by_now<T>() -> T {
    std::future::pending().await
}

/// Whether the last time is too short a while ago. A time that is still to come was noted by a
/// clock that went wrong, and says nothing.
fn is_too_soon(renewed_at_ms: u64, now_ms: u64) -> bool {
    now_ms.checked_sub(renewed_at_ms).is_some_and(|since| since < RENEW_EVERY_MS)
}

/// Asks the members until one says that it has the chat, and this peer in it, and that the chat has
/// a host. Without one nobody could take this peer back, and its old vote may be needed yet.
async fn find_host(
    node: &Arc<Node>,
    patient: &Patient,
    record: &ChatRecord,
) -> Result<(), Obstacle> {
    let Patient { chat, over, .. } = patient;
    let contacts = record.contacts();
    let me = node.handle.me().to_string();
    let mut attempt = Attempt::to_come_back(*chat, 0, record.generation, &contacts);
    // What the members say that do not help; the first word counts.
    let mut holders = 0;
    let mut obstacle = None;
    for turn in 0..contacts.len().min(attempt.targets()) {
        let found = match attempt.ask(node, turn).await {
            Ok((_, found)) => found,
            Err(Problem::Final(_)) => {
                obstacle.get_or_insert_with(|| REMOVED.to_owned());
                continue;
            }
            Err(Problem::NotYet) => continue,
            Err(Problem::Passing(error)) => {
                tracing::debug!(reason = error.reason.name(), "a member does not have the chat");
                continue;
            }
        };
        if found.generation != record.generation {
            // R30: only a person decides which course of the chat to take part in.
            life::hear(node, *chat, over, found.generation).await;
            let generation = generation_text(found.generation);
            obstacle.get_or_insert_with(|| {
                format!(
                    "A member has recovered the chat: `demes recover {chat} --follow {generation}` \
                     takes part in that, while the peer is stopped"
                )
            });
        } else if !found.members.iter().any(|member| member.peer_id == me) {
            obstacle.get_or_insert_with(|| REMOVED.to_owned());
        } else if !found.host_peer_id.is_empty() {
            return Ok(());
        } else {
            holders += 1;
        }
    }
    let others = contacts.len();
    let again = "they are asked again and again, and the file is left as it is until then";
    Err(Obstacle::Wait(match obstacle {
        Some(obstacle) => obstacle,
        None if holders == 0 && others == 1 => {
            format!("The other member was not reached, or does not have the chat; {again}")
        }
        None if holders == 0 => {
            format!("None of the {others} other members was reached who has the chat; {again}")
        }
        None => format!(
            "Members that have the chat: {holders} of {others} others, too few for a host; \
             {again}. If the rest are lost for good, `demes recover` on one of those goes on"
        ),
    }))
}

fn unwritable(error: StorageError) -> Obstacle {
    Obstacle::Wait(format!("It cannot be repaired at the moment ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_waits_for_ten_minutes_after_the_last_one_and_not_for_a_wrong_clock() {
        let now = 1_700_000_000_000;
        assert!(!is_too_soon(0, now), "there was none");
        assert!(is_too_soon(now, now) && is_too_soon(now - RENEW_EVERY_MS + 1, now));
        assert!(!is_too_soon(now - RENEW_EVERY_MS, now));
        assert!(!is_too_soon(now + 365 * 24 * 3_600_000, now), "that clock was a year ahead");
    }
}
