//! No message reveals what could still be forgotten: a term that is not on the sender's disk, or a
//! commit index beyond what is committed (R1, R3).
//!
//! What leaves before a sync is checked like everything else. A peer that restarts must be able to
//! keep every word that it gave.

use demes_protocol::message::Body;

use super::{Invariant, Sent};

pub struct NothingUnsyncedIsTold;

impl Invariant for NothingUnsyncedIsTold {
    fn name(&self) -> &'static str {
        "nothing unsynced is told"
    }

    fn on_sent(&mut self, sent: &Sent) -> Result<(), String> {
        let image = sent.peers[sent.peer].disk.image();
        let (peer, term) = (sent.peer + 1, sent.message.body.term());
        // Who reads from a reign that has not been proven to it names that one's term.
        let tries = match &sent.message.body {
            Body::Attach(_) => true,
            Body::Acknowledge(acknowledge) => acknowledge.received > 0,
            _ => false,
        };
        if term > image.hard_state.term && !tries {
            let durable = image.hard_state.term;
            return Err(format!("{peer} speaks of term {term}, and {durable} is durable"));
        }
        let commit = match &sent.message.body {
            Body::Append(append) => append.commit,
            Body::Heartbeat(heartbeat) => heartbeat.commit,
            Body::Vote(vote)
                if vote.granted.is_some() && image.hard_state.vote != Some(sent.message.to) =>
            {
                // A later vote may be durable already, but only in a later term.
                if image.hard_state.term == term {
                    return Err(format!("{peer} tells of a vote that is not durable"));
                }
                0
            }
            _ => 0,
        };
        if commit > sent.oracle.last() {
            return Err(format!("{peer} tells of commit {commit}, which nobody has seen"));
        }
        Ok(())
    }
}
