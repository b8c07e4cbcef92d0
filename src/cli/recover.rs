//! `recover`: goes on with a chat whose majority is lost for ever (R30). It works on the data
//! directory of a peer that is stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::output::{Table, clean, short};
use super::{ChatArg, Failure, Global};
use crate::config;
use crate::crypto::Identity;
use crate::peer::records::{self, ChatRecord};
use crate::protocol::event::Recovered;
use crate::protocol::log::Log;
use crate::protocol::recovery::{
    Incomparable, LogEnd, Unrecoverable, generation_text, is_drawn, new_generation, outlook,
    parse_generation, recovery,
};
use crate::protocol::types::{ChatId, Generation, MemberState, PeerId, Position};
use crate::storage::{ChatStore, DataDir, StorageError, new_incarnation};

#[derive(Args, Debug)]
pub struct RecoverArgs {
    #[command(flatten)]
    chat: ChatArg,
    /// Where another survivor's log ends, as this command shows it there; once for each
    #[arg(long, value_name = "TERM/INDEX/HASH", value_parser = log_end)]
    survivor: Vec<LogEnd>,
    /// Give up the lost voters, and go on from this machine's log
    #[arg(long)]
    confirm: bool,
    /// Take part in the recovery that another survivor made
    #[arg(long, value_name = "GENERATION", value_parser = generation,
          conflicts_with_all = ["confirm", "survivor"])]
    follow: Option<Generation>,
}

fn log_end(text: &str) -> Result<LogEnd, String> {
    text.parse().map_err(|_| "must be what `demes recover CHAT` shows there".into())
}

fn generation(text: &str) -> Result<Generation, String> {
    let generation = parse_generation(text);
    generation.ok_or_else(|| "must be the 16 digits that the recovery has shown".into())
}

/// Shows how far this machine's log is, recovers the chat from it, or follows a recovery.
pub fn run(global: &Global, args: RecoverArgs) -> Result<()> {
    let path = config::locate(&global.arguments())?.0;
    if !path.join("chats").is_dir() {
        return Err(Failure::refused(format!("no peer has ever run on {}", path.display())).into());
    }
    let dir = DataDir::open(&path).map_err(storage)?;
    let identity = Identity::load_or_create(&path);
    let identity = identity.map_err(|error| Failure::disk(error.to_string()))?;
    let found = Known::of(&dir)?.find(&dir, &args.chat.chat)?;
    if let Some(generation) = args.follow {
        return follow(global, &dir, &found, generation);
    }
    let chat = found.chat;
    let (store, recovered) = dir.open_chat(chat).map_err(|error| found.unusable(error))?;
    let survivor = Survivor::new(chat, identity.peer_id(), recovered);
    for other in &args.survivor {
        survivor.compare(other)?;
    }
    if args.confirm {
        return survivor.recover(global, &identity, store);
    }
    global.output().emit(|| survivor.json(), || survivor.text())?;
    Ok(())
}

/// What one survivor's store says of the chat.
struct Survivor {
    chat: ChatId,
    me: PeerId,
    end: LogEnd,
    /// As if everything in it were confirmed.
    log: Log,
    recovered: Recovered,
}

impl Survivor {
    fn new(chat: ChatId, me: PeerId, recovered: Recovered) -> Self {
        let (end, log) = (LogEnd::of(&recovered), outlook(&recovered));
        Self { chat, me, end, log, recovered }
    }

    fn name(&self) -> String {
        clean(&self.log.state().chat_name)
    }

