//! Model check.

mod chat;
#[path = "../common/disk.rs"]
mod disk;
mod history;
mod key;
mod memory;
mod peer;
mod start;
mod state;
mod step;
#[path = "../common/text.rs"]
#[allow(dead_code, reason = "the scripts show more")]
mod text;

use std::time::Instant;

use demes_protocol::message::Body;
use stateright::{Checker, HasDiscoveries, Model};

use chat::{Bounds, Chat};
use history::Sight;
use state::Left;

fn run(name: &str, chat: Chat) {
    let begun = Instant::now();
    let depth = std::env::var("DEPTH").ok().and_then(|d| d.parse().ok()).unwrap_or(1000);
    let states = std::env::var("STATES").ok().and_then(|d| d.parse().ok()).unwrap_or(3_000_000);
    let checker = chat
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .target_max_depth(depth)
        .target_state_count(states)
        .spawn_bfs()
        .join();
    println!(
        "{name}: states {} unique {} depth {} in {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed()
    );
    println!("peers, parcels, outcomes {:?}", checker.model().memory.sizes());
    let found = checker.discoveries();
    for property in checker.model().properties() {
        let expected = matches!(property.expectation, stateright::Expectation::Sometimes);
        let path = found.get(property.name);
        if path.is_some() != expected {
            println!("{}: {}", property.name, path.is_some());
        }
        if let Some(path) = path.filter(|_| !expected) {
            for (state, action) in path.clone().into_vec() {
                let Some(action) = action else { break };
                println!("{action:?}");
                for line in checker.model().step(&state, action, true).1 {
                    println!("    {line}");
                }
            }
        }
    }
    println!(
        "{}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find(|l| l.starts_with("VmHWM"))
            .unwrap()
    );
}

#[test]
fn elections() {
    let left = Left { crashes: 1, ..Left::default() };
    let memory = memory::Memory::new();
    let begin = start::grown(left, &memory);
    let bounds = Bounds {
        config: start::config(),
        terms_max: 3,
        entries_max: 4,
        in_flight_max: 4,
        at_once: |body| {
            !matches!(
                body,
                Body::Nominate(_)
                    | Body::RequestVote(_)
                    | Body::Vote(_)
                    | Body::Solicit(_)
                    | Body::SolicitAnswer(_)
                    | Body::Withdraw(_)
                    | Body::Announce(_)
            )
        },
        syncs_at_once: false,
        sights: &[
            Sight::HostInTerm2,
            Sight::HostInTerm3,
            Sight::Paused,
            Sight::WithdrewWithoutMajority,
        ],
    };
    let founded = begin.history.last();
    let chat = Chat { bounds, begin: vec![begin], founded, memory };
    if std::env::var_os("SURVEY").is_some() {
        return survey(&chat, 30);
    }
    run("elections", chat);
}

fn survey(chat: &Chat, depth: usize) {
    use std::collections::{BTreeMap, HashSet};
    use std::hash::{DefaultHasher, Hash, Hasher};
    let fp = |s: &state::State| {
        let mut h = DefaultHasher::new();
        s.hash(&mut h);
        h.finish()
    };
    let mut seen = HashSet::new();
    let mut peers: [HashSet<u64>; 3] = Default::default();
    let mut nets: HashSet<Vec<u64>> = HashSet::new();
    let mut frontier: Vec<_> = chat.begin.clone();
    for s in &frontier {
        seen.insert(fp(s));
    }
    for d in 1..=depth {
        let mut next = Vec::new();
        let mut by: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut acts = Vec::new();
        for s in &frontier {
            acts.clear();
            chat.actions(s, &mut acts);
            for a in &acts {
                let name = match a {
                    chat::Action::Deliver(i) => {
                        format!("Deliver {}", text::kind(&s.network[*i].message.body))
                    }
                    chat::Action::Tick(p) => {
                        format!("Tick {} {}", p, if s.peers[*p].hosts { "host" } else { "" })
                    }
                    other => format!("{other:?}"),
                };
                let n = chat.next_state(s, *a).unwrap();
                let e = by.entry(name).or_default();
                e.0 += 1;
                if !chat.within_boundary(&n) {
                    continue;
                }
                if seen.insert(fp(&n)) {
                    e.1 += 1;
                    for p in 0..3 {
                        peers[p].insert(n.peers[p].key.hash);
                    }
                    nets.insert(n.network.iter().map(|p| p.key.hash).collect());
                    next.push(n);
                }
            }
        }
        println!(
            "depth {d}: new {} total {} peers {:?} nets {} memory {:?}",
            next.len(),
            seen.len(),
            peers.each_ref().map(HashSet::len),
            nets.len(),
            chat.memory.sizes()
        );
        for (k, v) in by {
            println!("   {k}: {} new {}", v.0, v.1);
        }
        frontier = next;
        if seen.len() > 400_000 {
            break;
        }
    }
}
