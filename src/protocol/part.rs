//! The part that a peer plays in a term, with all that belongs to it and ends with it.

use super::election::Candidacy;
use super::host::Hosting;
use super::member::{Attached, Following};
use super::types::PeerId;

/// What this peer is in the current term. What belongs to a part is dropped with it: nobody clears
/// it by hand where one part follows another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Part {
    Follower(Box<Following>),
    Candidate(Candidacy),
    Host(Box<Hosting>),
}

impl Part {
    /// A follower that knows of no host yet.
    pub fn follower() -> Self {
        Self::Follower(Box::default())
    }

    /// What this peer has of the host that it follows; `None` for a candidate and a host.
    pub fn following(&self) -> Option<&Following> {
        match self {
            Self::Follower(following) => Some(following),
            Self::Candidate(_) | Self::Host(_) => None,
        }
    }

    /// See [`Self::following`].
    pub fn following_mut(&mut self) -> Option<&mut Following> {
        match self {
            Self::Follower(following) => Some(following),
            Self::Candidate(_) | Self::Host(_) => None,
        }
    }

    /// The host of this term, whose reign is proven, to a peer that is itself `me`.
    pub fn host(&self, me: PeerId) -> Option<PeerId> {
        match self {
            Self::Follower(following) => following.host,
            Self::Candidate(_) => None,
            Self::Host(_) => Some(me),
        }
    }

    /// Where the log comes from. Only a follower reads from another.
    pub fn attached(&self) -> Option<&Attached> {
        self.following()?.attached.as_ref()
    }

    /// See [`Self::attached`].
    pub fn attached_mut(&mut self) -> Option<&mut Attached> {
        self.following_mut()?.attached.as_mut()
    }

    /// Reads from there from now on.
    pub fn attach(&mut self, attached: Attached) {
        if let Self::Follower(following) = self {
            following.attached = Some(attached);
        }
    }

    /// Reads from nowhere any more; gives what it has read from.
    pub fn detach(&mut self) -> Option<Attached> {
        self.following_mut()?.attached.take()
    }

    /// The same, if that is so of it.
    pub fn detach_if(&mut self, is_so: impl FnOnce(&mut Attached) -> bool) -> Option<Attached> {
        self.following_mut()?.attached.take_if(is_so)
    }
}
