//! Where things stand: floors, circles, and the map in `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{Source, assert_none, sources, words};

/// The rooms, from the ground up. A file may import only what lies lower, or its own room.
const FLOORS: [(&str, u8); 16] = [
    ("api", 0),
    ("protocol", 0),
    ("planted", 0),
    ("wire", 1),
    ("crypto", 1),
    ("storage", 1),
    ("telemetry", 1),
    ("runtime", 2),
    ("links", 3),
    ("peer", 4),
    ("faces", 5),
    ("serve", 6),
    ("config", 7),
    ("cli", 8),
    ("lib", 9),
    ("main", 9),
];

/// Files that import each other because they are one thing in several files.
const CIRCLES: [&[&str]; 3] = [
    // The life of chats at one peer: `Node` is the peer as a whole and keeps the lives and what
    // runs beside them, and a life, its repair and its records act on the whole peer.
    &[
        "peer/life",
        "peer/life/kept",
        "peer/node",
        "peer/people/inviting",
        "peer/people/joining",
        "peer/records",
        "peer/repair",
    ],
    // The loop: `driver` owns the chats and lends each what they share (`Io`), and `chat` is what
    // the loop does for one of them, with what it proposes and carries over in files of their own.
    &["runtime/carry", "runtime/chat", "runtime/driver", "runtime/proposing"],
    // The metrics of a process: each is counted by an instrument that is made of its row in the
    // table, and the functions beside the table are how the program finds the instruments.
    &["telemetry/instruments", "telemetry/metrics", "telemetry/process"],
];

/// The path of a file's module: `peer/life` for both `src/peer/life.rs` and `src/peer/life/mod.rs`.
fn module_of(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap_or(path);
    let below = below.strip_suffix(".rs").unwrap_or(below);
    below.strip_suffix("/mod").unwrap_or(below)
}

/// Something that a file names: from which line, what, and whether only its tests do.
struct Import {
    line: usize,
    /// `crate`, `super` or `self`, and what follows.
    path: Vec<String>,
    in_tests: bool,
}

impl Import {
    /// From the top, without `crate`.
    fn absolute(&self, module: &str) -> Vec<String> {
        let mut absolute: Vec<String> = match self.path[0].as_str() {
            "crate" => Vec::new(),
            _ => module.split('/').map(str::to_owned).collect(),
        };
        for segment in &self.path {
            match segment.as_str() {
                "crate" | "self" | "*" => {}
                "super" => drop(absolute.pop()),
                name => absolute.push(name.to_owned()),
            }
        }
        absolute
    }
}

/// The paths of a `use` with braces in it, one by one.
fn leaves(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((stem, list)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        return if path.is_empty() { Vec::new() } else { vec![path.to_owned()] };
    };
    let list = list.trim_end().strip_suffix('}').unwrap_or(list);
    let mut depth = 0;
    let items = list.split(|letter: char| {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    });
    let leaves = items.flat_map(leaves);
    leaves.map(|leaf| format!("{stem}{leaf}")).collect()
}

/// The paths that a line names beside a `use`.
fn inline(code: &str) -> Vec<String> {
    let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let paths = code.split(|letter| !is_path(letter)).map(|path| path.trim_matches(':'));
    paths.filter(|path| path.contains("::")).map(str::to_owned).collect()
}

fn imports(source: &Source) -> Vec<Import> {
    let before_tests = source.text.len() - source.tests().len();
    let tests_from = source.text[..before_tests].lines().count();
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (line, code) in source.code() {
        let code = code.trim();
        let (line, paths) = match open.take() {
            Some((from, text)) => (from, Some(format!("{text} {code}"))),
            None => {
                let plain = code.strip_prefix("use ").map(str::to_owned);
                let public = code.strip_prefix("pub").and_then(|it| it.split_once("use "));
                let public = public.map(|(_, tree)| match tree.starts_with("self::") {
                    // What a file shows of its own parts is no import.
                    true => tree.chars().filter(|letter| *letter == ';').collect(),
                    false => tree.to_owned(),
                });
                (line, plain.or(public))
            }
        };
        let paths = match paths {
            Some(tree) if tree.contains(';') => leaves(tree.trim_end_matches(';')),
            Some(tree) => {
                open = Some((line, tree));
                continue;
            }
            None => inline(code),
        };
        for path in paths {
            let path: Vec<String> = path.split("::").map(|it| it.trim().to_owned()).collect();
            if ["crate", "super", "self"].contains(&path[0].as_str()) {
                found.push(Import { line, path, in_tests: line > tests_from });
            }
        }
    }
    found
}

