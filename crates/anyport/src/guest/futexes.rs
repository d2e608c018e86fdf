//! Who waits at which address of a guest's memory: threads that a mutex or a condition holds back.
//!
//! A wake-up is never lost. Whether the value is still the expected one is asked with the table locked, which a
//! wake-up locks too; and one that reaches a waiter just as that gives up goes on to the next.
//! `tests/futexes.rs` goes through the interleavings of this file.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::sync::{Arc, Mutex, MutexGuard};

/// The table of one process.
#[derive(Debug, Default)]
pub(crate) struct Futexes {
    /// An address is here while somebody waits there. In the order in which they came.
    queues: Mutex<HashMap<u32, VecDeque<Arc<Waiter>>>>,
}

#[derive(Debug, Default)]
struct Waiter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    woken: bool,
    waker: Option<Waker>,
}

/// A wait under way, which ends when it is woken.
#[derive(Debug)]
pub(crate) struct Waiting<'f> {
    futexes: &'f Futexes,
    address: u32,
    waiter: Arc<Waiter>,
    /// Its wake-up has been told.
    told: bool,
}

impl Futexes {
    /// Begins to wait at an address, if the value there is still the expected one.
    pub(crate) fn wait<E>(
        &self, address: u32, is_expected: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Option<Waiting<'_>>, E> {
        let mut queues = lock(&self.queues);
        if !is_expected()? {
            return Ok(None);
        }
        let waiter = Arc::<Waiter>::default();
        queues.entry(address).or_default().push_back(Arc::clone(&waiter));
        Ok(Some(Waiting { futexes: self, address, waiter, told: false }))
    }

    /// Wakes those who have waited longest at an address, at most so many; how many it were.
    pub(crate) fn wake(&self, address: u32, most: usize) -> usize {
        let woken: Vec<Arc<Waiter>> = {
            let mut queues = lock(&self.queues);
            let Some(queue) = queues.get_mut(&address) else { return 0 };
            let woken: Vec<_> = queue.drain(..queue.len().min(most)).collect();
            if queue.is_empty() {
                queues.remove(&address);
            }
            // Before the lock is free: who gives up now finds that it was woken.
            for waiter in &woken {
                lock(&waiter.0).woken = true;
            }
            woken
        };
        for waiter in &woken {
            let waker = lock(&waiter.0).waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        woken.len()
    }
}

impl Future for Waiting<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let woken = {
            let mut state = lock(&self.waiter.0);
            if !state.woken {
                state.waker = Some(context.waker().clone());
            }
            state.woken
        };
        self.told |= woken;
        if woken { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let passes_on = {
            let mut queues = lock(&self.futexes.queues);
            if let Some(queue) = queues.get_mut(&self.address) {
                queue.retain(|other| !Arc::ptr_eq(other, &self.waiter));
                if queue.is_empty() {
                    queues.remove(&self.address);
                }
            }
            lock(&self.waiter.0).woken
        };
        if passes_on {
            self.futexes.wake(self.address, 1);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while held")
}
