//! Plants mistakes around the rules, one at a time, and sees that the test that must find each of
//! them does.
//!
//! ```text
//! cargo test --release --features demes/planted --test planted
//!     -- LooseVerify SyncSkipped      these mistakes only, with what the tests say
//! ```
//!
//! The tests are those that run every day, built with the feature `planted`. Each is run in a
//! process of its own: without any mistake, where it must pass, and with the mistake, where it must
//! fail. `tests/mutation` does the same with the rules themselves.

use std::collections::BTreeMap;
use std::env;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use demes::planted::{Mistake, NONE, VARIABLE};

/// The programs that the tests are in.
const LIB: &str = "demes";
const CLUSTER: &str = "cluster";
const PEER: &str = "peer";
const SECURITY: &str = "security";
const STORAGE: &str = "storage";

/// The program and the test in it that must find a mistake.
fn catcher(mistake: Mistake) -> (&'static str, &'static str) {
    match mistake {
        Mistake::LooseVerify => (LIB, "crypto::verify::tests::a_key_of_small_order_proves_nothing"),
        Mistake::PinUnchecked => {
            (LIB, "crypto::tls::tests::a_key_other_than_the_pinned_one_is_refused_and_named")
        }
        Mistake::KeyUnproven => {
            (LIB, "crypto::tls::tests::a_shown_certificate_without_its_key_proves_nothing")
        }
        Mistake::EntryHashUnchecked | Mistake::EntryUnsigned => {
            (SECURITY, "lying_host::a_forged_hash_or_signature_is_dropped")
        }
        Mistake::WordUnsigned => {
            (LIB, "links::edge::tests::l1_l5_what_bears_a_message_out_is_signed")
        }
        Mistake::PastUnsigned => {
            (SECURITY, "lies::a_members_word_about_anothers_past_stops_nobody")
        }
        Mistake::KeysUnbounded => {
            (LIB, "peer::gate::tests::l2_keys_of_one_machine_share_what_it_may")
        }
        Mistake::VotesUnchecked => (
            LIB,
            "crypto::verify::tests::a_reign_and_its_voters_are_signed_for_one_place_of_one_log",
        ),
        Mistake::StrangerIsMember => {
            (SECURITY, "strangers::an_outsider_that_knows_the_chat_gets_nothing")
        }
        Mistake::LinkNeverExpires => (CLUSTER, "links::a_link_that_lets_nobody_in_says_why"),
        Mistake::CallsUncounted => {
            (SECURITY, "members::a_peer_that_calls_too_often_is_refused_and_the_others_are_not")
        }
        Mistake::HandshakeForEver => {
            (SECURITY, "floods::connections_that_say_nothing_hold_up_nobody_for_long")
        }
        Mistake::GreetingForEver => {
            (LIB, "faces::places::tests::who_does_not_greet_or_asks_nothing_is_closed")
        }
        Mistake::SilenceForEver => (SECURITY, "doors::silent_connections_are_closed_in_time"),
        Mistake::NobodyGivesWay => (
            LIB,
            "faces::places::tests::an_address_gives_way_to_itself_and_then_the_one_that_holds_most",
        ),
        Mistake::StrangersAmongMembers => (
            LIB,
            "faces::places::tests::strangers_take_no_members_place_and_move_when_they_become_\
             members",
        ),
        Mistake::KeyHoldsAll => (LIB, "faces::places::tests::one_key_holds_only_so_many"),
        Mistake::StrangersSayMuch | Mistake::StrangersAskMuch => {
            (SECURITY, "doors::unfinished_messages_of_strangers_hold_little")
        }
        Mistake::HealthAskedAtLength => {
            (SECURITY, "doors::unfinished_messages_to_the_health_listener_hold_little")
        }
        Mistake::TokenUnchecked => {
            (SECURITY, "programs::without_the_token_every_call_is_refused_before_it_is_read")
        }
        Mistake::HostUnchecked | Mistake::OriginUnchecked => {
            (SECURITY, "programs::other_names_and_pages_are_refused")
        }
        Mistake::ReadTokenKept => {
            (SECURITY, "programs::the_token_is_kept_as_long_as_nobody_else_could_read_it")
        }
        Mistake::SocketForAll => (
            LIB,
            "serve::client_door::tests::the_socket_is_its_users_alone_however_long_its_path_is",
        ),
        Mistake::FilesForAll | Mistake::DirectoriesForAll | Mistake::RightsLeft => {
            (LIB, "storage::rights::tests::what_is_made_is_private_and_what_was_open_is_tightened")
        }
        Mistake::SyncSkipped => (STORAGE, "content::what_is_persisted_is_in_the_file_at_once"),
        Mistake::FailedSyncRetried => {
            (LIB, "storage::database::tests::a_write_that_failed_is_the_last")
        }
        Mistake::WriteErrorIgnored => {
            (LIB, "runtime::journal::tests::a_failed_write_is_told_and_nothing_is_tried_again")
        }
        Mistake::CutsAtAnyBadRecord => {
            (STORAGE, "damage::damage_in_the_middle_closes_the_chat_and_no_other")
        }
        Mistake::TornTailTrusted => {
            (STORAGE, "damage::a_torn_last_batch_is_cut_and_leaves_the_tail_in_doubt")
        }
        Mistake::CheckpointUnbound => (STORAGE, "damage::a_checkpoint_of_another_log_is_damage"),
        Mistake::OlderCopyTaken => {
            (STORAGE, "anew::an_older_copy_is_known_as_such_and_an_open_file_is_not_replaced")
        }
        Mistake::BootNotRaised => (STORAGE, "content::every_field_of_persist_comes_back"),
        Mistake::RequestsInMemoryOnly => {
            (PEER, "a_repeat_after_a_restart_returns_the_first_result")
        }
        Mistake::CarriedNotKnown => {
            (CLUSTER, "retries::r9_what_is_repeated_after_a_store_was_lost_lands_once")
        }
        Mistake::CarriedOvertaken => {
            (CLUSTER, "retries::r37_what_is_repeated_while_a_chat_is_repaired_lands_once")
        }
        Mistake::CarriedByNumber => (
            LIB,
            "runtime::carry::tests::r9_what_the_log_has_of_an_earlier_incarnation_is_found_by_its_\
             request",
        ),
        Mistake::ShownNotWaitedFor => {
            (CLUSTER, "cursors::r36_a_cursor_at_a_confirmed_message_is_waited_for_after_a_crash")
        }
        Mistake::DiskNotWaitedFor => {
            (LIB, "runtime::feed::tests::a_reader_waits_for_what_the_disk_does_not_have_yet")
        }
        Mistake::OlderHeartbeatKept => {
            (LIB, "runtime::lanes::tests::a_replaced_heartbeat_leaves_its_news")
        }
        Mistake::Unpaced => (LIB, "runtime::pace::tests::a_link_that_becomes_narrow_is_noticed"),
        Mistake::TurnsNotTaken => {
            (LIB, "runtime::lanes::tests::chats_take_turns_and_each_keeps_its_order")
        }
        Mistake::CursorOffByOne => {
            (SECURITY, "feeds::a_reader_that_stalls_is_ended_with_the_cursor_to_go_on_from")
        }
    }
}

