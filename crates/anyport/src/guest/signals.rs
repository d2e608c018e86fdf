//! Signals that a thread of a guest has yet to be told of, and how they interrupt what it waits for.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use super::Guest;
use crate::errno::Errno;
use crate::net::waiters::Waiters;

/// The numbers that there are, as on Linux.
const MOST: u32 = 64;

/// Of one thread.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// A bit each.
    pending: AtomicU64,
    /// Those of them that are the process's, which another thread is told of when this one is no more.
    of_process: AtomicU64,
    /// None is told now, and each is later: those of the process are.
    blocked: AtomicBool,
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

    /// Raises one for the process, of which this thread is to be told.
    pub(crate) fn raise_for_process(&self, signal: u32) -> bool {
        if (1..MOST).contains(&signal) {
            self.of_process.fetch_or(1 << signal, Ordering::SeqCst);
        }
        self.raise(signal)
    }

    /// Those for the process that this thread was not told of.
    pub(crate) fn take_for_process(&self) -> impl Iterator<Item = u32> + use<> {
        let left = self.of_process.swap(0, Ordering::SeqCst) & self.pending.load(Ordering::SeqCst);
        (1..MOST).filter(move |signal| left & (1 << signal) != 0)
    }

    /// Has them told later, or again.
    pub(crate) fn block(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::SeqCst);
        if self.is_any() {
            self.waiters.wake_all();
        }
    }

    /// Whether one is to be told.
    pub(crate) fn is_any(&self) -> bool {
        self.pending.load(Ordering::SeqCst) != 0 && !self.blocked.load(Ordering::SeqCst)
    }

    /// The next to tell: the lowest.
    pub(crate) fn next(&self) -> Option<u32> {
        if self.blocked.load(Ordering::SeqCst) {
            return None;
        }
        let lowest = self.pending.load(Ordering::SeqCst).trailing_zeros();
        (lowest < MOST).then(|| {
            self.pending.fetch_and(!(1 << lowest), Ordering::SeqCst);
            self.of_process.fetch_and(!(1 << lowest), Ordering::SeqCst);
            lowest
        })
    }

    /// Ready when one is to be told.
    pub(crate) fn poll_arrived(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_any() {
            self.waiters.add(context.waker());
            // One may have been raised meanwhile.
            if !self.is_any() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

/// Waits for something, or for a signal that interrupts that.
pub(crate) async fn until_signal<T, E: From<Errno>>(
    signals: Option<Arc<Signals>>, wait: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(signals) = signals else { return wait.await };
    let mut wait = pin!(wait);
    poll_fn(|context| {
        if let Poll::Ready(outcome) = wait.as_mut().poll(context) {
            return Poll::Ready(outcome);
        }
        // Only what waits is interrupted: what came of it otherwise is not lost.
        signals.poll_arrived(context).map(|()| Err(Errno::Interrupted.into()))
    })
    .await
}

impl Guest {
    /// Waits for something that moves nothing by itself, or for a signal of this thread.
    pub(crate) fn waits<T, F: Future<Output = Result<T, Errno>>>(
        &self, wait: F,
    ) -> impl Future<Output = Result<T, Errno>> + use<T, F> {
        until_signal(self.signals.clone(), wait)
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

    #[test]
    fn what_is_blocked_is_told_later() {
        let signals = Signals::default();
        let mut context = Context::from_waker(std::task::Waker::noop());
        signals.block(true);
        assert!(
            signals.raise(15)
                && !signals.is_any()
                && signals.next().is_none()
                && signals.poll_arrived(&mut context).is_pending()
        );
        signals.block(false);
        assert!(signals.is_any() && signals.poll_arrived(&mut context).is_ready());
        assert_eq!(signals.next(), Some(15));
    }

    #[test]
    fn those_of_the_process_go_on_to_another_thread() {
        let signals = Signals::default();
        assert!(signals.raise(10) && signals.raise_for_process(2) && signals.raise_for_process(15));
        assert_eq!(signals.next(), Some(2));
        assert_eq!(signals.take_for_process().collect::<Vec<_>>(), [15]);
        assert_eq!(signals.take_for_process().next(), None);
    }
}
