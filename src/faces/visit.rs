//! An inbound connection: whose it is, the place that it holds, and its calls.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{MapOk, TryFutureExt};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use opentelemetry::KeyValue;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use tower::{Layer, Service};

use super::places::{Call, Holder, Place};
use crate::peer::gate::Caller;
use crate::runtime::send_queue::SendQueue;
use crate::telemetry::metrics::{self, LISTENER, Metric, hold};

/// What the calls of a connection know of it.
#[derive(Clone)]
pub struct Visitor {
    /// Who is at its other end, where that was proven.
    pub caller: Option<Caller>,
    holder: Arc<Holder>,
}

/// A connection that breaks when it must give its place up, and keeps it until then.
pub struct Served<S> {
    io: S,
    visitor: Visitor,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What waits for the member that calls, if it is one: a sign of its life is noted there.
    send_queue: Option<Arc<SendQueue>>,
    _place: Place,
    _held: metrics::Held,
}

impl<S> Served<S> {
    pub fn new(io: S, caller: Option<Caller>, place: Place, listener: &'static str) -> Self {
        let holder = Arc::clone(&place.holder);
        let closed = Box::pin(holder.closed.clone().cancelled_owned());
        let held = hold(Metric::Connections, KeyValue::new(LISTENER, listener));
        let visitor = Visitor { caller, holder };
        Self { io, visitor, closed, send_queue: None, _place: place, _held: held }
    }

    /// What waits for the member that calls.
    pub fn with_send_queue(self, send_queue: Option<Arc<SendQueue>>) -> Self {
        Self { send_queue, ..self }
    }

    /// The other side takes nothing: that must not keep the connection either.
    fn unless_closed<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_pending() && self.closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        result
    }
}

impl<S> Connected for Served<S> {
    type ConnectInfo = Visitor;

    fn connect_info(&self) -> Visitor {
        self.visitor.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Served<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        self.visitor.holder.has_read(bytes);
        if let Some(send_queue) = self.send_queue.as_ref().filter(|_| bytes > 0) {
            send_queue.hear();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Served<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.unless_closed(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.unless_closed(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(context);
        self.unless_closed(context, shut)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.unless_closed(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Counts the calls of each connection that are under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallsLayer;

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S>(S);

impl<S> Layer<S> for CallsLayer {
    type Service = Counted<S>;
    fn layer(&self, inner: S) -> Counted<S> {
        Counted(inner)
    }
}

type Counting<R> = Box<dyn FnOnce(Response<R>) -> Response<Counts<R>> + Send>;

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin,
{
    type Response = Response<Counts<R>>;
    type Error = S::Error;
    type Future = MapOk<S::Future, Counting<R>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let visitor = request.extensions().get::<Visitor>();
        let call = visitor.map(|visitor| visitor.holder.call());
        let counting: Counting<R> =
            Box::new(move |response| response.map(|body| Counts { body, _call: call }));
        self.0.call(request).map_ok(counting)
    }
}

/// The body of an answer: its call is over when it is dropped.
pub struct Counts<B> {
    body: B,
    _call: Option<Call>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counts<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
