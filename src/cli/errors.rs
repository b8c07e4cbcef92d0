//! Failures: what they mean for a person, and the exit code.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::config::ConfigError;
pub use crate::links::asking::reason_of;
use crate::telemetry::code_name;
use crate::wire::reason::{DOMAIN, Reason};

/// The peer refused, or the command did not succeed for another reason of this world.
pub const EXIT_REFUSED: u8 = 1;
/// The command line or the configuration is wrong.
pub const EXIT_USAGE: u8 = 64;
/// The peer cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 69;
/// demes itself is wrong.
pub const EXIT_BUG: u8 = 70;
/// The disk is full, broken or not writable; or what lies on it may not be used so, as a key that
/// others can read.
pub const EXIT_DISK: u8 = 74;
/// What was to be sent is queued, and not confirmed yet.
pub const EXIT_QUEUED: u8 = 75;
/// The person has interrupted the command.
pub const EXIT_INTERRUPTED: u8 = 130;
/// The command was asked to end, by SIGTERM.
pub const EXIT_TERMINATED: u8 = 143;

/// A failure with its exit code and a text that says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// One of the `EXIT_` numbers.
    pub code: u8,
    /// Complete, without "error:" before it.
    pub text: String,
    /// For programs: the peer's reason, or one of ours.
    reason: String,
    /// The gRPC code as the protos would write it.
    status: &'static str,
    /// Values that go with the reason.
    metadata: BTreeMap<String, String>,
}

impl Failure {
    fn of(code: u8, status: Code, reason: &str, text: impl Into<String>) -> Self {
        // As grpcurl and the protos write it.
        let status = code_name((status as i32).to_string().as_bytes());
        let reason = reason.to_owned();
        Self { code, text: text.into(), reason, status, metadata: BTreeMap::new() }
    }
    /// The command was understood and cannot be done.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::of(EXIT_REFUSED, Code::FailedPrecondition, "REFUSED", text)
    }
    /// The command line or the configuration is wrong.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::of(EXIT_USAGE, Code::InvalidArgument, "USAGE", text)
    }
    /// Nobody answers.
    pub fn unreachable(text: impl Into<String>) -> Self {
        Self::of(EXIT_UNREACHABLE, Code::Unavailable, "PEER_UNREACHABLE", text)
    }
    /// The disk does not do.
    pub fn disk(text: impl Into<String>) -> Self {
        Self::of(EXIT_DISK, Code::Unavailable, "STORAGE_FAILED", text)
    }
    /// demes itself is wrong.
    pub fn bug(text: impl fmt::Display) -> Self {
        let text = format!("this is a bug in demes: {text}");
        Self::of(EXIT_BUG, Code::Internal, "INTERNAL", text)
    }

    /// The same for programs: one object on one line.
    pub fn to_json(&self) -> Value {
        json!({
            "error": {
                "code": self.status,
                "reason": self.reason,
                "message": self.text,
                "metadata": self.metadata,
                "exit_code": self.code,
            }
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// What to tell the person, and how to exit; none when the reader of stdout has gone, which is no
/// failure.
pub fn explain(error: &anyhow::Error) -> Option<Failure> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.clone());
    }
    if let Some(status) = error.downcast_ref::<Status>() {
        return Some(of_status(status));
    }
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        let text = error.to_string();
        return Some(Failure { reason: "CONFIG_INVALID".into(), ..Failure::usage(text) });
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return match error.kind() {
            io::ErrorKind::BrokenPipe => None,
            _ => Some(of_io(error)),
        };
    }
    Some(Failure::refused(format!("{error:#}")))
}

/// The exit code of a command that failed.
pub fn exit_code(failure: Option<&Failure>) -> u8 {
    failure.map_or(0, |failure| failure.code)
}

fn of_io(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem => {
            Failure::disk(format!("the disk is full or cannot be written: {error}"))
        }
        _ => Failure::refused(error.to_string()),
    }
}

/// What a call's status means.
pub fn of_status(status: &Status) -> Failure {
    let said = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    if let Some(info) = status.get_details_error_info().filter(|info| info.domain == DOMAIN) {
        let reason = Reason::named(&info.reason);
        let code = match reason {
            Some(Reason::Internal) => return Failure::bug(said),
            Some(Reason::StorageFull | Reason::StorageDamaged | Reason::StorageFailed) => EXIT_DISK,
            Some(Reason::Stopping) => EXIT_UNREACHABLE,
            // What was wanted stays queued, and happens once a majority is there.
            Some(Reason::NoMajority) => EXIT_QUEUED,
            // Or one of a newer peer than this program.
            _ => EXIT_REFUSED,
        };
        let text = match reason.and_then(next_step) {
            Some(step) => format!("{said}\n{step}"),
            None => said.to_owned(),
        };
        let metadata = info.metadata.into_iter().collect();
        return Failure { metadata, ..Failure::of(code, status.code(), &info.reason, text) };
    }
    match status.code() {
        Code::Unavailable => unreachable(said),
        // A connection that breaks shows as unknown, with the transport's error as its source.
        Code::Unknown if std::error::Error::source(status).is_some() => unreachable(said),
        // The client's own clock shows as cancelled: no peer of ours cancels a call.
        Code::DeadlineExceeded | Code::Cancelled => frozen(),
        Code::Internal | Code::Unknown => Failure::bug(said),
        code => {
            let text = match code {
                Code::Unimplemented => {
                    format!("the running peer does not know this command: {said}")
                }
                _ => said.to_owned(),
            };
            Failure::of(EXIT_REFUSED, code, "REFUSED", text)
        }
    }
}

