//! The interop vectors of the MLS working group, with the provider that chats are sealed with.
//!
//! Those of suite 1 lie in `tests/sealing/vectors`. `MLS_VECTORS` names a directory with the whole
//! files, whose other suites are tried with all that the same library has.

use std::fs;
use std::path::{Path, PathBuf};

use mls_rs::group::ExportedTree;
use mls_rs::identity::basic::BasicIdentityProvider;
use mls_rs::mls_rs_codec::MlsEncode as _;
use mls_rs::psk::ExternalPskId;
use mls_rs::{CipherSuiteProvider, Client, CryptoProvider, MlsMessage};
use mls_rs_core::key_package::{KeyPackageData, KeyPackageStorage as _};
use mls_rs_crypto_awslc::{AwsLcCipherSuite, AwsLcCryptoProvider};
use serde_json::Value;

use crate::memory::Memory;
use crate::suite::{Suite, providers};

/// The vectors, each with the provider for its suite; those of unknown suites are left out.
fn vectors(file: &str) -> Vec<(Value, AwsLcCryptoProvider, AwsLcCipherSuite)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sealing/vectors");
    let mut found = Vec::new();
    let mut read = |dir: PathBuf, provider: &AwsLcCryptoProvider| {
        let text = fs::read_to_string(dir.join(file)).expect("the vectors are there");
        let all: Vec<Value> = serde_json::from_str(&text).expect("they are a list");
        for vector in all {
            let code = vector["cipher_suite"].as_u64().expect("a suite has a number");
            let code = u16::try_from(code).expect("of two bytes");
            if let Some(suite) = provider.cipher_suite_provider(code.into()) {
                found.push((vector, provider.clone(), suite));
            }
        }
    };
    read(own, &providers());
    match std::env::var_os("MLS_VECTORS") {
        Some(dir) => read(dir.into(), &AwsLcCryptoProvider::new()),
        None => eprintln!("SKIPPED: the other suites of {file}: MLS_VECTORS names no directory"),
    }
    assert!(found.iter().any(|(vector, ..)| vector["cipher_suite"] == 1), "suite 1 is known");
    found
}

/// Bytes in hexadecimal.
fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("bytes are a text");
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("it is hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn message(value: &Value) -> MlsMessage {
    MlsMessage::from_bytes(&bytes(value)).expect("it is a message of MLS")
}

/// Bytes behind their length, as MLS writes both.
fn behind_length(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    mls_rs::mls_rs_codec::byte_vec::mls_encode(&bytes, &mut encoded).expect("a Vec grows");
    encoded
}

/// RFC 9420's `ExpandWithLabel`.
fn expand(
    suite: &AwsLcCipherSuite,
    secret: &[u8],
    label: &str,
    context: &[u8],
    length: usize,
) -> Vec<u8> {
    let mut info = (length as u16).to_be_bytes().to_vec();
    for part in [format!("MLS 1.0 {label}").as_bytes(), context] {
        info.extend(behind_length(part));
    }
    suite.kdf_expand(secret, &info, length).expect("a secret is long enough").to_vec()
}

fn derive(suite: &AwsLcCipherSuite, secret: &[u8], label: &str) -> Vec<u8> {
    expand(suite, secret, label, &[], suite.kdf_extract_size())
}

// S15: the provider computes what others compute.
#[test]
fn key_schedules_are_those_of_others() {
    for (vector, _, suite) in vectors("key-schedule.json") {
        let mut init = bytes(&vector["initial_init_secret"]);
        for epoch in vector["epochs"].as_array().expect("a list") {
            let is = |name: &str, found: &[u8]| assert_eq!(bytes(&epoch[name]), found, "{name}");
            let context = bytes(&epoch["group_context"]);
            let size = suite.kdf_extract_size();
            let joiner = suite.kdf_extract(&init, &bytes(&epoch["commit_secret"])).unwrap();
            let joiner = expand(&suite, &joiner, "joiner", &context, size);
            is("joiner_secret", &joiner);
            let member = suite.kdf_extract(&joiner, &bytes(&epoch["psk_secret"])).unwrap();
            is("welcome_secret", &derive(&suite, &member, "welcome"));
            let secret = expand(&suite, &member, "epoch", &context, size);
            for (label, name) in [
                ("sender data", "sender_data_secret"),
                ("encryption", "encryption_secret"),
                ("exporter", "exporter_secret"),
                ("authentication", "epoch_authenticator"),
                ("external", "external_secret"),
                ("confirm", "confirmation_key"),
                ("membership", "membership_key"),
                ("resumption", "resumption_psk"),
            ] {
                is(name, &derive(&suite, &secret, label));
            }
            let external = bytes(&epoch["external_secret"]);
            is("external_pub", &suite.kem_derive(&external).unwrap().1);
            init = derive(&suite, &secret, "init");
            is("init_secret", &init);
            let exporter = &epoch["exporter"];
            let label = exporter["label"].as_str().expect("a text");
            let exported = derive(&suite, &bytes(&epoch["exporter_secret"]), label);
            let hashed = suite.hash(&bytes(&exporter["context"])).unwrap();
            let length = exporter["length"].as_u64().expect("a number") as usize;
            let exported = expand(&suite, &exported, "exported", &hashed, length);
            assert_eq!(bytes(&exporter["secret"]), exported);
        }
    }
}

