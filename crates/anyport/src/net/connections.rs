//! How many connections a worker's guest holds: for the limit, for the choice of a worker, for draining.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The accepted connections of one worker's guest.
#[derive(Debug)]
pub(crate) struct Connections {
    open: AtomicUsize,
    most: usize,
    /// Told each time that one has ended, of any worker.
    ended: Arc<Notify>,
}

/// Counts a connection for as long as it is open.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Connections>);

impl Connections {
    /// None yet, and `most` at a time.
    pub(crate) fn new(most: usize, ended: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), most, ended })
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Counts one more, even above the most: whoever asks for it looks first.
    pub(crate) fn permit(self: &Arc<Self>) -> Permit {
        self.open.fetch_add(1, Ordering::AcqRel);
        Permit(Arc::clone(self))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}
