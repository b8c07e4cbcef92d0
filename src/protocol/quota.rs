//! How much an author may add to a chat; `sender/added.rs` counts it (L8).

/// The most of each that an author may add in a day: 256 MiB and 1,024 rare changes, unless the
/// chat's policy says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Quota {
    /// Of entries, as `Entry::size` counts them.
    pub bytes: u64,
    /// Changes of a kind that people make rarely: invitations, links, names, joins, policies.
    pub rare: u64,
}

impl Quota {
    /// What a policy may ask for. With less nobody could say much, not even another policy, and
    /// with more there would be no quota.
    pub const LEAST: Self = Self { bytes: 1 << 20, rare: 16 };
    pub const MOST: Self = Self { bytes: 1 << 40, rare: 1_000_000 };

    /// Whether a policy may ask for that.
    pub fn is_sound(&self) -> bool {
        let (least, most) = (Self::LEAST, Self::MOST);
        (least.bytes..=most.bytes).contains(&self.bytes)
            && (least.rare..=most.rare).contains(&self.rare)
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self { bytes: 256 << 20, rare: 1_024 }
    }
}
