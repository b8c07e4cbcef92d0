//! Every error that a peer gives: the only place where reasons and texts are chosen. What code goes
//! with a reason says `reason.rs`.

use std::collections::HashMap;

use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::reason::Reason;
use crate::protocol::event::ProposeError;
use crate::protocol::invite_link::InviteLinkProblem;
use crate::protocol::types::{
    INVITE_LINK_USES_MAX, INVITE_LINKS_MAX, Index, MEMBERS_MAX, PeerId, TEXT_CHARS_MAX,
};
use crate::runtime::handle::Unable;
use crate::storage::StorageError;
use crate::telemetry::metrics::rejected;
use crate::wire::WireError;
use crate::wire::link::LinkTextError;

const DOMAIN: &str = "demes";

fn status<const N: usize>(
    reason: Reason,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    rejected(reason.name());
    uncounted(reason, message, metadata)
}

/// The same for what is no rejected input, or was counted as such before.
fn uncounted<const N: usize>(
    reason: Reason,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let details = ErrorDetails::with_error_info(reason.name(), DOMAIN, metadata);
    Status::with_error_details(reason.code(), message, details)
}

/// Why the loop did not do what a call asked for.
pub fn unable(error: Unable) -> Status {
    match error {
        Unable::NoChat => chat_not_found(),
        Unable::Stopping | Unable::Propose(ProposeError::Stopping) => stopping(),
        Unable::Busy | Unable::LookAgain => status(Reason::Busy, error.to_string(), []),
        Unable::Propose(ProposeError::NotMember) => not_member(),
        Unable::Propose(ProposeError::OutboxFull) => status(
            Reason::OutboxFull,
            "too many messages wait for a majority: try again when the chat goes on",
            [],
        ),
        Unable::Propose(ProposeError::OverQuota) => status(
            Reason::QuotaExceeded,
            "you have added as much to this chat as you may in a day: try again later",
            [],
        ),
        Unable::Propose(ProposeError::StorageFull) => storage_full(),
    }
}

/// Why a request is not valid.
pub fn invalid(error: WireError) -> Status {
    status(Reason::RequestInvalid, error.to_string(), [])
}

/// The same answer, with a reason where tonic itself refused a request that it could not read.
pub fn with_reason<B: Default>(response: http::Response<B>) -> http::Response<B> {
    let refusal = response.extensions().get::<Status>().filter(|told| told.details().is_empty());
    let Some(refusal) = refusal else { return response };
    let reason = match refusal.code() {
        Code::OutOfRange => Reason::RequestTooLong,
        Code::Internal => Reason::RequestInvalid,
        _ => return response,
    };
    status(reason, format!("the request cannot be taken: {}", refusal.message()), []).into_http()
}

/// What a peer of ours never does unless it is wrong, or its process is ending.
pub fn internal(message: impl Into<String>) -> Status {
    uncounted(Reason::Internal, message, [])
}

/// A peer came without its key: the listener does not let that happen.
pub fn no_key() -> Status {
    status(Reason::NoKey, "no key was shown", [])
}

/// A program on loopback that has not shown the token.
pub fn token_required() -> Status {
    let message = "this listener asks for the token in `client.token` of the data directory, which \
                   `demes token` prints: send the metadata `authorization: Bearer TOKEN`; or use \
                   the socket `client.sock` beside it, which asks for nothing";
    status(Reason::TokenRequired, message, [])
}

/// A request that names another host than this machine, or a page.
pub fn not_local() -> Status {
    let message = "this listener is for programs of this machine: call it as 127.0.0.1 or \
                   localhost, and not from a page in a browser";
    status(Reason::NotLocal, message, [])
}

/// A message whose signature or hash is wrong. `edge.rs` has counted it.
pub fn not_genuine() -> Status {
    uncounted(Reason::NotGenuine, "a signature or hash is wrong", [])
}

/// The loop is alive, and this chat had nothing to say in time.
pub fn no_answer() -> Status {
    uncounted(Reason::NoAnswer, "the chat did not answer", [])
}

pub fn invite_ended() -> Status {
    status(Reason::InviteExpired, "the invitation has ended", [])
}

pub fn too_many_invites() -> Status {
    status(Reason::TooManyInvites, "too many invitations wait there", [])
}

pub fn stopping() -> Status {
    status(Reason::Stopping, "this peer stops: try again when it is back", [])
}

pub fn chat_not_found() -> Status {
    status(Reason::ChatNotFound, "there is no such chat here", [])
}

pub fn chat_ambiguous(ids: Vec<String>) -> Status {
    let message = "several chats have that name or beginning: give more of the id";
    status(Reason::ChatAmbiguous, message, [("chat_ids", ids.join(","))])
}

