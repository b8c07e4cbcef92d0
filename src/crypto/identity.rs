//! The key that a peer is known by, in its two files.
//!
//! `identity.pem` holds the Ed25519 key as PKCS#8 version 1, which OpenSSL, Go and rustls all read.
//! `certificate.pem` holds a self-signed certificate of that key; it only carries the key into a
//! TLS handshake and is made anew whenever it is missing or does not match.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::{EncodePrivateKey as _, KeypairBytes, PrivateKeyInfoRef, spki};
use ed25519_dalek::{Signer as _, SigningKey};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls_pemfile::Item;

use super::certificate;
use crate::protocol::types::{PeerId, Signature};

/// The private key's file in the data directory.
pub const KEY_FILE: &str = "identity.pem";
/// The certificate's file in the data directory.
pub const CERTIFICATE_FILE: &str = "certificate.pem";

/// A peer's own key pair and the certificate made from it. `Debug` shows the public key only.
pub struct Identity {
    key: SigningKey,
    certificate: CertificateDer<'static>,
}

/// Why there is no identity. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "the key file {path} can be read by others (mode {mode:03o}): run `chmod 600 {path}`, and \
         make a new identity if somebody may have copied the key"
    )]
    Permissions { path: PathBuf, mode: u32 },
    #[error(
        "the key file {path} does not hold an Ed25519 key as PKCS#8 PEM: put it back from a \
         backup; to become a new peer, name another directory with --data-dir"
    )]
    Corrupt { path: PathBuf },
    #[error(
        "the key file {path} is gone, and its certificate is still there: put the key back from a \
         backup; to become a new peer, name another directory with --data-dir"
    )]
    Gone { path: PathBuf },
    #[error(
        "cannot {doing} {path}: {source}\ngive this user the right to, or name another directory \
         with --data-dir"
    )]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl Identity {
    /// Reads the identity of `dir`, or makes one there. The caller holds the directory's lock.
    ///
    /// A key file that others can read, or that is not a key, is refused and left as it is; so is
    /// the directory of a key that is gone: what it has, a new key could not take over.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let key_path = dir.join(KEY_FILE);
        let certificate_path = dir.join(CERTIFICATE_FILE);
        let key = match read_key(&key_path)? {
            Some(key) => key,
            None if certificate_path.exists() => {
                return Err(IdentityError::Gone { path: key_path });
            }
            None => {
                let key = random_key()?;
                let pem = key_pair_bytes(&key)
                    .to_pkcs8_pem(spki::der::pem::LineEnding::LF)
                    .expect("32 bytes of key are encodable");
                write_new(&key_path, pem.as_bytes())?;
                key
            }
        };
        if let Some(certificate) = read_certificate(&certificate_path, &key) {
            return Ok(Self { key, certificate });
        }
        let certificate = make_certificate(&key)?;
        replace(&certificate_path, certificate.pem().as_bytes())?;
        Ok(Self { key, certificate: certificate.der().clone() })
    }

    /// Makes an identity that lives in memory only.
    pub fn generate() -> Result<Self, IdentityError> {
        Self::from_key(random_key()?)
    }

    /// The public key, which is the peer's name.
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.key.verifying_key().to_bytes())
    }

    /// Signs with the private key.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.key.sign(message).to_bytes()
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        pkcs8(&self.key).into()
    }

    fn from_key(key: SigningKey) -> Result<Self, IdentityError> {
        let certificate = make_certificate(&key)?.der().clone();
        Ok(Self { key, certificate })
    }
}

/// What lies in a data directory, looked at without changing it.
#[derive(Debug)]
pub struct Inspection {
    /// The peer's id, if the key is there and can be used.
    pub key: Result<Option<PeerId>, IdentityError>,
    /// The certificate. One that is not good is made anew at the next start.
    pub certificate: CertificateState,
}

/// What a certificate file is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CertificateState {
    /// There is no file.
    Missing,
    /// It cannot be read, or is no certificate that a peer could use.
    Unusable,
    /// It belongs to the key of this peer.
    OtherKey(PeerId),
    /// From when and until when it is valid, in seconds since 1970.
    Dated(u64, u64),
}

