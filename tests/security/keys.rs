//! R39: who may connect, and as whom.

use std::io;
use std::sync::Arc;

use demes::crypto::{Identity, tls};
use demes::wire::pb;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tonic::Code;

use crate::peer::{LUNCH, Peer, assert_refused, lunch_of};
use crate::raw::{Calls, Speaker, channel};

/// Takes any server: the attacker does not care whom it talks to.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Shows `certificate` and signs with `key`, which need not belong together.
fn showing(certificate: CertificateDer<'static>, key: PrivatePkcs8KeyDer<'static>) -> ClientConfig {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = PrivateKeyDer::from(key);
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
    let certified = rustls::sign::CertifiedKey::new(vec![certificate], signer);
    let resolver = rustls::sign::SingleCertAndKey::from(certified);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("it has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// An Ed25519 key.
fn key(seed: u8) -> PrivatePkcs8KeyDer<'static> {
    let der = SigningKey::from_bytes(&[seed; 32]).to_pkcs8_der().expect("encodable");
    PrivatePkcs8KeyDer::from(der.as_bytes().to_vec())
}

/// A self-signed certificate for these years.
fn certificate(key: &PrivatePkcs8KeyDer<'_>, from: i32, through: i32) -> CertificateDer<'static> {
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(key, &PKCS_ED25519).expect("a key");
    let mut params = CertificateParams::new(["peer.demes".to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(through, 1, 1);
    params.self_signed(&pair).expect("signed").der().clone()
}

/// Whether a connection with this configuration gets a single call through. In TLS 1.3 a server
/// that does not want the client says so only after the handshake.
async fn is_let_in(config: ClientConfig, address: &str) -> io::Result<()> {
    let mut calls = Calls::over(channel(Arc::new(config), address).await?);
    let answer = calls.election.ping(pb::PingRequest {}).await;
    answer.map(drop).map_err(io::Error::other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_key_that_is_shown_and_proven_connects() {
    let (ann, ben) = (Peer::start("Ann").await, Peer::start("Ben").await);
    lunch_of(&[&ann, &ben], 2).await;
    let address = ann.address();
    let good = showing(certificate(&key(1), 2000, 9000), key(1));
    is_let_in(good, &address).await.expect("an unknown key may knock");

    // A member's certificate is public. Without its key it is worth nothing.
    let members = std::fs::read(ben.dir.path().join("certificate.pem")).expect("a file");
    let [rustls_pemfile::Item::X509Certificate(members)] =
        &rustls_pemfile::read_all(&mut &members[..]).map(Result::unwrap).collect::<Vec<_>>()[..]
    else {
        panic!("one certificate");
    };
    let ecdsa = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let params = CertificateParams::new(["peer.demes".to_owned()]).expect("a name");
    let other_kind = params.self_signed(&ecdsa).expect("signed").der().clone();
    let mut flipped = certificate(&key(1), 2000, 9000).to_vec();
    *flipped.last_mut().expect("bytes") ^= 1;
    let cases = [
        ("a member's certificate without its key", showing(members.clone(), key(1))),
        ("another's certificate", showing(certificate(&key(2), 2000, 9000), key(1))),
        ("an expired certificate", showing(certificate(&key(1), 2000, 2001), key(1))),
        ("one that is not valid yet", showing(certificate(&key(1), 8000, 9000), key(1))),
        ("a certificate with a wrong signature", showing(flipped.into(), key(1))),
        ("bytes that are no certificate", showing(vec![0x30; 64].into(), key(1))),
        (
            "a key of another kind",
            showing(other_kind, PrivatePkcs8KeyDer::from(ecdsa.serialize_der())),
        ),
    ];
    for (what, config) in cases {
        assert!(is_let_in(config, &address).await.is_err(), "{what}");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut nothing = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("it has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    nothing.alpn_protocols = vec![b"h2".to_vec()];
    assert!(is_let_in(nothing, &address).await.is_err(), "no certificate");
    ben.says(LUNCH, "they are all outside").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valid_key_speaks_for_nobody_else() {
    let (ann, ben) = (Peer::start("Ann").await, Peer::start("Ben").await);
    lunch_of(&[&ann, &ben], 2).await;
    let before = ann.lunch().await;
    let mut mallory = Speaker::stranger(&before);
    let mut calls = Calls::to(&mallory.identity, &ann.address()).await;

    // In the name of Ben: the key says who it is, whatever the request says.
    let bens = Identity::load_or_create(ben.dir.path()).expect("a key");
    let mut as_ben = Calls::to(&bens, &ben.address()).await;
    let request = pb::FindHostRequest { chat_id: before.chat_id.clone(), ..Default::default() };
    let found = as_ben.peer.find_host(request).await.expect("its own peer tells it").into_inner();
    mallory.incarnation = found.incarnation;
    let mut request = mallory.submission(before.term, 1, crate::raw::text("I am Ben"), None);
    request.author = Some(pb::Author { peer_id: ben.id(), incarnation: found.incarnation });
    assert_refused(calls.submit(request.clone()).await, Code::PermissionDenied, "NOT_GENUINE");
    // With a signature it is hers, not his.
    let payload = crate::raw::text("I am Ben");
    let signature = mallory.sign(1, &payload);
    let mut request = mallory.submission(before.term, 1, payload, Some(signature));
    request.author = Some(pb::Author { peer_id: ben.id(), incarnation: found.incarnation });
    assert_refused(calls.submit(request).await, Code::PermissionDenied, "NOT_GENUINE");

    // Whoever is dialled must have the key that is expected there.
    let config = tls::client_config(&mallory.identity, Some(bens.peer_id()));
    let error = channel(config, &ann.address()).await.expect_err("Ann is not Ben");
    let refusal = tls::refusal_of(&error);
    assert!(matches!(refusal, Some(tls::Refusal::OtherKey { .. })), "{error}");
    ben.says(LUNCH, "I am Ben").await;
    assert_eq!(ann.texts().await, ["I am Ben"]);
}
