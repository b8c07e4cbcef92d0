//! Mutual TLS 1.3 in which the key is the name (R39).
//!
//! Both sides show a self-signed Ed25519 certificate and prove that they hold its key. There are no
//! authorities and no host names: whoever proves a key *is* that peer. What a peer may then do is
//! decided by who it is. Sessions are never resumed, because a resumed one would skip the question
//! whether the key is still admitted.
//!
//! What is recorded today stays closed to a quantum computer of tomorrow: keys are agreed on by
//! X25519 and ML-KEM-768 together.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error, OtherError, PeerIncompatible, ServerConfig, SignatureScheme,
};

pub use super::certificate::{SERVER_NAME, peer_id_of};
use super::certificate::{check_certificate, provider};
use super::identity::Identity;
use crate::planted::{Mistake, planted};
use crate::protocol::types::PeerId;

/// Whether connections from a peer are let in. Asked at every handshake, so that a removed key is
/// refused from then on; it must answer at once.
pub type Admit = Arc<dyn Fn(&PeerId) -> bool + Send + Sync>;

/// Why this side refused the other one's key. `refusal_of` finds it in a failed handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("another peer answers: expected {expected}, found {found}")]
    OtherKey { expected: PeerId, found: PeerId },
    #[error("the peer {0} is not admitted")]
    NotAdmitted(PeerId),
}

/// For the peer listener: TLS 1.3 with a client certificate, and whom to let in. ALPN is h2.
pub fn server_config(identity: &Identity, admit: Admit) -> Arc<ServerConfig> {
    let verifier = Arc::new(Verifier {
        algorithms: provider().signature_verification_algorithms,
        rule: Rule::Admit(admit),
    });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has cipher suites for TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate()], identity.private_key())
        .expect("the certificate was made from this key");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// For dialling a peer. `expected` pins its key; with `None` any key is taken, and the caller reads
/// with `peer_id_of` whom it reached. ALPN is h2.
pub fn client_config(identity: &Identity, expected: Option<PeerId>) -> Arc<ClientConfig> {
    let verifier = Arc::new(Verifier {
        algorithms: provider().signature_verification_algorithms,
        rule: Rule::Expect(expected),
    });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())
        .expect("the certificate was made from this key");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// The refusal behind a handshake's error, if it was this side that refused.
pub fn refusal_of(error: &io::Error) -> Option<Refusal> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
            cause.downcast_ref().copied()
        }
        _ => None,
    }
}

/// Whether a handshake has failed because the other side does not know the hybrid key exchange: it
/// offered others only, or it refused this one. Its alert also stands for no common cipher suite,
/// of which TLS 1.3 has so few that everybody has one.
pub fn lacks_hybrid(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    matches!(
        error,
        Some(
            Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon)
                | Error::AlertReceived(AlertDescription::HandshakeFailure)
        )
    )
}

/// Which keys one side takes.
enum Rule {
    Admit(Admit),
    Expect(Option<PeerId>),
}

/// Checks the other side's certificate and its proof of the key, on either side of a connection.
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    rule: Rule,
}

impl Verifier {
    fn check(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let found = check_certificate(certificate, now)?;
        let refusal = match &self.rule {
            Rule::Admit(admit) if !admit(&found) => Refusal::NotAdmitted(found),
            Rule::Expect(Some(expected))
                if *expected != found && !planted(Mistake::PinUnchecked) =>
            {
                Refusal::OtherKey { expected: *expected, found }
            }
            Rule::Admit(_) | Rule::Expect(_) => return Ok(()),
        };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal)))))
    }

    /// Proves that the other side holds the key. Without this, a pinned certificate proves nothing:
    /// anybody can show it.
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if planted(Mistake::KeyUnproven) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