/// Looks at the key and the certificate in `dir`.
pub fn inspect(dir: &Path) -> Inspection {
    let key = read_key(&dir.join(KEY_FILE));
    let key = key.map(|key| key.map(|key| PeerId(key.verifying_key().to_bytes())));
    let own = key.as_ref().ok().copied().flatten();
    let certificate = match fs::read(dir.join(CERTIFICATE_FILE)) {
        Ok(text) => certificate_state(&text, own),
        Err(error) if error.kind() == io::ErrorKind::NotFound => CertificateState::Missing,
        Err(_) => CertificateState::Unusable,
    };
    Inspection { key, certificate }
}

fn certificate_state(text: &[u8], own: Option<PeerId>) -> CertificateState {
    let [Item::X509Certificate(certificate)] = &certificate::read_pem(text)[..] else {
        return CertificateState::Unusable;
    };
    let peer = certificate::peer_id_of(std::slice::from_ref(certificate));
    match (peer, certificate::validity_of(certificate)) {
        (Some(peer), _) if own.is_some_and(|own| own != peer) => CertificateState::OtherKey(peer),
        (Some(_), Some((from_s, until_s))) => CertificateState::Dated(from_s, until_s),
        _ => CertificateState::Unusable,
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer_id", &self.peer_id()).finish_non_exhaustive()
    }
}

fn random_key() -> Result<SigningKey, IdentityError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(IdentityError::Random)?;
    Ok(SigningKey::from_bytes(&secret))
}

/// Without the public key, which makes the encoding version 1: OpenSSL 3.0 reads no version 2.
fn key_pair_bytes(key: &SigningKey) -> KeypairBytes {
    KeypairBytes { secret_key: key.to_bytes(), public_key: None }
}

fn pkcs8(key: &SigningKey) -> PrivatePkcs8KeyDer<'static> {
    let der = key_pair_bytes(key).to_pkcs8_der().expect("32 bytes of key are encodable");
    PrivatePkcs8KeyDer::from(der.as_bytes().to_vec())
}

/// The key in the file at `path`; `None` where there is no file.
fn read_key(path: &Path) -> Result<Option<SigningKey>, IdentityError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o177 != 0 {
        return Err(IdentityError::Permissions { path: path.to_owned(), mode });
    }
    let text = fs::read(path).map_err(failed("read", path))?;
    let corrupt = || IdentityError::Corrupt { path: path.to_owned() };
    let [Item::Pkcs8Key(der)] = &certificate::read_pem(&text)[..] else { return Err(corrupt()) };
    let info = PrivateKeyInfoRef::try_from(der.secret_pkcs8_der()).map_err(|_| corrupt())?;
    Ok(Some(SigningKey::try_from(info).map_err(|_| corrupt())?))
}

/// The certificate in the file at `path`, if it is one of `key` that can be used.
fn read_certificate(path: &Path, key: &SigningKey) -> Option<CertificateDer<'static>> {
    let text = fs::read(path).ok()?;
    let [Item::X509Certificate(certificate)] = &certificate::read_pem(&text)[..] else {
        return None;
    };
    let peer =
        certificate::check_certificate(certificate, rustls::pki_types::UnixTime::now()).ok()?;
    (peer.0 == key.verifying_key().to_bytes()).then(|| certificate.clone())
}

fn make_certificate(key: &SigningKey) -> Result<rcgen::Certificate, IdentityError> {
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8(key), &PKCS_ED25519)?;
    let mut params = CertificateParams::new([certificate::SERVER_NAME.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "demes peer");
    // The key is the identity and does not expire; these are RFC 5280's "no end".
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    Ok(params.self_signed(&pair)?)
}

/// Writes a file of mode 0600 that must not be there yet; after this it is there as a whole or
/// not at all, whenever the power fails.
fn write_new(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let temporary = write_beside(path, content)?;
    temporary.persist_noclobber(path).map_err(|error| failed("create", path)(error.error))?;
    sync_directory(path)
}

