//! The rules of the house that a compiler does not know: where things stand (`tidy/house.rs`), how
//! pure the protocol is, sizes, and that every rule of `docs/protocol.md` marked as built has its
//! place and its test.

#[path = "tidy/house.rs"]
mod house;

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;
const COLUMNS_MAX: usize = 100;

/// Words that have no place in the protocol, which knows no world outside (comments may have them).
const IMPURE: [&str; 16] = [
    "HashMap",
    "HashSet",
    "SystemTime",
    "async",
    "await",
    "f32",
    "f64",
    "fs",
    "io",
    "net",
    "process",
    "rand",
    "thread",
    "tokio",
    "tonic",
    "unsafe",
];

const UNFINISHED: [&str; 5] = ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "TODO"];
const PRINTS: [&str; 5] = ["println!(", "eprintln!(", "print!(", "eprint!(", "dbg!("];

struct Source {
    path: String,
    text: String,
}

/// Every Rust file under these places, by path relative to the repository.
fn sources(places: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = places.iter().map(|place| root.join(place)).collect();
    let mut found = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            found.push(Source { path: name, text: fs::read_to_string(&path).unwrap() });
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(!found.is_empty(), "nothing to look at in {places:?}");
    found
}

impl Source {
    /// Numbered lines without their comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().zip(1..).map(|(line, number)| {
            let code = if line.trim_start().starts_with("//") { "" } else { line };
            (number, code.split(" // ").next().unwrap_or(code))
        })
    }

    /// The module right under `src/` that the file belongs to.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split(['/', '.']).next().unwrap_or(below)
    }

    /// What stands in test code: files named for tests, or behind the first `#[cfg(test)]`.
    fn tests(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let is_outside = !self.path.starts_with("src/") || self.path.contains("/tests/");
        if is_outside || name.ends_with("tests.rs") || name == "test.rs" {
            return &self.text;
        }
        self.text.find("#[cfg(test)]").map_or("", |start| &self.text[start..])
    }
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

fn assert_none(findings: Vec<String>, rule: &str) {
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}

#[test]
fn the_protocol_is_pure() {
    let mut findings = Vec::new();
    for source in sources(&["src/protocol"]) {
        for (number, code) in source.code() {
            let impure = words(code).find(|word| IMPURE.contains(word));
            let clock = code.contains("std::time").then_some("std::time");
            if let Some(word) = impure.or(clock) {
                findings.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    assert_none(findings, "no IO, clock, task, float or random order in the protocol");
}

#[test]
fn the_protocol_depends_on_no_more_than_bytes_and_hashes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol/Cargo.toml");
    let text = fs::read_to_string(path).expect("the protocol is a package");
    let (_, rest) = text.split_once("[dependencies]\n").expect("it lists its dependencies");
    let names: Vec<&str> = rest
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(names, ["bytes", "sha2"]);
}

/// `src/lib.rs` refuses to be built with mistakes in the rules, and a program with mistakes around
/// them to run; here it is that nothing asks for either.
#[test]
fn the_program_is_built_without_planted_mistakes() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        fs::read_to_string(&path).expect("it is part of the repository")
    };
    let manifest = read("Cargo.toml");
    let asks = |line: &&str| !line.starts_with('#') && line.contains("planted");
    let asking: Vec<_> = manifest.lines().filter(asks).collect();
    let expected = [
        "planted = []",
        "name = \"planted\"",
        "path = \"tests/planted/main.rs\"",
        "required-features = [\"planted\"]",
    ];
    assert_eq!(asking, expected, "it is off unless it is asked for");
    assert!(!manifest.contains("default = [") && !read("Dockerfile").contains("features"));
    assert!(read("src/main.rs").contains("if !demes::planted::may_run() {"));
    let refusal = "assert!(\n    !demes_protocol::planted::PLANTED,";
    assert!(read("src/lib.rs").contains(refusal), "src/lib.rs refuses to be built with mistakes");
    for package in ["src/protocol/Cargo.toml", "src/sealing/Cargo.toml"] {
        let features = read(package);
        assert!(features.contains("planted = []"), "it is off unless it is asked for");
        assert!(!features.contains("default = "), "it is off unless it is asked for");
    }
}

#[test]
fn files_and_lines_stay_short() {
    let mut findings = Vec::new();
    for source in sources(&["src", "tests", "benches", "build.rs"]) {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{}: {lines} lines", source.path));
        }
        for (line, number) in source.text.lines().zip(1..) {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                findings.push(format!("{}:{number}: {columns} columns", source.path));
            }
        }
    }
    assert_none(findings, "at most 600 lines a file and 100 columns a line");
}

