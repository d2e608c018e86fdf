//! What can be seen of a worker's guests while they run, from any thread and whatever they are doing.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use crate::descriptor::Descriptors;
use crate::limits::Grown;

/// What is known of one worker's guests.
#[derive(Debug)]
pub(crate) struct Health {
    /// Of the guest that runs.
    pub(crate) grown: Arc<Grown>,
    /// How often a guest was started again.
    pub(crate) restarts: AtomicU32,
    /// Whether a guest runs now.
    pub(crate) runs: AtomicBool,
    /// Whether there will be no other.
    pub(crate) has_ended: AtomicBool,
    /// Of a service.
    pub(crate) requests: Requests,
    descriptors: Mutex<Weak<Descriptors>>,
    failure: Mutex<Option<(String, Instant)>>,
}

/// What a worker's requests have come to.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Those that were let in.
    pub(crate) begun: AtomicU64,
    /// Those of them whose answers are over.
    pub(crate) ended: AtomicU64,
    /// Those that there was no room for.
    pub(crate) refused: AtomicU64,
    /// Those that a guest, or a server behind it, has failed or was late for.
    pub(crate) failed: AtomicU64,
}

impl Health {
    /// No guest yet; each may have so many bytes of memory.
    pub(crate) fn new(memory_most: usize) -> Self {
        Self {
            grown: Arc::new(Grown::new(memory_most)),
            restarts: AtomicU32::new(0),
            runs: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            requests: Requests::default(),
            descriptors: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// A guest begins to live.
    pub(crate) fn begin(&self, descriptors: &Arc<Descriptors>) {
        *self.descriptors.lock().expect("no panic while held") = Arc::downgrade(descriptors);
        self.runs.store(true, Ordering::Relaxed);
    }

    /// It has ended, and failed if there is a reason.
    pub(crate) fn end(&self, failure: Option<String>) {
        self.runs.store(false, Ordering::Relaxed);
        self.grown.begin();
        if let Some(reason) = failure {
            *self.failure.lock().expect("no panic while held") = Some((reason, Instant::now()));
        }
    }

    /// Open descriptors of the guest that runs.
    pub(crate) fn descriptors(&self) -> usize {
        let descriptors = self.descriptors.lock().expect("no panic while held").upgrade();
        descriptors.map_or(0, |descriptors| descriptors.open())
    }

    /// Why the last guest that failed did, and how many seconds ago.
    pub(crate) fn failure(&self) -> Option<(String, u64)> {
        let failure = self.failure.lock().expect("no panic while held");
        failure.as_ref().map(|(reason, at)| (reason.clone(), at.elapsed().as_secs()))
    }
}
