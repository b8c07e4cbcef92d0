//! Logs, metrics and traces: what operators see of a peer. Never a text, name or address of a
//! person.
//!
//! Logs go to stderr. Traces leave only when an OTLP endpoint is set; without one no span is made,
//! nothing is propagated, and the only cost is reading one flag. Spans of one call are made by
//! [`GrpcServerLayer`] and [`GrpcClientLayer`]; how one trace passes from peer to peer, through
//! request metadata and log entries, is in `context.rs`; which ones are kept and how they leave, in
//! `traces.rs`. What spans there are is in `docs/traces.md`. Every metric is in `metrics.rs`.

mod calls;
mod context;
mod grpc;
mod instruments;
mod logs;
mod method;
pub mod metrics;
mod process;
mod traces;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use calls::{GrpcDuration, GrpcDurationLayer, Measured};
pub use context::{
    child_of, context_of, current_context, election_context, fail, is_enabled, link, set_parent,
};
pub use grpc::{GrpcClientLayer, GrpcServerLayer, GrpcTrace, call_span, code_name};
pub use instruments::{Counting, MetricsSettings, Observed, Readings, observe, scrape};
pub use logs::LogLevel;
pub use traces::{HAND_OVER, end_election};

/// How long the last spans may take to leave when the peer stops.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// What to log and where to send traces.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Where to send traces by OTLP over gRPC, such as `http://127.0.0.1:4317`; none: nowhere.
    pub otlp_endpoint: Option<String>,
    /// A level (`info`) or directives in `tracing`'s form (`info,demes::runtime=debug`).
    pub log_level: String,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Whether log lines for people are coloured.
    pub color: bool,
    /// The share of traces that begin here and are kept, from 0 to 1. A caller's decision wins,
    /// and traces about the choice of a host are always kept.
    pub sampling_ratio: f64,
    /// Which way metrics leave.
    pub metrics: MetricsSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            log_level: "info".into(),
            log_format: LogFormat::Text,
            color: false,
            sampling_ratio: 1.0,
            metrics: MetricsSettings::default(),
        }
    }
}

/// Why logs and traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level cannot be read.
    #[error("`telemetry.log_level` = {0:?} is neither a level nor a list of directives: {1}")]
    LogLevel(String, tracing_subscriber::filter::ParseError),
    /// The endpoint cannot be used.
    #[error("`telemetry.otlp_endpoint` cannot be used: {0}")]
    Endpoint(String),
    /// The process has a subscriber already.
    #[error("logs are already set up in this process")]
    Twice,
}

/// Keeps traces and metrics flowing. Call [`Guard::flush`] before the process ends.
#[derive(Default)]
#[must_use = "spans are lost when the guard is not flushed at the end"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
    meters: Option<SdkMeterProvider>,
    log_level: LogLevel,
}

impl Guard {
    /// Changes what is logged.
    pub fn log_level(&self) -> LogLevel {
        self.log_level.clone()
    }

    /// Sends the spans and counts that are still here, for two seconds at most.
    pub async fn flush(self) {
        let Self { provider, meters, .. } = self;
        // The exporters wait for tasks of this runtime, so they must not hold one of its workers.
        let spans = tokio::task::spawn_blocking(move || {
            provider.map_or(Ok(()), |it| it.shutdown_with_timeout(FLUSH_TIMEOUT))
        });
        let counts = tokio::task::spawn_blocking(move || {
            meters.map_or(Ok(()), |it| it.shutdown_with_timeout(FLUSH_TIMEOUT))
        });
        // A collector that takes its time does not hold up the end.
        let both = async { (spans.await, counts.await) };
        let Ok((spans, counts)) = tokio::time::timeout(FLUSH_TIMEOUT, both).await else { return };
        for flushed in [spans, counts] {
            if let Ok(Err(error)) = flushed {
                tracing::debug!(%error, "the last spans or counts could not be sent");
            }
        }
    }
}

/// Sets up logs, metrics if somebody wants them, and traces if an endpoint is set. Call it once,
/// inside the Tokio runtime.
///
/// `instance_id` is the peer id: traces and metrics carry it as `service.instance.id`.
///
/// # Errors
/// When the level or the endpoint cannot be read, or the process has a subscriber already.
pub fn start(settings: &Settings, instance_id: &str) -> Result<Guard, TelemetryError> {
    let (logs, log_level) = logs::layer(settings)?;
    let provider = match &settings.otlp_endpoint {
        Some(endpoint) => {
            Some(traces::provider(endpoint, settings.sampling_ratio, resource(instance_id))?)
        }
        None => None,
    };
    // A list, because an absent layer in a stack would let everybody's spans be made.
    let mut layers = vec![logs];
    if let Some(provider) = &provider {
        layers.push(traces::layer(provider));
    }
    tracing_subscriber::registry().with(layers).try_init().map_err(|_| TelemetryError::Twice)?;
    context::enable(provider.is_some());
    process::started();
    let endpoint = settings.otlp_endpoint.as_deref();
    let meters = instruments::start(&settings.metrics, endpoint, resource(instance_id))?;
    Ok(Guard { provider, meters, log_level })
}

/// Whose telemetry this is. Nothing of the machine or the person is looked up.
fn resource(instance_id: &str) -> Resource {
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_service_name("demes")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance_id.to_owned()),
        ])
        .build()
}
