//! Answers of the host's own: what a client is told when a guest has no answer for it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error;

use super::request::Streamed;
use super::{RETRY_AFTER as PAUSE, RequestId};

/// The header with a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The body of an answer.
pub(super) enum Answer {
    /// The guest's.
    Streamed(Box<Streamed>),
    /// The host's own.
    Text(Option<Bytes>),
}

impl Answer {
    /// Why none of it can be sent, if it has broken off before it has begun.
    pub(super) async fn lost(&mut self) -> Option<String> {
        match self {
            Self::Streamed(streamed) => streamed.lost().await,
            Self::Text(_) => None,
        }
    }
}

/// An answer of the host's own.
pub(super) fn answer(status: StatusCode, text: &'static str, id: RequestId) -> Response<Answer> {
    let mut response = Response::new(Answer::Text(Some(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from(PAUSE.as_secs()));
    }
    response
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>, context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Streamed(streamed) => streamed.poll_frame(context),
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(streamed) => streamed.is_end_stream(),
            Self::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(streamed) => streamed.size_hint(),
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}
