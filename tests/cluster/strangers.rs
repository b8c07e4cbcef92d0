//! What a key that nobody knows may ask of a member's peer (R39, R43), over TLS as peers speak it.

use std::net::SocketAddr;
use std::sync::Mutex;

use demes::crypto::link::LinkSeed;
use demes::crypto::{Identity, tls};
use demes::protocol::sign::signed_submission;
use demes::protocol::types::{ChatId, Course, InviteLinkProof, Membership, Payload};
use demes::wire::entry::to_proof;
use demes::wire::link::LinkText;
use demes::wire::pb;
use demes::wire::pb::host_service_client::HostServiceClient;
use demes::wire::pb::peer_service_client::PeerServiceClient;
use demes::wire::timestamp;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

use crate::harness::{Chat, assert_refused, story};

const INCARNATION: u64 = 77;

/// A peer that is in no chat.
struct Stranger {
    identity: Identity,
    channel: Channel,
}

impl Stranger {
    async fn at(address: SocketAddr) -> Self {
        let identity = Identity::generate().unwrap();
        let connector = TlsConnector::from(tls::client_config(&identity, None));
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(tls::SERVER_NAME).unwrap();
        let tls = Mutex::new(Some(TokioIo::new(connector.connect(name, tcp).await.unwrap())));
        let connector = service_fn(move |_| {
            let tls = tls.lock().unwrap().take();
            async move { tls.ok_or(std::io::Error::from(std::io::ErrorKind::NotConnected)) }
        });
        let endpoint = Endpoint::from_static("http://peer.demes");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        Self { identity, channel }
    }

    fn header(chat: ChatId) -> Option<pb::Header> {
        Some(pb::Header {
            chat_id: chat.to_string(),
            from_incarnation: INCARNATION,
            from_boot: 1,
            to_incarnation: 0,
            generation: 0,
            words: Vec::new(),
        })
    }

    fn prove(&self, link: &LinkText) -> InviteLinkProof {
        LinkSeed(link.seed).prove(link.chat, self.identity.peer_id(), INCARNATION)
    }

    /// Why it is not taken on.
    async fn join(
        &self,
        chat: ChatId,
        proof: Option<InviteLinkProof>,
    ) -> Result<pb::RefusedReason, Status> {
        let (name, address) = ("Stranger".to_owned(), "127.0.0.1:1".to_owned());
        let joined = Membership::Joined { name: name.clone(), address: address.clone(), proof };
        let payload = Payload::Membership(joined);
        let me = self.identity.peer_id();
        let signature = self.identity.sign(&signed_submission(
            Course::founded(chat),
            me,
            INCARNATION,
            0,
            &payload,
        ));
        let request = pb::JoinRequest {
            header: Self::header(chat),
            name,
            address,
            created_at: Some(timestamp(1)),
            decline: false,
            signature: signature.to_vec(),
            proof: proof.as_ref().map(to_proof),
        };
        let answer = HostServiceClient::new(self.channel.clone()).join(request).await?;
        let refused = answer.into_inner().refused;
        Ok(refused.map_or(pb::RefusedReason::Unspecified, |refused| refused.reason()))
    }

    async fn find_host(
        &self,
        chat: ChatId,
        proof: Option<InviteLinkProof>,
    ) -> Result<pb::FindHostResponse, Status> {
        let request = pb::FindHostRequest {
            chat_id: chat.to_string(),
            incarnation: INCARNATION,
            proof: proof.as_ref().map(to_proof),
        };
        let answer = PeerServiceClient::new(self.channel.clone()).find_host(request).await?;
        Ok(answer.into_inner())
    }
}

async fn link(chat: &Chat) -> LinkText {
    let request = pb::CreateInviteLinkRequest { chat: chat.chat.clone(), ..Default::default() };
    let answer = chat.peers[0].client().create_invite_link(request).await.unwrap();
    LinkText::parse(&answer.into_inner().link.unwrap().text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_opens_one_door_to_the_one_who_has_it_and_nothing_else() {
    story(async {
        let mut chat = Chat::founded_by_the_first_of(1).await;
        let id: ChatId = chat.chat.parse().unwrap();
        let good = link(&chat).await;
        let stranger = Stranger::at(chat.peers[0].address()).await;
        let other = Stranger::at(chat.peers[0].address()).await;

        // Without a link there is no such chat for a stranger.
        let answer = stranger.find_host(id, None).await;
        assert_refused(answer, Code::NotFound, "CHAT_NOT_FOUND");
        assert_eq!(stranger.join(id, None).await.unwrap(), pb::RefusedReason::NotMember);
        // What somebody else has proven proves nothing, and neither does a link that nobody made.
        let seen = other.prove(&good);
        let answer = stranger.find_host(id, Some(seen)).await;
        assert_refused(answer, Code::NotFound, "CHAT_NOT_FOUND");
        let forged = stranger.join(id, Some(seen)).await.expect_err("it is not genuine");
        assert_eq!(forged.code(), Code::PermissionDenied, "{forged:?}");
        let made_up = LinkText { seed: [7; 16], ..good.clone() };
        let made_up = stranger.prove(&made_up);
        let answer = stranger.find_host(id, Some(made_up)).await;
        assert_refused(answer, Code::NotFound, "CHAT_NOT_FOUND");
        let reason = stranger.join(id, Some(made_up)).await.unwrap();
        assert_eq!(reason, pb::RefusedReason::LinkUnknown);

        // Who has it learns who hosts, and nothing of the chat before it has joined.
        let found = stranger.find_host(id, Some(stranger.prove(&good))).await.unwrap();
        assert_eq!(found.host_peer_id, chat.peers[0].id);
        let mut host = HostServiceClient::new(stranger.channel.clone());
        let header = Stranger::header(id);
        let request = pb::HeartbeatsRequest { header: header.clone(), term: found.term };
        let mut beats = host.heartbeats(tokio_stream::once(request)).await.unwrap().into_inner();
        let ended = beats.message().await.unwrap().and_then(|answer| answer.ended);
        assert_eq!(ended.expect("there are none for it").reason, "NOT_MEMBER");
        assert!(beats.message().await.unwrap().is_none(), "nothing else was asked");
        let request =
            pb::ReplicateRequest { header, term: found.term, attach: 1, ..Default::default() };
        let mut log = host.replicate(tokio_stream::once(request)).await.unwrap().into_inner();
        let answer = log.message().await.unwrap().and_then(|answer| answer.content);
        let Some(pb::replicate_response::Content::Refused(refused)) = answer else {
            panic!("it gets nothing of the log: {answer:?}");
        };
        assert_eq!(refused.reason(), pb::RefusedReason::NotMember);

        chat.says(0).await;
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_knocks_only_so_often() {
    story(async {
        let mut chat = Chat::prepared(1, &[]);
        chat.peers[0].set("DEMES__LIMITS__FIRST_CONTACT_PER_MINUTE_PEER", "3");
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        let id: ChatId = chat.chat.parse().unwrap();
        let stranger = Stranger::at(chat.peers[0].address()).await;
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(stranger.join(id, None).await);
        }
        let refused = answers.pop().unwrap().expect_err("the fourth is one too many");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let other = Stranger::at(chat.peers[0].address()).await;
        assert!(other.join(id, None).await.is_ok(), "others are not held up");
        chat.says(0).await;
        chat.finish().await;
    })
    .await;
}
