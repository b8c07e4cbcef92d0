//! Mutual TLS 1.3 in which the key is the name (R39).
//!
//! Both sides show a self-signed Ed25519 certificate and prove that they hold its key. There are no
//! authorities and no host names: whoever proves a key *is* that peer. What a peer may then do is
//! decided by who it is. Sessions are never resumed, because a resumed one would skip the question
//! whether the key is still admitted.

use std::fmt;
use std::io::{self, BufReader};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, RootCertStore, ServerConfig, SignatureScheme,
};

use super::identity::Identity;
use crate::protocol::types::PeerId;

/// The name to give a TLS connector; it is neither sent nor checked.
pub const SERVER_NAME: &str = "peer.demes";

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
        .expect("ring has cipher suites for TLS 1.3")
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
        .expect("ring has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())
        .expect("the certificate was made from this key");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// Who the other side of a finished handshake is, from its `peer_certificates()`.
pub fn peer_id_of(certificates: &[CertificateDer<'_>]) -> Option<PeerId> {
    peer_id_of_certificate(certificates.first()?)
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

/// The items of a PEM text; those before the first damaged one where it is damaged. The only user
/// of rustls-pemfile, whose repository is archived.
pub(super) fn read_pem(text: &[u8]) -> Vec<rustls_pemfile::Item> {
    rustls_pemfile::read_all(&mut BufReader::new(text)).map_while(Result::ok).collect()
}

/// Checks that a certificate is an Ed25519 one, signed by its own key, and valid at `now`. The
/// handshake must still prove that the other side holds the key.
pub(super) fn check_certificate(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<PeerId, Error> {
    let peer = peer_id_of_certificate(certificate)
        .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    // A certificate that is its own root is checked like any other: dates, purpose and signature.
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned())?;
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(certificate)?,
        &roots,
        &[],
        now,
        provider().signature_verification_algorithms.all,
    )?;
    Ok(peer)
}

/// What a `SubjectPublicKeyInfo` of an Ed25519 key begins with (RFC 8410); the 32 bytes of the key
/// follow.
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

fn peer_id_of_certificate(certificate: &CertificateDer<'_>) -> Option<PeerId> {
    let spki = ParsedCertificate::try_from(certificate).ok()?.subject_public_key_info();
    let key = spki.as_ref().strip_prefix(&ED25519_SPKI_PREFIX)?;
    key.try_into().ok().map(PeerId)
}

/// Named, never the process's default, which others may set.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
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
            Rule::Expect(Some(expected)) if *expected != found => {
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
