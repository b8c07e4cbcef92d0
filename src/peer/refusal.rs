//! Every error that a peer gives: the only place where reasons and texts are chosen. What a face
//! makes of them is its own matter; for gRPC, `faces/grpc/status.rs` says it.

use crate::protocol::event::ProposeError;
use crate::protocol::invite_link::InviteLinkProblem;
use crate::protocol::types::{
    INVITE_LINK_USES_MAX, INVITE_LINKS_MAX, Index, MEMBERS_MAX, PeerId, TEXT_CHARS_MAX,
};
use crate::runtime::handle::Unable;
use crate::storage::StorageError;
use crate::telemetry::metrics::rejected;
use crate::wire::WireError;
use crate::wire::address::AddressError;
use crate::wire::link::LinkTextError;
use crate::wire::reason::Reason;

/// Why a peer does not do what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people: what is wrong, and what can be done about it.
    pub text: String,
    /// Values that belong to the reason, by the names that `docs/api.md` has for them.
    pub metadata: Vec<(&'static str, String)>,
}

/// A refusal that counts as a rejected input.
fn refuse<const N: usize>(
    reason: Reason,
    text: impl Into<String>,
    metadata: [(&'static str, String); N],
) -> Refusal {
    rejected(reason.name());
    uncounted(reason, text, metadata)
}

/// The same for what is no rejected input, or was counted as such before.
fn uncounted<const N: usize>(
    reason: Reason,
    text: impl Into<String>,
    metadata: [(&'static str, String); N],
) -> Refusal {
    Refusal { reason, text: text.into(), metadata: metadata.into() }
}

/// Why the loop did not do what a call asked for.
pub fn unable(error: Unable) -> Refusal {
    match error {
        Unable::NoChat => chat_not_found(),
        Unable::Stopping | Unable::Propose(ProposeError::Stopping) => stopping(),
        Unable::Busy | Unable::LookAgain => refuse(Reason::Busy, error.to_string(), []),
        Unable::RequestReused => request_id_reused(),
        Unable::Propose(ProposeError::NotMember) => not_member(),
        Unable::Propose(ProposeError::OutboxFull) => refuse(
            Reason::OutboxFull,
            "too many messages wait for a majority: try again when the chat goes on",
            [],
        ),
        Unable::Propose(ProposeError::OverQuota) => refuse(
            Reason::QuotaExceeded,
            "you have added as much to this chat as you may in a day: try again later",
            [],
        ),
        Unable::Propose(ProposeError::StorageFull) => storage_full(),
    }
}

/// Why a request is not valid.
pub fn invalid(error: WireError) -> Refusal {
    refuse(Reason::RequestInvalid, error.to_string(), [])
}

/// A request that cannot be read, or is longer than the call takes.
pub fn unreadable(reason: Reason, said: &str) -> Refusal {
    refuse(reason, format!("the request cannot be taken: {said}"), [])
}

/// What a peer of ours never does unless it is wrong, or its process is ending.
pub fn internal(message: impl Into<String>) -> Refusal {
    uncounted(Reason::Internal, message, [])
}

/// A peer came without its key: the listener does not let that happen.
pub fn no_key() -> Refusal {
    refuse(Reason::NoKey, "no key was shown", [])
}

/// A program on loopback that has not shown the token.
pub fn token_required() -> Refusal {
    let message = "this listener asks for the token in `client.token` of the data directory, which \
                   `demes token` prints: send the metadata `authorization: Bearer TOKEN`; or use \
                   the socket `client.sock` beside it, which asks for nothing";
    refuse(Reason::TokenRequired, message, [])
}

/// A request that names another host than this machine, or a page.
pub fn not_local() -> Refusal {
    let message = "this listener is for programs of this machine: call it as 127.0.0.1 or \
                   localhost, and not from a page in a browser";
    refuse(Reason::NotLocal, message, [])
}

/// A message whose signature or hash is wrong. `edge.rs` has counted it.
pub fn not_genuine() -> Refusal {
    uncounted(Reason::NotGenuine, "a signature or hash is wrong", [])
}

/// The loop is alive, and this chat had nothing to say in time.
pub fn no_answer() -> Refusal {
    uncounted(Reason::NoAnswer, "the chat did not answer", [])
}

pub fn invite_ended() -> Refusal {
    refuse(Reason::InviteExpired, "the invitation has ended", [])
}

pub fn too_many_invites() -> Refusal {
    refuse(Reason::TooManyInvites, "too many invitations wait there", [])
}

pub fn stopping() -> Refusal {
    refuse(Reason::Stopping, "this peer stops: try again when it is back", [])
}

pub fn chat_not_found() -> Refusal {
    refuse(Reason::ChatNotFound, "there is no such chat here", [])
}

/// No chat is called so; perhaps that one was meant.
pub fn chat_unknown(alike: Option<String>) -> Refusal {
    perhaps(chat_not_found(), alike)
}

/// Too few digits of a chat's id, where it is to be surely that one.
pub fn chat_unsure(id: String) -> Refusal {
    let message = format!("give the chat's name, or at least 8 digits of its id ({id})");
    refuse(Reason::ChatAmbiguous, message, [("chat_ids", id)])
}

fn perhaps(mut refusal: Refusal, alike: Option<String>) -> Refusal {
    if let Some(name) = alike {
        // As it would be written in a program: somebody else has chosen it.
        refusal.text += &format!(": did you mean {name:?}?");
        refusal.metadata.push(("did_you_mean", name));
    }
    refusal
}

pub fn chat_ambiguous(ids: Vec<String>) -> Refusal {
    let message = "several chats have that name or beginning: give more of the id";
    refuse(Reason::ChatAmbiguous, message, [("chat_ids", ids.join(","))])
}

/// Several keys invite to one chat.
pub fn inviter_ambiguous(ids: Vec<String>) -> Refusal {
    let message = "several people invite to that chat: say whose invitation you mean, as CHAT@KEY \
                   with the beginning of the inviter's key";
    refuse(Reason::ChatAmbiguous, message, [("chat_ids", ids.join(","))])
}

/// No member is called so; perhaps that one was meant.
pub fn peer_unknown(alike: Option<String>) -> Refusal {
    perhaps(refuse(Reason::PeerNotFound, "no member has that name or id", []), alike)
}

/// Too few digits of a member's id, where it is to be surely that one.
pub fn peer_unsure(id: String) -> Refusal {
    let message = format!("give the member's name, or at least 8 digits of the id ({id})");
    refuse(Reason::PeerAmbiguous, message, [("peer_ids", id)])
}

pub fn peer_ambiguous(ids: Vec<String>) -> Refusal {
    let message = "several members have that name or beginning: give more of the id";
    refuse(Reason::PeerAmbiguous, message, [("peer_ids", ids.join(","))])
}

pub fn invite_not_found() -> Refusal {
    let message = "there is no such invitation: it may have ended";
    refuse(Reason::InviteNotFound, message, [])
}

pub fn invite_ambiguous() -> Refusal {
    let message = "several invitations or links begin like that: give more of the id";
    refuse(Reason::InviteAmbiguous, message, [])
}

/// Too few digits of the id of what is to end.
pub fn invite_unsure() -> Refusal {
    let message = "give the whole link or address, a name, or at least 8 digits of the id";
    refuse(Reason::InviteAmbiguous, message, [])
}

/// An invitation that was answered, or a link that has ended, cannot be taken back any more.
pub fn invite_over() -> Refusal {
    let message = "there is no such open invitation or link in the chat";
    refuse(Reason::InviteNotFound, message, [])
}

/// Why a text is not a link. The text itself is a secret, and is never repeated.
pub fn link_text(error: LinkTextError) -> Refusal {
    match error {
        LinkTextError::Truncated => refuse(
            Reason::LinkTruncated,
            "the link is cut off: copy it whole, from demes: to its last character",
            [],
        ),
        LinkTextError::Malformed => refuse(
            Reason::LinkMalformed,
            "this is not an invite link, or a character of it was changed: copy it again",
            [],
        ),
    }
}

pub fn link_too_long(host_bytes_max: usize) -> Refusal {
    let message = format!(
        "this peer's address is too long for a link, which has room for {host_bytes_max} \
         characters of a host's name: give the peer a shorter one, or an IP address, with \
         --advertise"
    );
    let metadata = [("host_bytes_max", host_bytes_max.to_string())];
    refuse(Reason::LinkTooLong, message, metadata)
}

/// Why a link lets nobody in.
pub fn link_problem(problem: InviteLinkProblem) -> Refusal {
    let (reason, message) = match problem {
        InviteLinkProblem::Unknown => (Reason::LinkUnknown, "the chat does not know this link"),
        InviteLinkProblem::Expired => (Reason::LinkExpired, "the link's time is over"),
        InviteLinkProblem::UsedUp => {
            (Reason::LinkUsedUp, "the link has let in as many people as it may")
        }
        InviteLinkProblem::Revoked => (Reason::LinkRevoked, "a member has ended the link"),
    };
    refuse(reason, message, [])
}

/// The problem that another peer's reason names.
pub fn link_problem_of(reason: Reason) -> Option<InviteLinkProblem> {
    Some(match reason {
        Reason::LinkExpired => InviteLinkProblem::Expired,
        Reason::LinkUsedUp => InviteLinkProblem::UsedUp,
        Reason::LinkRevoked => InviteLinkProblem::Revoked,
        _ => return None,
    })
}

pub fn links_too_many() -> Refusal {
    let message = format!("a chat has at most {INVITE_LINKS_MAX} open links: revoke one first");
    refuse(Reason::LinksTooMany, message, [])
}

pub fn uses_invalid() -> Refusal {
    let message = format!("a link lets in 1 to {INVITE_LINK_USES_MAX} people");
    refuse(Reason::UsesInvalid, message, [])
}

pub fn expiry_invalid(days_max: u32) -> Refusal {
    let message = format!("a link is good for at most {days_max} days");
    refuse(Reason::ExpiryInvalid, message, [])
}

pub fn chat_full() -> Refusal {
    let message = format!("the chat has {MEMBERS_MAX} members, and that is the most");
    refuse(Reason::ChatFull, message, [])
}

/// A member removed this peer.
pub fn removed(by: PeerId) -> Refusal {
    let message = format!(
        "the member {} has removed you from this chat; what was said until then stays readable",
        by.short()
    );
    refuse(Reason::NotMember, message, [("removed_by_peer_id", by.to_string())])
}

/// A member removed this peer, who wants to come back by a link of before.
pub fn removed_before() -> Refusal {
    let message = "you were removed from this chat after the link was made: ask for a new one";
    refuse(Reason::NotMember, message, [])
}

pub fn leaving() -> Refusal {
    let message = "you are leaving this chat, and the others do not know it yet: \
                   try again when they do";
    refuse(Reason::Leaving, message, [])
}

pub fn peer_is_self() -> Refusal {
    let message = "that is you: leave the chat instead";
    refuse(Reason::PeerIsSelf, message, [])
}

pub fn not_member() -> Refusal {
    let message = "only members of the chat may do that";
    refuse(Reason::NotMember, message, [])
}

/// A deadline ran out before a message was confirmed.
pub fn not_confirmed(request_id: &str) -> Refusal {
    refuse(
        Reason::NoMajority,
        "not confirmed in time: it stays queued, and is sent once a majority is there",
        [("request_id", request_id.to_owned())],
    )
}

pub fn no_host() -> Refusal {
    let message = "nobody hosts the chat at the moment: try again";
    refuse(Reason::NoHost, message, [])
}

/// A hand-over came to nothing in time, or another member than the wanted one took over.
pub fn not_handed_over() -> Refusal {
    let message = "that member did not take over";
    refuse(Reason::HandOverFailed, message, [])
}

pub fn not_host(host: String) -> Refusal {
    let message = "this peer does not host the chat: ask the host's own peer";
    refuse(Reason::NotHost, message, [("host_peer_id", host)])
}

pub fn text_too_long(characters: usize) -> Refusal {
    refuse(
        Reason::TextTooLong,
        format!("the text has {characters} characters; {TEXT_CHARS_MAX} is the most"),
        [("characters", characters.to_string()), ("characters_max", TEXT_CHARS_MAX.to_string())],
    )
}

pub fn text_empty() -> Refusal {
    refuse(Reason::TextEmpty, "the text is empty", [])
}

pub fn name_invalid() -> Refusal {
    let message = "a name has 1 to 64 characters, none of them a control character";
    refuse(Reason::NameInvalid, message, [])
}

pub fn address_invalid(address: &str, error: AddressError) -> Refusal {
    refuse(Reason::AddressInvalid, error.to_string(), [("address", address.to_owned())])
}

pub fn address_is_own(address: &str) -> Refusal {
    let message = "that is this peer's own address: invite somebody else";
    refuse(Reason::AddressIsOwn, message, [("address", address.to_owned())])
}

pub fn address_unreachable(message: impl Into<String>) -> Refusal {
    refuse(Reason::AddressUnreachable, message, [])
}

pub fn request_id_invalid() -> Refusal {
    let message = "a request id has at most 64 visible ASCII characters";
    refuse(Reason::RequestIdInvalid, message, [])
}

pub fn wait_invalid(wait: i32) -> Refusal {
    refuse(Reason::RequestInvalid, format!("{wait} is nothing that can be waited for"), [])
}

/// A request id that another request had.
pub fn request_id_reused() -> Refusal {
    let message = "that request id was used for another request: each has an id of its own, and \
                   only a repeat has the same";
    refuse(Reason::RequestIdReused, message, [])
}

pub fn page_token_invalid() -> Refusal {
    let message = "the page token is not one that this call has given";
    refuse(Reason::PageTokenInvalid, message, [])
}

pub fn page_size_invalid() -> Refusal {
    refuse(Reason::PageSizeInvalid, "a page size is not negative", [])
}

pub fn cursor_ahead(chat: String, committed: Index) -> Refusal {
    refuse(
        Reason::CursorAhead,
        "the cursor lies beyond the end of the chat",
        [("chat_id", chat), ("committed", committed.to_string())],
    )
}

/// A reader has not read for too long. Its cursor is where to go on.
pub fn slow_consumer(chat: String, after: Index) -> Refusal {
    refuse(
        Reason::SlowConsumer,
        "the reader did not keep up: go on from the cursor",
        [("chat_id", chat), ("after", after.to_string())],
    )
}

/// Why a store did not answer.
pub fn store(error: &StorageError) -> Refusal {
    match error {
        StorageError::Full { .. } => storage_full(),
        // A store takes no writes after one that failed, and what ails it is in the log.
        StorageError::Failed { .. }
        | StorageError::Io { .. }
        | StorageError::NotWritable { .. }
        | StorageError::Exposed { .. } => storage_failed(),
        StorageError::Random(_) => internal(error.to_string()),
        StorageError::Closed { .. } => chat_not_found(),
        other => storage_damaged(other.to_string()),
    }
}

fn storage_failed() -> Refusal {
    let message = "this peer's disk has failed it: see its log and the disk, and start it again";
    refuse(Reason::StorageFailed, message, [])
}

pub fn storage_full() -> Refusal {
    let message = "the disk has no room below its reserve: free some space";
    refuse(Reason::StorageFull, message, [])
}

pub fn storage_damaged(message: impl Into<String>) -> Refusal {
    refuse(Reason::StorageDamaged, message, [])
}

pub fn too_many_chats(most: usize) -> Refusal {
    let message = format!("this peer takes part in {most} chats, and that is the most");
    refuse(Reason::TooManyChats, message, [])
}

/// First contact happens only so often.
pub fn too_often() -> Refusal {
    let message = "too many calls from keys that are not known: try again in a minute";
    refuse(Reason::RateLimited, message, [])
}

/// A peer calls more often than one may.
pub fn rate_limited(per_second: u32) -> Refusal {
    refuse(
        Reason::RateLimited,
        "too many calls of this peer: go on more slowly",
        [("calls_per_second", per_second.to_string())],
    )
}

/// A member has itself dialled more often than one may.
pub fn dialled_back_too_often() -> Refusal {
    let message = "too many proposals to be dialled back: try again in a minute";
    refuse(Reason::RateLimited, message, [])
}

/// The members are being checked already.
pub fn check_running() -> Refusal {
    let message = "another check of the members is under way: try again when it has ended";
    refuse(Reason::CheckRunning, message, [])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_failed_is_not_told_as_a_peer_that_stops() {
        let path = std::path::PathBuf::from("/home/ada/peer.redb");
        let source = std::io::Error::other("bad sector");
        let not_writable = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        for error in [
            StorageError::Failed { path: path.clone() },
            StorageError::Io { doing: "write", path: path.clone(), source },
            StorageError::NotWritable { path: path.clone(), source: not_writable },
        ] {
            let told = store(&error);
            assert_eq!(told.reason, Reason::StorageFailed, "{error}");
            assert!(!told.text.contains("ada"), "{}", told.text);
        }
    }
}
