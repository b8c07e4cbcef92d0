//! Inputs that mean something to the targets, made from values of every kind. Those whose names
//! begin with `bad_` are refused.

mod messages;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use demes::config;
use demes::crypto::link::LinkSeed;
use demes::protocol::log::{Checkpoint, Log};
use demes::protocol::recovery::LogEnd;
use demes::protocol::types::{
    Entry, HardState, Hash, Membership, Past, Pasts, Payload, Policy, Position, Reign, SignedVote,
    Submission, VoterSet,
};
use demes::storage::schema::{self, Batch, Table, VoterState};
use demes::wire::hex;
use demes::wire::link::{LinkText, PeerHint};
use demes_content::{Content, Head, Kind};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::targets::talk::{chat, incarnation, peer, step};

/// Named inputs.
type Seeds = Vec<(String, Vec<u8>)>;

/// The inputs of a target.
pub fn of(target: &str) -> Seeds {
    match target {
        "entry" => entries(),
        "submission" => submissions(),
        "checkpoint" => checkpoints(),
        "record" => records(),
        "request" => messages::requests(),
        "response" => messages::responses(),
        "conversation" => conversations(),
        "certificate" => certificates(),
        "pem" => pems(),
        "invite_link" => invite_links(),
        "configuration" => configurations(),
        "text" => texts(),
        "content" => contents(),
        "keys" => keys(),
        other => panic!("no seeds for {other}"),
    }
}

fn contents() -> Seeds {
    let said = |kind| {
        let head = Some(Head { index: 3, hash: Hash([9; 32]) });
        let content = Content { created_at_ms: 7, head, request_id: "r1".into(), kind };
        content.encode().expect("it can be said").to_vec()
    };
    vec![
        named("text", said(Kind::Text("a text".into()))),
        named("profile", said(Kind::Profile { name: "Ana".into() })),
        named("rename", said(Kind::Rename { name: "chat".into() })),
        named("newer_kind", [1, 0x08, 5, 0xc2, 0x02, 3, 1, 2, 3]),
        named("bad_empty", []),
        named("bad_format", [2, 1]),
        named("bad_head", [1, 0x12, 5, 8, 1, 0x12, 1, 0, 0x82, 1, 0]),
        named("bad_name", [1, 0x8a, 1, 3, 0x0a, 1, b'\n']),
    ]
}

/// A key package of a seat, and messages of another implementation: MLS draws keys, so that none
/// can be made anew alike.
fn keys() -> Seeds {
    const VECTORS: &str = include_str!("../sealing/vectors/passive-client-handling-commit.json");
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).expect("it is JSON");
    let message = |name: &str| {
        let text = vectors[0][name].as_str().or(vectors[0]["epochs"][0][name].as_str());
        HEXLOWER.decode(text.expect("a message").as_bytes()).expect("in hexadecimal")
    };
    vec![
        named("key_package", include_bytes!("seeds/key_package.mls")),
        named("welcome", message("welcome")),
        named("commit", message("commit")),
        named("bad_foreign_key_package", message("key_package")),
        named("bad_empty", []),
    ]
}

fn named(name: &str, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_owned(), bytes.into())
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn message(text: &'static str) -> Payload {
    Payload::Message { request_id: "r1".into(), sealed: Bytes::from_static(text.as_bytes()) }
}

fn payloads() -> Vec<(&'static str, Payload)> {
    let link = LinkSeed([5; 16]);
    let proof = Some(link.prove(chat().0, peer(2), incarnation(2)));
    let (name, address) = (String::from("two"), String::from("b.example:2"));
    let founded =
        Membership::Founded { chat_name: "chat".into(), name: "one".into(), address: "a:1".into() };
    let joined = Membership::Joined { name: name.clone(), address: address.clone(), proof: None };
    let created =
        Membership::InviteLinkCreated { link: link.id(), uses_max: 3, expires_at_ms: 1 << 40 };
    let of = Payload::Membership;
    vec![
        ("term_start", Payload::TermStart(reign())),
        ("message", message("a text")),
        ("founded", of(founded)),
        ("invited", of(Membership::Invited { peer: peer(3), address: address.clone() })),
        ("joined", of(joined)),
        ("joined_by_link", of(Membership::Joined { name, address, proof })),
        ("declined", of(Membership::Declined)),
        ("leaving", of(Membership::Leaving)),
        ("removing", of(Membership::Removing { peer: peer(3) })),
        ("removed", of(Membership::Removed { peer: peer(3) })),
        ("recovered", of(Membership::Recovered { generation: 7 })),
        ("invite_revoked", of(Membership::InviteRevoked { peer: peer(3) })),
        ("link_created", of(created)),
        ("link_revoked", of(Membership::InviteLinkRevoked { link: link.id() })),
        ("voters", Payload::VoterChange(VoterSet([(peer(1), 7), (peer(2), 8)].into()))),
        ("policy", Payload::Policy(Policy::named("another"))),
    ]
}

