//! L6: liars choose their moment: while others join, while a host is looked for or hands over,
//! while a chat is recovered, and two of them at the same time. A majority that is honest goes on.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use demes::crypto::tls;
use demes::wire::pb;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use crate::liar::{Liar, Lies};
use crate::peer::{LUNCH, PATIENCE, Peer, lunch_of, three, until};
use crate::raw::{Calls, Speaker, channel};

/// A voter that has turned into a liar: it refuses whatever it is asked, with every reason there
/// is, and pesters the others with all that a voter may say, in terms that it makes up.
struct Pest {
    liar: Liar,
    serving: JoinHandle<()>,
    pestering: Vec<JoinHandle<()>>,
    address: String,
    store: TempDir,
}

impl Pest {
    async fn from(peer: Peer, honest: &[&Peer]) -> Self {
        let (address, term) = (peer.address(), peer.lunch().await.term);
        let mut speaker = Speaker::in_place_of(peer).await;
        let store = speaker.dir.take().expect("its directory");
        use pb::RefusedReason as Why;
        let reasons = [
            Why::StaleTerm,
            Why::Removed,
            Why::Outlived,
            Why::KeyInUse,
            Why::NotMember,
            Why::OtherGeneration,
            Why::WrongIncarnation,
            Why::NotHost,
            Why::ChatFull,
        ];
        let refused = |why: Why| {
            let refused = pb::Refused { reason: why.into(), term: term + 7, ..Default::default() };
            (refused, Vec::new())
        };
        let lies = Lies::Refusals(reasons.map(refused).into());
        let liar = Liar::new(speaker, term, lies);
        let serving = liar.clone().serve(&address).await;
        let pester = |peer: &&Peer| tokio::spawn(pester(liar.clone(), peer.address()));
        let pestering = honest.iter().map(pester).collect();
        Self { liar, serving, pestering, address, store }
    }

    /// It says nothing any more, and is the honest peer of before.
    async fn comes_to_reason(self, name: &str) -> Peer {
        self.pestering.iter().for_each(JoinHandle::abort);
        self.serving.abort();
        self.liar.hang_up();
        Peer::again(name, self.store, &self.address).await
    }
}

/// Says all that a voter may say, again and again, whatever is answered.
async fn pester(liar: Liar, address: String) {
    let mut ticks = interval(Duration::from_millis(50));
    let speaker = &liar.0.speaker;
    let last = speaker.log.last().expect("there is a log");
    let end = || Some(pb::Position { term: last.term, index: last.index + 100 });
    for round in 1.. {
        ticks.tick().await;
        let config = tls::client_config(&speaker.identity, None);
        // The other one may just be starting.
        let Ok(channel) = channel(Arc::clone(&config), &address).await else { continue };
        let mut calls = Calls::over(channel);
        let (header, term) = (|| speaker.header(), liar.0.term + round % 5);
        let announce = pb::AnnounceRequest { header: header(), term, reign: None };
        let _ = calls.election.announce(announce).await;
        let nominate = pb::NominateRequest { header: header(), term, last: end() };
        let _ = calls.election.nominate(nominate).await;
        let solicit = pb::SolicitRequest { header: header(), term, last: end() };
        let _ = calls.election.solicit(solicit).await;
        let request = pb::RequestVoteRequest {
            header: header(),
            term: term + 1,
            last: end(),
            last_hash: last.hash.0.to_vec(),
            ..Default::default()
        };
        let _ = calls.election.request_vote(request).await;
        let _ = calls.host.goodbye(pb::GoodbyeRequest { header: header() }).await;
    }
}

async fn have_all(peers: &[&Peer], texts: &[&str]) {
    for peer in peers {
        let look = || async { (peer.texts().await == texts).then_some(()) };
        until(&format!("{} to have all that was said", peer.name), look).await;
        assert_eq!(peer.lunch().await.fault, "", "{}", peer.name);
    }
}

