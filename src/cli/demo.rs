//! Holds the place of the demo's file.

use std::process::ExitCode;

use anyhow::Result;

use super::Failure;

#[derive(clap::Args, Debug)]
pub struct DemoArgs {}

/// Refuses.
pub async fn run(_: DemoArgs) -> Result<ExitCode> {
    Err(Failure::refused("the demo is not part of this build").into())
}
