//! A descriptor that tokio's poller watches, with those who wait for it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::unix::AsyncFd;

use super::Interest;
use super::news::News;
use super::poller::{Guard, register};
use super::waiters::Shared;

/// What the poller knows of a descriptor, and who waits for its directions.
#[derive(Debug)]
pub(crate) struct Registered {
    poller: AsyncFd<Arc<OwnedFd>>,
    waiting: [Shared; 2],
    pub(crate) news: News,
}

impl Registered {
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if it is registered, [`io::ErrorKind::PermissionDenied`] if it never blocks, as
    /// a regular file, or what the machine is short of.
    pub(crate) fn new(fd: &Arc<OwnedFd>) -> io::Result<Self> {
        Ok(Self { poller: register(fd)?, waiting: Default::default(), news: News::default() })
    }

    /// Whether the direction is known to be ready; else the task is woken when it is.
    pub(crate) fn poll(&self, context: &mut Context<'_>, interest: Interest) -> Poll<io::Result<Guard<'_>>> {
        self.waiting[interest as usize].poll(context, |context| self.ask(context, interest))
    }

    /// The same for who does not wait: those who do stay.
    pub(crate) fn look(&self, interest: Interest) -> Poll<io::Result<Guard<'_>>> {
        self.waiting[interest as usize].ask(|context| self.ask(context, interest))
    }

    /// The same as [`Registered::poll`] where what came may have been forgotten for the sake of edges: then it is
    /// ready without a guard.
    pub(crate) fn poll_unread(
        &self, context: &mut Context<'_>, interest: Interest,
    ) -> Poll<io::Result<Option<Guard<'_>>>> {
        match self.poll(context, interest) {
            Poll::Pending if interest == Interest::Read && self.news.is_unread() => Poll::Ready(Ok(None)),
            polled => polled.map_ok(Some),
        }
    }

    /// How often something has come to be read. Has a task woken when more does.
    pub(crate) fn arrivals(&self, context: &mut Context<'_>) -> u64 {
        self.news.count(|| self.poll(context, Interest::Read))
    }

    /// Forgets one who waits no longer.
    pub(crate) fn forget(&self, waker: &Waker) {
        self.waiting.iter().for_each(|waiting| waiting.forget(waker));
    }

    fn ask(&self, context: &mut Context<'_>, interest: Interest) -> Poll<io::Result<Guard<'_>>> {
        match interest {
            Interest::Read => self.poller.poll_read_ready(context),
            Interest::Write => self.poller.poll_write_ready(context),
        }
    }
}
