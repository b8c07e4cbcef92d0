//! Traces across real peers, as a collector receives them: a message, a failover, a hand-over. The
//! trees are those of `docs/traces.md`.

use demes::cli::demo::peer::until;
use demes::wire::pb;
use nix::sys::signal::Signal;
use tokio::net::TcpListener;

use crate::collector::text;
use crate::harness::{Chat, STEP, story};
use crate::spans::{Edges, Seen, Spans, edges, tree};

const ROLES: [&str; 3] = ["host", "sender", "third"];

/// What each peer is in a story whose host and sender these are.
fn parts(chat: &Chat, host: usize, sender: usize) -> impl Fn(&str) -> String + use<> {
    let ids: Vec<String> = chat.peers.iter().map(|peer| peer.id.clone()).collect();
    move |peer| match ids.iter().position(|id| id == peer) {
        Some(place) if place == host => ROLES[0].to_owned(),
        Some(place) if place == sender => ROLES[1].to_owned(),
        Some(_) => ROLES[2].to_owned(),
        None => "nobody".to_owned(),
    }
}

/// What must be in no span: what people say, call themselves, and where they are.
fn assert_nothing_personal(spans: &Spans, chat: &Chat) {
    let addresses: Vec<String> = chat.peers.iter().map(|peer| peer.address().to_string()).collect();
    let root = chat.root().to_str().unwrap();
    let words = ["text of", "request-", "Ada", "Ben", "Cleo", "Friday", "127.0.0.1", root];
    spans.assert_without(words.into_iter().chain(addresses.iter().map(String::as_str)));
}

fn set(edges: &[&str]) -> Edges {
    edges.iter().map(|edge| (*edge).to_owned()).collect()
}

