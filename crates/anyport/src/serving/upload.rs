//! The body of a request on its way to a guest: counted, and not awaited for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use wasmtime_wasi_http::Error;

use super::Site;
use super::alarm::Alarm;
use super::connection::{Asked, Unread};

/// A request's body.
pub(super) struct Upload {
    body: Incoming,
    /// Bytes that may still come.
    left: u64,
    /// What it has come to; none for a request without a body.
    fate: Option<Arc<Fate>>,
    /// The same for its connection.
    unread: Option<Unread>,
    /// Set while the guest waits for bytes.
    alarm: Option<Alarm>,
    site: Arc<Site>,
}

/// What a body has come to, for whoever tells its client.
#[derive(Debug, Default)]
pub(super) struct Fate {
    failed: AtomicU8,
    /// Bytes have come since somebody asked.
    has_moved: AtomicBool,
    /// The guest has asked for it, or given it up.
    is_settled: AtomicBool,
    /// Of whoever waits for that.
    waker: AtomicWaker,
}

/// What a body has failed by.
const TOO_LARGE: u8 = 1;
const STALLED: u8 = 2;
const MALFORMED: u8 = 3;

impl Fate {
    /// The status that the client is told in place of whatever the guest made of it, and why.
    pub(super) fn status(&self) -> Option<(StatusCode, &'static str)> {
        match self.failed.load(Ordering::Relaxed) {
            TOO_LARGE => Some(TOO_LARGE_ANSWER),
            STALLED => Some((StatusCode::REQUEST_TIMEOUT, "the rest of the request did not come in time\n")),
            MALFORMED => Some((StatusCode::BAD_REQUEST, "the request's body is not right\n")),
            _ => None,
        }
    }

    /// Ready when the guest has asked for the body, or will not.
    pub(super) fn poll_settled(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.is_settled.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// By the body alone.
    fn settle(&self) {
        if !self.is_settled.load(Ordering::Relaxed) {
            self.is_settled.store(true, Ordering::Release);
            self.waker.wake();
        }
    }
}

/// Rings when a guest has taken too long for its answer: not while its client still sends.
pub(super) fn poll_late(alarm: &Alarm, fate: Option<&Fate>, timeout: Duration, context: &mut Context<'_>) -> Poll<()> {
    loop {
        ready!(alarm.poll_rung(context));
        if !fate.is_some_and(|fate| fate.has_moved.swap(false, Ordering::Relaxed)) {
            return Poll::Ready(());
        }
        alarm.set(timeout);
    }
}

/// The answer to a body that is too large.
pub(super) const TOO_LARGE_ANSWER: (StatusCode, &str) =
    (StatusCode::PAYLOAD_TOO_LARGE, "the request's body is too large\n");

impl Upload {
    pub(super) fn new(body: Incoming, site: &Arc<Site>, asked: &Asked) -> Self {
        let is_any = !body.is_end_stream();
        let (fate, unread) = (is_any.then(Arc::default), is_any.then(|| asked.unread()));
        Self { body, left: site.limits.body_bytes as u64, fate, unread, alarm: None, site: Arc::clone(site) }
    }

    /// Whether it says of itself that it is too large.
    pub(super) fn is_too_large(&self) -> bool {
        self.body.size_hint().lower() > self.left
    }

    pub(super) fn fate(&self) -> Option<Arc<Fate>> {
        self.fate.clone()
    }

    fn fail(&self, fate: u8, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(known) = &self.fate {
            known.failed.store(fate, Ordering::Relaxed);
        }
        Poll::Ready(Some(Err(error)))
    }

    /// Rings when nothing has come for too long.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let alarm = self.alarm.get_or_insert_with(|| self.site.alarms.alarm());
        let rung = alarm.poll_rung(context);
        if rung.is_pending() && !alarm.is_set() {
            alarm.set(self.site.limits.body_timeout);
        }
        rung
    }

    /// All of it was read, and its client has sent no more of it.
    fn is_read(&mut self) {
        if let Some(unread) = self.unread.take() {
            unread.end();
        }
    }

    fn count(&mut self, frame: &Frame<Bytes>) -> bool {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let left = self.left.checked_sub(length);
        self.left = left.unwrap_or(0);
        if let Some(fate) = &self.fate {
            fate.has_moved.store(true, Ordering::Relaxed);
        }
        left.is_some()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.is_read();
        }
        if let Some(fate) = &self.fate {
            fate.settle();
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Some(fate) = &self.fate {
            fate.settle();
        }
        match polled {
            Poll::Pending => match self.poll_stalled(context) {
                Poll::Ready(()) => self.fail(STALLED, Error::ConnectionReadTimeout),
                Poll::Pending => Poll::Pending,
            },
            Poll::Ready(frame) => {
                if let Some(alarm) = &self.alarm {
                    alarm.unset();
                }
                match frame {
                    Some(Ok(frame)) if self.count(&frame) => Poll::Ready(Some(Ok(frame))),
                    Some(Ok(_)) => {
                        let most = self.site.limits.body_bytes as u64;
                        self.fail(TOO_LARGE, Error::HttpRequestBodySize(Some(most)))
                    }
                    Some(Err(error)) => self.fail(MALFORMED, error.into()),
                    None => {
                        self.is_read();
                        Poll::Ready(None)
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
