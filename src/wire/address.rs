//! Addresses of peers: the one grammar for all of them, whoever writes them.
//!
//! `host:port`, where the host is a name, an IPv4 address, or an IPv6 address in brackets, and the
//! port is not 0. Where a person says whose key must answer, `PEERID@` stands before it.

use std::net::SocketAddrV6;

use super::WireError;
use crate::protocol::types::{ADDRESS_BYTES_MAX, PeerId};

/// Why a text is no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// It has more than [`ADDRESS_BYTES_MAX`] bytes.
    #[error("an address has at most {ADDRESS_BYTES_MAX} bytes")]
    TooLong,
    /// There is no colon in it.
    #[error("there is no port in it: an address is host:port, such as ana.example:7443")]
    NoPort,
    /// The port is 0, greater than 65,535, or no number.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// Nobody can tell where the host ends and the port begins.
    #[error("an IPv6 address stands in brackets, such as [2001:db8::1]:7443")]
    NoBrackets,
    /// There is no host, or it has characters that no name has.
    #[error("its host is neither a name nor an IP address")]
    Host,
    /// What stands before `@` is no peer id.
    #[error("what stands before @ is no peer id, which has 64 hexadecimal digits")]
    Key,
}

/// An address, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address<'a> {
    /// A name or an IP address, without brackets.
    pub host: &'a str,
    /// Never 0.
    pub port: u16,
}

impl<'a> Address<'a> {
    /// Reads `host:port`.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &'a str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
        if let Some(bare) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            let v6: SocketAddrV6 = format!("[{bare}]:1").parse().map_err(|_| AddressError::Host)?;
            debug_assert_eq!(v6.port(), 1);
            return Ok(Self { host: bare, port: port_of(port)? });
        }
        if host.contains(':') {
            return Err(AddressError::NoBrackets);
        }
        let may_name = |c: char| c.is_ascii_graphic() && !"@/\"\\<>[]".contains(c);
        if host.is_empty() || !host.chars().all(may_name) {
            return Err(AddressError::Host);
        }
        Ok(Self { host, port: port_of(port)? })
    }
}

fn port_of(text: &str) -> Result<u16, AddressError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0).ok_or(AddressError::Port)
}

/// Reads `[PEERID@]host:port`: whose key must answer, if that is said, and the address.
///
/// # Errors
/// When the text is none.
pub fn with_key(text: &str) -> Result<(Option<PeerId>, &str), AddressError> {
    let (peer, address) = match text.split_once('@') {
        Some((peer, address)) => (Some(peer.parse().map_err(|_| AddressError::Key)?), address),
        None => (None, text),
    };
    Address::parse(address)?;
    Ok((peer, address))
}

/// Checks a field that has an address, `host:port`.
///
/// # Errors
/// When it has none.
pub fn check_address(address: &str, field: &'static str) -> Result<(), WireError> {
    match Address::parse(address) {
        Ok(_) => Ok(()),
        Err(AddressError::TooLong) => Err(WireError::TooLong(field)),
        Err(_) => Err(WireError::Invalid(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_grammar_and_an_error_for_each_way_to_miss_it() {
        let good = [
            ("ana.example:7443", "ana.example", 7_443),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("[::1]:65535", "::1", 65_535),
            ("[fe80::1%2]:7443", "fe80::1%2", 7_443),
        ];
        for (text, host, port) in good {
            assert_eq!(Address::parse(text), Ok(Address { host, port }), "{text}");
            let id = "ab".repeat(32);
            let (peer, address) = (Some(id.parse().expect("an id")), text);
            assert_eq!(with_key(&format!("{id}@{text}")), Ok((peer, address)));
            assert_eq!(with_key(text), Ok((None, text)));
        }
        let long = format!("{}:1", "h".repeat(ADDRESS_BYTES_MAX));
        for (bad, error) in [
            (long.as_str(), AddressError::TooLong),
            ("", AddressError::NoPort),
            ("host", AddressError::NoPort),
            ("host:", AddressError::Port),
            ("host:0", AddressError::Port),
            ("host:+7", AddressError::Port),
            ("host:99999", AddressError::Port),
            ("[::1]", AddressError::NoBrackets),
            ("::1:7443", AddressError::NoBrackets),
            ("2001:db8::1", AddressError::NoBrackets),
            ("[name]:1", AddressError::Host),
            (":1", AddressError::Host),
            ("a b:1", AddressError::Host),
            ("p@host:1", AddressError::Host),
        ] {
            assert_eq!(Address::parse(bad), Err(error), "{bad}");
            assert!(check_address(bad, "address").is_err(), "{bad}");
        }
        assert_eq!(with_key("p@host:1"), Err(AddressError::Key));
        assert_eq!(with_key("@host:1"), Err(AddressError::Key));
    }
}
