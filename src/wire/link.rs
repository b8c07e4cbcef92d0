//! The text of an invite link: `demes:` and base64url, at most 200 characters.
//!
//! It carries all that a stranger needs: the chat, the key of whoever made it, the secret from
//! which the link's key is made, when it ends, and where to knock. The bytes under the base64url:
//!
//! | bytes | |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | how many bytes there are in all, so that a truncated text is known from a wrong one |
//! | 16 | chat |
//! | 32 | the inviter's key |
//! | 16 | seed of the link's key |
//! | 4 | when it ends, in seconds since 1970 |
//! | … | the inviter's address |
//! | … | other members, as far as there is room: the first 8 bytes of each key, and the address |
//! | 4 | CRC-32 of everything before |
//!
//! An address is `4`, four bytes and a port; `6`, sixteen bytes and a port; or 128 plus the length
//! of a host name, the name and a port. Numbers are big-endian.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use data_encoding::BASE64URL_NOPAD;

use super::address::{Address, check_address};
use crate::protocol::types::{ChatId, PeerId};

/// What every link begins with.
pub const PREFIX: &str = "demes:";
/// The longest link, in characters.
pub const LINK_CHARS_MAX: usize = 200;
/// The longest host name for which a link has room, in bytes.
pub const LINK_HOST_BYTES_MAX: usize = BYTES_MAX - FIXED_BYTES - 3;

const VERSION: u8 = 1;
const BYTES_MAX: usize = (LINK_CHARS_MAX - PREFIX.len()) * 6 / 8;
/// Everything but the addresses.
const FIXED_BYTES: usize = 2 + 16 + 32 + 16 + 4 + CHECKSUM_BYTES;
const CHECKSUM_BYTES: usize = 4;
const HINT_BYTES: usize = 8;
/// More addresses than this are not worth their characters.
const OTHERS_MAX: usize = 4;
const IS_V4: u8 = 4;
const IS_V6: u8 = 6;
const IS_NAME: u8 = 0x80;

/// What the text of a link says. `Debug` hides the seed.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkText {
    pub chat: ChatId,
    pub inviter: PeerId,
    pub seed: [u8; 16],
    /// When the link ends, in seconds since 1970; the host's log and clock decide.
    pub expires_at_s: u32,
    /// Where the inviter listens, `host:port`.
    pub address: String,
    /// Where other members listen, for when the inviter is offline.
    pub others: Vec<(PeerHint, String)>,
}

/// The beginning of a peer's key: enough to know a stranger from the peer that was meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerHint(pub [u8; HINT_BYTES]);

/// The inviter's address does not fit into a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the address is too long for a link")]
pub struct LinkTooLong;

/// Why a text is not a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkTextError {
    /// It is the beginning of one.
    #[error("the link is cut off")]
    Truncated,
    #[error("this is not an invite link")]
    Malformed,
}

impl PeerHint {
    /// The beginning of that peer's key.
    pub fn of(peer: &PeerId) -> Self {
        let (hint, _) = peer.0.split_first_chunk().expect("a key is longer than its beginning");
        Self(*hint)
    }
}

impl fmt::Debug for LinkText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkText").field("chat", &self.chat).finish_non_exhaustive()
    }
}

impl LinkText {
    /// The text. Of the other members' addresses it has those that there is room for.
    pub fn encode(&self) -> Result<String, LinkTooLong> {
        let mut bytes = vec![VERSION, 0];
        bytes.extend_from_slice(&self.chat.0);
        bytes.extend_from_slice(&self.inviter.0);
        bytes.extend_from_slice(&self.seed);
        bytes.extend_from_slice(&self.expires_at_s.to_be_bytes());
        let room = BYTES_MAX - CHECKSUM_BYTES;
        let own = encode_address(&self.address).filter(|own| bytes.len() + own.len() <= room);
        bytes.extend(own.ok_or(LinkTooLong)?);
        for (hint, address) in self.others.iter().take(OTHERS_MAX) {
            let Some(address) = encode_address(address) else { continue };
            if bytes.len() + HINT_BYTES + address.len() <= room {
                bytes.extend_from_slice(&hint.0);
                bytes.extend(address);
            }
        }
        bytes[1] = u8::try_from(bytes.len() + CHECKSUM_BYTES).map_err(|_| LinkTooLong)?;
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        Ok(format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes)))
    }

    /// Reads a text. White space in it does not count: messengers break lines.
    pub fn parse(text: &str) -> Result<Self, LinkTextError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if PREFIX.starts_with(&text) {
            return Err(LinkTextError::Truncated);
        }
        let body = text.strip_prefix(PREFIX).ok_or(LinkTextError::Malformed)?;
        let bytes = decode_body(body.as_bytes())?;
        let mut reader = Reader(&bytes);
        reader.link().filter(|_| reader.0.is_empty()).ok_or(LinkTextError::Malformed)
    }
}

