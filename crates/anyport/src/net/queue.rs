//! Connections that wait for a guest to accept them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use super::Endpoint;
use super::connections::{Connections, Permit};
use super::waiters::Waiters;

/// A connection that no guest has accepted yet.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) stream: Endpoint,
    pub(crate) peer: SocketAddr,
    pub(crate) permit: Permit,
    /// It comes from outside, as it is: what the front does with a connection is still to be done.
    pub(crate) is_raw: bool,
}

impl Arrival {
    /// The next one at a listener. Its permit is older than it, so that a server that drains does not miss it.
    pub(crate) fn accept(listener: &Endpoint, permit: Permit) -> io::Result<Self> {
        let (stream, peer) = listener.accept()?;
        Ok(Self { stream, peer, permit, is_raw: true })
    }
}

/// Connections for one worker, or for whichever will have room.
#[derive(Debug)]
pub(crate) struct Queue {
    connections: Arc<Connections>,
    state: Mutex<State>,
    /// The guest's threads that wait for a connection.
    waiters: Waiters,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arrival>,
    /// Whoever took them has ended for good.
    closed: bool,
}

impl Queue {
    pub(crate) fn new(connections: &Arc<Connections>) -> Self {
        Self { connections: Arc::clone(connections), state: Mutex::default(), waiters: Waiters::default() }
    }

    /// Counts a connection that is about to be taken.
    pub(crate) fn permit(&self) -> Permit {
        self.connections.permit()
    }

    /// Adds a connection; gives it back if nobody will take it.
    pub(crate) fn push(&self, mut arrival: Arrival) -> Result<(), Arrival> {
        {
            let mut state = self.lock();
            if state.closed {
                return Err(arrival);
            }
            arrival.permit.pass_to(&self.connections);
            state.waiting.push_back(arrival);
        }
        self.waiters.wake_all();
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<Arrival> {
        self.lock().waiting.pop_front()
    }

    /// Takes all that wait.
    pub(crate) fn take(&self) -> VecDeque<Arrival> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Takes no more, and ends those that wait.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        drop(self.take());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ready when the guest may have another connection.
    pub(crate) fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        self.connections.poll_room(context)
    }

    /// Forgets one who waits no longer.
    pub(crate) fn forget(&self, waker: &Waker) {
        self.waiters.forget(waker);
        self.connections.forget(waker);
    }

    pub(crate) fn poll_waiting(&self, context: &mut Context<'_>) -> Poll<()> {
        let state = self.lock();
        if !state.waiting.is_empty() {
            return Poll::Ready(());
        }
        // With the lock held: what is pushed from now on wakes it.
        self.waiters.add(context.waker());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}
