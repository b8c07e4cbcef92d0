//! What is fuzzed: every decoder that meets bytes which this process has not made itself.
//!
//! Each target takes any bytes and must come back: no panic, no endless loop, no allocation without
//! bound (R45). Where the bytes mean something, it says so, and has checked that writing that down
//! and reading it again gives the same. The fuzzer calls these functions through `fuzz_targets/`,
//! and `tests/fuzz/` calls the very same ones on stable Rust.

use bytes::Bytes;
use demes::config;
use demes::crypto::certificate;
use demes::protocol::log::Checkpoint;
use demes::protocol::message::Body;
use demes::protocol::recovery::LogEnd;
use demes::protocol::traceparent::from_traceparent;
use demes::protocol::types::{ChatId, Entry, PeerId, Submission};
use demes::storage::schema;
use demes::wire::link::{LinkText, PREFIX};
use demes::wire::message as convert;
use demes::wire::message::Header;
use demes::wire::{WireError, check_address, check_name, pb};
use demes_content::Content;
use demes_sealing::Suite;
use prost::Message as _;
use rustls::pki_types::{CertificateDer, UnixTime};

#[path = "conversation.rs"]
pub mod talk;
pub use talk::conversation;

/// A decoder: whether the bytes mean something to it.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by the names of their directories in `fuzz/corpus/`.
pub const TARGETS: [(&str, Target); 14] = [
    ("entry", entry),
    ("submission", submission),
    ("checkpoint", checkpoint),
    ("record", record),
    ("request", request),
    ("response", response),
    ("conversation", conversation),
    ("certificate", certificate),
    ("pem", pem),
    ("invite_link", invite_link),
    ("configuration", configuration),
    ("text", text),
    ("content", content),
    ("keys", keys),
];

/// A log entry as it is stored.
pub fn entry(bytes: &[u8]) -> bool {
    let Some(entry) = Entry::decode(bytes) else { return false };
    assert_eq!(entry.encode(), bytes, "the form is canonical");
    entry.verify_hash()
}

/// A submission of the outbox.
pub fn submission(bytes: &[u8]) -> bool {
    let Some(submission) = Submission::decode(bytes) else { return false };
    assert_eq!(submission.encode(), bytes, "the form is canonical");
    true
}

/// What a participant says, after it was opened.
pub fn content(bytes: &[u8]) -> bool {
    let Ok(content) = Content::decode(&Bytes::copy_from_slice(bytes)) else { return false };
    // Of foreign programs a text may be longer than our own write.
    if let Ok(encoded) = content.encode() {
        assert_eq!(Content::decode(&encoded), Ok(content), "it reads back");
    }
    true
}

/// A Commit, a Welcome or a key package, as sealing reads each before MLS is asked.
pub fn keys(bytes: &[u8]) -> bool {
    let leaf = demes_sealing::read_package(ChatId([7; 16]), Suite::X25519, bytes);
    let place = demes_sealing::place_of(bytes);
    let welcomed = demes_sealing::welcomed(bytes);
    leaf.is_some() || place.is_some() || !welcomed.is_empty()
}

/// A checkpoint.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let Some(checkpoint) = Checkpoint::decode(bytes) else { return false };
    let again = Checkpoint::decode(&checkpoint.encode());
    assert!(again.as_ref() == Some(&checkpoint), "it reads back");
    true
}

/// The small records of a store, by the first byte.
pub fn record(bytes: &[u8]) -> bool {
    let Some((kind, bytes)) = bytes.split_first() else { return false };
    match kind % 4 {
        0 => schema::VoterState::decode(bytes)
            .is_some_and(|voter_state| voter_state.encode() == bytes),
        1 => schema::Batch::decode(bytes).is_some_and(|batch| batch.encode() == bytes),
        2 => schema::decode_pasts(bytes).is_some(),
        _ => {
            let payload = schema::payload(schema::Table::Peer, b"key", bytes);
            payload.is_some_and(|p| schema::value(schema::Table::Peer, b"key", p) == bytes)
        }
    }
}

type Parsed = Result<(Header, Body), WireError>;

/// Decodes a message of one type and converts it.
fn convert_with<T: prost::Message + Default>(
    bytes: &[u8],
    parse: impl FnOnce(T) -> Parsed,
) -> Option<(Header, Body)> {
    parse(T::decode(bytes).ok()?).ok()
}