/// The bytes between length and checksum, which are right.
fn decode_body(body: &[u8]) -> Result<Vec<u8>, LinkTextError> {
    let in_alphabet = |c: &u8| c.is_ascii_alphanumeric() || b"-_".contains(c);
    if !body.iter().all(in_alphabet) {
        return Err(LinkTextError::Malformed);
    }
    // Three bytes from four characters; of fewer, as many as they tell.
    let mut head = *b"AAAA";
    let known = body.len().min(head.len());
    head[..known].copy_from_slice(&body[..known]);
    let head = BASE64URL_NOPAD.decode(&head).map_err(|_| LinkTextError::Malformed)?;
    if known >= 2 && head[0] != VERSION {
        return Err(LinkTextError::Malformed);
    }
    if known < 3 {
        return Err(LinkTextError::Truncated);
    }
    let length = usize::from(head[1]);
    if !(FIXED_BYTES..=BYTES_MAX).contains(&length) {
        return Err(LinkTextError::Malformed);
    }
    if body.len() < (length * 8).div_ceil(6) {
        return Err(LinkTextError::Truncated);
    }
    let bytes = BASE64URL_NOPAD.decode(body).map_err(|_| LinkTextError::Malformed)?;
    let (bytes, checksum) = bytes.split_last_chunk().ok_or(LinkTextError::Malformed)?;
    let is_sound = bytes.len() + CHECKSUM_BYTES == length
        && crc32fast::hash(bytes) == u32::from_be_bytes(*checksum);
    if is_sound { Ok(bytes[2..].to_vec()) } else { Err(LinkTextError::Malformed) }
}

/// `None` where the address is not `host:port`, or the host's name too long for any link.
fn encode_address(address: &str) -> Option<Vec<u8>> {
    let Address { host, port } = Address::parse(address).ok()?;
    let is_bracketed = address.starts_with('[');
    let mut bytes = Vec::new();
    // Only in its one form, so that the text reads back.
    let v4 = host.parse::<Ipv4Addr>().ok().filter(|v4| v4.to_string() == host);
    let v6 = host.parse::<Ipv6Addr>().ok().filter(|v6| v6.to_string() == host);
    match (v4, v6) {
        (Some(v4), _) => {
            bytes.push(IS_V4);
            bytes.extend_from_slice(&v4.octets());
        }
        (_, Some(v6)) => {
            bytes.push(IS_V6);
            bytes.extend_from_slice(&v6.octets());
        }
        (None, None) => {
            // As it is written, so that the text reads back.
            let host = if is_bracketed { &address[..host.len() + 2] } else { host };
            let length = u8::try_from(host.len()).ok().filter(|length| *length < IS_NAME)?;
            bytes.push(IS_NAME | length);
            bytes.extend_from_slice(host.as_bytes());
        }
    }
    bytes.extend_from_slice(&port.to_be_bytes());
    Some(bytes)
}

