//! Who waits for one direction of a descriptor: tokio's poller keeps one waker for each, and the threads of a
//! guest may wait for the same.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Those who wait, all of whom are woken at once.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Vec<Waker>>);

/// What is given to the poller in place of whoever waits.
#[derive(Debug)]
pub(crate) struct Shared {
    waiters: Arc<Waiters>,
    waker: Waker,
}

impl Default for Shared {
    fn default() -> Self {
        let waiters = Arc::<Waiters>::default();
        Self { waker: Waker::from(Arc::clone(&waiters)), waiters }
    }
}

impl Waiters {
    /// Adds one who waits, once.
    pub(crate) fn add(&self, waker: &Waker) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Wakes all but one, who stays.
    pub(crate) fn wake_but(&self, waker: &Waker) {
        let mut others = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(at) = others.iter().position(|other| other.will_wake(waker)) {
            others.swap_remove(at);
            self.add(waker);
        }
        others.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn wake_all(&self) {
        // None is called with the lock held: it may come back at once.
        let waiting = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

impl Shared {
    /// Asks, and has everybody woken when the answer changes that has waited since the last time.
    pub(crate) fn ask<R>(&self, ask: impl FnOnce(&mut Context<'_>) -> R) -> R {
        ask(&mut Context::from_waker(&self.waker))
    }

    /// The same for one who waits if there is nothing yet.
    pub(crate) fn poll<R>(
        &self, context: &mut Context<'_>, mut ask: impl FnMut(&mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        if let Poll::Ready(ready) = self.ask(&mut ask) {
            return Poll::Ready(ready);
        }
        self.waiters.add(context.waker());
        // What came in between has woken the others alone.
        self.ask(&mut ask)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_who_wait_are_woken_once() {
        let shared = Shared::default();
        let counts: Vec<Arc<Count>> = (0..3).map(|_| Arc::default()).collect();
        let mut kept = None;
        for _ in 0..2 {
            for count in &counts {
                let waker = Waker::from(Arc::clone(count));
                let asked = shared.poll::<()>(&mut Context::from_waker(&waker), |context| {
                    kept = Some(context.waker().clone());
                    Poll::Pending
                });
                assert!(asked.is_pending());
            }
        }
        kept.expect("it was asked").wake();
        shared.waker.wake_by_ref();
        assert!(counts.iter().all(|count| count.0.load(Ordering::Relaxed) == 1));
    }
}