/// Several keys invite to one chat.
pub fn inviter_ambiguous(ids: Vec<String>) -> Status {
    let message = "several people invite to that chat: say whose invitation you mean, as CHAT@KEY \
                   with the beginning of the inviter's key";
    status(Reason::ChatAmbiguous, message, [("chat_ids", ids.join(","))])
}

pub fn peer_not_found() -> Status {
    status(Reason::PeerNotFound, "no member has that name or id", [])
}

pub fn peer_ambiguous(ids: Vec<String>) -> Status {
    let message = "several members have that name or beginning: give more of the id";
    status(Reason::PeerAmbiguous, message, [("peer_ids", ids.join(","))])
}

pub fn invite_not_found() -> Status {
    let message = "there is no such invitation: it may have ended";
    status(Reason::InviteNotFound, message, [])
}

pub fn invite_ambiguous() -> Status {
    let message = "several invitations or links begin like that: give more of the id";
    status(Reason::InviteAmbiguous, message, [])
}

/// An invitation that was answered, or a link that has ended, cannot be taken back any more.
pub fn invite_over() -> Status {
    let message = "there is no such open invitation or link in the chat";
    status(Reason::InviteNotFound, message, [])
}

/// Why a text is not a link. The text itself is a secret, and is never repeated.
pub fn link_text(error: LinkTextError) -> Status {
    match error {
        LinkTextError::Truncated => status(
            Reason::LinkTruncated,
            "the link is cut off: copy it whole, from demes: to its last character",
            [],
        ),
        LinkTextError::Malformed => status(
            Reason::LinkMalformed,
            "this is not an invite link, or a character of it was changed: copy it again",
            [],
        ),
    }
}

pub fn link_too_long(host_bytes_max: usize) -> Status {
    let message = format!(
        "this peer's address is too long for a link, which has room for {host_bytes_max} \
         characters of a host's name: give the peer a shorter one, or an IP address, with \
         --advertise"
    );
    let metadata = [("host_bytes_max", host_bytes_max.to_string())];
    status(Reason::LinkTooLong, message, metadata)
}

