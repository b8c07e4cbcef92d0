//! Spans of gRPC calls, by OpenTelemetry's semantic conventions, and their way across peers.
//!
//! A call gets a span when it is part of a trace: the caller sent a sampled `traceparent`, the
//! calling code is inside a span or names one, or a person's program asked (those calls begin
//! traces, unless the program says that its own is not sampled). Pings and streams that the peers
//! keep open by themselves get none. A span ends with the headers of the
//! response: a unary call is answered then, and a stream is open.

use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Either, FutureExt};
use http::{HeaderMap, Request, Response};
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::context::{context_of, current_context, extract, inject, is_enabled, set_parent};
use super::method::method_of;
use crate::protocol::traceparent::is_sampled;
use crate::protocol::types::TraceContext;

/// Calls to this service begin traces.
const ROOT_SERVICE: &str = "demes.v1.ClientService/";
/// `server.address` of calls to other peers. They are reached by their keys and share one name; the
/// address of a person is in no span.
const PEERS: &str = "peer.demes";

/// Makes spans of the calls that arrive.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcServerLayer;

/// Makes spans of the calls that leave, and sends their context along.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcClientLayer;

/// A service with spans around its calls.
#[derive(Clone, Debug)]
pub struct GrpcTrace<S> {
    inner: S,
    side: Side,
    parent: TraceContext,
}

impl<S> GrpcTrace<S> {
    /// The same service, for calls that follow from another span than the current one.
    pub fn following(self, parent: TraceContext) -> Self {
        Self { parent, ..self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Server,
    Client,
}

impl<S> Layer<S> for GrpcServerLayer {
    type Service = GrpcTrace<S>;
    fn layer(&self, inner: S) -> GrpcTrace<S> {
        GrpcTrace { inner, side: Side::Server, parent: None }
    }
}

impl<S> Layer<S> for GrpcClientLayer {
    type Service = GrpcTrace<S>;
    fn layer(&self, inner: S) -> GrpcTrace<S> {
        GrpcTrace { inner, side: Side::Client, parent: None }
    }
}

impl<S, B, R> Service<Request<B>> for GrpcTrace<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(span) = self.side.span_of(&request, self.parent) else {
            return Either::Left(self.inner.call(request));
        };
        if self.side == Side::Client {
            inject(request.headers_mut(), &context_of(&span));
        }
        let response = span.in_scope(|| self.inner.call(request));
        let side = self.side;
        let recorded = async move {
            let response = response.await;
            side.record(&Span::current(), response.as_ref().ok().map(Response::headers));
            response
        };
        Either::Right(recorded.instrument(span).boxed())
    }
}

impl Side {
    fn span_of<B>(self, request: &Request<B>, parent: TraceContext) -> Option<Span> {
        if !is_enabled() {
            return None;
        }
        let method = method_of(request.uri().path());
        let parent = match self {
            Side::Client => parent.or_else(current_context),
            Side::Server => extract(request.headers()),
        };
        let wanted = match parent {
            // A caller who does not record its part does not want ours.
            Some(_) => is_sampled(&parent),
            None => self == Side::Server && method.starts_with(ROOT_SERVICE),
        };
        wanted.then(|| {
            let span = match self {
                Side::Client => call_span(method, "client"),
                Side::Server => call_span(method, "server"),
            };
            set_parent(&span, parent);
            span
        })
    }

    /// Writes down how the call went. Without headers the connection failed.
    fn record(self, span: &Span, headers: Option<&HeaderMap>) {
        let code = match headers.map(|headers| headers.get("grpc-status")) {
            // A success says so in the trailers.
            Some(None) => "OK",
            Some(Some(status)) => code_name(status.as_bytes()),
            None => "UNAVAILABLE",
        };
        span.record("rpc.response.status_code", code);
        if self.is_error(code) {
            span.record("error.type", code);
            span.record("otel.status_code", "ERROR");
        }
    }

    /// At the server only its own failures are errors; a refused request is not.
    fn is_error(self, code: &str) -> bool {
        match self {
            Side::Client => code != "OK",
            Side::Server => matches!(
                code,
                "UNKNOWN"
                    | "DEADLINE_EXCEEDED"
                    | "UNIMPLEMENTED"
                    | "INTERNAL"
                    | "UNAVAILABLE"
                    | "DATA_LOSS"
            ),
        }
    }
}

/// The span of one call, or of one request of a stream whose requests belong to different traces.
/// `kind` is `client` or `server`.
pub fn call_span(method: &'static str, kind: &'static str) -> Span {
    info_span!(
        "rpc",
        otel.name = method,
        otel.kind = kind,
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        server.address = (kind == "client").then_some(PEERS),
        error.type = Empty,
    )
}

/// The name of a code, as the wire has it in `grpc-status`.
pub fn code_name(status: &[u8]) -> &'static str {
    match status {
        b"0" => "OK",
        b"1" => "CANCELLED",
        b"3" => "INVALID_ARGUMENT",
        b"4" => "DEADLINE_EXCEEDED",
        b"5" => "NOT_FOUND",
        b"6" => "ALREADY_EXISTS",
        b"7" => "PERMISSION_DENIED",
        b"8" => "RESOURCE_EXHAUSTED",
        b"9" => "FAILED_PRECONDITION",
        b"10" => "ABORTED",
        b"11" => "OUT_OF_RANGE",
        b"12" => "UNIMPLEMENTED",
        b"13" => "INTERNAL",
        b"14" => "UNAVAILABLE",
        b"15" => "DATA_LOSS",
        b"16" => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    #[tokio::test]
    async fn without_an_endpoint_a_call_passes_untouched() {
        let echo = service_fn(|request: Request<()>| async move {
            Ok::<_, Infallible>(Response::new(request.headers().len()))
        });
        for side in [Side::Client, Side::Server] {
            let traced = GrpcTrace { inner: echo, side, parent: None };
            let future = traced.oneshot(Request::new(()));
            assert_eq!(future.await.map(Response::into_body), Ok(0));
        }
    }

    #[test]
    fn refusals_are_the_callers_errors_only() {
        assert!(Side::Client.is_error("NOT_FOUND"));
        assert!(!Side::Server.is_error("NOT_FOUND"));
        assert!(Side::Server.is_error(code_name(b"13")));
        assert_eq!(code_name(b"99"), "UNKNOWN");
    }
}
