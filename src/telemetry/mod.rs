//! Logs and traces: what operators see of a peer. Never a text, name or address of a person.
//!
//! Logs go to stderr. Traces leave only when an OTLP endpoint is set; without one no span is made,
//! nothing is propagated, and the only cost is reading one flag. Spans of one call are made by
//! [`GrpcServerLayer`] and [`GrpcClientLayer`]; how one trace passes from peer to peer, through
//! request metadata and log entries, is in `context.rs`.

mod context;
mod grpc;

use std::io;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

pub use context::{
    child_of, context_from_traceparent, current_context, extract, inject, is_enabled, set_parent,
    traceparent,
};
pub use grpc::{GrpcClientLayer, GrpcServerLayer, GrpcTrace};

/// How long the last spans may take to leave when the peer stops.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// The share of traces that begin here and are kept, from 0 to 1. A caller's decision wins.
    pub sampling_ratio: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            log_level: "info".into(),
            log_format: LogFormat::Text,
            color: false,
            sampling_ratio: 1.0,
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

/// Keeps traces flowing. Call [`Guard::flush`] before the process ends.
#[derive(Default)]
#[must_use = "spans are lost when the guard is not flushed at the end"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Guard {
    /// Sends the spans that are still here, for two seconds at most.
    pub async fn flush(self) {
        let Some(provider) = self.provider else { return };
        // The exporter waits for tasks of this runtime, so it must not hold one of its workers.
        let flushed =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT))
                .await;
        if let Ok(Err(error)) = flushed {
            tracing::debug!(%error, "the last spans could not be sent");
        }
    }
}

/// Sets up logs, and traces if an endpoint is set. Call it once, inside the Tokio runtime.
///
/// `instance_id` is the peer id: traces carry it as `service.instance.id`.
///
/// # Errors
/// When the level or the endpoint cannot be read, or the process has a subscriber already.
pub fn start(settings: &Settings, instance_id: &str) -> Result<Guard, TelemetryError> {
    let logs = fmt::layer().with_writer(io::stderr);
    let logs = match settings.log_format {
        LogFormat::Text => logs.with_ansi(settings.color).boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    // Spans exist for traces alone: without an endpoint nobody asks for them, and they cost
    // nothing.
    let logs = logs.with_filter(log_filter(&settings.log_level)?.and(filter_fn(|m| m.is_event())));
    let provider = match &settings.otlp_endpoint {
        Some(endpoint) => Some(tracer_provider(endpoint, settings.sampling_ratio, instance_id)?),
        None => None,
    };
    // A list, because an absent layer in a stack would let everybody's spans be made.
    let mut layers = vec![logs.boxed()];
    if let Some(provider) = &provider {
        // Only our own spans: the exporter is a gRPC client too and would trace itself.
        let ours = Targets::new().with_target("demes", LevelFilter::INFO);
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("demes"));
        layers.push(traces.with_filter(ours).boxed());
    }
    tracing_subscriber::registry().with(layers).try_init().map_err(|_| TelemetryError::Twice)?;
    context::enable(provider.is_some());
    Ok(Guard { provider })
}

/// The libraries below us log every frame and connection; they speak up only when something is
/// wrong.
fn log_filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let directives = format!("h2=warn,hyper=warn,tonic=warn,tower=warn,opentelemetry=warn,{level}");
    EnvFilter::builder()
        .parse(directives)
        .map_err(|error| TelemetryError::LogLevel(level.to_owned(), error))
}

fn tracer_provider(
    endpoint: &str,
    sampling_ratio: f64,
    instance_id: &str,
) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| TelemetryError::Endpoint(error.to_string()))?;
    let resource = Resource::builder_empty()
        .with_service_name("demes")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance_id.to_owned()),
        ])
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sampling_ratio))))
        .with_resource(resource)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_directives_are_accepted_and_nonsense_is_not() {
        assert!(log_filter("debug").is_ok());
        assert!(log_filter("warn,demes::runtime=trace").is_ok());
        assert!(matches!(log_filter("demes=loud"), Err(TelemetryError::LogLevel(..))));
    }
}
