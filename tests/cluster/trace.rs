//! One trace of one message, across real peers, as a collector receives it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::collector::{collect, text};
use crate::harness::{Chat, STEP, story};

/// The spans of one trace: the peers that made each, by name.
type Trace = BTreeMap<String, BTreeSet<String>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_is_one_trace_from_its_sender_to_every_member() {
    story(async {
        let (endpoint, mut exports) = collect().await;
        let mut chat = Chat::prepared(3, &[]);
        for peer in &mut chat.peers {
            peer.set("DEMES__TELEMETRY__OTLP_ENDPOINT", &endpoint);
        }
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        let (host, _) = chat.host_above(0, STEP).await.unwrap();
        let sender = chat.others(&[host])[0];
        chat.says(sender).await;

        let mut traces: BTreeMap<Vec<u8>, Trace> = BTreeMap::new();
        let whole = async {
            while let Some(export) = exports.recv().await {
                for resource in export.resource_spans {
                    let attributes = resource.resource.unwrap_or_default().attributes;
                    let peer = text(&attributes, "service.instance.id");
                    for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                        let trace = traces.entry(span.trace_id).or_default();
                        trace.entry(span.name).or_default().insert(peer.clone());
                    }
                }
                if traces.values().any(is_whole) {
                    return;
                }
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(30), whole).await;
        assert!(seen.is_ok(), "no trace is whole: {traces:#?}");
        chat.finish().await;
    })
    .await;
}

/// SendMessage → submit → append and sync at the host and the members → commit → delivery.
fn is_whole(trace: &Trace) -> bool {
    let made_by = |name: &str| trace.get(name).map_or(0, BTreeSet::len);
    made_by("demes.v1.ClientService/SendMessage") == 1
        && made_by("submit") == 1
        && made_by("append") == 3
        && made_by("commit") == 1
        && made_by("deliver") == 3
}
