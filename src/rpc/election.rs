//! ElectionService: how members measure each other and choose a host.

use tonic::{Request, Response, Status};

use super::inbound::Inbound;
use crate::wire::message as convert;
use crate::wire::pb;
use crate::wire::pb::election_service_server::ElectionService;

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
        self.unary(request, convert::from_solicit_request, convert::to_solicit_response).await
    }

    async fn request_vote(
        &self,
        request: Request<pb::RequestVoteRequest>,
    ) -> Result<Response<pb::RequestVoteResponse>, Status> {
        self.unary(request, convert::from_vote_request, convert::to_vote_response).await
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
        let (header, refused) = self.notice(request, convert::from_announce_request).await?;
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