/// The whole tree of a message that somebody sends who does not host.
fn tree_of_a_message() -> Edges {
    let mut whole = set(&[
        "ClientService/SendMessage server@sender",
        "ClientService/SendMessage server@sender > send producer@sender",
        "send producer@sender > sync internal@sender",
        "send producer@sender > HostService/Submit client@sender",
        "send producer@sender > HostService/Submit server@host",
        "send producer@sender > order internal@host",
        "send producer@sender > commit internal@host",
    ]);
    for peer in ROLES {
        whole.extend([
            format!("send producer@sender > append internal@{peer}"),
            format!("append internal@{peer} > sync internal@{peer}"),
            format!("send producer@sender > deliver consumer@{peer}"),
        ]);
    }
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_is_one_trace_from_its_sender_to_every_member() {
    story(async {
        let (mut spans, mut chat) = Spans::of(3, &[]).await;
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        let (host, _) = chat.host_above(0, STEP).await.unwrap();
        let sender = chat.others(&[host])[0];
        chat.says(sender).await;
        let part = parts(&chat, host, sender);
        let expected = tree_of_a_message();
        spans
            .until("whole tree of one message", |spans| {
                let traces = spans.traces_with("send");
                let is_whole = |trace: &Vec<&Seen>| edges(trace, &part) == expected;
                (traces.len() == 1).then_some(())?;
                let whole = traces.iter().find(|trace| is_whole(trace))?;
                println!("{}", tree(whole, &part));
                assert_messaging(whole, &chat.chat);
                Some(())
            })
            .await;
        assert_nothing_personal(&spans, &chat);
        chat.finish().await;
    })
    .await;
}

/// Links and attributes, by the semantic conventions for messaging and for gRPC.
fn assert_messaging(trace: &[&Seen], chat: &str) {
    let of = |name: &'static str| trace.iter().filter(move |seen| seen.span.name.ends_with(name));
    let send = of("send").next().expect("it is whole");
    for seen in of("send").chain(of("deliver")) {
        let attributes = &seen.span.attributes;
        assert_eq!(text(attributes, "messaging.system"), "demes");
        assert_eq!(text(attributes, "messaging.operation.name"), seen.span.name);
        assert_eq!(text(attributes, "messaging.destination.name"), chat);
        let operation = if seen.span.name == "send" { "send" } else { "process" };
        assert_eq!(text(attributes, "messaging.operation.type"), operation);
    }
    for seen in of("deliver") {
        let [link] = &seen.span.links[..] else { panic!("one link: {:?}", seen.span) };
        assert_eq!(
            (&link.trace_id, &link.span_id),
            (&send.span.trace_id, &send.span.span_id),
            "a delivery is linked to the sending"
        );
    }
    for seen in of("Submit").chain(of("SendMessage")) {
        let attributes = &seen.span.attributes;
        assert_eq!(text(attributes, "rpc.system.name"), "grpc");
        assert_eq!(text(attributes, "rpc.method"), seen.span.name);
        assert_eq!(text(attributes, "rpc.response.status_code"), "OK");
    }
}

/// What may be in the trace of a failover. The parts: `host` is the one that died, `sender` the one
/// that was elected, `third` the one that elected it.
const FAILOVER: [&str; 11] = [
    "failover internal@sender",
    "failover internal@sender > suspect internal@sender",
    "suspect internal@sender > nominate internal@sender",
    "failover internal@sender > suspect internal@third",
    "suspect internal@third > nominate internal@third",
    "failover internal@sender > stand internal@sender",
    "stand internal@sender > sync internal@sender",
    "stand internal@sender > ElectionService/RequestVote client@sender",
    "ElectionService/RequestVote client@sender > ElectionService/RequestVote server@third",
    "ElectionService/RequestVote server@third > vote internal@third",
    "failover internal@sender > commit internal@sender",
];
/// What is there where both survivors have stood.
const ONE_OF_TWO: [&str; 3] = [
    "failover internal@sender",
    "failover internal@sender > stand internal@sender",
    "failover internal@sender > commit internal@sender",
];
const FAILOVER_ENDS: [&str; 3] = [
    "vote internal@third > sync internal@third",
    "commit internal@sender > ElectionService/Announce client@sender",
    "ElectionService/Announce client@sender > ElectionService/Announce server@third",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_one_trace_across_peers_whatever_the_share_of_messages() {
    story(async {
        let share = [("DEMES__TELEMETRY__SAMPLING_RATIO", "0")];
        let (mut spans, mut chat) = Spans::of(3, &share).await;
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let others = chat.others(&[host]);
        chat.says(others[0]).await;
        let ranked = |chat: &pb::Chat| {
            chat.ranking.as_ref().is_some_and(|ranking| ranking.candidates.len() == 3)
        };
        chat.all_see("three ranked candidates", ranked).await.unwrap();
        chat.peers[host].kill().unwrap();
        chat.says(others[0]).await;
        let (next, _) = chat.host_above(term, STEP).await.unwrap();
        let part = parts(&chat, host, next);
        let required = &set(&FAILOVER) | &set(&FAILOVER_ENDS);
        spans
            .until("whole tree of a failover", |spans| {
                let [trace] = &spans.traces_with("failover")[..] else { return None };
                let found = edges(trace, &part);
                if candidacies(trace).count() > 1 {
                    // What two candidacies need to come to an end is a matter of moments.
                    won(trace).next()?;
                    set(&ONE_OF_TWO).is_subset(&found).then_some(())?;
                    assert_election(trace, &chat.chat);
                    return Some(());
                }
                required.is_subset(&found).then_some(())?;
                println!("{}", tree(trace, &part));
                assert_election(trace, &chat.chat);
                // Which of the two asks the other, and how often, is a matter of moments.
                let more: Edges = &found - &required;
                let asks = |edge: &String| {
                    ["Nominate", "Solicit", "Withdraw", "FetchLog"]
                        .iter()
                        .any(|call| edge.contains(&format!("> ElectionService/{call} ")))
                };
                assert!(more.iter().all(asks), "{more:#?}");
                let nominated = "> ElectionService/Nominate server@sender";
                more.iter().any(|edge| edge.ends_with(nominated)).then_some(())
            })
            .await;
        assert!(spans.named("send").is_empty(), "no message is sampled");
        assert_nothing_personal(&spans, &chat);
        chat.finish().await;
    })
    .await;
}

fn candidacies<'a>(trace: &'a [&'a Seen]) -> impl Iterator<Item = &'a &'a Seen> {
    trace.iter().filter(|seen| seen.span.name == "stand")
}

/// Those of them that have elected somebody.
fn won<'a>(trace: &'a [&'a Seen]) -> impl Iterator<Item = &'a &'a Seen> {
    candidacies(trace).filter(|seen| seen.span.status.clone().unwrap_or_default().code == 0)
}

/// One root, which begins first and ends last, and one candidacy that has won.
fn assert_election(trace: &[&Seen], chat: &str) {
    let roots: Vec<_> = trace.iter().filter(|seen| seen.span.parent_span_id.is_empty()).collect();
    let [root] = roots[..] else { panic!("{} roots", roots.len()) };
    assert_eq!(text(&root.span.attributes, "demes.chat.id"), chat);
    let commit = trace.iter().find(|seen| seen.span.name == "commit").expect("it is whole");
    assert!(root.span.start_time_unix_nano <= commit.span.start_time_unix_nano);
    assert!(root.span.end_time_unix_nano >= commit.span.end_time_unix_nano);
    assert_eq!(won(trace).count(), 1, "one candidacy is won");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_is_one_trace_from_who_asks_to_the_first_commit() {
    story(async {
        let (mut spans, mut chat) = Spans::of(3, &[]).await;
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let target = chat.others(&[host])[1];
        chat.says(target).await;
        let request = pb::ClientServiceHandOverRequest {
            chat: chat.chat.clone(),
            peer: chat.peers[target].id.clone(),
        };
        chat.peers[host].client().hand_over(request).await.unwrap();
        assert_eq!(chat.host_above(term, STEP).await.unwrap().0, target);
        let part = parts(&chat, host, target);
        let required = set(&[
            "ClientService/HandOver server@host",
            "ClientService/HandOver server@host > hand-over internal@host",
            "hand-over internal@host > ElectionService/HandOver client@host",
            "ElectionService/HandOver client@host > ElectionService/HandOver server@sender",
            "ElectionService/HandOver server@sender > stand internal@sender",
            "stand internal@sender > ElectionService/RequestVote client@sender",
            "ElectionService/HandOver server@sender > commit internal@sender",
            "commit internal@sender > ElectionService/Announce client@sender",
        ]);
        // Two of three votes are enough: the third may come when the new host was heard already,
        // and has nothing to sync.
        let votes = [
            set(&[
                "ElectionService/RequestVote server@third > vote internal@third",
                "vote internal@third > sync internal@third",
            ]),
            set(&[
                "ElectionService/RequestVote server@host > vote internal@host",
                "vote internal@host > sync internal@host",
            ]),
        ];
        spans
            .until("whole tree of a hand-over", |spans| {
                let traces = spans.traces_with("hand-over");
                let is_whole = |trace: &&Vec<&Seen>| {
                    let seen = edges(trace, &part);
                    required.is_subset(&seen) && votes.iter().any(|vote| vote.is_subset(&seen))
                };
                let trace = traces.iter().find(is_whole)?;
                println!("{}", tree(trace, &part));
                Some(())
            })
            .await;
        assert_nothing_personal(&spans, &chat);
        chat.finish().await;
    })
    .await;
}

/// A collector that refuses, and one that never answers: the peer works, says so once, and ends in
/// time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_collector_costs_one_line_in_the_log() {
    story(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = {
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        };
        let mut chat = Chat::prepared(2, &[]);
        for (peer, endpoint) in chat.peers.iter_mut().zip([silent.local_addr().unwrap(), refusing])
        {
            peer.set("DEMES__TELEMETRY__OTLP_ENDPOINT", &format!("http://{endpoint}"));
        }
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        for _ in 0..100 {
            chat.says(0).await;
        }
        for place in 0..2 {
            let log = chat.peers[place].log_path();
            until(STEP, "the warning", || async {
                let text = std::fs::read_to_string(&log).ok()?;
                text.contains("traces cannot be sent").then_some(())
            })
            .await
            .unwrap();
        }
        // The last export, at the end, fails too and is not worth a line.
        chat.says(1).await;
        for place in 0..2 {
            chat.signal(place, Signal::SIGTERM);
            let status = chat.peers[place].ended(STEP).await.unwrap();
            assert!(status.success(), "{status}: {}", chat.peers[place].log_tail());
            let text = std::fs::read_to_string(chat.peers[place].log_path()).unwrap();
            assert_eq!(text.matches("traces cannot be sent").count(), 1, "{text}");
        }
        chat.finish().await;
    })
    .await;
}
