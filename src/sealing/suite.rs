//! The cipher suites that a chat can be sealed with. Nothing else names one (S15).

use mls_rs::{CipherSuite, CipherSuiteProvider, CryptoProvider};
use mls_rs_crypto_awslc::{AwsLcCipherSuite, AwsLcCryptoProvider};

/// How a chat's group agrees on keys. Signatures are Ed25519 and contents AES-128-GCM in both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Suite {
    /// ML-KEM-768 and X25519 together, so that what is recorded today stays closed to a quantum
    /// computer. It has no number of IANA's yet, and mls-rs combines the two as an earlier draft
    /// of X-Wing did: experimental.
    #[default]
    Hybrid,
    /// X25519 alone, RFC 9420's suite 1: for small machines, whose logs a post-quantum group of
    /// many would fill.
    X25519,
}

impl Suite {
    /// The number in key packages and in the founding entry.
    pub fn code(self) -> u16 {
        self.mls().raw_value()
    }

    /// The suite of that number, if this version of demes knows it.
    pub fn from_code(code: u16) -> Option<Self> {
        [Self::Hybrid, Self::X25519].into_iter().find(|suite| suite.code() == code)
    }

    /// Bytes that a refresh costs for each member of the group, about: a key encapsulated to each
    /// subtree, and the public keys of the path.
    pub fn refresh_bytes_per_member(self) -> u64 {
        match self {
            Self::Hybrid => 1_280,
            Self::X25519 => 90,
        }
    }

    pub(crate) fn mls(self) -> CipherSuite {
        match self {
            Self::Hybrid => CipherSuite::ML_KEM_768_X25519,
            Self::X25519 => CipherSuite::CURVE25519_AES128,
        }
    }

    pub(crate) fn provider(self) -> AwsLcCipherSuite {
        let found = providers().cipher_suite_provider(self.mls());
        found.expect("the provider is built with both suites")
    }
}

/// The provider of every group: it knows the suites above and no others.
pub(crate) fn providers() -> AwsLcCryptoProvider {
    AwsLcCryptoProvider::with_enabled_cipher_suites(vec![Suite::Hybrid.mls(), Suite::X25519.mls()])
}

/// A fresh signature key of a seat: the private key, and the public one that names the seat.
pub(crate) fn signature_keys(suite: Suite) -> Option<(Vec<u8>, [u8; 32])> {
    let (private, public) = suite.provider().signature_key_generate().ok()?;
    Some((private.as_bytes().to_vec(), public.as_bytes().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    // S15: hybrid by default, and an unknown suite is said to be unknown.
    #[test]
    fn suites_have_numbers_and_others_are_unknown() {
        assert_eq!(Suite::default().code(), 65_100);
        for suite in [Suite::Hybrid, Suite::X25519] {
            assert_eq!(Suite::from_code(suite.code()), Some(suite));
            assert!(signature_keys(suite).is_some());
        }
        for code in [0, 2, 7, 65_000, 65_535] {
            assert_eq!(Suite::from_code(code), None);
        }
    }
}
