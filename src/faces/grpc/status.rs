//! What gRPC makes of a refusal: the only place where one gets its code and its details
//! (google.rpc.ErrorInfo). `wire/reason.rs` has the code of each reason.

use std::collections::HashMap;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::peer::refusal::{self, Refusal};
use crate::wire::reason::{DOMAIN, Reason};

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, text, metadata } = refusal;
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value));
        let metadata: HashMap<String, String> = metadata.collect();
        let details = ErrorDetails::with_error_info(reason.name(), DOMAIN, metadata);
        Self::with_error_details(reason.code(), text, details)
    }
}

/// The whole answer to a call that is refused before it reaches its service.
pub fn response<B: Default>(refusal: Refusal) -> http::Response<B> {
    Status::from(refusal).into_http()
}

/// The same answer, with a reason where tonic itself refused a request that it could not read.
pub fn with_reason<B: Default>(answer: http::Response<B>) -> http::Response<B> {
    let told = answer.extensions().get::<Status>().filter(|told| told.details().is_empty());
    let Some(told) = told else { return answer };
    let reason = match told.code() {
        Code::OutOfRange => Reason::RequestTooLong,
        Code::Internal => Reason::RequestInvalid,
        _ => return answer,
    };
    response(refusal::unreadable(reason, told.message()))
}

/// The stream, ended with `STOPPING` when the peer stops: an open stream would hold up its end.
pub fn until_stopped<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    stop: CancellationToken,
) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
    let stopped = stop.clone();
    let last = stream::once(async move {
        if stopped.is_cancelled() { Some(Err(refusal::stopping().into())) } else { None }
    });
    let stream = stream.take_until(stop.cancelled_owned());
    Box::pin(stream.chain(last.filter_map(|last| async move { last })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_why_and_with_which_values() {
        let status = Status::from(refusal::text_too_long(3_000));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().expect("every error has one");
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("demes", "TEXT_TOO_LONG"));
        assert_eq!(info.metadata["characters"], "3000");
    }
}
