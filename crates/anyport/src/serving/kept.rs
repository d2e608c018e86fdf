//! Instances of `wasi:http` 0.2 that wait for a request: new ones, and where that was asked for, used ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

use super::Requests;
use crate::guest::Guest;

/// An instance, and its place in the pool.
pub(super) struct Instance {
    pub(super) store: Store<Guest>,
    pub(super) proxy: Proxy,
    /// Requests that it has answered.
    pub(super) used: u32,
    /// Behind the store: its place is free when it is gone.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// The instances of one worker that wait for their next request.
pub(super) struct Kept {
    idle: Mutex<Vec<Instance>>,
    /// A new one is about to be made.
    refills: AtomicBool,
    requests: Arc<Requests>,
}

impl Kept {
    pub(super) fn new(requests: &Arc<Requests>) -> Self {
        Self { idle: Mutex::default(), refills: AtomicBool::new(false), requests: Arc::clone(requests) }
    }

    /// The one that was used last, whose memory is the warmest.
    pub(super) fn take(&self) -> Option<Instance> {
        self.lock().pop()
    }

    /// Gives all of them up.
    pub(super) fn clear(&self) {
        let idle = std::mem::take(&mut *self.lock());
        drop(idle);
    }

    /// Keeps it for the next request, unless one waits already: that one waits for a place in the pool, perhaps at
    /// another worker.
    pub(super) fn put(&self, instance: Instance) {
        if self.requests.waiting() == 0 {
            self.lock().push(instance);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether to make a new one, which nobody does yet.
    pub(super) fn begin_refill(&self) -> bool {
        !self.refills.swap(true, Ordering::Relaxed)
    }

    pub(super) fn end_refill(&self) {
        self.refills.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.idle.lock().expect("no panic while held")
    }
}
