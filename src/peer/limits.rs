//! What a peer is told beforehand: how much it takes, and which chats it is in by itself.

use std::time::Duration;

/// A chat whose members are known beforehand. The peer that advertises the first address founds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootstrapChat {
    /// The chat's name.
    pub name: String,
    /// `host:port` of every member, the founder's first.
    pub members: Vec<String>,
}

/// Limits of the listeners. What exceeds one waits, gives way or is refused, never queued
/// without bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections of members; beyond it the one that was silent longest gives way.
    pub peer_connections_max: usize,
    /// The same for peers whose key is in no chat here.
    pub stranger_connections_max: usize,
    /// Connections that have not shown a key yet; likewise.
    pub handshakes_max: usize,
    /// Connections of the person's programs. Those without a call give way; else more wait.
    pub client_connections_max: usize,
    /// A program's connection without a call is closed after this long.
    pub client_idle: Duration,
    /// Concurrent streams on one connection of another peer.
    pub peer_streams_max: u32,
    /// Concurrent streams on one connection of a program.
    pub client_streams_max: u32,
    /// Chats that this peer takes part in; more are refused with TOO_MANY_CHATS.
    pub chats_max: usize,
    /// Invitations that wait for the person; more are refused.
    pub invites_pending_max: usize,
    /// First-contact calls a minute of one peer, and of all together.
    pub first_contact_per_minute_peer: u32,
    pub first_contact_per_minute: u32,
    /// Calls of one peer a second over all its connections, where each message of a stream counts
    /// as one; further ones are refused with RATE_LIMITED, and end their stream.
    pub calls_per_second_peer: u32,
    /// A reader of a feed that takes nothing for so long, though there is something, or that falls
    /// behind what is kept in memory for so long, is ended with SLOW_CONSUMER.
    pub feed_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peer_connections_max: 1_024,
            stranger_connections_max: 64,
            handshakes_max: 128,
            client_connections_max: 256,
            client_idle: Duration::from_secs(300),
            peer_streams_max: 64,
            client_streams_max: 256,
            chats_max: 256,
            invites_pending_max: 256,
            first_contact_per_minute_peer: 120,
            first_contact_per_minute: 1_200,
            calls_per_second_peer: 20_000,
            feed_stall: Duration::from_secs(30),
        }
    }
}
