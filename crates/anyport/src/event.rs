//! An eventfd: a number that wakes whoever waits for it, without a descriptor of the host's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::errno::Errno;
use crate::net::Interest;
use crate::net::waiters::Waiters;

#[derive(Debug)]
pub(crate) struct Event {
    state: Mutex<State>,
    /// A read takes one, and not all.
    semaphore: bool,
    nonblocking: AtomicBool,
    /// Those who wait to read, and to write.
    waiters: [Waiters; 2],
}

#[derive(Debug)]
struct State {
    count: u64,
    /// Counts the writes, which are news to who is told of edges and reads, and the reads, to who writes.
    changes: [u64; 2],
}

/// What the number may be at most, as in eventfd(2).
const MOST: u64 = u64::MAX - 1;

impl Event {
    pub(crate) fn new(count: u64, semaphore: bool, nonblocking: bool) -> Self {
        Self {
            state: Mutex::new(State { count, changes: [0; 2] }),
            semaphore,
            nonblocking: AtomicBool::new(nonblocking),
            waiters: Default::default(),
        }
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Relaxed)
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    /// Takes the number, or one of it; [`Errno::Again`] says wait.
    pub(crate) fn read(&self) -> Result<u64, Errno> {
        let taken = {
            let mut state = self.lock();
            if state.count == 0 {
                return Err(Errno::Again);
            }
            let taken = if self.semaphore { 1 } else { state.count };
            state.count -= taken;
            state.changes[Interest::Write as usize] += 1;
            taken
        };
        self.waiting(Interest::Write).wake_all();
        Ok(taken)
    }

    /// Adds to the number; [`Errno::Again`] says wait.
    pub(crate) fn write(&self, more: u64) -> Result<(), Errno> {
        {
            let mut state = self.lock();
            let sum = state.count.checked_add(more).filter(|sum| *sum <= MOST);
            if more > MOST {
                return Err(Errno::Invalid);
            }
            state.count = sum.ok_or(Errno::Again)?;
            state.changes[Interest::Read as usize] += 1;
        }
        self.waiting(Interest::Read).wake_all();
        Ok(())
    }

    /// How often something came about that is news of a direction.
    pub(crate) fn changes(&self, interest: Interest) -> u64 {
        self.lock().changes[interest as usize]
    }

    /// Forgets one who waits no longer.
    pub(crate) fn forget(&self, waker: &Waker) {
        for waiters in &self.waiters {
            waiters.forget(waker);
        }
    }

    /// Whether the direction is ready. Whoever asks is woken by the next change, ready or not: that is news too.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<()> {
        let state = self.lock();
        // With the lock held: a change from now on wakes.
        self.waiting(interest).add(context.waker());
        let ready = match interest {
            Interest::Read => state.count > 0,
            Interest::Write => state.count < MOST,
        };
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    fn waiting(&self, interest: Interest) -> &Waiters {
        &self.waiters[interest as usize]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ready(event: &Event, interest: Interest) -> bool {
        event.poll_ready(&mut Context::from_waker(Waker::noop()), interest).is_ready()
    }

    #[test]
    fn it_counts_as_eventfd_does() {
        let event = Event::new(0, false, true);
        assert_eq!(event.read(), Err(Errno::Again));
        assert!(!is_ready(&event, Interest::Read) && is_ready(&event, Interest::Write));
        assert_eq!([event.write(1), event.write(2)], [Ok(()); 2]);
        assert!(is_ready(&event, Interest::Read));
        assert_eq!((event.read(), event.read()), (Ok(3), Err(Errno::Again)));
        assert_eq!((event.write(u64::MAX), event.write(MOST)), (Err(Errno::Invalid), Ok(())));
        assert!(!is_ready(&event, Interest::Write));
        assert_eq!(event.write(1), Err(Errno::Again));
        let semaphore = Event::new(2, true, true);
        assert_eq!([semaphore.read(), semaphore.read(), semaphore.read()], [Ok(1), Ok(1), Err(Errno::Again)]);
    }
}