fn reign() -> Reign {
    let vote = |number| SignedVote { incarnation: incarnation(number), signature: [6; 64] };
    Reign { last_term: 2, votes: [1, 2].map(|number| (peer(number), vote(number))).into() }
}

fn entry(payload: Payload) -> Entry {
    let mut entry = Entry {
        index: 9,
        term: 3,
        author: peer(1),
        incarnation: incarnation(1),
        number: 4,
        generation: 0,
        created_at_ms: 1_700_000_000_000,
        trace: Some([3; 25]),
        payload,
        signature: Some([9; 64]),
        previous: Hash([8; 32]),
        hash: Hash::default(),
    };
    entry.hash = entry.computed_hash();
    entry
}

fn entries() -> Seeds {
    let mut seeds: Seeds = payloads()
        .into_iter()
        .map(|(name, payload)| named(name, entry(payload).encode()))
        .collect();
    let plain = Entry { trace: None, signature: None, ..entry(message("")) };
    let plain = Entry { hash: plain.computed_hash(), ..plain };
    seeds.push(named("plain", plain.encode()));
    let other = Entry { hash: Hash([1; 32]), ..plain };
    seeds.push(named("bad_hash", other.encode()));
    seeds.push(named("bad_cut", &entry(message("a text")).encode()[..100]));
    seeds
}

fn submission(number: u64, payload: Payload) -> Submission {
    Submission { number, created_at_ms: 17, trace: None, payload, signature: None }
}

fn submissions() -> Seeds {
    let encode = |(name, payload)| named(name, submission(4, payload).encode());
    payloads().into_iter().map(encode).collect()
}

fn checkpoints() -> Seeds {
    let (_, entries) = chat();
    let mut log = Log::new(Checkpoint::default(), Vec::new(), 0);
    let mut seeds = vec![named("empty", Checkpoint::default().encode())];
    for (place, entry) in (1..).zip(entries) {
        log.append(entry);
        log.commit_to(place);
        seeds.push(named(&format!("at_{place}"), log.checkpoint().encode()));
    }
    seeds
}

fn records() -> Seeds {
    let of = |kind: u8, bytes: Vec<u8>| [vec![kind], bytes].concat();
    let voter_state = |vote| {
        let hard_state = HardState { term: 5, vote };
        of(
            0,
            VoterState { incarnation: 1, boot: 2, hard_state, furthest: Position::default() }
                .encode(),
        )
    };
    let past = Past {
        boot: 1,
        term: 2,
        acknowledged: Position { term: 2, index: 7 },
        signature: Some([7; 64]),
    };
    let pasts = Pasts::from([((peer(1), 7), past), ((peer(2), 8), Past::default())]);
    vec![
        named("voter_state", voter_state(None)),
        named("voter_state_with_vote", voter_state(Some(peer(2)))),
        named("batch", of(1, Batch { previous_end: 4, end: 9 }.encode().to_vec())),
        named("pasts", of(2, schema::encode_pasts(&pasts))),
        named("value", of(3, schema::value(Table::Peer, b"key", b"payload"))),
        named("bad_checksum", of(3, schema::value(Table::State, b"key", b"payload"))),
        named("bad_empty", vec![]),
    ]
}

