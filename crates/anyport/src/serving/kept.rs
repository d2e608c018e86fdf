//! Instances of `wasi:http` 0.2 that answer one request after the other, where that was asked for.

use std::sync::{Arc, Mutex};

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
    requests: Arc<Requests>,
}

impl Kept {
    pub(super) fn new(requests: &Arc<Requests>) -> Self {
        Self { idle: Mutex::default(), requests: Arc::clone(requests) }
    }

    /// The one that was used last, whose memory is the warmest.
    pub(super) fn take(&self) -> Option<Instance> {
        self.idle.lock().expect("no panic while held").pop()
    }

    /// Gives all of them up.
    pub(super) fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().expect("no panic while held"));
        drop(idle);
    }

    /// Keeps it for the next request, unless one waits already: that one waits for a place in the pool, perhaps at
    /// another worker.
    pub(super) fn put(&self, instance: Instance) {
        if !self.requests.are_waiting() {
            self.idle.lock().expect("no panic while held").push(instance);
        }
    }
}
