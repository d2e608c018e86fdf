//! Waiting: for one descriptor, for any of many, for a deadline. The only place where a guest waits.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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

/// Something that can become ready.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Socket(Arc<Endpoint>),
    Stdio(Arc<Stdio>),
    /// Files never block.
    File,
    /// Never becomes ready: a listener that has no room for another connection.
    Never,
}

/// One thing waited for, and what came of it.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) source: Source,
    pub(crate) interest: Interest,
    pub(crate) outcome: Option<Result<Ready, Errno>>,
}

impl Watch {
    pub(crate) fn new(source: Source, interest: Interest) -> Self {
        Self { source, interest, outcome: None }
    }

    /// Polls once; true when there is an outcome.
    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        let polled = match &self.source {
            Source::Socket(endpoint) => endpoint.poll_ready(context, self.interest),
            Source::Stdio(stdio) => stdio.poll_ready(context, self.interest),
            Source::File => Poll::Ready(Ok(Ready::default())),
            Source::Never => Poll::Pending,
        };
        if let Poll::Ready(outcome) = polled {
            self.outcome = Some(outcome.map_err(Errno::from));
        }
        self.outcome.is_some()
    }
}

/// Waits until one watch has an outcome or patience ends; every watch that is ready by then has its
/// outcome. What is known to be ready costs no syscall.
pub(crate) async fn any(watches: &mut [Watch], patience: Patience) {
    let mut poll_all = |context: &mut Context<'_>| {
        let mut some = false;
        for watch in watches.iter_mut() {
            some |= watch.poll(context);
        }
        some
    };
    let deadline = match patience {
        Patience::None => {
            poll_fn(|context| Poll::Ready(poll_all(context))).await;
            return;
        }
        Patience::Forever => None,
        Patience::Until(deadline) => Some(deadline),
    };
    let ready = poll_fn(|context| if poll_all(context) { Poll::Ready(()) } else { Poll::Pending });
    match deadline {
        None => ready.await,
        Some(deadline) if deadline <= Instant::now() => {
            let mut ready = pin!(ready);
            if !poll_fn(|context| Poll::Ready(ready.as_mut().poll(context).is_ready())).await {
                // Lets the poller look once: a guest may spin on a zero timeout.
                tokio::task::yield_now().await;
                poll_fn(|context| Poll::Ready(ready.as_mut().poll(context).is_ready())).await;
            }
        }
        Some(deadline) => {
            // An error is the end of the time, which is what was asked for.
            let _ = tokio::time::timeout_at(deadline.into(), ready).await;
        }
    }
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
