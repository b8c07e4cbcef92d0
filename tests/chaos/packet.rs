//! As much of IPv4 and TCP as it takes to see who speaks to whom, and to end a connection.

use std::net::Ipv4Addr;

const IP_BYTES: usize = 20;
const TCP_BYTES: usize = 20;
const TCP: u8 = 6;
const RESET: u8 = 0x04;
const ACKNOWLEDGES: u8 = 0x10;

/// From whom the packet is, and for whom; nothing where it is not of IPv4.
pub fn ends_of(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header = packet.first_chunk::<IP_BYTES>()?;
    let address = |at: usize| Ipv4Addr::from([0, 1, 2, 3].map(|byte| header[at + byte]));
    (header[0] >> 4 == 4).then(|| (address(12), address(16)))
}

/// What ends the connection that this packet belongs to: a reset for whom the packet is for, as if
/// from its sender, and one for its sender. Each has the number that its reader expects next.
pub fn resets(packet: &[u8]) -> Option<[Vec<u8>; 2]> {
    let (from, to) = ends_of(packet)?;
    let ip_bytes = usize::from(packet[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let tcp = packet.get(ip_bytes..total).filter(|tcp| tcp.len() >= TCP_BYTES)?;
    if packet[9] != TCP || tcp[13] & RESET != 0 || tcp[13] & ACKNOWLEDGES == 0 {
        return None;
    }
    let text_bytes = tcp.len().checked_sub(usize::from(tcp[12] >> 4) * 4)?;
    let number = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    let (sequence, acknowledged) = (number(4), number(8));
    let ports = [u16::from_be_bytes([tcp[0], tcp[1]]), u16::from_be_bytes([tcp[2], tcp[3]])];
    let next = sequence.wrapping_add(u32::try_from(text_bytes).ok()?);
    Some([
        reset(from, to, ports, sequence, acknowledged),
        reset(to, from, [ports[1], ports[0]], acknowledged, next),
    ])
}

fn reset(
    from: Ipv4Addr,
    to: Ipv4Addr,
    ports: [u16; 2],
    sequence: u32,
    acknowledged: u32,
) -> Vec<u8> {
    let mut packet = vec![0; IP_BYTES + TCP_BYTES];
    let (ip, tcp) = packet.split_at_mut(IP_BYTES);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&40_u16.to_be_bytes());
    (ip[8], ip[9]) = (64, TCP);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    tcp[..2].copy_from_slice(&ports[0].to_be_bytes());
    tcp[2..4].copy_from_slice(&ports[1].to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    (tcp[12], tcp[13]) = (0x50, RESET | ACKNOWLEDGES);
    // TCP's sum covers the addresses, the protocol and the length as well.
    let covered = [&ip[12..20], &[0, TCP, 0, 20], tcp].concat();
    tcp[16..18].copy_from_slice(&sum(&covered).to_be_bytes());
    let of_header = sum(ip);
    ip[10..12].copy_from_slice(&of_header.to_be_bytes());
    packet
}

/// The sum of RFC 1071. Over what has its sum in it, it is 0.
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
    let mut total: u32 = words.map(u32::from).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).expect("the carry was added")
}

/// Checked at the beginning of every run.
pub fn check_yourself() {
    let (one, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let mut said = reset(one, other, [7, 9], 100, 200);
    said.extend(b"hello");
    said[2..4].copy_from_slice(&45_u16.to_be_bytes());
    assert!(resets(&said).is_none(), "a reset is not answered");
    said[IP_BYTES + 13] = ACKNOWLEDGES;
    assert_eq!(ends_of(&said), Some((one, other)));
    let [onward, back] = resets(&said).expect("it is one of a connection");
    assert_eq!(onward, reset(one, other, [7, 9], 100, 200));
    assert_eq!(back, reset(other, one, [9, 7], 200, 105));
    assert_eq!(sum(&back[..IP_BYTES]), 0);
    assert!(resets(&said[..30]).is_none() && ends_of(b"").is_none());
}
