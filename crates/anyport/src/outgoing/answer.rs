//! The body of an answer to a guest's own request: bounded in its silence, and counted until its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};
use wasmtime_wasi_http::Error;

use super::{UnderWay, fault};

/// A body that is under way.
pub(super) struct Answer {
    /// None after its end, so that a connection that has failed is closed, whatever the guest keeps.
    open: Option<(Incoming, UnderWay)>,
    /// How long there may be no byte.
    patience: Duration,
    /// When that is over; made at the first wait.
    over: Option<Pin<Box<Sleep>>>,
    /// The guest has waited since the last byte.
    waits: bool,
}

impl Answer {
    pub(super) fn new(body: Incoming, patience: Duration, under_way: UnderWay) -> Self {
        Self { open: Some((body, under_way)), patience, over: None, waits: false }
    }

    /// The time counts from when the guest wants more and there is none: a guest may take its time.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let over = self.over.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        if !std::mem::replace(&mut self.waits, true)
            && let Some(deadline) = Instant::now().checked_add(self.patience)
        {
            over.as_mut().reset(deadline);
        }
        over.as_mut().poll(context)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some((body, _)) = &mut self.open else { return Poll::Ready(None) };
        let frame = match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.waits = false;
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(None) => None,
            Poll::Ready(Some(Err(error))) => Some(Err(fault::of(&error, Error::HttpResponseIncomplete))),
            Poll::Pending => {
                ready!(self.poll_silence(context));
                Some(Err(Error::ConnectionReadTimeout))
            }
        };
        self.open = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.open.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.open.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}
