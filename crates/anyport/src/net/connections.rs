//! How many connections there are: for the limit, for the choice of a worker, for draining.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::waiters::Waiters;
use crate::spelling::option;

/// The connections of a server, whoever has them.
#[derive(Debug, Default)]
pub(crate) struct All {
    count: AtomicUsize,
    /// Told when one has ended.
    pub(crate) ended: Notify,
}

/// The connections of one worker, or those that no worker has been given yet.
#[derive(Debug)]
pub(crate) struct Connections {
    /// Those that its guest has accepted, and those that wait for that.
    held: AtomicUsize,
    /// Those that its guest has accepted.
    open: AtomicUsize,
    most: usize,
    /// Who waits until its guest may accept another.
    waiting: Waiters,
    /// Held while one of its guest's threads looks for room and takes it.
    taking: Mutex<()>,
    all: Arc<All>,
}

/// Counts a connection, from before it is taken until it has ended.
#[derive(Debug)]
pub(crate) struct Permit {
    connections: Arc<Connections>,
    accepted: bool,
}

impl All {
    /// Waits until there is none.
    pub(crate) async fn gone(&self) {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Connections {
    /// None yet, and `most` at a time.
    pub(crate) fn new(most: usize, all: &Arc<All>) -> Arc<Self> {
        let (held, open) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { held, open, most, waiting: Waiters::default(), taking: Mutex::default(), all: Arc::clone(all) })
    }

    /// Those that its guest has accepted.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// With those that wait to be accepted.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.held() < self.most
    }

    /// Whether its guest holds more than nine tenths of what it may.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.open() > self.most - self.most.div_ceil(10)
    }

    /// Waits until its guest may accept another.
    pub(crate) async fn room(&self) {
        poll_fn(|context| self.poll_room(context)).await;
    }

    /// Ready when its guest may accept another.
    pub(crate) fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        if !self.may_open() {
            self.waiting.add(context.waker());
        }
        // Again: what has ended in between has woken the others alone.
        if self.is_crowded() { Poll::Pending } else { Poll::Ready(()) }
    }

    pub(crate) fn forget(&self, waker: &Waker) {
        self.waiting.forget(waker);
    }

    /// Whether its guest may accept another.
    pub(crate) fn may_open(&self) -> bool {
        self.open() < self.most
    }

    /// Whether its guest holds as many as it may, which the person is told then.
    pub(crate) fn is_crowded(&self) -> bool {
        let (crowded, most) = (!self.may_open(), self.most);
        if crowded {
            tracing::debug!("the guest holds {most} connections, its most; add `{}`", option("max-connections", "N"));
        }
        crowded
    }

    /// Held from the look whether there is room until a connection is accepted: two threads would take the last place.
    pub(crate) fn take(&self) -> MutexGuard<'_, ()> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more, even above the most: whoever asks for it looks first.
    pub(crate) fn permit(self: &Arc<Self>) -> Permit {
        // In one order with the closing of ports, of which it is the other half.
        self.all.count.fetch_add(1, Ordering::SeqCst);
        self.held.fetch_add(1, Ordering::AcqRel);
        Permit { connections: Arc::clone(self), accepted: false }
    }
}

impl Permit {
    /// The guest has it from now on.
    pub(crate) fn accept(&mut self) {
        if !std::mem::replace(&mut self.accepted, true) {
            self.connections.open.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// It is for another worker. It counts all the while: a server that drains would miss it otherwise.
    pub(crate) fn pass_to(&mut self, other: &Arc<Connections>) {
        other.held.fetch_add(1, Ordering::AcqRel);
        self.connections.held.fetch_sub(1, Ordering::AcqRel);
        self.connections = Arc::clone(other);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Connections { held, open, waiting, all, .. } = &*self.connections;
        if self.accepted {
            open.fetch_sub(1, Ordering::AcqRel);
            waiting.wake_all();
        }
        held.fetch_sub(1, Ordering::AcqRel);
        all.count.fetch_sub(1, Ordering::AcqRel);
        all.ended.notify_waiters();
    }
}