fn upward(sources: &[Source]) -> Vec<String> {
    let floors = BTreeMap::from(FLOORS);
    let mut findings = Vec::new();
    for source in sources {
        let module = module_of(&source.path);
        let own = source.module();
        let Some(floor) = floors.get(own) else {
            findings.push(format!("{}: its room is on no floor", source.path));
            continue;
        };
        for import in imports(source) {
            // In a test, `super` counts from a module within the file.
            if import.in_tests && import.path[0] != "crate" {
                continue;
            }
            let absolute = import.absolute(module);
            let Some(room) = absolute.first() else { continue };
            let other = floors.get(room.as_str());
            // In a module within a file, `super` is the file.
            let is_within = other.is_none() && import.path[0] == "super";
            let is_lower = other.is_some_and(|other| other < floor);
            if room != own && !is_lower && !is_within {
                findings.push(format!("{}:{}: {own} imports {room}", source.path, import.line));
            }
        }
    }
    findings
}

/// Sets of files that import each other, whether at once or by way of others.
fn circles(sources: &[Source]) -> BTreeSet<BTreeSet<String>> {
    let modules: BTreeSet<&str> = sources.iter().map(|source| module_of(&source.path)).collect();
    let mut named: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources {
        let own = module_of(&source.path);
        for import in imports(source).iter().filter(|import| !import.in_tests) {
            let mut path = import.absolute(own);
            while !path.is_empty() && !modules.contains(path.join("/").as_str()) {
                path.pop();
            }
            if let Some(other) = modules.get(path.join("/").as_str()).filter(|it| **it != own) {
                named.entry(own).or_default().insert(other);
            }
        }
    }
    let reached = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut left: Vec<&str> = named.get(from).into_iter().flatten().copied().collect();
        while let Some(next) = left.pop() {
            if reached.insert(next) {
                left.extend(named.get(next).into_iter().flatten());
            }
        }
        reached
    };
    let all: BTreeMap<&str, BTreeSet<&str>> =
        named.keys().map(|&module| (module, reached(module))).collect();
    let in_circles = all.iter().filter(|(module, others)| others.contains(*module));
    in_circles
        .map(|(&module, others)| {
            let back = others
                .iter()
                .filter(|other| all.get(**other).is_some_and(|it| it.contains(module)));
            back.map(|&other| other.to_owned()).collect()
        })
        .collect()
}

/// The files that the map names, by the folders that it names them in.
fn on_the_map(text: &str) -> BTreeSet<String> {
    let (_, map) = text.split_once("## The map\n\n```\n").expect("there is a map");
    let (map, _) = map.split_once("\n```").expect("and it ends");
    let mut folders: Vec<(usize, &str)> = Vec::new();
    let mut named = BTreeSet::new();
    for line in map.lines() {
        let indent = line.len() - line.trim_start().len();
        let first = line.split_whitespace().next().unwrap_or_default();
        // Further right stand meanings.
        if indent < 8 {
            folders.retain(|(outer, _)| *outer < indent);
            if first.ends_with('/') {
                folders.push((indent, first));
            }
        }
        let folder: String = folders.iter().map(|(_, folder)| *folder).collect();
        let words = line.split_whitespace().map(|word| word.trim_end_matches([',', ':', ';', '.']));
        named.extend(
            words.filter(|word| word.ends_with(".rs")).map(|word| format!("{folder}{word}")),
        );
    }
    named
}

fn off_the_map(sources: &[Source], text: &str) -> Vec<String> {
    let named = on_the_map(text);
    let is_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/");
    // A folder's line is the place of its `mod.rs`.
    let needs_a_name = |path: &&str| !path.ends_with("/mod.rs") && !is_test(path);
    let paths = || sources.iter().map(|source| source.path.as_str());
    let missing = paths().filter(needs_a_name).filter(|path| !named.contains(*path));
    let missing = missing.map(|path| format!("{path}: is not named"));
    let there: BTreeSet<&str> = paths().collect();
    let gone = named.iter().filter(|name| name.starts_with("src/"));
    let gone = gone.filter(|name| !there.contains(name.as_str()));
    missing.chain(gone.map(|name| format!("{name}: is named, and not there"))).collect()
}

/// Packages of their own, which cannot import the rest: the rules, what people say, and sealing.
const PACKAGES: [&str; 3] = ["src/protocol/", "src/content/", "src/sealing/"];

fn around_the_rules() -> Vec<Source> {
    let mut sources = sources(&["src"]);
    let is_apart = |source: &Source| PACKAGES.iter().any(|it| source.path.starts_with(it));
    sources.retain(|source| !is_apart(source));
    sources
}

