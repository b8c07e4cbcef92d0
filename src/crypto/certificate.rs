//! Self-signed Ed25519 certificates: whose key one shows, whether it is sound, and until when.

use std::io::BufReader;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group::X25519MLKEM768};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

use crate::protocol::types::PeerId;

/// The name to give a TLS connector; it is neither sent nor checked.
pub const SERVER_NAME: &str = "peer.demes";

/// Who the other side of a finished handshake is, from its `peer_certificates()`.
pub fn peer_id_of(certificates: &[CertificateDer<'_>]) -> Option<PeerId> {
    peer_id_of_certificate(certificates.first()?)
}

/// The items of a PEM text; those before the first damaged one where it is damaged. The only user
/// of rustls-pemfile, whose repository is archived.
pub fn read_pem(text: &[u8]) -> Vec<rustls_pemfile::Item> {
    rustls_pemfile::read_all(&mut BufReader::new(text)).map_while(Result::ok).collect()
}

/// Checks that a certificate is an Ed25519 one, signed by its own key, and valid at `now`. The
/// handshake must still prove that the other side holds the key.
pub fn check_certificate(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<PeerId, Error> {
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

/// From when and until when a certificate is valid, in seconds since 1970; none for one that would
/// never do.
pub fn validity_of(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    // The library tells the dates of a certificate only where it refuses it for them.
    let checked_at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        match check_certificate(certificate, time) {
            Ok(_) => Some(seconds),
            Err(Error::InvalidCertificate(error)) => match error {
                CertificateError::NotValidYetContext { not_before, .. } => {
                    Some(not_before.as_secs())
                }
                CertificateError::ExpiredContext { not_after, .. } => Some(not_after.as_secs()),
                _ => None,
            },
            Err(_) => None,
        }
    };
    Some((checked_at(0)?, checked_at(u64::MAX)?))
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

/// Named, never the process's default, which others may set. Keys are agreed on by X25519 and
/// ML-KEM-768 together, and in no other way (decision 0011).
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: vec![X25519MLKEM768], ..aws_lc_rs::default_provider() })
}
