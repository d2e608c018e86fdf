//! How many connections there are: for the limit, for the choice of a worker, for draining.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

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
        Arc::new(Self { held: AtomicUsize::new(0), open: AtomicUsize::new(0), most, all: Arc::clone(all) })
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

    /// Whether its guest may accept another.
    pub(crate) fn may_open(&self) -> bool {
        self.open() < self.most
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
        let Connections { held, open, all, .. } = &*self.connections;
        if self.accepted {
            open.fetch_sub(1, Ordering::AcqRel);
        }
        held.fetch_sub(1, Ordering::AcqRel);
        all.count.fetch_sub(1, Ordering::AcqRel);
        all.ended.notify_waiters();
    }
}
