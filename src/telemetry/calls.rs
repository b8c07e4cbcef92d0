//! How long the calls that arrive take: `rpc.server.call.duration` of OpenTelemetry's conventions.
//!
//! A call ends with its last byte: for a stream that is when the stream ends. One whose caller went
//! away counts as CANCELLED.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, FutureExt, MapOk, TryFutureExt};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use opentelemetry::KeyValue;
use tower::{Layer, Service};

use super::grpc::code_name;
use super::method::method_of;
use super::metrics::{ERROR_TYPE, Metric, RPC_METHOD, RPC_STATUS, RPC_SYSTEM, is_enabled, record};

/// Measures the calls that arrive.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcDurationLayer;

/// A service whose calls are measured.
#[derive(Clone, Debug)]
pub struct GrpcDuration<S>(S);

impl<S> Layer<S> for GrpcDurationLayer {
    type Service = GrpcDuration<S>;
    fn layer(&self, inner: S) -> GrpcDuration<S> {
        GrpcDuration(inner)
    }
}

impl<S, B, R> Service<Request<B>> for GrpcDuration<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: Body<Data = Bytes> + Unpin + 'static,
{
    type Response = Response<Measured<R>>;
    type Error = S::Error;
    type Future = Either<
        MapOk<S::Future, fn(Response<R>) -> Response<Measured<R>>>,
        BoxFuture<'static, Result<Self::Response, S::Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !is_enabled() {
            let untouched =
                |response: Response<R>| response.map(|body| Measured { body, call: None });
            return Either::Left(self.0.call(request).map_ok(untouched));
        }
        let mut call = Call {
            begun: Instant::now(),
            method: method_of(request.uri().path()),
            code: "CANCELLED",
        };
        let response = self.0.call(request);
        let measured = async move {
            let response = response.await?;
            call.read_code(response.headers());
            Ok(response.map(|body| Measured { body, call: Some(call) }))
        };
        Either::Right(measured.boxed())
    }
}

/// A call under way. It is noted when this is dropped.
struct Call {
    begun: Instant,
    method: &'static str,
    code: &'static str,
}

impl Call {
    /// A refusal says so in its headers, everything else in its trailers.
    fn read_code(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            self.code = code_name(status.as_bytes());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut attributes = vec![
            KeyValue::new(RPC_SYSTEM, "grpc"),
            KeyValue::new(RPC_METHOD, self.method),
            KeyValue::new(RPC_STATUS, self.code),
        ];
        if self.code != "OK" {
            attributes.push(KeyValue::new(ERROR_TYPE, self.code));
        }
        record(Metric::CallDuration, self.begun.elapsed(), &attributes);
    }
}

/// A body that notices the trailers.
pub struct Measured<B> {
    body: B,
    call: Option<Call>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Measured<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(call) = &mut self.call
        {
            call.read_code(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
