//! The instruments behind the metrics: one provider, and two ways out of it, OTLP and Prometheus'
//! text.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{
    AsyncInstrument, Counter, Histogram, Meter, MeterProvider as _, UpDownCounter,
};
use opentelemetry_otlp::{MetricExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use prometheus::{Registry, TextEncoder};

use super::metrics::{self, Kind, Metric, Row, TABLE};
use super::{TelemetryError, process};

/// How long one export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// One collection asks for each observed metric in turn. They share what was read at its begin.
const READINGS_FRESH: Duration = Duration::from_millis(100);

/// Which way metrics leave. With neither, nothing is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetricsSettings {
    /// Whether [`scrape`] has something to say.
    pub prometheus: bool,
    /// Between exports to the OTLP endpoint; none: no metrics go there.
    pub otlp_interval: Option<Duration>,
    /// How counters are told by OTLP.
    pub counting: Counting,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        let otlp_interval = Some(Duration::from_secs(60));
        Self { prometheus: false, otlp_interval, counting: Counting::default() }
    }
}

/// How counters and histograms are told by OTLP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Counting {
    /// Since the start.
    #[default]
    Cumulative,
    /// Since the last export.
    Delta,
}

/// What is read when metrics are collected.
#[derive(Default)]
pub struct Readings(BTreeMap<Metric, Vec<(f64, Vec<KeyValue>)>>);

impl Readings {
    /// Adds a value of an observed metric.
    pub fn add(&mut self, metric: Metric, value: f64, attributes: &[KeyValue]) {
        self.0.entry(metric).or_default().push((value, attributes.to_vec()));
    }
}

/// Reads what there is. It is called on a thread that may block.
type Source = dyn Fn(&mut Readings) + Send + Sync;

/// Keeps a source registered.
#[must_use = "the source is forgotten when this is dropped"]
pub struct Observed(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Source>);

static SOURCES: Mutex<Vec<Weak<Source>>> = Mutex::new(Vec::new());
static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

/// Has `source` read whenever metrics are collected, until what is returned is dropped.
pub fn observe(source: impl Fn(&mut Readings) + Send + Sync + 'static) -> Observed {
    let source: Arc<Source> = Arc::new(source);
    SOURCES.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&source));
    Observed(source)
}

/// Everything in Prometheus' text format 0.0.4; none where [`MetricsSettings::prometheus`] is not
/// set. It reads all sources and may block.
pub fn scrape() -> Option<String> {
    let registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => Some(text),
        Err(error) => {
            tracing::warn!(%error, "the metrics cannot be written: report this as a bug");
            None
        }
    }
}

/// One instrument for each row.
pub(super) struct Instruments(Vec<Instrument>);

enum Instrument {
    Counter(Counter<u64>),
    UpDownCounter(UpDownCounter<i64>),
    Histogram(Histogram<f64>),
    /// The provider keeps its callback.
    Observed,
}

impl Instruments {
    pub fn add(&self, metric: Metric, count: u64, attributes: &[KeyValue]) {
        if let Instrument::Counter(counter) = &self.0[metric as usize] {
            counter.add(count, attributes);
        }
    }

    pub fn change(&self, metric: Metric, change: i64, attributes: &[KeyValue]) {
        if let Instrument::UpDownCounter(counter) = &self.0[metric as usize] {
            counter.add(change, attributes);
        }
    }

    pub fn record(&self, metric: Metric, seconds: f64, attributes: &[KeyValue]) {
        if let Instrument::Histogram(histogram) = &self.0[metric as usize] {
            histogram.record(seconds, attributes);
        }
    }
}