fn no_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use ed25519_dalek::pkcs8::EncodePrivateKey as _;
    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
    use rustls::client::WantsClientCert;
    use rustls::crypto::{CryptoProvider, aws_lc_rs};
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::{ClientConnection, ConfigBuilder, NamedGroup, RootCertStore, ServerConnection};

    use super::super::certificate::validity_of;
    use super::*;

    /// What one side has of a handshake: whom it met, or why there was none.
    type Met = Result<PeerId, io::Error>;

    fn everybody() -> Admit {
        Arc::new(|_| true)
    }

    fn limited(stream: TcpStream) -> TcpStream {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    /// One connection over loopback, with one byte from the server at its end: a client learns
    /// only by reading whether it was let in.
    fn connect(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (Met, Met) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve_one(&listener, server));
        let mut stream = limited(TcpStream::connect(address).unwrap());
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let mut connection = ClientConnection::new(client, name).unwrap();
        let mut meet = || {
            connection.complete_io(&mut stream)?;
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            tls.read_exact(&mut [0])?;
            assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
            Ok(peer_id_of(connection.peer_certificates().unwrap()).unwrap())
        };
        let met: Met = meet();
        drop(stream);
        (server.join().unwrap(), met)
    }

    fn serve_one(listener: &TcpListener, config: Arc<ServerConfig>) -> Met {
        let mut stream = limited(listener.accept()?.0);
        let mut connection = ServerConnection::new(config).unwrap();
        connection.complete_io(&mut stream)?;
        rustls::Stream::new(&mut connection, &mut stream).write_all(&[1])?;
        Ok(peer_id_of(connection.peer_certificates().unwrap()).unwrap())
    }

    /// A client that takes any server, without saying yet how it proves itself.
    fn trusting_client() -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let algorithms = provider().signature_verification_algorithms;
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier {
                algorithms,
                rule: Rule::Expect(None),
            }))
    }

    #[test]
    fn both_sides_learn_whom_they_met() {
        let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        for expected in [Some(alice.peer_id()), None] {
            let server = server_config(&alice, everybody());
            let (at_server, at_client) = connect(server, client_config(&bob, expected));
            assert_eq!(at_server.unwrap(), bob.peer_id());
            assert_eq!(at_client.unwrap(), alice.peer_id());
        }
    }

    /// The same configuration with a key exchange of before, which every TLS 1.3 has.
    fn without_hybrid(provider: &Arc<CryptoProvider>) -> Arc<CryptoProvider> {
        let kx_groups = vec![aws_lc_rs::kx_group::X25519];
        Arc::new(CryptoProvider { kx_groups, ..CryptoProvider::clone(provider) })
    }

    // S15: no connection between peers is open to who records it and has a quantum computer later.
    #[test]
    fn keys_are_agreed_on_by_the_hybrid_exchange() {
        let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mut client =
            ClientConnection::new(client_config(&bob, None), SERVER_NAME.try_into().unwrap())
                .unwrap();
        let mut server = ServerConnection::new(server_config(&alice, everybody())).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut sent = Vec::new();
            client.write_tls(&mut sent).unwrap();
            server.read_tls(&mut &sent[..]).unwrap();
            server.process_new_packets().unwrap();
            sent.clear();
            server.write_tls(&mut sent).unwrap();
            client.read_tls(&mut &sent[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        let agreed =
            [client.negotiated_key_exchange_group(), server.negotiated_key_exchange_group()];
        for group in agreed {
            assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
        }
    }

    #[test]
    fn who_does_not_know_the_hybrid_exchange_is_refused_and_both_sides_know_why() {
        let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let (server, client) = (server_config(&alice, everybody()), client_config(&bob, None));
        let old_server =
            ServerConfig::builder_with_provider(without_hybrid(server.crypto_provider()))
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(server.cert_resolver.clone());
        let old_client =
            ClientConfig::builder_with_provider(without_hybrid(client.crypto_provider()))
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
        for (server, client) in [(server, Arc::new(old_client)), (Arc::new(old_server), client)] {
            let (at_server, at_client) = connect(server, client);
            for error in [at_server.unwrap_err(), at_client.unwrap_err()] {
                assert!(lacks_hybrid(&error), "{error}");
            }
        }
        let other = io::Error::new(io::ErrorKind::InvalidData, Error::DecryptError);
        assert!(!lacks_hybrid(&other) && !lacks_hybrid(&io::ErrorKind::UnexpectedEof.into()));
    }

    #[test]
    fn a_key_other_than_the_pinned_one_is_refused_and_named() {
        let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let expected = PeerId([7; 32]);
        let server = server_config(&alice, everybody());
        let (at_server, at_client) = connect(server, client_config(&bob, Some(expected)));
        let refusal = refusal_of(&at_client.unwrap_err());
        assert_eq!(refusal, Some(Refusal::OtherKey { expected, found: alice.peer_id() }));
        assert!(at_server.is_err());
    }

    // R39: both sides are proven, and a removed key is not let in.
    #[test]
    fn a_removed_key_is_refused_from_then_on() {
        let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let removed = Arc::new(AtomicBool::new(false));
        let admit: Admit = {
            let (removed, bob) = (removed.clone(), bob.peer_id());
            Arc::new(move |peer| *peer != bob || !removed.load(Ordering::Relaxed))
        };
        let (server, client) = (server_config(&alice, admit), client_config(&bob, None));
        let (at_server, at_client) = connect(server.clone(), client.clone());
        assert!(at_server.is_ok() && at_client.is_ok());
        // The same configurations: a session that could be resumed would slip through.
        removed.store(true, Ordering::Relaxed);
        let (at_server, at_client) = connect(server, client);
        let refusal = refusal_of(&at_server.unwrap_err());
        assert_eq!(refusal, Some(Refusal::NotAdmitted(bob.peer_id())));
        assert!(at_client.is_err());
    }

    #[test]
    fn a_shown_certificate_without_its_key_proves_nothing() {
        let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mallory = Identity::generate().unwrap();
        let signer = aws_lc_rs::sign::any_eddsa_type(&match mallory.private_key() {
            rustls::pki_types::PrivateKeyDer::Pkcs8(key) => key,
            _ => unreachable!("identities are PKCS#8"),
        });
        let stolen =
            rustls::sign::CertifiedKey::new(vec![bob.certificate()], signer.expect("a key"));
        let resolver = rustls::sign::SingleCertAndKey::from(stolen);
        let mut config = trusting_client().with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (at_server, at_client) = connect(server_config(&alice, everybody()), Arc::new(config));
        assert!(at_server.is_err() && at_client.is_err());
    }

    #[test]
    fn no_certificate_means_no_connection() {
        let alice = Identity::generate().unwrap();
        let mut config = trusting_client().with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (at_server, at_client) = connect(server_config(&alice, everybody()), Arc::new(config));
        assert!(at_server.is_err() && at_client.is_err());
    }

    #[test]
    fn certificates_are_checked_for_dates_kind_and_signature() {
        let now = UnixTime::now();
        let identity = Identity::generate().unwrap();
        let good = identity.certificate();
        assert_eq!(check_certificate(&good, now), Ok(identity.peer_id()));

        let key = ed25519_dalek::SigningKey::from_bytes(&[4; 32]).to_pkcs8_der().unwrap();
        let key = PrivatePkcs8KeyDer::from(key.as_bytes().to_vec());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).unwrap();
        let dated = |from, through| {
            let mut params = CertificateParams::default();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(through, 1, 1);
            params.self_signed(&key).unwrap().der().clone()
        };
        assert!(check_certificate(&dated(2000, 9000), now).is_ok());
        for (from, through) in [(2000, 2001), (8000, 9000)] {
            let refused = check_certificate(&dated(from, through), now);
            assert!(matches!(refused, Err(Error::InvalidCertificate(_))), "{refused:?}");
            let seconds = |year| rcgen::date_time_ymd(year, 1, 1).unix_timestamp() as u64;
            let valid = validity_of(&dated(from, through));
            assert_eq!(valid, Some((seconds(from), seconds(through))));
        }

        let ecdsa = rcgen::generate_simple_self_signed(["peer.demes".to_owned()]).unwrap();
        assert!(check_certificate(ecdsa.cert.der(), now).is_err());
        for position in 0..good.len() {
            let mut flipped = good.to_vec();
            flipped[position] ^= 1;
            let refused = check_certificate(&CertificateDer::from(flipped), now);
            assert!(refused.is_err(), "flipped byte {position}");
        }
    }

    #[test]
    fn tls_1_2_is_refused() {
        let alice = Identity::generate().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = server_config(&alice, everybody());
        let server = thread::spawn(move || serve_one(&listener, config));
        // A ClientHello as TLS 1.2 has it: version, random, no session, one cipher suite
        // (ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), no compression, signature algorithms and groups.
        let mut body = vec![3, 3];
        body.extend([0x5a; 32]);
        body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
        body.extend([0, 16, 0, 13, 0, 4, 0, 2, 8, 7, 0, 10, 0, 4, 0, 2, 0, 0x1d]);
        let mut hello = vec![22, 3, 1, 0, u8::try_from(body.len() + 4).unwrap()];
        hello.extend([1, 0, 0, u8::try_from(body.len()).unwrap()]);
        hello.extend(body);
        let mut stream = limited(TcpStream::connect(address).unwrap());
        stream.write_all(&hello).unwrap();
        let mut alert = [0; 7];
        stream.read_exact(&mut alert).unwrap();
        assert_eq!((alert[0], alert[5]), (21, 2), "a fatal alert");
        assert_eq!(AlertDescription::from(alert[6]), AlertDescription::ProtocolVersion);
        assert!(server.join().unwrap().is_err());
    }
}