fn main() -> ExitCode {
    // What cargo passes on for a test harness is not for this one.
    let chosen: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_chosen =
        |mistake: &&Mistake| chosen.is_empty() || chosen.contains(&format!("{mistake:?}"));
    let mistakes: Vec<_> = Mistake::ALL.iter().filter(is_chosen).copied().collect();
    assert!(!mistakes.is_empty(), "none of {chosen:?} can be planted");
    let programs = programs();
    let begun = Instant::now();
    let failures = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(mistake) = mistakes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = look(*mistake, &programs, !chosen.is_empty()) {
                        println!("FAILED: {why}");
                        failures.lock().expect("no thread panics").push(why);
                    }
                }
            });
        }
    });
    let failed = failures.into_inner().expect("no thread panics").len();
    let (planted, took) = (mistakes.len(), begun.elapsed().as_secs());
    println!("{planted} mistakes planted, {} caught in {took} s", planted - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a mistake's test without it and with it.
fn look(
    mistake: Mistake,
    programs: &BTreeMap<String, String>,
    is_verbose: bool,
) -> Result<(), String> {
    let (name, test) = catcher(mistake);
    let program = programs.get(name).ok_or_else(|| format!("{name} was not built"))?;
    let (passes, said) = run(program, test, NONE);
    if !passes {
        return Err(format!("without any mistake, {name} {test} does not pass:\n{said}"));
    }
    let begun = Instant::now();
    let (passes, said) = run(program, test, &format!("{mistake:?}"));
    if is_verbose {
        println!("{said}");
    }
    if passes || !said.contains("1 failed;") {
        return Err(format!("{name} {test} does not find {mistake:?}:\n{said}"));
    }
    let (what, seconds) = (mistake.description(), begun.elapsed().as_secs_f64());
    println!("{mistake:?} ({what}): caught by {name} {test} in {seconds:.1} s");
    Ok(())
}

/// Whether that one test passes with this mistake, and what it says. One that is not there does
/// not pass.
fn run(program: &str, test: &str, mistake: &str) -> (bool, String) {
    let mut command = Command::new(program);
    let output = command.args(["--exact", test]).env(VARIABLE, mistake).output();
    let output = output.expect("the program can be run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success() && said.contains("1 passed;"), said)
}

/// Builds the programs with the tests, and gives the path of each.
fn programs() -> BTreeMap<String, String> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--locked", "--features", "demes/planted", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics", "--lib"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.args([CLUSTER, PEER, SECURITY, STORAGE].iter().flat_map(|name| ["--test", name]));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let output = output.expect("cargo can be run");
    assert!(output.status.success(), "the tests cannot be built with mistakes");
    let lines = output.stdout.split(|byte| *byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let programs = messages.filter_map(|message| {
        let is_test = message["profile"]["test"].as_bool()?;
        let path = message["executable"].as_str().filter(|_| is_test)?;
        Some((message["target"]["name"].as_str()?.to_owned(), path.to_owned()))
    });
    programs.collect()
}
