//! The body of a guest's own request, and how long ago the last of it was sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::{Error, WasiBody};

/// When the last part of a body was taken to be sent: a server that is sent much answers late.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    started: Instant,
    /// Milliseconds after that.
    last: Arc<AtomicU64>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), last: Arc::default() }
    }

    fn advance(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// Waits until nothing has been sent for so long.
    pub(super) async fn stalled(&self, patience: Duration) {
        let mut since = Instant::now();
        let mut known = self.last.load(Ordering::Relaxed);
        loop {
            match since.checked_add(patience) {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
            let last = self.last.load(Ordering::Relaxed);
            if last == known {
                return;
            }
            known = last;
            since = self.started + Duration::from_millis(last);
        }
    }
}

/// The body of a request.
pub(super) struct Upload {
    body: WasiBody,
    progress: Progress,
}

impl Upload {
    pub(super) fn new(body: WasiBody, progress: &Progress) -> Self {
        Self { body, progress: progress.clone() }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.progress.advance();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