async fn five() -> [Peer; 5] {
    let [ann, ben] = [Peer::start("Ann").await, Peer::start("Ben").await];
    let [cleo, dan] = [Peer::start("Cleo").await, Peer::start("Dan").await];
    let eva = Peer::start("Eva").await;
    lunch_of(&[&ann, &ben, &cleo, &dan, &eva], 5).await;
    [ann, ben, cleo, dan, eva]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_liars_of_five_keep_nobody_from_talking_or_joining() {
    let [ann, ben, cleo, dan, eva] = five().await;
    let dan = Pest::from(dan, &[&ann, &ben, &cleo]).await;
    let eva = Pest::from(eva, &[&ann, &ben, &cleo]).await;
    let often = || async { (dan.liar.refused() >= 9 && eva.liar.refused() >= 9).then_some(()) };
    until("both to have refused in every way", often).await;
    ann.says(LUNCH, "one").await;
    ben.says(LUNCH, "two").await;
    let guest = Peer::start("Guest").await;
    let (chat, address) = (LUNCH.to_owned(), guest.address());
    let request = pb::InviteMemberRequest { chat, address, ..Default::default() };
    cleo.client.clone().invite_member(request).await.expect("on its way");
    guest.accept(LUNCH).await;
    guest.sees("the chat served", |chat| chat.serving).await;
    guest.says(LUNCH, "three").await;
    have_all(&[&ann, &ben, &cleo, &guest], &["one", "two", "three"]).await;
    let dan = dan.comes_to_reason("Dan").await;
    let eva = eva.comes_to_reason("Eva").await;
    dan.says(LUNCH, "four").await;
    have_all(&[&ann, &ben, &dan, &eva, &guest], &["one", "two", "three", "four"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_stops_neither_a_failover_nor_a_hand_over() {
    let [mut ann, ben, mut cleo, mut dan, eva] = five().await;
    let eva = Pest::from(eva, &[&ann, &ben, &cleo, &dan]).await;
    cleo.says(LUNCH, "one").await;
    // Whoever hosts dies.
    let (first, address) = (cleo.lunch().await.host_peer_id, ann.address());
    assert_eq!(first, ann.id(), "the founder hosts");
    drop(ann.running.take());
    let second = cleo.sees("another host", |it| it.serving && it.host_peer_id != first).await;
    cleo.says(LUNCH, "two").await;
    let ann = Peer::again("Ann", ann.dir, &address).await;
    ann.says(LUNCH, "three").await;
    // The next one hands over.
    let second = second.host_peer_id;
    let hosts = |peer: &&mut Peer| peer.id() == second;
    if let Some(peer) = [&mut cleo, &mut dan].into_iter().find(hosts) {
        peer.running.take().expect("it runs").stop().await;
    }
    ann.sees("a host", |chat| chat.serving && chat.host_peer_id != first).await;
    ann.says(LUNCH, "four").await;
    let eva = eva.comes_to_reason("Eva").await;
    eva.says(LUNCH, "five").await;
    have_all(&[&ann, &ben, &eva], &["one", "two", "three", "four", "five"]).await;
}

/// Runs `demes recover` on a data directory that no peer uses.
async fn recover(dir: &Path, flags: &[&str]) -> serde_json::Value {
    let run = || async {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demes"));
        command.args(["recover", LUNCH]).args(flags).arg("--json").arg("--data-dir").arg(dir);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.expect("in time").expect("it runs");
        // The directory is free once the last task of its peer has ended.
        output.status.success().then_some(output.stdout)
    };
    let said = until("the recovery", run).await;
    serde_json::from_slice(&said).expect("JSON")
}

// R30: two of three are lost, and one of them comes back as a liar while the chat is recovered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_does_not_disturb_a_recovery() {
    let [mut ann, mut ben, eva] = three().await;
    ann.says(LUNCH, "one").await;
    have_all(&[&ben, &eva], &["one"]).await;
    let (at_ann, at_ben) = (ann.address(), ben.address());
    let eva = Pest::from(eva, &[&ann, &ben]).await;
    drop(ann.running.take());
    drop(ben.running.take());
    let done = recover(ann.dir.path(), &["--confirm"]).await;
    let generation = done["generation"].as_str().expect("it has one").to_owned();
    let ann = Peer::again("Ann", ann.dir, &at_ann).await;
    ann.says(LUNCH, "two").await;
    recover(ben.dir.path(), &["--follow", &generation]).await;
    let ben = Peer::again("Ben", ben.dir, &at_ben).await;
    ben.sees("the recovered chat", |chat| chat.serving && chat.generation == generation).await;
    ben.says(LUNCH, "three").await;
    have_all(&[&ann, &ben], &["one", "two", "three"]).await;
    drop(eva);
}
