//! The rules of `docs/protocol.md` by example: each script in this directory drives real replicas
//! step by step, and the exact transcript stands below each step.
//!
//! A script's lines: `# ...` is for the reader, `> ...` is a command, and what is indented by two
//! spaces is the transcript of the command above. `script.rs` lists the commands.
//! `REWRITE=1 cargo test --release --test golden` writes the transcripts anew; review what that
//! changes like code. The idea of such scripts is etcd raft's, their language is this project's.

mod craft;
#[path = "../common/disk.rs"]
#[allow(dead_code, reason = "the simulation asks the disk for more")]
mod disk;
mod script;
#[path = "../common/signing.rs"]
mod signing;
#[path = "../common/text.rs"]
mod text;
mod world;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rules that the scripts show: all of the core's that are built.
const RULES: &str = "R1 R2 R3 R4 R5 R6 R7 R8 R9 R10 R11 R12 R13 R14 R15 R16 R17 R18 R19 R20 R21 \
    R22 R23 R24 R25 R26 R27 R28 R29 R30 R31 R32 R33 R34 R35 R36 R37 R38 R43 R45 \
    L1 L2 L3 L4 L5 L6 L8";

/// Where the scripts are, in order.
pub fn scripts() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let files = fs::read_dir(directory).expect("the scripts are here");
    let paths = files.map(|file| file.expect("the directory can be read").path());
    let mut scripts: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "txt")).collect();
    scripts.sort();
    scripts
}

/// Runs a script. The error says where it does not give its transcript, unless that is rewritten.
pub fn compare(path: &Path, rewrite: bool) -> Result<(), String> {
    let expected = fs::read_to_string(path).expect("a script can be read");
    let actual = script::run(&expected)?;
    if actual != expected && rewrite {
        fs::write(path, actual).expect("a script can be written");
    } else if actual != expected {
        return Err(format!("\n{}", difference(&expected, &actual)));
    }
    Ok(())
}

#[test]
fn every_script_gives_its_transcript() {
    let rewrite = std::env::var_os("REWRITE").is_some();
    let mut failures = Vec::new();
    for path in scripts() {
        if let Err(why) = compare(&path, rewrite) {
            failures.push(format!("{}: {why}", path.display()));
        }
    }
    assert!(failures.is_empty(), "REWRITE=1 accepts changes.\n{}", failures.join("\n"));
}

#[test]
fn every_rule_of_the_core_is_in_a_script() {
    let mut named = BTreeSet::new();
    for path in scripts() {
        let script = fs::read_to_string(&path).expect("a script can be read");
        let first = script.lines().next().unwrap_or_default();
        let (rules, title) = first.split_once(": ").unwrap_or_default();
        let rules = rules.strip_prefix("# ").unwrap_or_default();
        let is_rule = |word: &str| word.starts_with(['R', 'L']) && word[1..].parse::<u8>().is_ok();
        let well_formed = !title.is_empty() && rules.split(' ').all(is_rule);
        assert!(well_formed, "{} begins with `# R1 R2: what happens`", path.display());
        named.extend(rules.split(' ').map(String::from));
    }
    let missing: Vec<_> = RULES.split(' ').filter(|rule| !named.contains(*rule)).collect();
    assert!(missing.is_empty(), "no script for {missing:?}");
}

/// The lines that differ, each with the command that it belongs to: `-` is in the script only, `+`
/// was given only.
fn difference(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    // common[i][j]: the longest common subsequence of what follows i and j.
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let (mut text, mut command, mut shown) = (String::new(), "", "");
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            if old[i].starts_with("> ") {
                command = old[i];
            }
            (i, j) = (i + 1, j + 1);
            continue;
        }
        if shown != command {
            text += &format!("line {}: {command}\n", i + 1);
            shown = command;
        }
        let removed = j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]);
        let (sign, line) = if removed { ('-', old[i]) } else { ('+', new[j]) };
        text += &format!("{sign}{line}\n");
        (i, j) = if removed { (i + 1, j) } else { (i, j + 1) };
    }
    text
}

#[test]
fn a_difference_names_its_command_and_both_sides() {
    let (old, new) = ("> a\n  1\n> b\n  2\n  3\n", "> a\n  1\n> b\n  3\n  4\n");
    assert_eq!(difference(old, new), "line 4: > b\n-  2\n+  4\n");
}