// S15: a group that others have made is joined, and followed through their Commits.
#[test]
fn groups_of_others_are_joined_and_followed() {
    let mut followed = 0;
    for file in ["passive-client-welcome.json", "passive-client-handling-commit.json"] {
        for (vector, provider, suite) in vectors(file) {
            let package = message(&vector["key_package"]);
            let reference = package.key_package_reference(&suite).unwrap().expect("it has one");
            let package = package.into_key_package().expect("it is one");
            let mut memory = Memory::default();
            let data = KeyPackageData::new(
                package.mls_encode_to_vec().unwrap(),
                bytes(&vector["init_priv"]).into(),
                bytes(&vector["encryption_priv"]).into(),
                u64::MAX,
            );
            let Ok(()) = memory.insert(reference.to_vec(), data);
            let mut builder = Client::builder()
                .crypto_provider(provider)
                .identity_provider(BasicIdentityProvider::new())
                .key_package_repo(memory.clone())
                .group_state_storage(memory);
            for psk in vector["external_psks"].as_array().expect("a list") {
                let id = ExternalPskId::new(bytes(&psk["psk_id"]));
                builder = builder.psk(id, bytes(&psk["psk"]).into());
            }
            let signer = bytes(&vector["signature_priv"]).into();
            let identity = package.signing_identity().clone();
            let client = builder.signing_identity(identity, signer, package.cipher_suite).build();
            let tree = &vector["ratchet_tree"];
            let tree = (!tree.is_null()).then(|| ExportedTree::from_bytes(&bytes(tree)).unwrap());
            let welcome = message(&vector["welcome"]);
            let (mut group, _) = client.join_group(tree, &welcome, None).unwrap();
            let authenticator = group.epoch_authenticator().unwrap().to_vec();
            assert_eq!(authenticator, bytes(&vector["initial_epoch_authenticator"]));
            for epoch in vector["epochs"].as_array().expect("a list") {
                for proposal in epoch["proposals"].as_array().expect("a list") {
                    group.process_incoming_message(message(proposal)).unwrap();
                }
                group.process_incoming_message(message(&epoch["commit"])).unwrap();
                let authenticator = group.epoch_authenticator().unwrap().to_vec();
                assert_eq!(authenticator, bytes(&epoch["epoch_authenticator"]));
                followed += 1;
            }
        }
    }
    assert!(followed >= 26, "{followed} Commits of others");
}

// S15: what others have sealed and signed opens, byte for byte.
#[test]
fn messages_of_others_open() {
    for (vector, _, suite) in vectors("message-protection.json") {
        for (kind, content) in [("application", 1), ("proposal", 2), ("commit", 3)] {
            let sealed = bytes(&vector[format!("{kind}_priv")]);
            let opened = open(&suite, &vector, &sealed, content).expect("it opens");
            let expected = bytes(&vector[kind]);
            let expected = match kind {
                // An application's bytes stand behind their length.
                "application" => [&[expected.len() as u8], &expected[..]].concat(),
                _ => expected,
            };
            assert!(opened.starts_with(&expected), "{kind}");
            let mut spoilt = sealed.clone();
            *spoilt.last_mut().unwrap() ^= 1;
            let spoilt = open(&suite, &vector, &spoilt, content);
            assert!(spoilt.is_none(), "{kind}: a changed byte is noticed");
        }
    }
    assert_eq!(Suite::X25519.code(), 1);
}

/// Opens a PrivateMessage of leaf 1 of two, generation by its sender data (RFC 9420, 6.3).
fn open(
    suite: &AwsLcCipherSuite,
    vector: &Value,
    sealed: &[u8],
    content_type: u8,
) -> Option<Vec<u8>> {
    // Version and wire format, group id, epoch, content type, authenticated data.
    let mut rest = &sealed[4..];
    let group = take_vector(&mut rest);
    let epoch = take(&mut rest, 8);
    assert_eq!(take(&mut rest, 1), [content_type]);
    let authenticated = take_vector(&mut rest);
    let sender = take_vector(&mut rest);
    let ciphertext = take_vector(&mut rest);
    let (key_size, nonce_size) = (suite.aead_key_size(), suite.aead_nonce_size());
    let secret = bytes(&vector["sender_data_secret"]);
    let sample = &ciphertext[..suite.kdf_extract_size().min(ciphertext.len())];
    let key = expand(suite, &secret, "key", sample, key_size);
    let nonce = expand(suite, &secret, "nonce", sample, nonce_size);
    let bound = [&behind_length(group)[..], epoch, &[content_type]].concat();
    let sender = suite.aead_open(&key, sender, Some(&bound), &nonce).expect("sender data open");
    let number = |at: usize| u32::from_be_bytes(sender[at..at + 4].try_into().unwrap());
    let (leaf, generation, guard) = (number(0), number(4), &sender[8..12]);
    assert_eq!(leaf, 1);
    // The tree of two leaves: its root, then the right child.
    let size = suite.kdf_extract_size();
    let root = bytes(&vector["encryption_secret"]);
    let node = expand(suite, &root, "tree", b"right", size);
    let ratchet = if content_type == 1 { "application" } else { "handshake" };
    let mut secret = expand(suite, &node, ratchet, &[], size);
    for passed in 0..generation {
        secret = expand(suite, &secret, "secret", &passed.to_be_bytes(), size);
    }
    let key = expand(suite, &secret, "key", &generation.to_be_bytes(), key_size);
    let mut nonce = expand(suite, &secret, "nonce", &generation.to_be_bytes(), nonce_size);
    nonce.iter_mut().zip(guard).for_each(|(byte, guard)| *byte ^= guard);
    let bound = [&bound[..], &behind_length(authenticated)].concat();
    Some(suite.aead_open(&key, ciphertext, Some(&bound), &nonce).ok()?.to_vec())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(length);
    *rest = left;
    taken
}

/// Bytes behind their length, as RFC 9000 writes it.
fn take_vector<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let first = rest[0];
    let header = take(rest, 1 << (first >> 6));
    let length = header[1..]
        .iter()
        .fold(usize::from(first & 0x3f), |length, byte| length << 8 | usize::from(*byte));
    take(rest, length)
}
