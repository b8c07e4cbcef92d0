//! How traces are sampled and leave.
//!
//! Spans wait in a bounded queue for a thread of their own, which sends them by OTLP. Where the
//! collector does not answer they are dropped, and one line says so: the peer goes on as if traces
//! were off.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Link, Span as _, SpanId, SpanKind, TraceId, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, Sampler,
    SamplingResult, SdkTracerProvider, ShouldSample, SpanData,
};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Layer;

use super::TelemetryError;
use super::context::ids;
use crate::protocol::types::ChatId;

/// How long one export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Spans that wait to be sent; more are dropped.
const QUEUE_MAX: usize = 4_096;
/// Spans of one request to the collector.
const BATCH_MAX: usize = 512;
/// How long a span waits for company at most.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// The root of a search for a host where there was one before.
const FAILOVER: &str = "failover";
/// The same where this process has not heard of one.
const ELECTION: &str = "election";
/// The root of a change of host that the old one wants.
pub const HAND_OVER: &str = "hand-over";
/// Traces with these roots are always kept: they are few, and whoever looks for one wants that one.
const ALWAYS: [&str; 3] = [FAILOVER, ELECTION, HAND_OVER];

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// What sends spans to `endpoint`. `resource` says whose they are.
pub(super) fn provider(
    endpoint: &str,
    sampling_ratio: f64,
    resource: Resource,
) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| TelemetryError::Endpoint(error.to_string()))?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_MAX)
        .with_max_export_batch_size(BATCH_MAX)
        .with_scheduled_delay(BATCH_DELAY)
        .build();
    let exporter = Watched { exporter, failing: AtomicBool::new(false) };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(
            BatchSpanProcessor::builder(exporter).with_batch_config(batches).build(),
        )
        .with_sampler(Sampler::ParentBased(Box::new(Roots(sampling_ratio))))
        .with_id_generator(Ids::default())
        .with_resource(resource)
        .build();
    let _ = PROVIDER.set(provider.clone());
    Ok(provider)
}

/// Makes spans of `tracing`'s spans.
pub(super) fn layer(provider: &SdkTracerProvider) -> Box<dyn Layer<Registry> + Send + Sync> {
    // Only our own spans: the exporter is a gRPC client too and would trace itself.
    let ours = Targets::new().with_target("demes", LevelFilter::INFO);
    let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("demes"));
    // Where in the program a span was made, and how long it was entered, tells an operator nothing.
    let traces = traces.with_location(false).with_threads(false).with_target(false);
    traces.with_tracked_inactivity(false).with_filter(ours).boxed()
}

/// The root of a search for a host, made by the one who was found, when it is over. `context` is
/// [`super::election_context`]'s.
pub fn end_election(context: &[u8; 25], chat: ChatId, is_failover: bool, begun: SystemTime) {
    let Some(provider) = PROVIDER.get() else { return };
    let tracer = provider.tracer("demes");
    let root = tracer
        .span_builder(if is_failover { FAILOVER } else { ELECTION })
        .with_kind(SpanKind::Internal)
        .with_start_time(begun)
        .with_attributes([KeyValue::new("demes.chat.id", chat.to_string())]);
    CHOSEN.set(Some(ids(context)));
    let mut span = root.start_with_context(&tracer, &Context::new());
    CHOSEN.set(None);
    span.end();
}

thread_local! {
    /// The ids of the span that is being made on this thread, where they are not drawn.
    static CHOSEN: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        CHOSEN.get().map_or_else(|| self.0.new_trace_id(), |(trace_id, _)| trace_id)
    }

    fn new_span_id(&self) -> SpanId {
        CHOSEN.get().map_or_else(|| self.0.new_span_id(), |(_, span_id)| span_id)
    }
}

/// Which traces that begin here are kept: this share of them, and all about the choice of a host.
#[derive(Clone, Debug)]
struct Roots(f64);

impl ShouldSample for Roots {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = match ALWAYS.contains(&name) {
            true => Sampler::AlwaysOn,
            false => Sampler::TraceIdRatioBased(self.0),
        };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

/// Says once when spans cannot be sent, and once when they can be again.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("traces are being sent again");
            }
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, "traces cannot be sent: they are dropped until the \
                    collector answers");
            }
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::SamplingDecision;

    use super::*;

    #[test]
    fn a_choice_of_host_is_kept_whatever_the_share_of_others() {
        let decision = |ratio, name| {
            let id = TraceId::from(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
            let sampler = Roots(ratio);
            sampler.should_sample(None, id, name, &SpanKind::Internal, &[], &[]).decision
        };
        assert_eq!(decision(0.0, "failover"), SamplingDecision::RecordAndSample);
        assert_eq!(decision(0.0, "send"), SamplingDecision::Drop);
        assert_eq!(decision(1.0, "send"), SamplingDecision::RecordAndSample);
    }
}
