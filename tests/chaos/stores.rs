//! What is done to the files of peers, and to who belongs to the chat.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use demes::cli::demo::peer::{Peer, until};
use demes::protocol::types::Position;
use demes::wire::pb;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::arena::Arena;
use crate::sandbox::run;

/// How long a command or a call may take that a person makes once.
const LIMIT: Duration = Duration::from_secs(20);
/// So many messages are looked for in a store: the last ones may not have come.
const SOUGHT_MAX: usize = 50;
/// Messages that are given to a twin.
const TWIN_SAYS: u32 = 5;

impl Arena {
    /// Copies the directory of a peer that is down.
    pub async fn copy(&mut self, peer: usize) -> Result<()> {
        self.cluster.peers[peer].gone().await?;
        let to = self.cluster.peers[peer].dir.join("copy");
        copy_all(&self.cluster.peers[peer].data_dir(), &to)?;
        self.copies.insert(peer, to);
        Ok(())
    }

    /// Puts the copy back.
    pub async fn put_back(&mut self, peer: usize) -> Result<()> {
        self.cluster.peers[peer].gone().await?;
        let copy = self.copies.get(&peer).context("it was copied before")?;
        copy_all(copy, &self.cluster.peers[peer].data_dir())?;
        self.world.history.forget_queue(peer);
        Ok(())
    }

    /// Changes a letter of one message, wherever copies of it stand.
    pub async fn damage(&mut self, peer: usize) -> Result<()> {
        self.cluster.peers[peer].gone().await?;
        let store = self.store_of(peer);
        let mut bytes = fs::read(&store)?;
        let confirmed = self.world.history.confirmed_before_the_middle();
        let mut found = confirmed.iter().take(SOUGHT_MAX).map(|number| {
            let text = crate::common::text(*number as u64);
            // What differs from message to message stands in front.
            let sought = &text.as_bytes()[..17];
            let windows = bytes.windows(sought.len()).enumerate();
            windows.filter(|(_, window)| *window == sought).map(|(place, _)| place).collect()
        });
        let places = found.find(|places: &Vec<usize>| !places.is_empty());
        let places = places.context("the store has one of the messages")?;
        for place in places {
            bytes[place] ^= 1;
        }
        Ok(fs::write(store, bytes)?)
    }

    /// Deletes the store.
    pub async fn lose(&mut self, peer: usize) -> Result<()> {
        self.cluster.peers[peer].gone().await?;
        fs::remove_file(self.store_of(peer))?;
        self.world.history.forget_queue(peer);
        Ok(())
    }

    fn store_of(&self, peer: usize) -> PathBuf {
        let name = format!("chats/{}.redb", self.cluster.chat);
        self.cluster.peers[peer].data_dir().join(name)
    }

    /// Recovers the chat where its log is furthest, and lets the others follow (R30). All are down.
    pub async fn recover(&mut self) -> Result<()> {
        let mut furthest = None;
        for peer in 0..self.cluster.peers.len() {
            self.cluster.peers[peer].gone().await?;
            let said = self.recover_at(peer, &[]).await?;
            let number = |key: &str| said[key].as_u64().context("it says how far it is");
            let end = Position { term: number("term")?, index: number("last")? };
            furthest = furthest.max(Some((end, peer)));
        }
        let (_, survivor) = furthest.context("a chat has peers")?;
        let said = self.recover_at(survivor, &["--confirm"]).await?;
        let generation = said["generation"].as_str().context("it says the generation")?.to_owned();
        for peer in (0..self.cluster.peers.len()).filter(|peer| *peer != survivor) {
            self.world.set_harmed(peer);
            // It begins the chat anew, and does that no second time within ten minutes.
            self.renewed.insert(peer);
            self.recover_at(peer, &["--follow", &generation]).await?;
        }
        Ok(())
    }

