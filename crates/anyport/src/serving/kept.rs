//! Instances of `wasi:http` 0.2 that answer one request after the other, where that was asked for.

use std::sync::Mutex;

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

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
#[derive(Default)]
pub(super) struct Kept {
    idle: Mutex<Vec<Instance>>,
}

impl Kept {
    /// The one that was used last, whose memory is the warmest.
    pub(super) fn take(&self) -> Option<Instance> {
        self.idle.lock().expect("no panic while held").pop()
    }

    pub(super) fn put(&self, instance: Instance) {
        self.idle.lock().expect("no panic while held").push(instance);
    }
}
