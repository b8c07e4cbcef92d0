//! Log lines: how they look, and which are written. The level can be changed while the peer runs.
//!
//! Whatever the level, the libraries below are heard only from `warn` up: further down they write
//! headers, addresses and the bytes that pass through them.

use std::io;
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{fmt, reload};

use super::{LogFormat, Settings, TelemetryError};

/// Changes what is logged; cheap to clone.
#[derive(Clone)]
pub struct LogLevel(Arc<SetFilter>);

type SetFilter = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

impl LogLevel {
    /// From now on logs at `level`: a level, or directives.
    ///
    /// # Errors
    /// When the level cannot be read; then nothing changes.
    pub fn set(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = log_filter(level)?;
        // It fails only after the subscriber is gone, and that one lives as long as the process.
        let _ = (self.0)(filter);
        Ok(())
    }
}

impl Default for LogLevel {
    /// One that changes nothing.
    fn default() -> Self {
        Self(Arc::new(|_| Ok(())))
    }
}

/// Writes log lines to stderr, and nothing of spans.
pub(super) fn layer<S>(
    settings: &Settings,
) -> Result<(Box<dyn Layer<S> + Send + Sync>, LogLevel), TelemetryError>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_ansi(settings.color).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let (filter, handle) = reload::Layer::new(log_filter(&settings.log_level)?);
    let level = LogLevel(Arc::new(move |filter| handle.reload(filter)));
    // Spans exist for traces alone: without an endpoint nobody asks for them, and they cost
    // nothing.
    let filter = filter.and(filter_fn(|it| it.is_event() && is_ours_or_grave(it)));
    Ok((lines.with_filter(filter).boxed(), level))
}

fn is_ours_or_grave(event: &Metadata<'_>) -> bool {
    event.target().starts_with("demes") || *event.level() <= Level::WARN
}

fn log_filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| TelemetryError::LogLevel(level.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_directives_are_accepted_and_nonsense_is_not() {
        assert!(log_filter("debug").is_ok());
        assert!(log_filter("warn,demes::runtime=trace").is_ok());
        assert!(matches!(log_filter("demes=loud"), Err(TelemetryError::LogLevel(..))));
        assert!(LogLevel::default().set("demes=loud").is_err());
    }
}
