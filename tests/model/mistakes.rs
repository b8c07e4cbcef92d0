//! Scratch.
use demes_protocol::planted::{Bug, plant};
use stateright::{Checker, HasDiscoveries, Model, Expectation};
use crate::chat::Chat;
use crate::configurations as c;

#[test]
fn matrix() {
    let states = crate::number("STATES").unwrap_or(50_000);
    let honest = std::env::var("HONEST").is_ok();
    let only = std::env::var("BUGS").unwrap_or_default();
    let confs = std::env::var("CONFS").unwrap_or_default();
    std::panic::set_hook(Box::new(|_| {}));
    for bug in Bug::ALL {
        if !only.is_empty() && !only.split(',').any(|b| b == format!("{bug:?}")) { continue; }
        for make in [c::elections, c::hand_overs, c::replication, c::leases, c::partitions, c::late_voters, c::incarnations, c::voters, c::growing, c::adoptions] {
            let conf = make();
            if !confs.is_empty() && !confs.split(',').any(|b| b == conf.name) { continue; }
            plant(None);
            let chat = Chat::new(make(), states);
            plant(Some(*bug));
            let begun = std::time::Instant::now();
            let checker = chat.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
            checker.model().reopen();
            let found = checker.discoveries();
            let broken: Vec<_> = checker.model().properties().iter().filter(|p| p.expectation == Expectation::Always && found.contains_key(p.name)).map(|p| (p.name, found[p.name].clone().into_vec().len() - 1)).collect();
            if !broken.is_empty() {
                println!("{bug:?} | {} | {} | {:?} | {:.1}", conf.name, checker.unique_state_count(), broken, begun.elapsed().as_secs_f64());
            }
        }
        println!("{bug:?} done");
    }
    plant(None);
}