/// A voter's day, and everything at once.
fn conversations() -> Seeds {
    let said = |from: u8, (kind, bytes): (u8, Vec<u8>), is_request: bool| {
        let bytes = [vec![kind], bytes].concat();
        step(if is_request { 0 } else { 1 }, from - 1, &bytes)
    };
    let mut everything = Vec::new();
    let mut hosted = Vec::new();
    let mut elected = Vec::new();
    for (name, body) in messages::bodies() {
        let request = messages::request(body.clone()).map(|kind| said(1, kind, true));
        let response = messages::response(body).map(|kind| said(2, kind, false));
        let steps = [request, response].into_iter().flatten().flatten();
        let steps: Vec<u8> = steps.collect();
        if matches!(name, "heartbeat" | "append" | "announce" | "submit_answer") {
            hosted.extend_from_slice(&steps);
            hosted.extend_from_slice(&[7, 0, 6, 0, 4, 5]);
        }
        if matches!(name, "nominate" | "solicit_answer" | "vote" | "submit" | "attach") {
            // The lease runs out; then this one is asked to host.
            elected.extend_from_slice(&[4, 255, 7, 0]);
            elected.extend_from_slice(&steps);
            elected.extend_from_slice(&[7, 0]);
        }
        everything.extend_from_slice(&steps);
    }
    let links = [5, 0, 5, 2, 5, 67, 6, 3, 6, 4, 6, 5, 4, 10];
    vec![
        named("everything", everything),
        named("hosted", hosted),
        named("elected", elected.repeat(3)),
        named("bad_nothing_said", links),
    ]
}

/// A certificate of the key 4, which says the same each time.
fn certificate(from: i32, through: i32) -> rcgen::Certificate {
    let der = key(4).to_pkcs8_der().expect("it is a key");
    let der = PrivatePkcs8KeyDer::from(der.as_bytes().to_vec());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).expect("it is a key");
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(through, 1, 1);
    params.self_signed(&key).expect("it can be signed")
}

fn certificates() -> Seeds {
    let good = certificate(2000, 9000).der().to_vec();
    let mut forged = good.clone();
    *forged.last_mut().expect("it is not empty") ^= 1;
    vec![
        named("bad_cut", &good[..good.len() / 2]),
        named("bad_dates", certificate(2000, 2001).der().to_vec()),
        named("bad_signature", forged),
        named("good", good),
    ]
}

fn pems() -> Seeds {
    let certificate = certificate(2000, 9000).pem();
    vec![
        named("bad_text", "no PEM"),
        named("bad_cut", &certificate[..certificate.len() / 2]),
        named("two", certificate.repeat(2)),
        named("certificate", certificate),
    ]
}

fn invite_links() -> Seeds {
    let link = |address: &str, others: &[&str]| LinkText {
        chat: chat().0,
        inviter: peer(1),
        seed: [5; 16],
        expires_at_s: 1_700_000_000,
        address: address.into(),
        others: others.iter().map(|other| (PeerHint([7; 8]), (*other).to_owned())).collect(),
    };
    let text = |link: LinkText| link.encode().expect("it is short");
    let others = ["192.0.2.2:7443", "[2001:db8::2]:7443"];
    let by_name = text(link("a.example:7443", &[]));
    // What stands between length and checksum: chat, inviter, seed, end, address.
    let content = [&[1; 16 + 32 + 16 + 4][..], &[4, 192, 0, 2, 1, 29, 19]].concat();
    vec![
        named("bad_cut", &by_name[..by_name.len() - 9]),
        named("bad_letter", by_name.replace(':', ";")),
        named("v4", text(link("192.0.2.1:7443", &[]))),
        named("v6", text(link("[2001:db8::1]:7443", &[]))),
        named("others", text(link("192.0.2.1:7443", &others))),
        named("content", content),
        named("name", by_name),
    ]
}

fn configurations() -> Seeds {
    let chats = "[[bootstrap.chat]]\nname = \"chat\"\nmembers = [\"a.example:1\"]\n";
    vec![
        named("default", config::default_file()),
        named("bootstrap", chats),
        named("empty", ""),
        named("peer", "[peer]\nname = \"007\"\nlisten = \"127.0.0.1:0\"\n"),
        named("bad_key", "[peer]\nnames = \"007\"\n"),
        named("bad_kind", "[peer]\nname = 7\n"),
        named("bad_bootstrap", "[bootstrap]\nchat = 7\n"),
        named("bad_toml", "[peer\n"),
    ]
}

fn texts() -> Seeds {
    let end = LogEnd { last: Position { term: 2, index: 9 }, hash: Hash([8; 32]), generation: 7 };
    vec![
        named("trace", format!("00-{}-{}-01", "3".repeat(32), "4".repeat(16))),
        named("peer", hex(&peer(1).0)),
        named("chat", hex(&chat().0.0)),
        named("log_end", end.to_string()),
        named("address", "a.example:7443"),
        named("address_v6", "[2001:db8::1]:7443"),
        named("bad_address", "a.example"),
        named("bad_empty", ""),
    ]
}
