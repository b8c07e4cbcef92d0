//! The fuzzer's targets on stable Rust: every committed input, and seeded changes of each (R45).
//!
//!     cargo test --release --test fuzz
//!     DEMES_MUTATIONS=1000000 cargo test --release --test fuzz    # of each target
//!     REWRITE=1 cargo test --test fuzz                            # writes the seeds anew
//!
//! `fuzz/targets.rs` says what the targets are, `seeds` makes the inputs that mean something to
//! them, and what the fuzzer finds is put beside those, under `fuzz/corpus/`.

#[path = "../../fuzz/targets.rs"]
mod targets;

mod seeds;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use demes::protocol::prng::Prng;
use prost::Message as _;
use prost_types::FileDescriptorSet;

use targets::{TARGETS, Target};

/// Changed inputs of each target in an ordinary run.
const MUTATIONS: usize = 20_000;
/// A conversation is a hundred messages with signatures: there is one for so many other inputs.
const CONVERSATION_COST: usize = 20;
/// No input grows beyond this.
const BYTES_MAX: usize = 8_192;

fn corpus_of(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The committed inputs of a target, by name.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(corpus_of(target)).expect("every target has a corpus");
    let read = |file: fs::DirEntry| {
        let name = file.file_name().into_string().expect("names are plain");
        (name, fs::read(file.path()).expect("it is readable"))
    };
    files.map(|file| read(file.expect("it is readable"))).collect()
}

/// Calls a target, and says which input it was if that panics.
fn call(name: &str, target: Target, bytes: &[u8]) -> bool {
    catch_unwind(|| target(bytes)).unwrap_or_else(|_| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} panics on {hex}")
    })
}

#[test]
fn the_seeds_are_committed_and_mean_something() {
    for (name, target) in TARGETS {
        let seeds = seeds::of(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (seed, bytes) in &seeds {
            let means_something = call(name, target, bytes);
            assert_eq!(means_something, !seed.starts_with("bad_"), "{name}/{seed}");
        }
        if std::env::var_os("REWRITE").is_some() {
            fs::create_dir_all(corpus_of(name)).expect("it is writable");
            for (seed, bytes) in &seeds {
                fs::write(corpus_of(name).join(seed), bytes).expect("it is writable");
            }
        }
        let corpus = corpus(name);
        for (seed, bytes) in seeds {
            assert!(corpus.get(&seed) == Some(&bytes), "{name}/{seed}: REWRITE=1 writes it anew");
        }
    }
}

/// What a call brings is fuzzed from the day on which the call is there.
#[test]
fn every_request_of_the_contract_has_a_seed() {
    let contract = FileDescriptorSet::decode(demes::wire::FILE_DESCRIPTOR_SET).expect("compiled");
    let services = contract.file.iter().flat_map(|file| &file.service);
    let calls = services.flat_map(|service| &service.method);
    let inputs = calls.map(|call| call.input_type().rsplit('.').next().expect("a name"));
    let inputs: BTreeSet<&str> = inputs.collect();
    let listed = BTreeSet::from(targets::REQUESTS);
    assert_eq!(listed, inputs, "fuzz/targets.rs has the left ones, proto/ the right ones");
    let corpus = corpus("request");
    for (kind, request) in targets::REQUESTS.iter().enumerate() {
        let is_of = |bytes: &[u8]| bytes[0] == kind as u8 && targets::request(bytes);
        assert!(corpus.values().any(|bytes| is_of(bytes)), "{request} has no seed");
    }
}

#[test]
fn every_committed_input_is_survived() {
    for (name, target) in TARGETS {
        for bytes in corpus(name).values() {
            call(name, target, bytes);
        }
    }
}

#[test]
fn changed_inputs_are_survived() {
    let wanted = std::env::var("DEMES_MUTATIONS");
    let count = wanted.map_or(MUTATIONS, |count| count.parse().expect("a number"));
    std::thread::scope(|scope| {
        for (name, target) in TARGETS {
            let count = if name == "conversation" { count / CONVERSATION_COST } else { count };
            scope.spawn(move || {
                let inputs: Vec<Vec<u8>> = corpus(name).into_values().collect();
                let mut prng = Prng::new(1);
                let made_sense =
                    (0..count).filter(|_| call(name, target, &mutate(&inputs, &mut prng))).count();
                println!("{name}: {count} changed inputs, {made_sense} of them made sense");
            });
        }
    });
}

/// One of the inputs with one to eight changes.
fn mutate(inputs: &[Vec<u8>], prng: &mut Prng) -> Vec<u8> {
    let pick = |prng: &mut Prng, bound: usize| prng.below(bound.max(1) as u64) as usize;
    let mut bytes = inputs[pick(prng, inputs.len())].clone();
    for _ in 0..1 + pick(prng, 8) {
        let place = pick(prng, bytes.len());
        match pick(prng, 8) {
            0 if !bytes.is_empty() => bytes[place] ^= 1 << pick(prng, 8),
            1 if !bytes.is_empty() => bytes[place] = prng.next_u64() as u8,
            // Values at the edges of what lengths and numbers may be.
            2 if !bytes.is_empty() => bytes[place] = [0, 1, 0x7f, 0x80, 0xff][pick(prng, 5)],
            3 => bytes.insert(place, prng.next_u64() as u8),
            4 if !bytes.is_empty() => drop(bytes.remove(place)),
            5 => bytes.truncate(place),
            6 => {
                // A piece of this one comes twice.
                let end = place + pick(prng, bytes.len() - place.min(bytes.len()));
                let piece = bytes[place.min(bytes.len())..end.min(bytes.len())].to_vec();
                bytes.splice(place..place, piece);
            }
            _ => {
                // The end of another one.
                let other = &inputs[pick(prng, inputs.len())];
                bytes.truncate(place);
                bytes.extend_from_slice(&other[pick(prng, other.len()).min(other.len())..]);
            }
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}
