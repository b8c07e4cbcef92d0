//! ElectionService: how members measure each other and choose a host.

use tonic::{Request, Response, Status};

use super::inbound::Inbound;
use crate::peer::gate::Caller;
use crate::peer::refusal::{Refusal, unable};
use crate::protocol::types::{ChatId, PeerId};
use crate::wire::message as convert;
use crate::wire::pb::election_service_server::ElectionService;
use crate::wire::{check_address, hex, pb};

#[tonic::async_trait]
impl ElectionService for Inbound {
    async fn ping(
        &self,
        request: Request<pb::PingRequest>,
    ) -> Result<Response<pb::PingResponse>, Status> {
        self.count(&self.caller(&request)?)?;
        Ok(Response::new(pb::PingResponse {}))
    }

    async fn nominate(
        &self,
        request: Request<pb::NominateRequest>,
    ) -> Result<Response<pb::NominateResponse>, Status> {
        self.unary(request, convert::from_nominate_request, convert::to_nominate_response).await
    }

    async fn solicit(
        &self,
        request: Request<pb::SolicitRequest>,
    ) -> Result<Response<pb::SolicitResponse>, Status> {
        let unread = Unread::of(&self.caller(&request)?, request.get_ref().header.as_ref());
        let answer =
            self.unary(request, convert::from_solicit_request, convert::to_solicit_response);
        let answer = answer.await?;
        if answer.get_ref().refused.is_none() {
            self.dial_stranger(unread).await?;
        }
        Ok(answer)
    }

    async fn request_vote(
        &self,
        request: Request<pb::RequestVoteRequest>,
    ) -> Result<Response<pb::RequestVoteResponse>, Status> {
        let unread = Unread::of(&self.caller(&request)?, request.get_ref().header.as_ref());
        let answer = self.unary(request, convert::from_vote_request, convert::to_vote_response);
        let answer = answer.await?;
        if answer.get_ref().refused.is_none() {
            self.dial_stranger(unread).await?;
        }
        Ok(answer)
    }

    async fn fetch_log(
        &self,
        request: Request<pb::FetchLogRequest>,
    ) -> Result<Response<pb::FetchLogResponse>, Status> {
        self.unary(request, convert::from_fetch_log_request, convert::to_fetch_log_response).await
    }

    async fn withdraw(
        &self,
        request: Request<pb::WithdrawRequest>,
    ) -> Result<Response<pb::WithdrawResponse>, Status> {
        let (header, refused) = self.notice(request, convert::from_withdraw_request).await?;
        Ok(Response::new(pb::WithdrawResponse { header, refused }))
    }

    async fn announce(
        &self,
        request: Request<pb::AnnounceRequest>,
    ) -> Result<Response<pb::AnnounceResponse>, Status> {
        let unread = Unread::of(&self.caller(&request)?, request.get_ref().header.as_ref());
        let (header, refused) = self.notice(request, convert::from_announce_request).await?;
        if refused.is_none() {
            self.dial_stranger(unread).await?;
        }
        Ok(Response::new(pb::AnnounceResponse { header, refused }))
    }

    async fn hand_over(
        &self,
        request: Request<pb::ElectionServiceHandOverRequest>,
    ) -> Result<Response<pb::ElectionServiceHandOverResponse>, Status> {
        let (header, refused) = self.notice(request, convert::from_hand_over_request).await?;
        Ok(Response::new(pb::ElectionServiceHandOverResponse { header, refused }))
    }
}

// R7: two peers count as linked where each dials the other, and a voter whose log is behind cannot
// dial one of whose joining it has not read. So those who want its vote show that they have joined,
// and the joining says where they are. L2: no other word makes this peer dial anybody.
/// Where a peer can be dialled, by its own signed joining.
struct Unread {
    chat: Option<ChatId>,
    peer: PeerId,
    address: Option<String>,
}

impl Unread {
    fn of(caller: &Caller, header: Option<&pb::Header>) -> Self {
        use pb::membership::Change;
        let chat = header.and_then(|header| header.chat_id.parse().ok());
        let peer = caller.peer;
        let id = hex(&peer.0);
        let words = header.map(|header| &header.words[..]).unwrap_or_default();
        let address =
            words.iter().find_map(|word| match word.change.as_ref()?.change.as_ref()? {
                Change::Joined(joined) if word.author_peer_id == id => Some(joined.address.clone()),
                _ => None,
            });
        Self { chat, peer, address }
    }
}

impl Inbound {
    /// Has a peer dialled whose call the chat has taken.
    async fn dial_stranger(&self, unread: Unread) -> Result<(), Refusal> {
        let Unread { chat: Some(chat), peer, address: Some(address) } = unread else {
            return Ok(());
        };
        if check_address(&address, "address").is_err() {
            return Ok(());
        }
        self.handle.dial_stranger(chat, peer, address).await.map_err(unable)
    }
}
