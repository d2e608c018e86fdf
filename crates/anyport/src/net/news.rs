//! What has come to be read, counted for who is told of edges.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use super::poller::Guard;

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

/// One number for two counts: another one when either is.
pub(crate) fn both(uses: u64, arrivals: u64) -> u64 {
    uses << 32 | arrivals & u64::from(u32::MAX)
}

impl News {
    /// Counts what the poller knows, until it waits for the next.
    pub(crate) fn count<'p>(&self, mut poll: impl FnMut() -> Poll<io::Result<Guard<'p>>>) -> u64 {
        while let Poll::Ready(Ok(mut guard)) = poll() {
            let is_end = guard.ready().is_read_closed();
            if is_end && self.has_ended() {
                break;
            }
            // Before the poller forgets it: who asks meanwhile finds one of the two.
            self.arrivals.fetch_add(1, Ordering::AcqRel);
            if is_end {
                // After it was counted, twice at worst: another that finds the end has to find its number as well.
                self.ended.store(true, Ordering::Release);
            }
            guard.clear_ready();
        }
        self.arrivals()
    }

    pub(crate) fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Acquire)
    }

    /// Whether the end has come, after which the poller tells of nothing new.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
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
