//! Who waits for a socket of the network, and until when.

use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, sleep_until};

use super::socket::{Id, Waiter};
use super::world::World;
use crate::net::{Interest, Ready};

/// Waiters on one direction of a socket, the gone ones with the others: a server has one to a few.
const WAITERS: usize = 256;

impl World {
    pub(super) fn poll_ready(&mut self, id: Id, context: &mut Context<'_>, interest: Interest) -> Poll<Ready> {
        loop {
            let (room, now) = (self.room(id), self.now);
            let again = match self.socket(id).readiness(interest, room, now) {
                Ok(ready) => return Poll::Ready(ready),
                Err(again) => again,
            };
            if self.wait(id, context, interest, again).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// How often something has come to be read.
    pub(super) fn arrivals(&mut self, id: Id, context: &mut Context<'_>) -> u64 {
        loop {
            let now = self.now;
            let (arrivals, next) = self.socket(id).arrivals(now);
            if self.wait(id, context, Interest::Read, next).is_pending() {
                return arrivals;
            }
        }
    }

    /// Has the task woken when something happens, or at an instant; ready if that has come.
    fn wait(&mut self, id: Id, context: &mut Context<'_>, interest: Interest, until: Option<Instant>) -> Poll<()> {
        let waiter = self.enlist(id, interest, context.waker());
        let Some(at) = until else { return Poll::Pending };
        let alarm = waiter.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        ready!(alarm.as_mut().poll(context));
        self.now = Instant::now();
        Poll::Ready(())
    }

    /// Ready when the peer sends no more.
    pub(super) fn poll_ended(&mut self, id: Id, context: &mut Context<'_>) -> Poll<Ready> {
        match self.poll_ready(id, context, Interest::Read) {
            Poll::Ready(ready) if ready.ended => Poll::Ready(ready),
            _ => {
                self.enlist(id, Interest::Read, context.waker());
                Poll::Pending
            }
        }
    }

    /// The waiter with this waker, found or made.
    fn enlist(&mut self, id: Id, interest: Interest, waker: &Waker) -> &mut Waiter {
        let socket = self.sockets.get_mut(&id).expect("a socket is there until its endpoint is dropped");
        let waiters = &mut socket.waiters[usize::from(interest == Interest::Write)];
        let known = waiters.iter().position(|waiter| waiter.waker.will_wake(waker));
        if known.is_none() && waiters.len() >= WAITERS {
            // Most have gone away without a word; the others come back.
            self.woken.append(waiters);
        }
        let index = known.unwrap_or(waiters.len());
        if known.is_none() {
            waiters.push(Waiter { waker: waker.clone(), alarm: None });
        }
        &mut waiters[index]
    }

    pub(super) fn wake(&mut self, id: Id, interest: Interest) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            self.woken.append(&mut socket.waiters[usize::from(interest == Interest::Write)]);
        }
    }

    pub(super) fn wake_both(&mut self, id: Id) {
        self.wake(id, Interest::Read);
        self.wake(id, Interest::Write);
    }
}