#[test]
fn nothing_is_left_unfinished_and_only_the_command_line_prints() {
    let mut findings = Vec::new();
    for source in sources(&["src", "tests", "benches", "build.rs"]) {
        if source.path.starts_with("tests/tidy") {
            continue; // it names what it forbids
        }
        // Cargo reads what a build script prints.
        let is_build_script = source.path.ends_with("/build.rs");
        let is_test = source.path.contains("/tests/");
        let prints_freely =
            ["cli", "main"].contains(&source.module()) || is_build_script || is_test;
        for (line, number) in source.text.lines().zip(1..) {
            let unfinished = UNFINISHED.iter().find(|mark| line.contains(**mark));
            let library = source.path.starts_with("src/") && !prints_freely;
            let prints = PRINTS.iter().find(|mark| library && line.contains(**mark));
            if let Some(mark) = unfinished.or(prints) {
                findings.push(format!("{}:{number}: {mark}", source.path));
            }
        }
    }
    assert_none(findings, "no unfinished marks; only cli and main print");
}

#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    let mut findings = Vec::new();
    for source in sources(&["tests"]) {
        for (number, code) in source.code() {
            if code.contains("thread::sleep(") || code.contains("time::sleep(") {
                findings.push(format!("{}:{number}", source.path));
            }
        }
    }
    findings.retain(|finding| !finding.starts_with("tests/tidy.rs"));
    assert_none(findings, "no bare sleep in a test");
}

/// The numbers of the rules that `docs/protocol.md` marks as built.
fn built_rules() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let text = fs::read_to_string(path).expect("docs/protocol.md describes the protocol");
    let built = text.lines().filter_map(|line| {
        let (rule, rest) = line.strip_prefix("- ")?.split_once(' ')?;
        let number = rule.strip_prefix(['R', 'L', 'S'])?;
        let is_rule = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        let is_built = rest.starts_with("[built]") || rest.starts_with("[built apart]");
        (is_rule && is_built).then(|| rule.to_owned())
    });
    built.collect()
}

#[test]
fn every_built_rule_has_a_place_and_a_test() {
    let rules = built_rules();
    assert!(rules.len() >= 20, "docs/protocol.md marks its rules: {rules:?}");
    let source = sources(&["src"]);
    let all = sources(&["src", "tests"]);
    let mut findings = Vec::new();
    for rule in &rules {
        let in_comment = |line: &str| {
            line.split_once("//").is_some_and(|(_, comment)| words(comment).any(|w| w == rule))
        };
        let has_place = |source: &Source| {
            let before_tests = source.text.len() - source.tests().len();
            source.text[..before_tests].lines().any(in_comment)
        };
        if !source.iter().any(has_place) {
            findings.push(format!("{rule} has no place in src"));
        }
        if !all.iter().any(|source| words(source.tests()).any(|word| word == rule)) {
            findings.push(format!("{rule} is named by no test"));
        }
    }
    assert_none(findings, "each rule marked [built] has a place in the code and a test");
}

/// What the rows of `docs/verification.md` name that say where each item of the plan is tried:
/// files, or tests, faults, scripts and mistakes by their names.
#[test]
fn what_tries_each_item_of_the_plan_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/verification.md")).expect("it is there");
    let (_, section) = text.split_once("## Where each item of the plan is tried").expect("has it");
    let section = section.split("\n## ").next().unwrap_or_default();
    let places = section
        .lines()
        .filter_map(|row| Some(row.strip_prefix("| ")?.strip_suffix(" |")?.rsplit_once(" | ")?.1));
    let names: Vec<_> = places.flat_map(|place| place.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 100, "the tables name what tries each item: {names:?}");
    let sources = sources(&["src", "tests"]);
    let mistakes = ["src/planted.rs", "src/protocol/planted.rs"];
    let is_mistake = |source: &Source, name: &str| {
        let line = format!("{name},");
        mistakes.contains(&&source.path[..])
            && source.code().any(|(_, code)| code.split(' ').any(|word| word == line))
    };
    let is_there = |name: &str| {
        let own = name.rsplit("::").next().unwrap_or(name);
        let function = format!("fn {own}(");
        match name.contains('/') {
            true => root.join(name).exists(),
            false if root.join(format!("tests/golden/{own}.txt")).exists() => true,
            false => sources
                .iter()
                .any(|source| source.text.contains(&function) || is_mistake(source, own)),
        }
    };
    let missing = names.into_iter().filter(|name| !is_there(name)).map(str::to_owned).collect();
    assert_none(missing, "docs/verification.md names only what there is");
}
