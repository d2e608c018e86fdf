//! The body of a guest's own request, and how long ago the last of it was sent.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// The body of a guest's request, which outlives the connection that it goes to.
#[derive(Clone)]
pub(super) struct Source(Arc<Mutex<Rest>>);

/// What is left of a body.
struct Rest {
    /// Nothing, when it has ended.
    body: Option<WasiBody>,
    /// Something of it was taken to be sent.
    is_begun: bool,
}

/// The body of a request on its way.
pub(super) struct Upload {
    source: Source,
    progress: Progress,
}

impl Source {
    pub(super) fn new(body: WasiBody) -> Self {
        Self(Arc::new(Mutex::new(Rest { body: Some(body), is_begun: false })))
    }

    /// Whether it can be sent from its beginning once more.
    pub(super) fn is_whole(&self) -> bool {
        !self.lock().is_begun
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upload {
    pub(super) fn new(source: Source, progress: &Progress) -> Self {
        Self { source, progress: progress.clone() }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut rest = self.source.lock();
        let Some(body) = &mut rest.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        self.progress.advance();
        match &frame {
            Some(_) => rest.is_begun = true,
            None => rest.body = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.lock().body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.source.lock().body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