    /// Refuses to go on where `other` is further.
    fn compare(&self, other: &LogEnd) -> Result<(), Failure> {
        let here = self.end;
        match here.is_behind(other) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Failure::refused(format!(
                "the survivor at {} is further than this machine at {}\n\
                 recover the chat there: `demes recover {} --confirm --survivor {here}`",
                place(other.last),
                place(here.last),
                short(&self.chat.to_string()),
            ))),
            Err(Incomparable::Generation) => Err(Failure::refused(format!(
                "the survivor at {} takes part in another recovery of the chat than this machine\n\
                 only those of one generation can be compared: this one is {}, that one {}",
                place(other.last),
                generation_text(here.generation),
                generation_text(other.generation),
            ))),
            Err(Incomparable::Contradiction) => Err(Failure::refused(format!(
                "the survivor at {} has another history than this machine\n\
                 that is not a word of this chat, or one of the two logs is wrong",
                place(other.last),
            ))),
        }
    }

    fn recover(self, global: &Global, identity: &Identity, mut store: ChatStore) -> Result<()> {
        let generation = new_generation(new_incarnation().map_err(storage)?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let (chat, me) = (self.chat, self.me);
        let sign = |bytes: &[u8]| identity.sign(bytes);
        let change = recovery(chat, me, &self.recovered, generation, now_ms, sign);
        let change = change.map_err(unrecoverable)?;
        store.persist(&change).map_err(storage)?;
        global.output().emit(
            || {
                let mut value = self.json();
                value["generation"] = generation_text(generation).into();
                value
            },
            || self.done_text(generation),
        )?;
        Ok(())
    }

    fn text(&self) -> String {
        let (name, id) = (self.name(), self.chat.to_string());
        let (last, commit) = (self.end.last, self.recovered_commit());
        let voters = self.log.voters();
        let chat = short(&id);
        let mut text = format!(
            "{name} ({id})\n  this machine's log ends at\n    {}\n  known to be confirmed up to \
             {commit} of {}; {} of {} voters make a majority\n",
            self.end,
            last.index,
            voters.majority(),
            voters.len(),
        );
        if self.recovered.tail_in_doubt {
            text += "  its last entries may have been lost with the power\n";
        }
        text += "\nmembers, as far as this machine knows\n";
        text += &self.members();
        text += &format!(
            "\n\
             Nothing has been changed. While a majority of the voters can come back, wait for it:\n\
             recovering gives up the others, and those who come back later have to follow.\n\n\
             1. stop the peers of all survivors, and run `demes recover {chat}` on each\n\
             2. on the one whose log ends furthest (greatest term, then index):\n   \
                demes recover {chat} --confirm --survivor TERM/INDEX/HASH  \
                (of each of the others)\n\
             3. on the others, what that shows\n\n\
             What only the lost voters had beyond {} is lost then, confirmed or not.\n",
            place(last),
        );
        text
    }

    fn done_text(&self, generation: Generation) -> String {
        let (chat, id) = (self.name(), self.chat.to_string());
        format!(
            "{chat} is recovered: this machine is its only voter, in generation {generation}\n\
             what others had beyond {last} is lost, confirmed or not\n\n\
             start this peer again with `demes up`; every other survivor takes part, stopped, \
             with\n  \
             demes recover {short} --follow {generation}\n\
             it keeps its old store aside and fetches the chat from here\n",
            generation = generation_text(generation),
            last = place(self.end.last),
            short = short(&id),
        )
    }

    fn members(&self) -> String {
        let mut table = Table::new(["NAME", "PEER", "STATE", "VOTES", "KNOWN TO HAVE"]);
        for (peer, member) in self.log.state().members.iter() {
            let known = match *peer == self.me {
                true => format!("{} (this machine)", place(self.end.last)),
                false => self.acknowledged(peer).map_or_else(|| "-".into(), place),
            };
            table.row(vec![
                clean(&member.name),
                short(&peer.to_string()).into(),
                state(member.state).into(),
                if self.log.voters().contains(peer) { "yes" } else { "no" }.into(),
                known,
            ]);
        }
        table.render("  ")
    }

    fn json(&self) -> Value {
        let members = self.log.state().members.iter().map(|(peer, member)| {
            json!({
                "peer_id": peer.to_string(),
                "name": member.name,
                "address": member.address,
                "state": state(member.state),
                "voter": self.log.voters().contains(peer),
                "this_machine": *peer == self.me,
                "acknowledged": self.acknowledged(peer).map(place),
            })
        });
        json!({
            "chat_id": self.chat.to_string(),
            "name": self.log.state().chat_name,
            "survivor": self.end.to_string(),
            "generation": generation_text(self.end.generation),
            "committed": self.recovered_commit(),
            "last": self.end.last.index,
            "term": self.end.last.term,
            "tail_in_doubt": self.recovered.tail_in_doubt,
            "members": members.collect::<Vec<_>>(),
        })
    }

    fn recovered_commit(&self) -> u64 {
        self.recovered.commit.min(self.end.last.index)
    }

    /// How far this machine remembers another's log to be.
    fn acknowledged(&self, peer: &PeerId) -> Option<Position> {
        let pasts = self.recovered.pasts.iter().filter(|((other, _), _)| other == peer);
        pasts.map(|(_, past)| past.acknowledged).max().filter(|known| known.index > 0)
    }
}

fn place(position: Position) -> String {
    format!("{}/{}", position.term, position.index)
}

fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Invited => "invited",
        MemberState::Active => "active",
        MemberState::Leaving => "leaving",
    }
}

/// Begins the chat anew in a generation that others recovered, or in which it was founded.
fn follow(global: &Global, dir: &DataDir, found: &Found, generation: Generation) -> Result<()> {
    let chat = found.chat;
    let takes_part = match dir.open_chat(chat) {
        Ok((_, recovered)) => recovered.generation == generation,
        // What cannot be opened begins anew all the same.
        Err(error) if error.needs_repair() => false,
        Err(error) => return Err(storage(error).into()),
    };
    if takes_part {
        return Err(Failure::refused("this machine takes part in that recovery already").into());
    }
    let is_heard = found.record.heard.contains(&generation);
    if generation != 0 && !is_drawn(generation) && !is_heard {
        return Err(found.mistyped(generation).into());
    }
    let incarnation = new_incarnation().map_err(storage)?;
    let anew = dir.follow(chat, incarnation, generation).map_err(storage)?;
    let kept_at = anew.kept_at.map(|path| path.display().to_string());
    global.output().emit(
        || {
            let generation = generation_text(generation);
            json!({
                "chat_id": chat.to_string(),
                "generation": generation,
                "heard": is_heard,
                "kept_at": kept_at,
            })
        },
        || {
            let kept_at = kept_at.as_deref().unwrap_or("nowhere: there was none");
            let unheard = match is_heard {
                true => "",
                false => "no member has been heard of in it from here yet\n",
            };
            format!(
                "this machine takes part in generation {} of the chat\n{unheard}\
                 the old store is kept at {kept_at}\n\
                 start this peer again with `demes up`: it fetches the chat from the others\n",
                generation_text(generation),
            )
        },
    )?;
    Ok(())
}

