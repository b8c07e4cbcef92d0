//! Traces as a collector receives them: one trace through a call and a log entry, and nothing of
//! the libraries below.

#[path = "common/collector.rs"]
mod collector;

use std::convert::Infallible;
use std::time::Duration;

use collector::{collect, text};
use demes::protocol::traceparent::{from_traceparent, to_traceparent};
use demes::telemetry::{self, GrpcClientLayer, GrpcServerLayer};
use http::{Request, Response};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::time::timeout;
use tower::{Layer, ServiceExt, service_fn};
use tracing::{Instrument, info_span};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_goes_through_a_call_and_a_log_entry() {
    let (endpoint, mut exports) = collect().await;
    let settings = telemetry::Settings {
        otlp_endpoint: Some(endpoint),
        log_level: "off".into(),
        ..telemetry::Settings::default()
    };
    let guard = telemetry::start(&settings, "a0").expect("starts");

    // A call between peers, made while the sender handles a message; the receiver keeps the
    // context in a log entry, and delivers it later.
    let server = GrpcServerLayer.layer(service_fn(|_: Request<()>| async {
        let entry = telemetry::current_context();
        assert_eq!(from_traceparent(&to_traceparent(&entry)), Ok(entry));
        telemetry::child_of(entry, || info_span!(target: "demes", "deliver")).in_scope(|| {});
        Ok::<_, Infallible>(Response::builder().header("grpc-status", "5").body(()).expect("valid"))
    }));
    let client = GrpcClientLayer.layer(server);
    let call = |path: &str| Request::builder().uri(path).body(()).expect("a request");
    let submit = client.clone().oneshot(call("/demes.v1.HostService/Submit"));
    submit.instrument(info_span!(target: "demes", "send")).await.expect("answered");
    // Outside of a trace no span is made.
    client.oneshot(call("/demes.v1.ElectionService/Ping")).await.expect("answered");
    // Nor for a program that does not want its own call traced: it decides.
    let unwanted = Request::builder()
        .uri("/demes.v1.ClientService/SendMessage")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")
        .body(())
        .expect("a request");
    let untraced = GrpcServerLayer.layer(service_fn(|_: Request<()>| async {
        assert_eq!(telemetry::current_context(), None);
        Ok::<_, Infallible>(Response::new(()))
    }));
    untraced.oneshot(unwanted).await.expect("answered");

    timeout(LIMIT, guard.flush()).await.expect("flushed in time");
    let export = timeout(LIMIT, exports.recv()).await.expect("in time").expect("spans");

    let resource = export.resource_spans[0].resource.clone().unwrap_or_default();
    assert_eq!(text(&resource.attributes, "service.name"), "demes");
    assert_eq!(text(&resource.attributes, "service.instance.id"), "a0");
    let spans: Vec<Span> = export
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect();
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    // The call has a span at each side; the delivery's context came from inside the server's span.
    let method = "demes.v1.HostService/Submit";
    assert_eq!(names, ["deliver", method, method, "send"]);
    let find = |name: &str, kind: i32| {
        spans.iter().find(|span| span.name == name && span.kind == kind).expect("there")
    };
    let (internal, server, client) = (1, 2, 3);
    let chain = [
        find("send", internal),
        find(method, client),
        find(method, server),
        find("deliver", internal),
    ];
    for pair in chain.windows(2) {
        assert_eq!(pair[1].trace_id, pair[0].trace_id);
        assert_eq!(pair[1].parent_span_id, pair[0].span_id);
    }
    let call = find(method, client);
    assert_eq!(text(&call.attributes, "rpc.system.name"), "grpc");
    assert_eq!(text(&call.attributes, "rpc.method"), method);
    assert_eq!(text(&call.attributes, "rpc.response.status_code"), "NOT_FOUND");
    assert_eq!(text(&call.attributes, "error.type"), "NOT_FOUND");
    assert_eq!(call.status.clone().unwrap_or_default().code, 2, "an error for the caller");
    let answer = find(method, server).status.clone().unwrap_or_default();
    assert_eq!(answer.code, 0, "no error of the server");
}
