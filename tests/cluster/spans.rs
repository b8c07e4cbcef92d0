//! The spans that a test's collector has received, as trees.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::sync::mpsc;

use crate::collector::{collect, text};
use crate::harness::{Chat, STEP};

/// A span and the id of the peer that made it.
pub struct Seen {
    pub peer: String,
    pub span: Span,
}

/// Everything received so far.
pub struct Spans {
    exports: mpsc::Receiver<ExportTraceServiceRequest>,
    all: Vec<Seen>,
    /// What came, to look for what must not be in it.
    bytes: Vec<u8>,
    debug: String,
}

/// The edges of one trace: `parent > child`, each with its kind and the part of its peer. The root
/// stands alone.
pub type Edges = BTreeSet<String>;

impl Spans {
    /// That many peers, not yet started, which send their traces here.
    pub async fn of(peers: usize, settings: &[(&str, &str)]) -> (Self, Chat) {
        let (endpoint, exports) = collect().await;
        let mut chat = Chat::prepared(peers, &[]);
        for peer in &mut chat.peers {
            peer.set("DEMES__TELEMETRY__OTLP_ENDPOINT", &endpoint);
            for (variable, value) in settings {
                peer.set(variable, value);
            }
        }
        let spans = Self { exports, all: Vec::new(), bytes: Vec::new(), debug: String::new() };
        (spans, chat)
    }

    /// Receives until `find` finds something, and returns that.
    pub async fn until<T>(&mut self, what: &str, find: impl Fn(&Self) -> Option<T>) -> T {
        let end = tokio::time::Instant::now() + STEP;
        loop {
            if let Some(found) = find(self) {
                return found;
            }
            match tokio::time::timeout_at(end, self.exports.recv()).await {
                Ok(export) => self.take(export.expect("the collector runs")),
                Err(_) => panic!("no {what} in time; traces:\n{}", self.describe()),
            }
        }
    }

    fn take(&mut self, export: ExportTraceServiceRequest) {
        self.bytes.extend(export.encode_to_vec());
        self.debug += &format!("{export:?}\n");
        for resource in export.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            assert_eq!(text(&attributes, "service.name"), "demes");
            assert_eq!(text(&attributes, "service.version"), env!("CARGO_PKG_VERSION"));
            let peer = text(&attributes, "service.instance.id");
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.all.push(Seen { peer: peer.clone(), span });
            }
        }
    }

    /// The traces with a span of that name, each with all of its spans.
    pub fn traces_with(&self, name: &str) -> Vec<Vec<&Seen>> {
        let mut traces: BTreeMap<&[u8], Vec<&Seen>> = BTreeMap::new();
        for seen in &self.all {
            traces.entry(&seen.span.trace_id).or_default().push(seen);
        }
        traces.retain(|_, trace| trace.iter().any(|seen| seen.span.name == name));
        traces.into_values().collect()
    }

    /// All spans of that name.
    pub fn named(&self, name: &str) -> Vec<&Seen> {
        self.all.iter().filter(|seen| seen.span.name == name).collect()
    }

    /// Asserts that none of these is anywhere in what was exported: not as bytes, and not as text.
    #[track_caller]
    pub fn assert_without<'a>(&self, forbidden: impl IntoIterator<Item = &'a str>) {
        for word in forbidden {
            // Ids are random bytes, in which a short name turns up by chance.
            let in_bytes = word.len() >= 6
                && self.bytes.windows(word.len()).any(|bytes| bytes == word.as_bytes());
            assert!(!in_bytes && !self.debug.contains(word), "{word:?} is in a span");
        }
    }

    fn describe(&self) -> String {
        let mut ids: Vec<&[u8]> = self.all.iter().map(|seen| &seen.span.trace_id[..]).collect();
        ids.sort_unstable();
        ids.dedup();
        let of = |id: &[u8]| {
            let trace: Vec<&Seen> = self.all.iter().filter(|s| s.span.trace_id == id).collect();
            tree(&trace, &|peer| peer[..8].to_owned())
        };
        ids.into_iter().map(of).collect::<Vec<_>>().join("\n")
    }
}

/// `name kind@part`.
fn label(seen: &Seen, part: &impl Fn(&str) -> String) -> String {
    const KINDS: [&str; 6] = ["?", "internal", "server", "client", "producer", "consumer"];
    let kind = usize::try_from(seen.span.kind).ok().and_then(|kind| KINDS.get(kind));
    let name = seen.span.name.trim_start_matches("demes.v1.");
    format!("{name} {}@{}", kind.unwrap_or(&"?"), part(&seen.peer))
}

/// The edges of a trace, where `part` says what each peer is in the story.
pub fn edges(trace: &[&Seen], part: &impl Fn(&str) -> String) -> Edges {
    let labels: HashMap<&[u8], String> =
        trace.iter().map(|seen| (&seen.span.span_id[..], label(seen, part))).collect();
    let edge = |seen: &&Seen| {
        let own = &labels[&seen.span.span_id[..]];
        match labels.get(&seen.span.parent_span_id[..]) {
            Some(parent) => format!("{parent} > {own}"),
            None if seen.span.parent_span_id.is_empty() => own.clone(),
            None => format!("? > {own}"),
        }
    };
    trace.iter().map(edge).collect()
}

/// A trace for people, in the order in which its spans began.
pub fn tree(trace: &[&Seen], part: &impl Fn(&str) -> String) -> String {
    fn grow(
        trace: &[&Seen],
        parent: &[u8],
        depth: usize,
        part: &impl Fn(&str) -> String,
        out: &mut String,
    ) {
        let is_known = |id: &[u8]| trace.iter().any(|seen| seen.span.span_id == id);
        let is_child = |seen: &&Seen| match parent {
            [] => !is_known(&seen.span.parent_span_id),
            parent => seen.span.parent_span_id == parent,
        };
        let mut children: Vec<&Seen> =
            trace.iter().copied().filter(|seen| is_child(seen)).collect();
        children.sort_by_key(|seen| seen.span.start_time_unix_nano);
        for seen in children {
            let (begun, ended) = (seen.span.start_time_unix_nano, seen.span.end_time_unix_nano);
            let took_us = ended.saturating_sub(begun) / 1_000;
            let label = label(seen, part);
            *out += &format!("{:indent$}{label} {took_us} us\n", "", indent = 2 * depth);
            grow(trace, &seen.span.span_id, depth + 1, part, out);
        }
    }
    let mut out = String::new();
    grow(trace, &[], 0, part, &mut out);
    out
}