/// Why a link lets nobody in.
pub fn link_problem(problem: InviteLinkProblem) -> Status {
    let (reason, message) = match problem {
        InviteLinkProblem::Unknown => (Reason::LinkUnknown, "the chat does not know this link"),
        InviteLinkProblem::Expired => (Reason::LinkExpired, "the link's time is over"),
        InviteLinkProblem::UsedUp => {
            (Reason::LinkUsedUp, "the link has let in as many people as it may")
        }
        InviteLinkProblem::Revoked => (Reason::LinkRevoked, "a member has ended the link"),
    };
    status(reason, message, [])
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

pub fn links_too_many() -> Status {
    let message = format!("a chat has at most {INVITE_LINKS_MAX} open links: revoke one first");
    status(Reason::LinksTooMany, message, [])
}

pub fn uses_invalid() -> Status {
    let message = format!("a link lets in 1 to {INVITE_LINK_USES_MAX} people");
    status(Reason::UsesInvalid, message, [])
}

pub fn expiry_invalid(days_max: u32) -> Status {
    let message = format!("a link is good for at most {days_max} days");
    status(Reason::ExpiryInvalid, message, [])
}

pub fn chat_full() -> Status {
    let message = format!("the chat has {MEMBERS_MAX} members, and that is the most");
    status(Reason::ChatFull, message, [])
}

/// A member removed this peer.
pub fn removed(by: PeerId) -> Status {
    let message = format!(
        "the member {} has removed you from this chat; what was said until then stays readable",
        by.short()
    );
    status(Reason::NotMember, message, [("removed_by_peer_id", by.to_string())])
}

/// A member removed this peer, who wants to come back by a link of before.
pub fn removed_before() -> Status {
    let message = "you were removed from this chat after the link was made: ask for a new one";
    status(Reason::NotMember, message, [])
}

pub fn leaving() -> Status {
    let message = "you are leaving this chat, and the others do not know it yet: \
                   try again when they do";
    status(Reason::Leaving, message, [])
}

pub fn peer_is_self() -> Status {
    let message = "that is you: leave the chat instead";
    status(Reason::PeerIsSelf, message, [])
}

/// The reason that a status carries, if it is one of ours. Another peer may write anything there,
/// and nothing else of it is passed on.
pub fn reason_of(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    if info.domain == DOMAIN { Reason::named(&info.reason) } else { None }
}

pub fn not_member() -> Status {
    let message = "only members of the chat may do that";
    status(Reason::NotMember, message, [])
}

/// A deadline ran out before a message was confirmed.
pub fn not_confirmed(request_id: &str) -> Status {
    status(
        Reason::NoMajority,
        "not confirmed in time: it stays queued, and is sent once a majority is there",
        [("request_id", request_id.to_owned())],
    )
}

pub fn no_host() -> Status {
    let message = "nobody hosts the chat at the moment: try again";
    status(Reason::NoHost, message, [])
}

/// A hand-over came to nothing in time, or another member than the wanted one took over.
pub fn not_handed_over() -> Status {
    let message = "that member did not take over";
    status(Reason::HandOverFailed, message, [])
}

pub fn not_host(host: String) -> Status {
    let message = "this peer does not host the chat: ask the host's own peer";
    status(Reason::NotHost, message, [("host_peer_id", host)])
}

pub fn text_too_long(characters: usize) -> Status {
    status(
        Reason::TextTooLong,
        format!("the text has {characters} characters; {TEXT_CHARS_MAX} is the most"),
        [("characters", characters.to_string()), ("characters_max", TEXT_CHARS_MAX.to_string())],
    )
}

pub fn text_empty() -> Status {
    status(Reason::TextEmpty, "the text is empty", [])
}

pub fn name_invalid() -> Status {
    let message = "a name has 1 to 64 characters, none of them a control character";
    status(Reason::NameInvalid, message, [])
}

pub fn address_invalid(address: &str) -> Status {
    let message = "an address is [PEERID@]host:port, an IPv6 one [PEERID@][host]:port";
    status(Reason::AddressInvalid, message, [("address", address.to_owned())])
}

pub fn address_is_own(address: &str) -> Status {
    let message = "that is this peer's own address: invite somebody else";
    status(Reason::AddressIsOwn, message, [("address", address.to_owned())])
}

pub fn address_unreachable(message: impl Into<String>) -> Status {
    status(Reason::AddressUnreachable, message, [])
}

pub fn request_id_invalid() -> Status {
    let message = "a request id has at most 64 visible ASCII characters";
    status(Reason::RequestIdInvalid, message, [])
}

pub fn page_token_invalid() -> Status {
    let message = "the page token is not one that this call has given";
    status(Reason::PageTokenInvalid, message, [])
}

pub fn page_size_invalid() -> Status {
    status(Reason::PageSizeInvalid, "a page size is not negative", [])
}

pub fn cursor_ahead(chat: String, committed: Index) -> Status {
    status(
        Reason::CursorAhead,
        "the cursor lies beyond the end of the chat",
        [("chat_id", chat), ("committed", committed.to_string())],
    )
}

/// A reader has not read for too long. Its cursor is where to go on.
pub fn slow_consumer(chat: String, after: Index) -> Status {
    status(
        Reason::SlowConsumer,
        "the reader did not keep up: go on from the cursor",
        [("chat_id", chat), ("after", after.to_string())],
    )
}

/// Why a store did not answer.
pub fn store(error: &StorageError) -> Status {
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

fn storage_failed() -> Status {
    let message = "this peer's disk has failed it: see its log and the disk, and start it again";
    status(Reason::StorageFailed, message, [])
}

pub fn storage_full() -> Status {
    let message = "the disk has no room below its reserve: free some space";
    status(Reason::StorageFull, message, [])
}

pub fn storage_damaged(message: impl Into<String>) -> Status {
    status(Reason::StorageDamaged, message, [])
}

pub fn too_many_chats(most: usize) -> Status {
    let message = format!("this peer takes part in {most} chats, and that is the most");
    status(Reason::TooManyChats, message, [])
}

/// First contact happens only so often.
pub fn too_often() -> Status {
    let message = "too many calls from keys that are not known: try again in a minute";
    status(Reason::RateLimited, message, [])
}

/// A peer calls more often than one may.
pub fn rate_limited(per_second: u32) -> Status {
    status(
        Reason::RateLimited,
        "too many calls of this peer: go on more slowly",
        [("calls_per_second", per_second.to_string())],
    )
}

/// A member has itself dialled more often than one may.
pub fn dialled_back_too_often() -> Status {
    let message = "too many wishes to be dialled back: try again in a minute";
    status(Reason::RateLimited, message, [])
}

/// The members are being checked already.
pub fn check_running() -> Status {
    let message = "another check of the members is under way: try again when it has ended";
    status(Reason::CheckRunning, message, [])
}

/// The stream, ended with `STOPPING` when the peer stops: an open stream would hold up its end.
pub fn until_stopped<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    stop: CancellationToken,
) -> std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
    let stopped = stop.clone();
    let last =
        stream::once(
            async move { if stopped.is_cancelled() { Some(Err(stopping())) } else { None } },
        );
    let stream = stream.take_until(stop.cancelled_owned());
    Box::pin(stream.chain(last.filter_map(|last| async move { last })))
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
            assert_eq!(reason_of(&told), Some(Reason::StorageFailed), "{error}");
            assert!(!told.message().contains("ada"), "{}", told.message());
        }
    }

    #[test]
    fn an_error_says_why_and_with_which_values() {
        let status = text_too_long(3_000);
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().expect("every error has one");
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("demes", "TEXT_TOO_LONG"));
        assert_eq!(info.metadata["characters"], "3000");
    }
}
