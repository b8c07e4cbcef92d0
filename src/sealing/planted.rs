//! Mistakes that can be planted in the sealing, one at a time, to see that the tests find each.
//!
//! Each stands at its place as `planted(Bug::…)`. That is `false`, and the compiler removes it,
//! unless the package is built with the feature `planted`, which nothing but its own
//! `tests/sealing/mistakes.rs` asks for.

/// The variable that names the mistake of a process.
pub const VARIABLE: &str = "PLANTED_SEALING_MISTAKE";

/// In place of a mistake's name.
pub const NONE: &str = "none";

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident => $test:literal,)+) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        impl Bug {
            pub const ALL: &[Self] = &[$(Self::$bug),+];

            /// What it does.
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$bug => concat!($($what),+).trim_ascii(),)+
                }
            }

            /// The test that finds it.
            pub fn catcher(self) -> &'static str {
                match self {
                    $(Self::$bug => $test,)+
                }
            }
        }
    };
}

bugs! {
    /// S2: a keying that MLS accepts is taken whatever it changes.
    VoidKeyingTaken => "tests::keying::a_keying_that_leads_the_membership_is_void",
    /// S2: whoever is not wanted may be added.
    UnwantedAdded => "tests::keying::a_keying_that_leads_the_membership_is_void",
    /// S3: one's own Commit is applied before it stands in the log.
    CommitAppliedAtOnce => "tests::keying::who_loses_the_race_drops_its_commit",
    /// S3: a Commit that has lost is kept.
    LoserKept => "tests::keying::who_loses_the_race_drops_its_commit",
    /// S4: messages are sealed while somebody holds keys who should not.
    GateLeftOut => "tests::keying::nothing_is_sealed_while_a_removed_member_holds_keys",
    /// S5: sealed bytes open in any place.
    BindingUnchecked => "tests::messages::nothing_sealed_can_be_moved",
    /// S5: whoever sits in the group may speak in another's name.
    AuthorUnchecked => "tests::messages::a_member_speaks_in_no_other_name",
    /// S6: generations are not reserved.
    NothingReserved => "tests::crash::a_kill_at_any_step_uses_no_key_twice_and_loses_nothing",
    /// S6: what was reserved is used again after a start.
    ReservedUsedAgain => "tests::crash::a_kill_at_any_step_uses_no_key_twice_and_loses_nothing",
    /// S6: keys that were skipped are not counted against what receivers follow.
    SkipsUncounted => "tests::messages::who_restarts_often_is_still_understood",
    /// S6: an old copy of the vault goes on with keys that were used since.
    OldCopyUnnoticed => "tests::vault::an_old_copy_of_a_vault_asks_for_a_new_seat",
    /// S6: a key package is shown before its private parts are durable.
    PackageShownFirst => "tests::crash::a_kill_at_any_step_uses_no_key_twice_and_loses_nothing",
    /// S6: the private parts of a key package are used for a second seat.
    PackageUsedTwice => "tests::keying::a_key_package_is_used_once",
    /// S7: what is opened is written without the state that has opened it.
    StateBehindContent => "tests::crash::a_kill_at_any_step_uses_no_key_twice_and_loses_nothing",
    /// S7: a forged message takes the key of the true one.
    ForgeryBurnsKey => "tests::messages::a_forged_message_burns_no_key",
    /// S8: the keys of past epochs are never forgotten.
    PastEpochsKept => "tests::messages::keys_of_past_epochs_are_forgotten",
    /// S10: leaves are never renewed.
    NeverRefreshed => "tests::keying::an_old_leaf_is_renewed",
    /// S11: who is to found keys the group that it held before.
    OldGroupKept => "tests::keying::where_all_need_new_seats_a_new_group_is_founded",
    /// S11: a group is founded by one who is not the one to do it any more.
    LostFoundingTaken => "tests::keying::who_founds_too_late_founds_nothing",
    /// S13: the identity key need not have certified a leaf.
    CredentialUnchecked => "tests::keying::a_leaf_with_another_peers_name_is_not_taken",
    /// S16: a Commit whose path does not open here is taken for void.
    LockedOutIsVoid => "tests::keying::who_is_locked_out_knows_it",
    /// The vault: values are not bound to their keys.
    ValuesUnbound => "tests::vault::a_value_in_another_place_is_found",
    /// The vault: the key of what was deleted stays.
    DeletedKeyKept => "tests::vault::what_is_deleted_opens_for_nobody",
    /// The vault: a wrong passphrase is not noticed.
    PassphraseUnchecked => "tests::vault::a_passphrase_is_asked_for",
}

/// Whether a mistake is planted. Never, in an ordinary build.
#[cfg(not(feature = "planted"))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub(crate) fn planted(bug: Bug) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok());
    chosen.as_deref().is_some_and(|name| name == format!("{bug:?}"))
}
