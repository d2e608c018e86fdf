//! Waiting: for one descriptor, for any of many, for a deadline.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::descriptor::Descriptor;
use crate::errno::Errno;
use crate::net::{Endpoint, Interest, Ready};
use crate::stdio::Stdio;

/// How long to wait for what is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Forever,
    Until(Instant),
    /// Not at all, and no need to look again: there is something to tell already.
    None,
}

/// One thing waited for, and what came of it.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) descriptor: Descriptor,
    pub(crate) interest: Interest,
    /// The guest was told of this readiness already and did not use it.
    pub(crate) stale: bool,
    pub(crate) outcome: Option<Result<Ready, Errno>>,
}

impl Watch {
    pub(crate) fn new(descriptor: Descriptor, interest: Interest) -> Self {
        Self { descriptor, interest, stale: false, outcome: None }
    }

    /// Polls once.
    fn poll(&mut self, context: &mut Context<'_>) -> News {
        match self.descriptor.poll_ready(context, self.interest) {
            Poll::Pending => News::None,
            Poll::Ready(outcome) => {
                // A hang-up is news, however often writability was told.
                let stale = self.stale && outcome.as_ref().is_ok_and(|ready| !ready.hangup);
                self.outcome = Some(outcome);
                if stale { News::Stale } else { News::Fresh }
            }
        }
    }
}

/// What a look at the watches brought, in rising order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    None,
    Stale,
    Fresh,
}

/// Keeps a guest that polls in a loop from burning its core or starving its sockets.
///
/// mio on preview1 subscribes to writability for as long as a connection is open, and tokio never
/// uses it up: on a level-triggered `poll_oneoff` every server built so spins while a client is
/// connected. So writability that was told and not used is told again only after a pause, which anything new
/// ends at once.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    /// Pauses in a row that nothing new has ended.
    pauses: u32,
    /// Answers in a row for which the poller was not asked.
    unasked: u32,
    /// It is of a thread that may be gone before what it waited for.
    forgets: bool,
}

/// The first pause, and how often it may double: 1 to 64 ms. A guest that depends on being told
/// the same again gets it; more than that would be felt.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_DOUBLINGS: u32 = 6;

/// Answers from known readiness after which the poller is asked all the same: one connection that
/// always has data must not hide the others.
const UNASKED_MOST: u32 = 16;

impl Pacing {
    /// That of a thread beside the first.
    pub(crate) fn of_another() -> Self {
        Self { forgets: true, ..Self::default() }
    }

    /// Whether the poller has to be asked before what is known to be ready is told again.
    pub(crate) fn is_owed_a_look(&self) -> bool {
        self.unasked >= UNASKED_MOST
    }

    /// Something was told that was known to be ready.
    pub(crate) fn unasked_one(&mut self) {
        self.unasked = if self.is_owed_a_look() { 1 } else { self.unasked + 1 };
    }

    /// The poller is asked.
    pub(crate) fn asked(&mut self) {
        self.unasked = 0;
    }

    /// Waits until one watch has news or patience ends; every watch that is ready by then has its
    /// outcome. What is known to be ready costs no syscall.
    pub(crate) async fn any(&mut self, watches: &mut [Watch], patience: Patience) {
        if patience == Patience::None {
            look(watches).await;
            return;
        }
        if self.unasked >= UNASKED_MOST {
            self.unasked = 0;
            tokio::task::yield_now().await;
        }
        let mut deadline = match patience {
            Patience::Until(deadline) => Some(deadline),
            Patience::Forever | Patience::None => None,
        };
        match look(watches).await {
            News::Fresh => {
                self.unasked += 1;
                self.pauses = 0;
                return;
            }
            News::Stale => {
                let pause = Instant::now() + PAUSE * (1 << self.pauses.min(PAUSE_DOUBLINGS));
                deadline = Some(deadline.map_or(pause, |deadline| deadline.min(pause)));
                self.pauses = self.pauses.saturating_add(1);
            }
            News::None => {}
        }
        self.unasked = 0;
        if until(watches, deadline, self.forgets).await {
            self.pauses = 0;
        }
    }
}

/// Polls every watch once, without waiting.
async fn look(watches: &mut [Watch]) -> News {
    poll_fn(|context| Poll::Ready(poll_all(watches, context))).await
}

/// Waits for fresh news; false when the deadline came first.
async fn until(watches: &mut [Watch], deadline: Option<Instant>, forgets: bool) -> bool {
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        // Lets the poller look once: a guest may spin on a zero timeout.
        tokio::task::yield_now().await;
        return look(watches).await == News::Fresh;
    }
    let fresh = Fresh { watches, forgets, waker: None };
    match deadline {
        None => {
            fresh.await;
            true
        }
        Some(deadline) => tokio::time::timeout_at(deadline.into(), fresh).await.is_ok(),
    }
}

/// A wait for fresh news.
struct Fresh<'w> {
    watches: &'w mut [Watch],
    forgets: bool,
    /// Who is to be forgotten in the end.
    waker: Option<Waker>,
}

impl Future for Fresh<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.forgets && self.waker.is_none() {
            self.waker = Some(context.waker().clone());
        }
        match poll_all(self.watches, context) {
            News::Fresh => Poll::Ready(()),
            News::Stale | News::None => Poll::Pending,
        }
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if let Some(waker) = &self.waker {
            self.watches.iter().for_each(|watch| watch.descriptor.forget(waker));
        }
    }
}

fn poll_all(watches: &mut [Watch], context: &mut Context<'_>) -> News {
    watches.iter_mut().map(|watch| watch.poll(context)).max().unwrap_or(News::None)
}

/// Waits for one direction of a socket. [`Errno::Again`] says that the timeout passed, as
/// `SO_RCVTIMEO` does.
pub(crate) async fn ready(endpoint: &Endpoint, interest: Interest, timeout: Option<Duration>) -> Result<(), Errno> {
    let ready = poll_fn(|context| endpoint.poll_ready(context, interest));
    wait(ready, timeout).await
}

/// As [`ready`], for a standard stream.
pub(crate) async fn stdio_ready(stdio: &Stdio, interest: Interest) -> Result<(), Errno> {
    wait(poll_fn(|context| stdio.poll_ready(context, interest)), None).await
}

async fn wait(ready: impl Future<Output = io::Result<Ready>>, timeout: Option<Duration>) -> Result<(), Errno> {
    match timeout {
        None => ready.await.map(drop).map_err(Errno::from),
        Some(timeout) => match tokio::time::timeout(timeout, ready).await {
            Ok(outcome) => outcome.map(drop).map_err(Errno::from),
            Err(_) => Err(Errno::Again),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;
    use crate::event::Event;

    struct Thread;

    impl Wake for Thread {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_thread_that_has_waited_is_kept_by_nothing() {
        let thread = Arc::new(Thread);
        let descriptor = Descriptor::Event(Arc::new(Event::new(0, false, false)));
        let mut watches = [Interest::Read, Interest::Read].map(|interest| Watch::new(descriptor.clone(), interest));
        let mut fresh = Fresh { watches: &mut watches, forgets: true, waker: None };
        let waker = Waker::from(Arc::clone(&thread));
        assert!(Pin::new(&mut fresh).poll(&mut Context::from_waker(&waker)).is_pending());
        drop((fresh, waker));
        assert_eq!(Arc::strong_count(&thread), 1);
    }
}
