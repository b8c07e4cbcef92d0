//! Whether an address leads back to this very peer, which nobody means to invite.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::node::{Node, parse_address};
use super::refusal::{Refusal, address_is_own};
use crate::links::dial::dial;
use crate::wire::address::Address;

/// What does not answer within this is taken for somebody else's.
const PROBE_MAX: Duration = Duration::from_millis(500);

/// Refuses addresses that are this peer's own: by the id in them, by what this peer advertises, or
/// because its own key answers there. Only addresses with a port of this peer's are dialled.
pub async fn refuse_own(node: &Node, addresses: &[String]) -> Result<(), Refusal> {
    let asked = join_all(addresses.iter().map(|address| is_own(node, address))).await;
    for (address, own) in addresses.iter().zip(asked) {
        if own? {
            return Err(address_is_own(address));
        }
    }
    Ok(())
}

async fn is_own(node: &Node, text: &str) -> Result<bool, Refusal> {
    let (expected, address) = parse_address(text)?;
    let me = node.identity.peer_id();
    if expected.is_some() || address == node.address {
        return Ok(expected.is_none_or(|expected| expected == me));
    }
    let port = port_of(&address);
    if port != Some(node.listen_port) && port != port_of(&node.address) {
        return Ok(false);
    }
    let probe = timeout(PROBE_MAX, dial(&node.identity, &address, Some(me))).await;
    Ok(matches!(probe, Ok(Ok(_))))
}

fn port_of(address: &str) -> Option<u16> {
    Address::parse(address).ok().map(|address| address.port)
}
