//! What a Commit may contain (S2), for mls-rs.

use mls_rs::MlsRules;
use mls_rs::client_builder::PaddingMode;
use mls_rs::group::{GroupContext, Roster};
use mls_rs::mls_rules::{
    CommitDirection, CommitOptions, CommitSource, EncryptionOptions, ProposalBundle,
};
use mls_rs_core::error::IntoAnyError;

/// Why a Commit's proposals are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RulesError {
    #[error("a Commit adds and removes leaves, by proposals of its own, and nothing else")]
    OtherProposal,
    #[error("nobody commits from outside the group")]
    External,
}

impl IntoAnyError for RulesError {
    fn into_dyn_error(self) -> Result<Box<dyn std::error::Error + Send + Sync>, Self> {
        Ok(Box::new(self))
    }
}

/// Adds and removes, inline, by members. Nothing of it depends on anything but the Commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules;

impl MlsRules for Rules {
    type Error = RulesError;

    fn filter_proposals(
        &self,
        _: CommitDirection,
        source: CommitSource,
        _: &Roster<'_>,
        _: &GroupContext,
        proposals: ProposalBundle,
    ) -> Result<ProposalBundle, RulesError> {
        if matches!(source, CommitSource::NewMember(_)) {
            return Err(RulesError::External);
        }
        let adds = proposals.add_proposals();
        let removes = proposals.remove_proposals();
        let inline = adds.iter().all(|info| info.is_by_value())
            && removes.iter().all(|info| info.is_by_value());
        if !inline || adds.len() + removes.len() != proposals.length() {
            return Err(RulesError::OtherProposal);
        }
        Ok(proposals)
    }

    /// Without a path where MLS does not ask for one: adding one member to a large group is cheap.
    fn commit_options(
        &self,
        _: &Roster<'_>,
        _: &GroupContext,
        _: &ProposalBundle,
    ) -> Result<CommitOptions, RulesError> {
        Ok(CommitOptions::new())
    }

    /// Commits are in plain, as the membership that they follow is: whoever stores the log sees
    /// both. Contents are padded to steps of an eighth to a quarter of their length, 32 bytes at
    /// least.
    fn encryption_options(
        &self,
        _: &Roster<'_>,
        _: &GroupContext,
    ) -> Result<EncryptionOptions, RulesError> {
        Ok(EncryptionOptions::new(false, PaddingMode::StepFunction))
    }
}