/// Every request of `proto/`, by the number of its kind: what other peers send, then what a person's
/// programs do.
pub const REQUESTS: [&str; 38] = [
    "JoinRequest",
    "ReplicateRequest",
    "AcknowledgeRequest",
    "SubmitRequest",
    "ReportDelaysRequest",
    "GoodbyeRequest",
    "HeartbeatsRequest",
    "NominateRequest",
    "SolicitRequest",
    "RequestVoteRequest",
    "WithdrawRequest",
    "AnnounceRequest",
    "ElectionServiceHandOverRequest",
    "FetchLogRequest",
    "InviteRequest",
    "FindHostRequest",
    "DialBackRequest",
    "PingRequest",
    "GetPeerRequest",
    "CreateChatRequest",
    "ListChatsRequest",
    "GetChatRequest",
    "UpdateChatRequest",
    "InviteMemberRequest",
    "CreateInviteLinkRequest",
    "RevokeInviteRequest",
    "ListInvitesRequest",
    "AcceptInviteRequest",
    "DeclineInviteRequest",
    "RemoveMemberRequest",
    "LeaveChatRequest",
    "SendMessageRequest",
    "FeedRequest",
    "ListMessagesRequest",
    "WatchChatRequest",
    "MarkReadRequest",
    "ClientServiceHandOverRequest",
    "CheckMembersRequest",
];

/// The kind of a request, by the first byte.
pub fn kind_of_request(first: u8) -> usize {
    usize::from(first) % REQUESTS.len()
}

/// A request of another peer that is a message to a replica.
pub fn parse_request(bytes: &[u8]) -> Option<(Header, Body)> {
    let (kind, bytes) = bytes.split_first()?;
    match kind_of_request(*kind) {
        0 => convert_with(bytes, convert::from_join_request),
        1 => convert_with(bytes, convert::from_replicate_request),
        2 => convert_with(bytes, convert::from_acknowledge),
        3 => convert_with(bytes, convert::from_submit_request),
        4 => convert_with(bytes, convert::from_report_request),
        5 => convert_with(bytes, |request: pb::GoodbyeRequest| {
            Ok((convert::from_header(request.header)?, Body::Goodbye))
        }),
        6 => convert_with(bytes, |request: pb::HeartbeatsRequest| {
            Ok((convert::from_header(request.header)?, Body::FindHost))
        }),
        7 => convert_with(bytes, convert::from_nominate_request),
        8 => convert_with(bytes, convert::from_solicit_request),
        9 => convert_with(bytes, convert::from_vote_request),
        10 => convert_with(bytes, convert::from_withdraw_request),
        11 => convert_with(bytes, convert::from_announce_request),
        12 => convert_with(bytes, convert::from_hand_over_request),
        13 => convert_with(bytes, convert::from_fetch_log_request),
        _ => None,
    }
}

/// Whether the bytes are a message of that type.
fn reads_back<T: prost::Message + Default + PartialEq>(bytes: &[u8]) -> bool {
    let Ok(message) = T::decode(bytes) else { return false };
    let again = T::decode(&*message.encode_to_vec());
    assert!(again.as_ref() == Ok(&message), "it reads back");
    true
}

/// The requests that are no messages to a replica.
fn is_other_request(kind: u8, bytes: &[u8]) -> bool {
    let is_chat = |id: &str| id.parse::<ChatId>().is_ok();
    match kind_of_request(kind) {
        14 => pb::InviteRequest::decode(bytes).is_ok_and(|request| {
            is_chat(&request.chat_id)
                && check_name(&request.chat_name, "chat_name").is_ok()
                && check_address(&request.inviter_address, "inviter_address").is_ok()
                && demes::wire::milliseconds(request.expires_at, "expires_at").is_ok()
        }),
        15 => pb::FindHostRequest::decode(bytes).is_ok_and(|request| {
            let proof = request.proof.as_ref().map(demes::wire::entry::from_proof);
            is_chat(&request.chat_id) && proof.is_none_or(|proof| proof.is_ok())
        }),
        16 => pb::DialBackRequest::decode(bytes).is_ok_and(|request| is_chat(&request.chat_id)),
        17 => reads_back::<pb::PingRequest>(bytes),
        18 => reads_back::<pb::GetPeerRequest>(bytes),
        19 => reads_back::<pb::CreateChatRequest>(bytes),
        20 => reads_back::<pb::ListChatsRequest>(bytes),
        21 => reads_back::<pb::GetChatRequest>(bytes),
        22 => reads_back::<pb::UpdateChatRequest>(bytes),
        23 => reads_back::<pb::InviteMemberRequest>(bytes),
        24 => reads_back::<pb::CreateInviteLinkRequest>(bytes),
        25 => reads_back::<pb::RevokeInviteRequest>(bytes),
        26 => reads_back::<pb::ListInvitesRequest>(bytes),
        27 => reads_back::<pb::AcceptInviteRequest>(bytes),
        28 => reads_back::<pb::DeclineInviteRequest>(bytes),
        29 => reads_back::<pb::RemoveMemberRequest>(bytes),
        30 => reads_back::<pb::LeaveChatRequest>(bytes),
        31 => reads_back::<pb::SendMessageRequest>(bytes),
        32 => reads_back::<pb::FeedRequest>(bytes),
        33 => reads_back::<pb::ListMessagesRequest>(bytes),
        34 => reads_back::<pb::WatchChatRequest>(bytes),
        35 => reads_back::<pb::MarkReadRequest>(bytes),
        36 => reads_back::<pb::ClientServiceHandOverRequest>(bytes),
        37 => reads_back::<pb::CheckMembersRequest>(bytes),
        _ => false,
    }
}