/// Takes values from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn link(&mut self) -> Option<LinkText> {
        let mut link = LinkText {
            chat: self.fixed().map(ChatId)?,
            inviter: self.fixed().map(PeerId)?,
            seed: self.fixed()?,
            expires_at_s: self.fixed().map(u32::from_be_bytes)?,
            address: self.address()?,
            others: Vec::new(),
        };
        while !self.0.is_empty() && link.others.len() < OTHERS_MAX {
            link.others.push((self.fixed().map(PeerHint)?, self.address()?));
        }
        Some(link)
    }

    fn address(&mut self) -> Option<String> {
        let [kind] = self.fixed()?;
        let host = match kind {
            IS_V4 => Ipv4Addr::from(self.fixed::<4>()?).to_string(),
            IS_V6 => format!("[{}]", Ipv6Addr::from(self.fixed::<16>()?)),
            _ => {
                let length = kind.checked_sub(IS_NAME)?;
                String::from_utf8(self.take(usize::from(length))?.to_vec()).ok()?
            }
        };
        let address = format!("{host}:{}", u16::from_be_bytes(self.fixed()?));
        check_address(&address, "address").is_ok().then_some(address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn link(address: &str, others: &[&str]) -> LinkText {
        let hint = |place: usize| PeerHint([place as u8; HINT_BYTES]);
        let others = others.iter().enumerate();
        LinkText {
            chat: ChatId([1; 16]),
            inviter: PeerId([2; 32]),
            seed: [3; 16],
            expires_at_s: 1_800_000_000,
            address: address.to_owned(),
            others: others.map(|(place, address)| (hint(place), (*address).to_owned())).collect(),
        }
    }

    #[test]
    fn a_link_has_room_for_other_addresses_and_never_more_than_200_characters() {
        let many = ["10.0.0.1:7443"; 9];
        let text = link("192.168.100.200:65535", &many).encode().unwrap();
        let read = LinkText::parse(&text).unwrap();
        assert_eq!((read.address.as_str(), read.others.len()), ("192.168.100.200:65535", 4));
        let long = format!("{}:7443", "h".repeat(LINK_HOST_BYTES_MAX));
        let text = link(&long, &many).encode().unwrap();
        assert_eq!(text.len(), LINK_CHARS_MAX);
        assert_eq!(LinkText::parse(&text).unwrap(), link(&long, &[]));
        let longer = format!("{}:7443", "h".repeat(LINK_HOST_BYTES_MAX + 1));
        assert_eq!(link(&longer, &[]).encode(), Err(LinkTooLong));
        assert_eq!(link("no port", &[]).encode(), Err(LinkTooLong));
    }

    #[test]
    fn the_form_of_a_link_is_for_ever() {
        let text = link("[::1]:7443", &["peer-b.example:1"]).encode().unwrap();
        let expected = "demes:AXYBAQEBAQEBAQEBAQEBAQEBAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg\
            IDAwMDAwMDAwMDAwMDAwMDa0nSAAYAAAAAAAAAAAAAAAAAAAABHRMAAAAAAAAAAI5wZWVyLWIuZXhhbXBsZQAB\
            AGlakA";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_link_that_went_over_a_line_is_whole() {
        let text = link("a:1", &[]).encode().unwrap();
        let broken = format!(" {}\n  {}\r\n", &text[..30], &text[30..]);
        assert_eq!(LinkText::parse(&broken), Ok(link("a:1", &[])));
    }

    #[test]
    fn what_is_no_link_is_malformed_and_not_truncated() {
        let text = link("a:1", &[]).encode().unwrap();
        let flipped = if text.ends_with('A') { "B" } else { "A" };
        let wrong = format!("{}{flipped}", &text[..text.len() - 1]);
        for bad in ["hello", "https://x", "demes:hello", &wrong, &format!("{text}A"), "demes:Ä"] {
            assert_eq!(LinkText::parse(bad), Err(LinkTextError::Malformed), "{bad}");
        }
    }

    #[test]
    fn nothing_shows_the_seed_by_accident() {
        let shown = format!("{:?}", link("a:1", &[]));
        assert_eq!(shown, "LinkText { chat: 01010101, .. }");
    }

    fn addresses() -> impl Strategy<Value = String> {
        let host = prop_oneof![
            any::<[u8; 4]>().prop_map(|v4| Ipv4Addr::from(v4).to_string()),
            any::<[u8; 16]>().prop_map(|v6| format!("[{}]", Ipv6Addr::from(v6))),
            "[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?",
        ];
        (host, 1..=u16::MAX).prop_map(|(host, port)| format!("{host}:{port}"))
    }

    fn links() -> impl Strategy<Value = LinkText> {
        let others = proptest::collection::vec((any::<[u8; HINT_BYTES]>(), addresses()), 0..6);
        let ids = (any::<[u8; 16]>(), any::<[u8; 32]>(), any::<[u8; 16]>());
        (ids, any::<u32>(), addresses(), others).prop_map(
            |((chat, inviter, seed), expires_at_s, address, others)| LinkText {
                chat: ChatId(chat),
                inviter: PeerId(inviter),
                seed,
                expires_at_s,
                address,
                others: others.into_iter().map(|(hint, a)| (PeerHint(hint), a)).collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn links_read_back_but_for_addresses_without_room(link in links()) {
            let text = link.encode().unwrap();
            prop_assert!(text.len() <= LINK_CHARS_MAX);
            let read = LinkText::parse(&text).unwrap();
            let mut left = link.others.iter();
            prop_assert!(read.others.iter().all(|one| left.any(|other| other == one)));
            prop_assert_eq!(LinkText { others: read.others.clone(), ..link }, read);
        }

        #[test]
        fn every_beginning_of_a_link_is_known_as_truncated(link in links()) {
            let text = link.encode().unwrap();
            for length in 0..text.len() {
                prop_assert_eq!(LinkText::parse(&text[..length]), Err(LinkTextError::Truncated));
            }
        }

        #[test]
        fn garbage_never_panics(text in ".{0,300}", body in "[A-Za-z0-9_-]{0,300}") {
            prop_assert!(LinkText::parse(&text).is_err());
            let text = format!("{PREFIX}{body}");
            prop_assert!(LinkText::parse(&text).is_err());
        }

        #[test]
        fn a_changed_character_is_noticed(link in links(), place in any::<usize>()) {
            let mut text = link.encode().unwrap().into_bytes();
            let place = PREFIX.len() + place % (text.len() - PREFIX.len());
            text[place] = if text[place] == b'x' { b'y' } else { b'x' };
            let text = String::from_utf8(text).unwrap();
            prop_assert!(LinkText::parse(&text).is_err());
        }
    }
}
