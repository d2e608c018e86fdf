//! What has come to be read, counted for who is told of edges.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use tokio::io::unix::AsyncFdReadyGuard;

/// How often the poller has told that there is something to read. It is made to forget that at once, so that it tells
/// of what comes to a descriptor that has not been read; so whoever else waits must ask here as well.
#[derive(Debug, Default)]
pub(crate) struct News {
    arrivals: AtomicU64,
    /// As many as had come when nothing was left to read.
    drained: AtomicU64,
    /// The end is among them, which the poller never forgets.
    ended: AtomicBool,
}

impl News {
    /// Counts what the poller knows, until it waits for the next.
    pub(crate) fn count<'p>(
        &self, mut poll: impl FnMut() -> Poll<io::Result<AsyncFdReadyGuard<'p, Arc<OwnedFd>>>>,
    ) -> u64 {
        while let Poll::Ready(Ok(mut guard)) = poll() {
            let is_end = guard.ready().is_read_closed();
            if is_end && self.ended.swap(true, Ordering::Relaxed) {
                break;
            }
            // Before the poller forgets it: who asks meanwhile finds one of the two.
            self.arrivals.fetch_add(1, Ordering::AcqRel);
            guard.clear_ready();
        }
        self.arrivals()
    }

    pub(crate) fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Acquire)
    }

    /// Whether there may be something to read that the poller was made to forget.
    pub(crate) fn is_unread(&self) -> bool {
        self.drained.load(Ordering::Acquire) < self.arrivals()
    }

    /// Nothing is left of so many, as they were counted before the kernel was asked.
    pub(crate) fn drained(&self, arrivals: u64) {
        self.drained.fetch_max(arrivals, Ordering::AcqRel);
    }
}
