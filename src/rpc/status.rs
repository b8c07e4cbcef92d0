//! The only place where gRPC codes and ErrorInfo reasons are chosen.

use std::collections::HashMap;

use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::protocol::event::ProposeError;
use crate::protocol::types::{Index, TEXT_CHARS_MAX};
use crate::runtime::handle::Unable;
use crate::wire::WireError;

const DOMAIN: &str = "demes";

fn status<const N: usize>(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// Why the loop did not do what a call asked for.
pub fn unable(error: Unable) -> Status {
    match error {
        Unable::NoChat => chat_not_found(),
        Unable::Stopping | Unable::Propose(ProposeError::Stopping) => stopping(),
        Unable::Busy => Status::resource_exhausted(error.to_string()),
        Unable::Propose(ProposeError::NotMember) => not_member(),
        Unable::Propose(ProposeError::OutboxFull) => status(
            Code::ResourceExhausted,
            "OUTBOX_FULL",
            "too many messages wait for a majority: try again when the chat goes on",
            [],
        ),
        Unable::Propose(ProposeError::StorageFull) => status(
            Code::ResourceExhausted,
            "STORAGE_FULL",
            "the disk has no room below its reserve: free some space",
            [],
        ),
    }
}

/// Why a request is not valid.
pub fn invalid(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

pub fn stopping() -> Status {
    status(Code::Unavailable, "STOPPING", "this peer stops: try again when it is back", [])
}

pub fn chat_not_found() -> Status {
    status(Code::NotFound, "CHAT_NOT_FOUND", "there is no such chat here", [])
}

pub fn chat_ambiguous(ids: Vec<String>) -> Status {
    let message = "several chats have that name or beginning: give more of the id";
    status(Code::FailedPrecondition, "CHAT_AMBIGUOUS", message, [("chat_ids", ids.join(","))])
}

pub fn peer_not_found() -> Status {
    status(Code::NotFound, "PEER_NOT_FOUND", "no member has that name or id", [])
}

pub fn peer_ambiguous(ids: Vec<String>) -> Status {
    let message = "several members have that name or beginning: give more of the id";
    status(Code::FailedPrecondition, "PEER_AMBIGUOUS", message, [("peer_ids", ids.join(","))])
}

pub fn invite_not_found() -> Status {
    let message = "there is no such invitation: it may have ended";
    status(Code::NotFound, "INVITE_NOT_FOUND", message, [])
}

pub fn not_member() -> Status {
    let message = "only members of the chat may do that";
    status(Code::PermissionDenied, "NOT_MEMBER", message, [])
}

/// Whether an error is `not_member`.
pub fn is_not_member(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == "NOT_MEMBER")
}

/// A deadline ran out before a message was confirmed.
pub fn not_confirmed(request_id: &str) -> Status {
    status(
        Code::DeadlineExceeded,
        "NO_MAJORITY",
        "not confirmed in time: the message stays queued, and is sent once a majority is there",
        [("request_id", request_id.to_owned())],
    )
}

pub fn no_host() -> Status {
    let message = "nobody hosts the chat at the moment: try again";
    status(Code::Unavailable, "NO_HOST", message, [])
}

pub fn not_host(host: String) -> Status {
    let message = "this peer does not host the chat: ask the host's own peer";
    status(Code::FailedPrecondition, "NOT_HOST", message, [("host_peer_id", host)])
}

pub fn text_too_long(characters: usize) -> Status {
    status(
        Code::InvalidArgument,
        "TEXT_TOO_LONG",
        format!("the text has {characters} characters; {TEXT_CHARS_MAX} is the most"),
        [("characters", characters.to_string()), ("characters_max", TEXT_CHARS_MAX.to_string())],
    )
}

pub fn text_empty() -> Status {
    status(Code::InvalidArgument, "TEXT_EMPTY", "the text is empty", [])
}

pub fn name_invalid() -> Status {
    let message = "a name has 1 to 64 characters, none of them a control character";
    status(Code::InvalidArgument, "NAME_INVALID", message, [])
}

pub fn address_invalid(address: &str) -> Status {
    let message = "an address is [PEERID@]host:port";
    status(Code::InvalidArgument, "ADDRESS_INVALID", message, [("address", address.to_owned())])
}

pub fn address_unreachable(message: impl Into<String>) -> Status {
    status(Code::Unavailable, "ADDRESS_UNREACHABLE", message, [])
}

pub fn request_id_invalid() -> Status {
    let message = "a request id has at most 64 visible ASCII characters";
    status(Code::InvalidArgument, "REQUEST_ID_INVALID", message, [])
}

pub fn page_token_invalid() -> Status {
    let message = "the page token is not one that this call has given";
    status(Code::InvalidArgument, "PAGE_TOKEN_INVALID", message, [])
}

pub fn page_size_invalid() -> Status {
    status(Code::InvalidArgument, "PAGE_SIZE_INVALID", "a page size is not negative", [])
}

pub fn cursor_ahead(chat: String, committed: Index) -> Status {
    status(
        Code::OutOfRange,
        "CURSOR_AHEAD",
        "the cursor lies beyond the end of the chat",
        [("chat_id", chat), ("committed", committed.to_string())],
    )
}

/// A reader has not read for too long. Its cursor is where to go on.
pub fn slow_consumer(chat: String, after: Index) -> Status {
    status(
        Code::ResourceExhausted,
        "SLOW_CONSUMER",
        "the reader did not keep up: go on from the cursor",
        [("chat_id", chat), ("after", after.to_string())],
    )
}

pub fn storage_damaged(message: impl Into<String>) -> Status {
    status(Code::DataLoss, "STORAGE_DAMAGED", message, [])
}

pub fn too_many_chats(most: usize) -> Status {
    let message = format!("this peer takes part in {most} chats, and that is the most");
    status(Code::ResourceExhausted, "TOO_MANY_CHATS", message, [])
}

/// First contact happens only so often.
pub fn too_often() -> Status {
    Status::resource_exhausted("too many calls from keys that are not known: try again in a minute")
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
    fn an_error_says_why_and_with_which_values() {
        let status = text_too_long(3_000);
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().expect("every error has one");
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("demes", "TEXT_TOO_LONG"));
        assert_eq!(info.metadata["characters"], "3000");
    }
}
