//! How a host is chosen.
//!
//! `nominations` is a voter's search for a new host: it suspects the old one and nominates down the
//! ranked list. `candidacy` is that of a peer that stands, `voting` says who gets a vote and what
//! it is worth, and `adoption` takes over a longer log before standing.
//!
//! What other rooms call is `pub(crate)`: the messages of an election, `stand`, `withdraw` and
//! `election_on_time`.

mod adoption;
mod candidacy;
mod nominations;
mod voting;

pub(crate) use adoption::{Adoption, Doubt};
pub(crate) use candidacy::Candidacy;
pub(crate) use nominations::{Nomination, Search, Suspicion};
pub(crate) use voting::RENEW_US;
