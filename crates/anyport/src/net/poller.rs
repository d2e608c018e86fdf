//! Registration with tokio's poller.
//!
//! A module of its own since registering is unsafe: the poller keeps the number of a descriptor.
#![allow(unsafe_code, reason = "the descriptor must stay open while it is registered; the type sees to that")]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// What the poller knows of a direction, until it is made to forget that.
pub(super) type Guard<'p> = AsyncFdReadyGuard<'p, Arc<OwnedFd>>;

/// Registers for reading and writing.
pub(super) fn register(fd: &Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an `Arc<OwnedFd>` is one open descriptor from now until it is dropped, which the
    // `AsyncFd` that holds it does after it has deregistered.
    let registered = unsafe { AsyncFd::register(Arc::clone(fd)) };
    registered.map_err(Into::into)
}
