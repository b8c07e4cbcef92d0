//! Single calls to another peer that are no part of a chat's rules: whether it is there, inviting
//! it, asking who hosts, joining, and being dialled back.

use std::fmt;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use super::dial::{Connection, Traced};
use crate::telemetry::code_name;
use crate::wire::pb;
use crate::wire::pb::election_service_client::ElectionServiceClient;
use crate::wire::pb::host_service_client::HostServiceClient;
use crate::wire::pb::peer_service_client::PeerServiceClient;
use crate::wire::reason::{DOMAIN, Reason};

/// A call that has no answer by then is given up.
pub const CALL_MAX: Duration = Duration::from_secs(5);
/// The same where the other peer dials before it answers.
const DIAL_BACK_MAX: Duration = Duration::from_secs(4);

/// Why another peer did not do what it was asked for. It may write anything: its words, long or
/// short, are not passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotDone {
    /// Its reason, where that is one that this version of demes knows.
    pub reason: Option<Reason>,
    /// There was no room for the call, or there were too many.
    pub is_exhausted: bool,
    /// The name of the code that came with it, such as `UNAVAILABLE`.
    code: &'static str,
}

impl NotDone {
    /// The reason's name, or else the code's.
    pub fn name(&self) -> &'static str {
        self.reason.map_or(self.code, Reason::name)
    }
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<&Status> for NotDone {
    fn from(status: &Status) -> Self {
        Self {
            reason: reason_of(status),
            is_exhausted: status.code() == Code::ResourceExhausted,
            code: code_name((status.code() as i32).to_string().as_bytes()),
        }
    }
}

/// The reason that a status carries, if it is one of ours.
pub fn reason_of(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    if info.domain == DOMAIN { Reason::named(&info.reason) } else { None }
}

async fn within<T>(
    most: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, NotDone> {
    let answer = timeout(most, call).await;
    let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
    answer.map(Response::into_inner).map_err(|status| NotDone::from(&status))
}

impl Connection {
    fn peer_service(&self) -> PeerServiceClient<Traced> {
        PeerServiceClient::new(self.channel.clone())
    }

    /// How long a call takes there and back.
    pub async fn ping(&self) -> Result<Duration, NotDone> {
        let started = Instant::now();
        let mut client = ElectionServiceClient::new(self.channel.clone());
        within(CALL_MAX, client.ping(pb::PingRequest {})).await?;
        Ok(started.elapsed())
    }

    /// Invites the peer at the other end.
    pub async fn invite(&self, request: pb::InviteRequest) -> Result<pb::InviteResponse, NotDone> {
        within(CALL_MAX, self.peer_service().invite(request)).await
    }

    /// Asks who hosts a chat.
    pub async fn find_host(
        &self,
        request: pb::FindHostRequest,
    ) -> Result<pb::FindHostResponse, NotDone> {
        within(CALL_MAX, self.peer_service().find_host(request)).await
    }

    /// Brings an answer to an invitation, or a link's proof, to the host at the other end.
    pub async fn join(&self, request: pb::JoinRequest) -> Result<pb::JoinResponse, NotDone> {
        let mut client = HostServiceClient::new(self.channel.clone());
        within(CALL_MAX, client.join(request)).await
    }

    /// Asks to be dialled.
    pub async fn dial_back(
        &self,
        request: pb::DialBackRequest,
    ) -> Result<pb::DialBackResponse, NotDone> {
        within(DIAL_BACK_MAX, self.peer_service().dial_back(request)).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn what_another_peer_writes_for_a_reason_is_passed_on_only_if_it_is_one() {
        let name = |status: &Status| NotDone::from(status).name();
        let told = |domain: &str, reason: &str| {
            let details = ErrorDetails::with_error_info(reason, domain, HashMap::new());
            name(&Status::with_error_details(Code::ResourceExhausted, "any words", details))
        };
        assert_eq!(told("demes", "RATE_LIMITED"), "RATE_LIMITED");
        let [long, control] = ["X".repeat(100_000), "\u{1b}[2JRATE_LIMITED".to_owned()];
        for reason in ["NO_SUCH_REASON", "", &long, &control] {
            assert_eq!(told("demes", reason), "RESOURCE_EXHAUSTED");
        }
        assert_eq!(told("other", "RATE_LIMITED"), "RESOURCE_EXHAUSTED");
        assert_eq!(name(&Status::unimplemented("an older one")), "UNIMPLEMENTED");
        assert_eq!(name(&Status::deadline_exceeded("no answer")), "DEADLINE_EXCEEDED");
    }
}
