//! Who waits for one direction of a descriptor: tokio's poller keeps one waker for each, and the threads of a
//! guest may wait for the same.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use smallvec::SmallVec;

/// Those who wait. Who is woken is in the list no more.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<List>);

/// Mostly it is one thread.
type List = SmallVec<[Waker; 2]>;

/// What is given to the poller in place of whoever waits.
#[derive(Debug)]
pub(crate) struct Shared {
    waiters: Arc<Waiters>,
    waker: Waker,
}

/// Who wants to know of the next time that a guest uses one direction of a descriptor: what is left then is news to
/// who is told of edges, where nobody is told what has come meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    is_watched: AtomicBool,
    /// How often it was used after somebody had begun to watch.
    count: AtomicU64,
    watchers: Waiters,
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
        let mut waiting = self.lock();
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Takes one out who waits no longer; false if it was woken meanwhile.
    pub(crate) fn forget(&self, waker: &Waker) -> bool {
        let mut waiting = self.lock();
        let at = waiting.iter().position(|other| other.will_wake(waker));
        // Dropped when the lock is free: it may be the last of what it wakes.
        let forgotten = at.map(|at| waiting.swap_remove(at));
        drop(waiting);
        forgotten.is_some()
    }

    /// Wakes one: the last to come, as the kernel does, whose memory is the warmest.
    pub(crate) fn wake_one(&self) {
        let last = self.lock().pop();
        if let Some(waker) = last {
            waker.wake();
        }
    }

    pub(crate) fn wake_all(&self) {
        // None is called with the lock held: it may come back at once.
        let waiting = std::mem::take(&mut *self.lock());
        waiting.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uses {
    /// Has a task woken by the next use; how often it was used so far. Called before the look whose outcome is told.
    pub(crate) fn watch(&self, waker: &Waker) -> u64 {
        self.watchers.add(waker);
        // A swap here and below: the later of two sees all that came before the earlier. So either the look that
        // follows finds what a use has left, or that use finds who watches.
        self.is_watched.swap(true, Ordering::AcqRel);
        self.count.load(Ordering::Relaxed)
    }

    /// Called after each use.
    pub(crate) fn touch(&self) {
        if self.is_watched.swap(false, Ordering::AcqRel) {
            // Before anybody is woken, who looks at it then.
            self.count.fetch_add(1, Ordering::Relaxed);
            self.watchers.wake_all();
        }
    }

    pub(crate) fn forget(&self, waker: &Waker) {
        self.watchers.forget(waker);
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

    pub(crate) fn forget(&self, waker: &Waker) {
        self.waiters.forget(waker);
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

    #[test]
    fn one_is_woken_and_who_has_left_is_not() {
        let waiters = Waiters::default();
        let counts: [Arc<Count>; 3] = Default::default();
        let wakers = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        wakers.iter().for_each(|waker| waiters.add(waker));
        assert!(waiters.forget(&wakers[2]) && !waiters.forget(&wakers[2]));
        waiters.wake_one();
        assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), [0, 1, 0]);
        assert!(!waiters.forget(&wakers[1]), "it was woken");
    }

    #[test]
    fn a_use_is_counted_where_somebody_watches() {
        let (uses, count) = (Uses::default(), Arc::<Count>::default());
        let waker = Waker::from(Arc::clone(&count));
        uses.touch();
        assert_eq!(uses.watch(&waker), 0);
        uses.touch();
        uses.touch();
        assert_eq!((uses.watch(&waker), count.0.load(Ordering::Relaxed)), (1, 1));
        uses.forget(&waker);
        uses.touch();
        assert_eq!((uses.watch(&waker), count.0.load(Ordering::Relaxed)), (2, 1));
    }
}