#[test]
fn files_import_only_lower_floors() {
    assert_none(upward(&around_the_rules()), "a file imports only lower floors, and its own room");
}

#[test]
fn files_import_each_other_in_no_circle() {
    let known: BTreeSet<BTreeSet<String>> = CIRCLES
        .iter()
        .map(|circle| circle.iter().map(|&module| module.to_owned()).collect())
        .collect();
    let found = circles(&around_the_rules());
    let new = found.difference(&known).map(|circle| format!("there is one of {circle:?}"));
    let gone = known.difference(&found).map(|circle| format!("strike out {circle:?}"));
    assert_none(new.chain(gone).collect(), "files import each other in no circle but those listed");
}

/// Files that name or make a status of gRPC where they should not.
fn statuses(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let may_name = ["src/faces/grpc/", "src/links/", "src/cli/"];
        let may_name = may_name.iter().any(|room| source.path.starts_with(room));
        let before_tests = source.text.len() - source.tests().len();
        let code = &source.text[..before_tests];
        let imported = code.split("use tonic::").skip(1).filter_map(|it| it.split(';').next());
        let is_status = |names: &str| words(names).any(|name| name == "Status");
        if !may_name && (imported.into_iter().any(is_status) || code.contains("tonic::Status")) {
            findings.push(format!("{}: names a status of gRPC", source.path));
        }
        let makes = code.split("Status::").skip(1).any(|it| {
            let name = words(it).next().unwrap_or_default();
            it[name.len()..].starts_with('(') && name.starts_with(char::is_lowercase)
        });
        let is_face = source.path.starts_with("src/faces/");
        if is_face && makes && source.path != "src/faces/grpc/status.rs" {
            findings.push(format!("{}: makes an error without a reason", source.path));
        }
    }
    findings
}

/// A refusal becomes a status of gRPC in one place; the command line and `links` are told some.
#[test]
fn refusals_become_statuses_in_one_place() {
    let findings = statuses(&around_the_rules());
    assert_none(findings, "a refusal becomes a status in src/faces/grpc/status.rs alone");
}

#[test]
fn a_status_in_another_place_is_found() {
    let found = |path: &str, text: &str| {
        let source = Source { path: path.into(), text: text.into() };
        statuses(&[source]).len()
    };
    for named in [
        "use tonic::Status;",
        "use tonic::{Code, Status};",
        "use tonic::{\n    Code,\n    Status as Answer,\n};",
        "fn ask() -> Result<(), tonic::Status> {",
    ] {
        for room in ["peer/node", "runtime/driver", "serve/server", "faces/places", "wire/reason"] {
            assert_eq!(found(&format!("src/{room}.rs"), named), 1, "{named} in {room}");
        }
        for room in ["faces/grpc/host", "links/asking", "cli/errors"] {
            assert_eq!(found(&format!("src/{room}.rs"), named), 0, "{named} in {room}");
        }
    }
    let other = "use tonic::Code;\nuse crate::wire::Status;\nuse tonic::transport::Channel;";
    assert_eq!(found("src/peer/node.rs", other), 0, "that is no status of gRPC");
    let makes = "fn f() { Status::not_found(\"gone\") }";
    assert_eq!(found("src/faces/grpc/host.rs", makes), 1);
    assert_eq!(found("src/faces/grpc/status.rs", makes), 0);
    assert_eq!(found("src/links/asking.rs", makes), 0);
}

/// What every room of the rules knows: the words, the log, and what is measured. A replica and
/// what it does stand on these.
const UNDER_A_REPLICA: [&str; 12] = [
    "config",
    "event",
    "evidence",
    "log",
    "message",
    "planted",
    "prng",
    "quota",
    "time",
    "timers",
    "traceparent",
    "types",
];

/// What under a replica imports one, or part of one.
fn on_a_replica(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let module = module_of(&source.path);
        let module = module.strip_prefix("protocol/").unwrap_or(module);
        let own = module.split('/').next().unwrap_or(module);
        if !UNDER_A_REPLICA.contains(&own) {
            continue;
        }
        for import in imports(source) {
            // In a test, `super` counts from a module within the file.
            if import.in_tests && import.path[0] != "crate" {
                continue;
            }
            let absolute = import.absolute(module);
            // In a module within a file, `super` is the file.
            let is_within = import.path[0] == "super" && absolute.len() < 2;
            match absolute.first() {
                Some(room) if !UNDER_A_REPLICA.contains(&&room[..]) && !is_within => {
                    findings.push(format!("{}:{}: {own} imports {room}", source.path, import.line));
                }
                _ => {}
            }
        }
    }
    findings
}

