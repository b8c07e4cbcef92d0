//! Plants mistakes in the rules, one at a time, and sees that each is found, and by what.
//!
//! ```text
//! cargo test --release -p demes-protocol --features planted --test mutation
//! cargo test ... --test mutation -- LogCheckSkipped      that one, with what the scripts show of it
//! ```
//!
//! A mistake that nothing finds is a test that is missing. `docs/verification.md` has the table.

#[path = "../golden/main.rs"]
#[allow(dead_code, unused_imports, reason = "its tests are not run in here")]
mod golden;

use std::panic;

use demes_protocol::planted::{Bug, plant};

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    panic::set_hook(Box::new(|_| {}));
    let mut missed = vec![];
    for bug in std::iter::once(None).chain(Bug::ALL.iter().map(|bug| Some(*bug))) {
        let name = bug.map_or("(none)".into(), |bug| format!("{bug:?}"));
        if !chosen.is_empty() && !chosen.contains(&name) { continue; }
        plant(bug);
        let mut found = vec![];
        for path in golden::scripts() {
            let r = panic::catch_unwind(|| golden::compare(&path, false)).unwrap_or(Err("panics".into()));
            if let Err(why) = r {
                let script = path.file_stem().unwrap().to_string_lossy().into_owned();
                if !chosen.is_empty() { println!("{script}: {why}"); }
                found.push((script, why.len()));
            }
        }
        plant(None);
        found.sort_by_key(|f| f.1);
        println!("{name}: {} {:?}", found.len(), &found[..found.len().min(8)]);
        if found.is_empty() { missed.push(name); }
    }
    println!("missed {missed:?}");
}