/// Makes the provider and its instruments, if metrics leave in any way.
pub(super) fn start(
    settings: &MetricsSettings,
    otlp_endpoint: Option<&str>,
    resource: Resource,
) -> Result<Option<SdkMeterProvider>, TelemetryError> {
    let endpoint = |error: &dyn std::fmt::Display| TelemetryError::Endpoint(error.to_string());
    let mut builder = SdkMeterProvider::builder().with_resource(resource);
    let otlp = otlp_endpoint.zip(settings.otlp_interval);
    if let Some((address, interval)) = otlp {
        let exporter = MetricExporter::builder()
            .with_tonic()
            .with_endpoint(address)
            .with_timeout(EXPORT_TIMEOUT)
            .with_temporality(match settings.counting {
                Counting::Cumulative => Temporality::Cumulative,
                Counting::Delta => Temporality::Delta,
            })
            .build()
            .map_err(|error| endpoint(&error))?;
        let reader = PeriodicReader::builder(exporter).with_interval(interval).build();
        builder = builder.with_reader(reader);
    }
    if settings.prometheus {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| endpoint(&error))?;
        builder = builder.with_reader(exporter);
        *REGISTRY.lock().unwrap_or_else(PoisonError::into_inner) = Some(registry);
    }
    if otlp.is_none() && !settings.prometheus {
        return Ok(None);
    }
    let provider = builder.build();
    let meter = provider.meter("demes");
    let readings = Arc::new(Shared::default());
    let instruments = TABLE.iter().map(|row| instrument(&meter, row, &readings)).collect();
    if !metrics::enable(Instruments(instruments)) {
        return Err(TelemetryError::Twice);
    }
    Ok(Some(provider))
}

fn instrument(meter: &Meter, row: &'static Row, readings: &Arc<Shared>) -> Instrument {
    let observe = {
        let (readings, metric) = (Arc::clone(readings), row.metric);
        move |observer: &dyn AsyncInstrument<f64>| readings.tell(metric, observer)
    };
    let (name, unit, meaning) = (row.name, row.unit, row.meaning);
    match row.kind {
        Kind::Counter => Instrument::Counter(
            meter.u64_counter(name).with_unit(unit).with_description(meaning).build(),
        ),
        Kind::UpDownCounter => Instrument::UpDownCounter(
            meter.i64_up_down_counter(name).with_unit(unit).with_description(meaning).build(),
        ),
        Kind::Histogram(buckets) => {
            let builder = meter.f64_histogram(name).with_unit(unit).with_description(meaning);
            Instrument::Histogram(builder.with_boundaries(buckets.bounds()).build())
        }
        Kind::ObservedCounter => {
            let builder = meter.f64_observable_counter(name).with_unit(unit);
            builder.with_description(meaning).with_callback(observe).build();
            Instrument::Observed
        }
        Kind::ObservedUpDownCounter => {
            let builder = meter.f64_observable_up_down_counter(name).with_unit(unit);
            builder.with_description(meaning).with_callback(observe).build();
            Instrument::Observed
        }
        Kind::ObservedGauge => {
            let builder = meter.f64_observable_gauge(name).with_unit(unit);
            builder.with_description(meaning).with_callback(observe).build();
            Instrument::Observed
        }
    }
}

/// What was read last, for all observed metrics of one collection.
#[derive(Default)]
struct Shared(Mutex<Option<(Instant, Readings)>>);

impl Shared {
    fn tell(&self, metric: Metric, observer: &dyn AsyncInstrument<f64>) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.as_ref().is_none_or(|(at, _)| at.elapsed() > READINGS_FRESH) {
            *shared = Some((Instant::now(), read()));
        }
        let readings = shared.as_ref().map(|(_, readings)| readings);
        for (value, attributes) in readings.and_then(|it| it.0.get(&metric)).into_iter().flatten() {
            observer.observe(*value, attributes);
        }
    }
}

fn read() -> Readings {
    let mut readings = Readings::default();
    process::read(&mut readings);
    let sources: Vec<Arc<Source>> = {
        let mut sources = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|source| source.strong_count() > 0);
        sources.iter().filter_map(Weak::upgrade).collect()
    };
    for source in sources {
        source(&mut readings);
    }
    readings
}