    async fn recover_at(&self, peer: usize, flags: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(self.cluster.peers[peer].data_dir());
        command.args(["recover", &self.cluster.chat, "--json"]).args(flags).kill_on_drop(true);
        let output = timeout(LIMIT, command.output()).await.context("it ends by itself")??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "demes recover {}: {said}", flags.join(" "));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Starts another process with a copy of a peer's directory. People write there as well.
    pub async fn start_twin(&mut self, peer: usize) -> Result<()> {
        self.renewed.insert(peer);
        self.world.set_harmed(peer);
        self.stop(peer).await?;
        let mut twin = Peer::new(&self.binary, self.cluster.root(), "Twin", self.spare_place()?)?;
        copy_all(&self.cluster.peers[peer].data_dir(), &twin.data_dir())?;
        self.start(peer).await?;
        twin.start().await?;
        for _ in 0..TWIN_SAYS {
            let (world, client) = (self.world.clone(), twin.client());
            tokio::spawn(async move { world.send_through(client, peer).await });
        }
        self.twin = Some(twin);
        Ok(())
    }

    /// Ends it.
    pub async fn end_twin(&mut self) -> Result<()> {
        let mut twin = self.twin.take().context("there is one")?;
        twin.kill()?;
        twin.gone().await?;
        Ok(())
    }

    /// These leave, all at once. It is over when the last of them is rid of the chat.
    pub async fn leave(&mut self, peers: &[usize]) -> Result<()> {
        let leaving = peers.iter().map(|peer| {
            self.world.set_harmed(*peer);
            self.world.set_client(*peer, None);
            let request =
                pb::LeaveChatRequest { chat: self.cluster.chat.clone(), ..Default::default() };
            let mut client = self.cluster.peers[*peer].client();
            async move { timeout(LIMIT, client.leave_chat(request)).await }
        });
        let left = futures_util::future::join_all(leaving).await;
        for (answer, peer) in left.into_iter().zip(peers) {
            let name = &self.cluster.peers[*peer].name;
            let answer = answer.with_context(|| format!("{name} does not leave in {LIMIT:?}"))?;
            answer.with_context(|| format!("{name} cannot leave"))?;
        }
        let out = until(LIMIT, "all who leave to be out", || async {
            for peer in peers {
                let mut client = self.cluster.peers[*peer].client();
                let list = client.list_chats(pb::ListChatsRequest {}).await.ok()?;
                let is_in = |chat: &pb::Chat| chat.chat_id == self.cluster.chat;
                if list.into_inner().chats.iter().any(is_in) {
                    return None;
                }
            }
            Some(())
        });
        match out.await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.cluster.describe().await)),
        }
    }

    /// The last thing of a chat: all are there once more, and leave at once.
    pub async fn everybody_leaves(&mut self) -> Result<()> {
        for peer in 0..self.cluster.peers.len() {
            self.start(peer).await?;
        }
        self.settle().await?;
        self.leave(&(0..self.cluster.peers.len()).collect::<Vec<_>>()).await
    }

    /// Who left is invited again by one who did not.
    pub async fn come_back(&mut self, peers: &[usize]) -> Result<()> {
        let stays = (0..self.cluster.peers.len()).find(|peer| !peers.contains(peer));
        let stays = stays.context("one has stayed")?;
        for peer in peers {
            let request = || pb::InviteMemberRequest {
                chat: self.cluster.chat.clone(),
                address: self.cluster.peers[*peer].address().to_string(),
                timeout_s: 0,
                ..Default::default()
            };
            until(LIMIT, "an invitation to be taken", || async {
                self.cluster.peers[stays].client().invite_member(request()).await.ok()
            })
            .await?;
            self.cluster.accept(*peer).await?;
            self.world.set_client(*peer, Some(self.cluster.peers[*peer].client()));
        }
        Ok(())
    }
}

/// Makes `to` hold what `from` holds, and nothing else. Either may be a disk of its own.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for item in fs::read_dir(to)? {
        let item = item?;
        match item.file_type()?.is_dir() {
            true => fs::remove_dir_all(item.path())?,
            false => fs::remove_file(item.path())?,
        }
    }
    let from = format!("{}/.", from.display());
    run("cp", &["-a", &from, to.to_str().context("paths are text")?])
}