/// The rooms of one state machine call each other. What they stand on does not call them.
#[test]
fn the_log_and_the_words_know_no_replica() {
    assert_none(on_a_replica(&sources(&["src/protocol"])), "the log and the words know no replica");
    let found = |path: &str, text: &str| {
        on_a_replica(&[Source { path: path.into(), text: text.into() }]).len()
    };
    for up in [
        "use crate::replica::Replica;",
        "use crate::{\n    host::Hosting,\n    types::Term,\n};",
        "fn f() { crate::member::attach() }",
        "#[cfg(test)]\nmod tests {\n    use crate::sender::Added;\n}",
    ] {
        assert_eq!(found("src/protocol/log/entries.rs", up), 1, "{up}");
        assert_eq!(found("src/protocol/event.rs", up), 1, "{up}");
        assert_eq!(found("src/protocol/host/hosting.rs", up), 0, "{up}");
    }
    assert_eq!(found("src/protocol/event.rs", "use super::replica::Replica;"), 1);
    assert_eq!(found("src/protocol/log/reign.rs", "use super::super::replica::Replica;"), 1);
    assert_eq!(found("src/protocol/log/reign.rs", "use super::entries::Log;"), 0);
    assert_eq!(found("src/protocol/planted.rs", "mod switch {\n    use super::Bug;\n}"), 0);
}

#[test]
fn the_map_names_every_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let text = fs::read_to_string(path).expect("docs/architecture.md has the map");
    assert_none(off_the_map(&sources(&["src"]), &text), "docs/architecture.md names every file");
}

#[test]
fn what_is_out_of_place_is_found() {
    let source = |(path, text): (&str, &str)| Source { path: path.into(), text: text.into() };
    let house = |files: &[(&str, &str)]| files.iter().copied().map(source).collect::<Vec<_>>();
    let upward = |path: &str, text: &str| upward(&house(&[(path, text)]));
    for up in [
        "use crate::peer::node::Node;",
        "pub use crate::peer::node::Node;",
        "use crate::{\n    peer::node::Node,\n    wire::hex,\n};",
        "use super::super::peer::node;",
        "fn f() { crate::peer::node::now_ms() }",
        "#[cfg(test)]\nmod tests {\n    use crate::peer::node::Node;\n}",
    ] {
        assert_eq!(upward("src/runtime/chat.rs", up).len(), 1, "{up}");
        assert_eq!(upward("src/serve/mod.rs", up).len(), 0, "{up}");
    }
    assert_eq!(upward("src/attic/chat.rs", "").len(), 1, "a room on no floor");
    assert_eq!(upward("src/wire/chat.rs", "use crate::crypto::seal;").len(), 1, "side by side");

    let there = ("src/peer/one.rs", "use super::two::Two;\nuse crate::wire::hex;");
    let back = "use crate::peer::{\n    three,\n    life::Life,\n};";
    let again = ("src/peer/life.rs", "fn f() { super::one::begin() }");
    let found = circles(&house(&[there, ("src/peer/two.rs", back), again]));
    let circle = ["peer/life", "peer/one", "peer/two"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from([BTreeSet::from(circle)]));
    let in_tests = "#[cfg(test)]\nmod tests {\n    use crate::peer::life::Life;\n}";
    for shown in ["pub use self::life::Life;", "pub use self::life::{\n    Life,\n};"] {
        let below = ("src/peer/life.rs", "use super::Way;");
        assert_eq!(circles(&house(&[below, ("src/peer/mod.rs", shown)])), BTreeSet::new());
    }
    let none = house(&[there, ("src/peer/two.rs", in_tests), again]);
    assert_eq!(circles(&none), BTreeSet::new());

    let map = "## The map\n\n```\nsrc/\n  peer/      the peer\n    one.rs   a file, with\n\
               \x20            words beside it, and two.rs\n  three.rs   another\n```\n";
    let files = ["src/peer/one.rs", "src/peer/two.rs", "src/three.rs", "src/peer/mod.rs"];
    let all = house(&files.map(|path| (path, "")));
    assert_eq!(off_the_map(&all, map), [""; 0]);
    assert_eq!(off_the_map(&all[1..], map), ["src/peer/one.rs: is named, and not there"]);
    let more = house(
        &[files.as_slice(), &["src/two.rs"]]
            .concat()
            .into_iter()
            .map(|path| (path, ""))
            .collect::<Vec<_>>(),
    );
    assert_eq!(off_the_map(&more, map), ["src/two.rs: is not named"]);
}