/// The same for a file that may be there already.
fn replace(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let temporary = write_beside(path, content)?;
    temporary.persist(path).map_err(|error| failed("replace", path)(error.error))?;
    sync_directory(path)
}

fn write_beside(path: &Path, content: &[u8]) -> Result<tempfile::NamedTempFile, IdentityError> {
    let failed = failed("write", path);
    let write = || {
        let mut temporary = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(directory_of(path))?;
        temporary.write_all(content)?;
        temporary.as_file().sync_all()?;
        Ok(temporary)
    };
    write().map_err(failed)
}

fn sync_directory(path: &Path) -> Result<(), IdentityError> {
    let sync = || fs::File::open(directory_of(path))?.sync_all();
    sync().map_err(failed("sync the directory of", path))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().expect("the path was made by joining a name to a directory")
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::verify::verify;

    #[test]
    fn a_second_start_keeps_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(dir.path()).unwrap();
        let second = Identity::load_or_create(dir.path()).unwrap();
        assert_eq!(first.peer_id(), second.peer_id());
        assert_eq!(first.certificate, second.certificate);
        assert!(verify(&first.peer_id(), b"text", &second.sign(b"text")));
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_key_is_pkcs8_version_1() {
        let der = pkcs8(&random_key().unwrap());
        // SEQUENCE of 46 bytes, INTEGER 0: version 1 and nothing after the private key.
        assert_eq!(der.secret_pkcs8_der()[..5], [0x30, 0x2e, 0x02, 0x01, 0x00]);
    }

    #[test]
    fn a_certificate_of_another_key_is_replaced() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Identity::load_or_create(dir.path()).unwrap();
        Identity::load_or_create(other.path()).unwrap();
        let path = dir.path().join(CERTIFICATE_FILE);
        for content in [fs::read(other.path().join(CERTIFICATE_FILE)).unwrap(), b"x".to_vec()] {
            fs::write(&path, content).unwrap();
            let again = Identity::load_or_create(dir.path()).unwrap();
            assert_eq!(again.peer_id(), first.peer_id());
            assert!(read_certificate(&path, &again.key).is_some());
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        for mode in [0o640, 0o604, 0o660, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Permissions { mode: m, .. } if m == mode));
            assert!(error.to_string().contains("chmod 600"));
        }
    }

    #[test]
    fn a_corrupt_key_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        let good = fs::read(&path).unwrap();
        for bad in [b"".as_slice(), &good[..good.len() / 2], b"-----BEGIN PRIVATE KEY-----\nAA==\n"]
        {
            fs::write(&path, bad).unwrap();
            let error = Identity::load_or_create(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Corrupt { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
    }

    #[test]
    fn an_inspection_says_what_is_there_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = inspect(dir.path());
        assert!(matches!(nothing.key, Ok(None)));
        assert_eq!(nothing.certificate, CertificateState::Missing);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let own = Identity::load_or_create(dir.path()).unwrap().peer_id();
        let good = inspect(dir.path());
        assert_eq!(good.key.unwrap(), Some(own));
        let dated = CertificateState::Dated(946_684_800, 253_402_214_400);
        assert_eq!(good.certificate, dated);

        let other = tempfile::tempdir().unwrap();
        let theirs = Identity::load_or_create(other.path()).unwrap().peer_id();
        let path = dir.path().join(CERTIFICATE_FILE);
        fs::copy(other.path().join(CERTIFICATE_FILE), &path).unwrap();
        assert_eq!(inspect(dir.path()).certificate, CertificateState::OtherKey(theirs));
        fs::write(&path, "x").unwrap();
        assert_eq!(inspect(dir.path()).certificate, CertificateState::Unusable);
        let key = dir.path().join(KEY_FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(inspect(dir.path()).key, Err(IdentityError::Permissions { .. })));
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = Identity::from_key(SigningKey::from_bytes(&[0x5a; 32])).unwrap();
        let text = format!("{identity:?}");
        assert!(text.contains("peer_id") && !text.contains("5a5a") && !text.contains("90, 90"));
    }
}