/// The chats that this machine knows of, by whatever is left of them.
struct Known {
    records: BTreeMap<ChatId, ChatRecord>,
    kept: Vec<(ChatId, PathBuf)>,
    chats: BTreeSet<ChatId>,
}

/// One of them.
struct Found {
    chat: ChatId,
    /// What the peer's own store knows of it.
    record: ChatRecord,
    /// The store that was set aside last.
    kept: Option<PathBuf>,
}

impl Known {
    fn of(dir: &DataDir) -> Result<Self, Failure> {
        let mut chats: BTreeSet<ChatId> = dir.chats().map_err(storage)?.into_iter().collect();
        let kept = dir.kept_aside().map_err(storage)?;
        chats.extend(kept.iter().map(|(chat, _)| *chat));
        let mut records = BTreeMap::new();
        // Without the peer's own store, the chats' files tell what they can.
        if let Ok(store) = dir.peer_store() {
            for chat in records::chats(&store).unwrap_or_default() {
                records.insert(chat, records::get(&store, chat).ok().flatten().unwrap_or_default());
            }
        }
        chats.extend(records.keys());
        Ok(Self { records, kept, chats })
    }

    /// The one chat whose id begins with `text`, or whose name it is.
    fn find(mut self, dir: &DataDir, text: &str) -> Result<Found, Failure> {
        let begins = |chat: &&ChatId| chat.to_string().starts_with(text);
        let mut found: Vec<_> = self.chats.iter().filter(begins).copied().collect();
        if found.is_empty() || text.is_empty() {
            let named = self.chats.iter().filter(|chat| self.name(dir, **chat) == text);
            found = named.copied().collect();
        }
        let [chat] = found[..] else {
            let ids: Vec<_> = self.chats.iter().map(ToString::to_string).collect();
            return Err(Failure::refused(match found[..] {
                [] => format!(
                    "no chat here is called {text:?}\nthis machine's chats are: {}",
                    ids.join(", ")
                ),
                _ => "several chats match that: use more of the chat's id".to_owned(),
            }));
        };
        let mut kept = self.kept.into_iter().filter(|(other, _)| *other == chat);
        Ok(Found {
            chat,
            record: self.records.remove(&chat).unwrap_or_default(),
            kept: kept.next_back().map(|(_, path)| path),
        })
    }

    fn name(&self, dir: &DataDir, chat: ChatId) -> String {
        match dir.open_chat(chat) {
            Ok((_, recovered)) => outlook(&recovered).state().chat_name.clone(),
            Err(_) => self.records.get(&chat).map_or_else(String::new, |it| it.name.clone()),
        }
    }
}

impl Found {
    /// Why nothing can be read here that a chat could be recovered from, and what there is to do.
    fn unusable(&self, error: StorageError) -> Failure {
        if !error.needs_repair() {
            return storage(error);
        }
        let id = self.chat.to_string();
        let id = short(&id);
        let mut text = format!(
            "{error}\n\
             this machine cannot recover the chat: it is done on a survivor whose store is whole,\n\
             and here `demes recover {id} --follow GENERATION` takes part in that"
        );
        if let Some(path) = &self.kept {
            text += &format!("\na store of it was set aside at {}", path.display());
        }
        Failure::disk(text)
    }

    fn mistyped(&self, generation: Generation) -> Failure {
        let heard = self.record.heard.iter().copied().map(generation_text).collect::<Vec<_>>();
        let heard = match heard[..] {
            [] => {
                "no member has been heard of in another generation than this machine's".to_owned()
            }
            _ => format!("members have been heard of in: {}", heard.join(", ")),
        };
        Failure::refused(format!(
            "{} is no generation that a recovery has drawn: look at its digits again\n{heard}",
            generation_text(generation)
        ))
    }
}

fn unrecoverable(why: Unrecoverable) -> Failure {
    Failure::refused(match why {
        Unrecoverable::NotMember => {
            "this machine's log does not say that it takes part in the chat: recover the chat on a \
             survivor that does"
        }
        Unrecoverable::Incomplete => {
            "this machine has not fetched the chat as far as the recovery that it takes part in: \
             recover the chat on a survivor that has"
        }
        Unrecoverable::OnlyVoter => {
            "this machine is the chat's only voter: nothing is lost, start it with `demes up`"
        }
    })
}

fn storage(error: StorageError) -> Failure {
    match error {
        StorageError::InUse { .. } => {
            Failure::refused(format!("{error}\n`demes recover` works while the peer is stopped"))
        }
        error => Failure::disk(error.to_string()),
    }
}
