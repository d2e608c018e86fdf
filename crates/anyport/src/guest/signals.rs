//! Signals that a thread of a guest has yet to be told of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::net::waiters::Waiters;

/// The numbers that there are, as on Linux.
const MOST: u32 = 64;

/// Of one thread.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// A bit each.
    pending: AtomicU64,
    waiters: Waiters,
}

impl Signals {
    /// Raises one; false if there is none of that number.
    pub(crate) fn raise(&self, signal: u32) -> bool {
        if !(1..MOST).contains(&signal) {
            return false;
        }
        self.pending.fetch_or(1 << signal, Ordering::SeqCst);
        self.waiters.wake_all();
        true
    }

    /// Whether one is to be told.
    pub(crate) fn is_any(&self) -> bool {
        self.pending.load(Ordering::Relaxed) != 0
    }

    /// The next to tell: the lowest.
    pub(crate) fn next(&self) -> Option<u32> {
        let lowest = self.pending.load(Ordering::SeqCst).trailing_zeros();
        (lowest < MOST).then(|| {
            self.pending.fetch_and(!(1 << lowest), Ordering::SeqCst);
            lowest
        })
    }

    /// Ready when one is to be told.
    pub(crate) fn poll_arrived(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_any() {
            self.waiters.add(context.waker());
        }
        if self.pending.load(Ordering::SeqCst) == 0 { Poll::Pending } else { Poll::Ready(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_the_lowest_first() {
        let signals = Signals::default();
        assert!(signals.raise(15) && signals.raise(2) && signals.raise(15));
        assert!(!signals.raise(0) && !signals.raise(64) && !signals.raise(u32::MAX));
        assert_eq!([signals.next(), signals.next(), signals.next()], [Some(2), Some(15), None]);
        assert!(!signals.is_any());
    }
}