/// An answer of another peer: its kind by the first byte.
pub fn parse_response(bytes: &[u8]) -> Option<(Header, Body)> {
    let (kind, bytes) = bytes.split_first()?;
    match kind % 10 {
        0 => convert_with(bytes, convert::from_join_response),
        1 => convert_with(bytes, convert::from_replicate_response),
        2 => convert_with(bytes, convert::from_heartbeat),
        3 => convert_with(bytes, convert::from_submit_response),
        4 => convert_with(bytes, convert::from_nominate_response),
        5 => convert_with(bytes, convert::from_solicit_response),
        6 => convert_with(bytes, convert::from_vote_response),
        7 => convert_with(bytes, convert::from_fetch_log_response),
        8 => convert_with(bytes, |response| {
            convert::from_find_host_response(ChatId::default(), response)
        }),
        _ => convert_with(bytes, |response: pb::GoodbyeResponse| {
            let refused = response.refused.ok_or(WireError::Missing("refused"))?;
            let refused = Body::Refused(convert::from_refused(&refused)?);
            Ok((convert::from_header(response.header)?, refused))
        }),
    }
}

/// Whether a request can be read.
pub fn request(bytes: &[u8]) -> bool {
    let parsed = parse_request(bytes);
    parsed.is_some_and(|(header, body)| header.check(&body).is_ok())
        || bytes.split_first().is_some_and(|(kind, bytes)| is_other_request(*kind, bytes))
}

/// Whether an answer can be read.
pub fn response(bytes: &[u8]) -> bool {
    let parsed = parse_response(bytes);
    parsed.is_some_and(|(header, body)| header.check(&body).is_ok())
}

/// What the other side shows in a handshake.
pub fn certificate(bytes: &[u8]) -> bool {
    let shown = CertificateDer::from(bytes);
    let named = certificate::peer_id_of(std::slice::from_ref(&shown));
    let then = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_700_000_000));
    let checked = certificate::check_certificate(&shown, then).ok();
    assert!(checked.is_none() || checked == named, "one key, however it is read");
    checked.is_some()
}

/// The files of an identity.
pub fn pem(bytes: &[u8]) -> bool {
    !certificate::read_pem(bytes).is_empty()
}

/// The text of an invite link; or what stands in one, of which this makes a text with the length
/// and checksum that random bytes would never have.
pub fn invite_link(bytes: &[u8]) -> bool {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with(PREFIX) => text.to_owned(),
        _ => link_of(bytes),
    };
    let Ok(link) = LinkText::parse(&text) else { return false };
    let again = link.encode().map(|text| LinkText::parse(&text).ok());
    assert_eq!(again, Ok(Some(link)), "it reads back");
    true
}

fn link_of(content: &[u8]) -> String {
    let content = &content[..content.len().min(200)];
    let length = u8::try_from(content.len() + 6).expect("it is short");
    let mut bytes = vec![1, length];
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes))
}

/// The text of a configuration file.
pub fn configuration(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| config::check_file(text).is_ok())
}

/// Short texts that stand in messages and on command lines: ids, addresses, trace contexts.
pub fn text(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let traced = from_traceparent(text).is_ok_and(|context| context.is_some());
    traced
        || text.parse::<PeerId>().is_ok_and(|id| id.to_string() == text)
        || text.parse::<ChatId>().is_ok_and(|id| id.to_string() == text)
        || text.parse::<LogEnd>().is_ok_and(|end| end.to_string() == text)
        || check_address(text, "text").is_ok()
}