fn frozen() -> Failure {
    Failure::unreachable(
        "your peer took the call, and did not answer in time\n\
         its process is frozen, or the machine is far too busy: `demes doctor` finds out more",
    )
}

fn unreachable(said: &str) -> Failure {
    let said = said.trim_end_matches('.');
    Failure::unreachable(format!(
        "the connection to your peer was lost ({said})\n\
         it has ended, or is frozen: `demes doctor` finds out, `demes up` starts it again"
    ))
}

/// What a person can do about it, where the peer's own words do not say it.
fn next_step(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::ChatNotFound => "`demes chats` lists your chats, `demes invites` your invitations",
        Reason::ChatAmbiguous => "use more of the chat's id: `demes chats` shows it",
        Reason::PeerNotFound => "`demes status CHAT` lists the members",
        Reason::PeerAmbiguous => "use more of the peer's id: `demes status CHAT --json` shows it",
        Reason::InviteNotFound => "`demes invites` lists invitations and links",
        Reason::InviteAmbiguous => "use more of the id: `demes invites` shows it",
        Reason::LinkUnknown | Reason::LinkExpired | Reason::LinkUsedUp | Reason::LinkRevoked => {
            "ask whoever gave it to you for a new one"
        }
        Reason::LinksTooMany => "`demes invites` lists them, `demes revoke CHAT LINK` ends one",
        Reason::PeerIsSelf => "`demes leave CHAT`",
        Reason::NoMajority => "it goes on by itself once more members are online",
        Reason::NoHost => "the members are choosing a host; try again in a moment",
        Reason::NotHost => "only the host can do this: `demes status CHAT` shows who hosts",
        Reason::HandOverFailed => "`demes status CHAT` shows who hosts, and who votes and is there",
        Reason::AddressInvalid => {
            "such as ana.example:7443: `demes status` on that machine shows it"
        }
        Reason::AddressIsOwn => "`demes status` on their machine shows theirs",
        Reason::CursorAhead => "`demes chats` shows the last sequence of each chat",
        Reason::AddressUnreachable => "check the address, and that their peer is running",
        Reason::Busy => "try again in a moment",
        Reason::OutboxFull => "wait until a majority is reachable and the outbox has drained",
        Reason::QuotaExceeded => {
            "what has been added fades away over a day; `demes quota CHAT MIB` allows more"
        }
        Reason::StorageFull => "free some space on the disk; nothing that was confirmed is lost",
        Reason::StorageDamaged => {
            "this chat has stopped here; the other members have all its messages"
        }
        Reason::StorageFailed => {
            "`demes doctor` looks at the disk; nothing that was confirmed is lost"
        }
        Reason::CheckRunning => "another `demes doctor` is at work",
        Reason::TooManyChats => "leave a chat first, or raise `limits.chats_max`",
        Reason::TokenRequired => "a command shows what the variable DEMES_TOKEN says",
        Reason::Stopping => "the peer is being stopped; start it again with `demes up`",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn refused(code: Code, reason: &str) -> Failure {
        let details = ErrorDetails::with_error_info(reason, "demes", HashMap::new());
        let status = Status::with_error_details(code, "said", details);
        explain(&status.into()).expect("a failure")
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let failure = refused(Code::NotFound, "CHAT_NOT_FOUND");
        assert_eq!(failure.code, EXIT_REFUSED);
        assert!(failure.text.contains("demes chats"), "{failure}");
        assert_eq!(refused(Code::ResourceExhausted, "STORAGE_FULL").code, EXIT_DISK);
    }

    #[test]
    fn a_reason_of_a_newer_peer_is_a_refusal_like_others() {
        let failure = refused(Code::Internal, "SOMETHING_NEW");
        assert_eq!((failure.code, &failure.text[..]), (EXIT_REFUSED, "said"));
    }

    #[test]
    fn programs_get_the_code_the_reason_and_its_values() {
        let metadata = HashMap::from([("chat_ids".to_owned(), "c0,c1".to_owned())]);
        let details = ErrorDetails::with_error_info("CHAT_AMBIGUOUS", "demes", metadata);
        let status = Status::with_error_details(Code::FailedPrecondition, "which?", details);
        let error = &explain(&status.into()).expect("a failure").to_json()["error"];
        assert_eq!(error["code"], "FAILED_PRECONDITION");
        assert_eq!(error["reason"], "CHAT_AMBIGUOUS");
        assert_eq!(error["metadata"]["chat_ids"], "c0,c1");
        assert_eq!(error["exit_code"], 1);
        let own = Failure::unreachable("gone").to_json();
        assert_eq!(
            (&own["error"]["code"], &own["error"]["exit_code"]),
            (&json!("UNAVAILABLE"), &json!(69))
        );
    }

    #[test]
    fn exit_codes_tell_unreachable_bug_and_usage_apart() {
        let code = |error: anyhow::Error| exit_code(explain(&error).as_ref());
        assert_eq!(code(Status::unavailable("gone").into()), EXIT_UNREACHABLE);
        assert_eq!(code(Status::cancelled("Timeout expired").into()), EXIT_UNREACHABLE);
        assert_eq!(code(Status::internal("oops").into()), EXIT_BUG);
        assert_eq!(code(ConfigError::NoHome.into()), EXIT_USAGE);
        assert_eq!(code(io::Error::from(io::ErrorKind::StorageFull).into()), EXIT_DISK);
        assert_eq!(code(anyhow::anyhow!("no")), EXIT_REFUSED);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        assert_eq!(explain(&io::Error::from(io::ErrorKind::BrokenPipe).into()), None);
    }
}
