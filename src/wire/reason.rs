//! The reasons of errors, for programs: the name that stands in google.rpc.ErrorInfo, and the code
//! that goes with it. `docs/api.md` tells people about each; a test holds the two together.

use tonic::Code;

/// Whose reasons these are, in google.rpc.ErrorInfo.
pub const DOMAIN: &str = "demes";

macro_rules! reasons {
    ($($(#[doc = $text:literal])+ $variant:ident = $name:literal, $code:ident;)*) => {
        /// Why a call was refused.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Reason {
            $($(#[doc = $text])+ $variant,)*
        }

        impl Reason {
            /// Each with its text.
            #[cfg(test)]
            const ALL: &[(Self, &str)] = &[$((Self::$variant, concat!($($text),+))),*];

            /// As google.rpc.ErrorInfo has it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What gRPC says beside it.
            pub fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// The reason of that name, if it is one that this version of demes knows.
            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// No chat here has that id, beginning of an id, or name.
    ChatNotFound = "CHAT_NOT_FOUND", NotFound;
    /// Several chats do; `chat_ids` has them, with commas between.
    ChatAmbiguous = "CHAT_AMBIGUOUS", FailedPrecondition;
    /// No member has that id, beginning of an id, or name.
    PeerNotFound = "PEER_NOT_FOUND", NotFound;
    /// Several members do; `peer_ids` has them, with commas between.
    PeerAmbiguous = "PEER_AMBIGUOUS", FailedPrecondition;
    /// No open invitation or link is called that; it may have ended.
    InviteNotFound = "INVITE_NOT_FOUND", NotFound;
    /// Several begin like that.
    InviteAmbiguous = "INVITE_AMBIGUOUS", FailedPrecondition;
    /// The peer listener: the invitation had ended before it arrived.
    InviteExpired = "INVITE_EXPIRED", FailedPrecondition;
    /// The peer listener: `limits.invites_pending_max` invitations wait there.
    TooManyInvites = "TOO_MANY_INVITES", ResourceExhausted;
    /// The link is cut off.
    LinkTruncated = "LINK_TRUNCATED", InvalidArgument;
    /// It is no link, or a character of it was changed.
    LinkMalformed = "LINK_MALFORMED", InvalidArgument;
    /// This peer's address has no room in a link; `host_bytes_max` is the most.
    LinkTooLong = "LINK_TOO_LONG", FailedPrecondition;
    /// The chat does not know the link.
    LinkUnknown = "LINK_UNKNOWN", FailedPrecondition;
    /// The link's time is over.
    LinkExpired = "LINK_EXPIRED", FailedPrecondition;
    /// The link has let in as many as it may.
    LinkUsedUp = "LINK_USED_UP", FailedPrecondition;
    /// A member has ended the link.
    LinkRevoked = "LINK_REVOKED", FailedPrecondition;
    /// The chat has 64 open links.
    LinksTooMany = "LINKS_TOO_MANY", ResourceExhausted;
    /// A link lets in 1 to 256.
    UsesInvalid = "USES_INVALID", InvalidArgument;
    /// A link is good for at most 90 days.
    ExpiryInvalid = "EXPIRY_INVALID", InvalidArgument;
    /// The chat has 256 members.
    ChatFull = "CHAT_FULL", ResourceExhausted;
    /// This peer takes part in `limits.chats_max` chats.
    TooManyChats = "TOO_MANY_CHATS", ResourceExhausted;
    /// Only members may do that; `removed_by_peer_id` says who removed this peer.
    NotMember = "NOT_MEMBER", PermissionDenied;
    /// This peer is about to leave the chat: it can come back when the others know.
    Leaving = "LEAVING", Unavailable;
    /// That member is this peer.
    PeerIsSelf = "PEER_IS_SELF", InvalidArgument;
    /// The deadline came before the confirmation; what was sent stays queued, as `request_id`.
    NoMajority = "NO_MAJORITY", DeadlineExceeded;
    /// Nobody hosts the chat at the moment.
    NoHost = "NO_HOST", Unavailable;
    /// This peer does not host the chat; `host_peer_id` does, if known.
    NotHost = "NOT_HOST", FailedPrecondition;
    /// The wanted member did not take over.
    HandOverFailed = "HAND_OVER_FAILED", Aborted;
    /// The text has `characters`; `characters_max` is the most.
    TextTooLong = "TEXT_TOO_LONG", InvalidArgument;
    /// The text is empty.
    TextEmpty = "TEXT_EMPTY", InvalidArgument;
    /// A name has 1 to 64 characters, none of them a control character.
    NameInvalid = "NAME_INVALID", InvalidArgument;
    /// `address` is not `[PEERID@]host:port`.
    AddressInvalid = "ADDRESS_INVALID", InvalidArgument;
    /// `address` is this peer's own.
    AddressIsOwn = "ADDRESS_IS_OWN", InvalidArgument;
    /// Nobody answers there.
    AddressUnreachable = "ADDRESS_UNREACHABLE", Unavailable;
    /// A request id has at most 64 visible ASCII characters.
    RequestIdInvalid = "REQUEST_ID_INVALID", InvalidArgument;
    /// That request id was used for another request; what that one asked for stands.
    RequestIdReused = "REQUEST_ID_REUSED", AlreadyExists;
    /// The token is not one that the call has given.
    PageTokenInvalid = "PAGE_TOKEN_INVALID", InvalidArgument;
    /// A page size is not negative.
    PageSizeInvalid = "PAGE_SIZE_INVALID", InvalidArgument;
    /// The sequence lies beyond `committed`, the end of the chat `chat_id`. Before this peer has
    /// heard from a host, it waits instead.
    CursorAhead = "CURSOR_AHEAD", OutOfRange;
    /// The reader did not keep up: go on in `chat_id` behind `after`.
    SlowConsumer = "SLOW_CONSUMER", ResourceExhausted;
    /// Too many messages wait for a majority.
    OutboxFull = "OUTBOX_FULL", ResourceExhausted;
    /// This peer has added as much to the chat as it may in a day.
    QuotaExceeded = "QUOTA_EXCEEDED", ResourceExhausted;
    /// The disk has no room beyond its reserve.
    StorageFull = "STORAGE_FULL", ResourceExhausted;
    /// The chat's store here is damaged; it is being repaired from the other members.
    StorageDamaged = "STORAGE_DAMAGED", DataLoss;
    /// This peer could not write to its disk, or read from it: its log says what is wrong.
    StorageFailed = "STORAGE_FAILED", Unavailable;
    /// Another check of the members is under way: try again when it has ended.
    CheckRunning = "CHECK_RUNNING", ResourceExhausted;
    /// The peer has too much to do: try again.
    Busy = "BUSY", ResourceExhausted;
    /// The peer stops: try again when it is back.
    Stopping = "STOPPING", Unavailable;
    /// The peer listener: too many calls from that key, or from unknown ones.
    RateLimited = "RATE_LIMITED", ResourceExhausted;
    /// The request has more bytes than the call takes: 64 KiB, or 2 MiB between members.
    RequestTooLong = "REQUEST_TOO_LONG", ResourceExhausted;
    /// A field is missing, too long or malformed, or nothing can be read; the message says which.
    RequestInvalid = "REQUEST_INVALID", InvalidArgument;
    /// The client listener asks for the token in `client.token` of the data directory.
    TokenRequired = "TOKEN_REQUIRED", Unauthenticated;
    /// The client listener was called by another name than this machine's, or from a page.
    NotLocal = "NOT_LOCAL", PermissionDenied;
    /// The peer listener: a signature or hash is wrong.
    NotGenuine = "NOT_GENUINE", PermissionDenied;
    /// The peer listener: no certificate was shown.
    NoKey = "NO_KEY", Unauthenticated;
    /// The peer listener: the chat did not answer within 5 seconds.
    NoAnswer = "NO_ANSWER", DeadlineExceeded;
    /// demes is wrong: please report it.
    Internal = "INTERNAL", Internal;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn read(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        fs::read_to_string(path).expect("it is part of the repository")
    }

    /// The code as grpcurl and the proto files write it: `NotFound` becomes `NOT_FOUND`.
    fn code_name(code: Code) -> String {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        name
    }

    #[test]
    fn the_reference_has_every_reason_with_its_code_and_nothing_else() {
        let wanted: Vec<String> = Reason::ALL
            .iter()
            .map(|(reason, text)| {
                format!("| `{}` | {} |{text} |", reason.name(), code_name(reason.code()))
            })
            .collect();
        let reference = read("docs/api.md");
        let (_, table) = reference.split_once("| reason | code | when |\n|---|---|---|\n").unwrap();
        let found: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
        assert_eq!(found, wanted, "docs/api.md should have:\n{}", wanted.join("\n"));
    }

    #[test]
    fn the_contract_names_only_reasons_that_there_are_and_all_that_a_person_can_get() {
        let names: BTreeSet<&str> = Reason::ALL.iter().map(|(reason, _)| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len(), "each has a name of its own");
        let contract = read("proto/demes/v1/client.proto");
        let (_, head) = contract.split_once("one of: ").unwrap();
        let (head, _) = head.split_once(".\nsyntax").unwrap();
        let listed: BTreeSet<&str> =
            head.split([',', ' ', '\n', '/']).filter(|word| !word.is_empty()).collect();
        let unknown: Vec<_> = listed.difference(&names).collect();
        assert!(unknown.is_empty(), "client.proto names {unknown:?}");
        let of_the_peer_listener = |text: &&(Reason, &str)| !text.1.contains("The peer listener:");
        for (reason, _) in Reason::ALL.iter().filter(of_the_peer_listener) {
            assert!(listed.contains(reason.name()), "client.proto does not name {reason:?}");
        }
    }
}
