//! The listener for Prometheus: `GET /metrics`, and nothing else, in plain text.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use opentelemetry::KeyValue;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::accept::accept_one;
use super::server::plain;
use crate::faces::places::{Kind, Places};
use crate::telemetry::metrics::{LISTENER, Metric, hold, rejected};
use crate::telemetry::scrape;

/// Beyond them the oldest gives way.
const CONNECTIONS_MAX: usize = 16;
/// How long a request's head may take.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// A connection ends after this long, whatever it does: Prometheus makes a new one.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
/// What `TextEncoder` writes.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves metrics until `stop`.
pub async fn serve_metrics(listener: TcpListener, stop: CancellationToken) {
    let places = Places::new([plain(CONNECTIONS_MAX)]);
    let accepting = async {
        loop {
            let (tcp, address) = accept_one(&listener).await;
            let place = places.take(Kind::Plain, address, &stop).await;
            tokio::spawn(async move {
                let _held = hold(Metric::Connections, KeyValue::new(LISTENER, "metrics"));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_MAX)
                    .serve_connection(TokioIo::new(tcp), service_fn(answer));
                tokio::select! {
                    // Whatever a scraper does wrong, it ends its own connection.
                    _ = timeout(CONNECTION_MAX, connection) => {}
                    () = place.holder.closed.cancelled() => {}
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
    }
}

async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    Ok(match (request.uri().path(), is_read) {
        ("/metrics", true) => match tokio::task::spawn_blocking(scrape).await {
            Ok(Some(text)) => respond(StatusCode::OK, TEXT_FORMAT, text),
            _ => refuse(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "there are no metrics\n"),
        },
        ("/metrics", false) => {
            let text = "metrics are only read: GET /metrics\n";
            refuse(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", text)
        }
        _ => refuse(StatusCode::NOT_FOUND, "NOT_FOUND", "the metrics are at /metrics\n"),
    })
}

fn refuse(code: StatusCode, reason: &'static str, text: &str) -> Response<Full<Bytes>> {
    rejected(reason);
    respond(code, "text/plain; charset=utf-8", text.to_owned())
}

fn respond(code: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
