//! A guest's files, which its threads share.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;

/// What wasmtime-wasi has for a guest: files, clocks, the resources of a component.
pub(crate) enum Files {
    Own(Box<WasiP1Ctx>),
    /// One call after the other, of whichever thread.
    Shared(Arc<Mutex<WasiP1Ctx>>),
}

/// The same, for one call.
pub(crate) enum Held<'f> {
    Own(&'f mut WasiP1Ctx),
    Shared(MutexGuard<'f, WasiP1Ctx>),
}

impl Files {
    pub(crate) fn new(files: WasiP1Ctx) -> Self {
        Self::Own(Box::new(files))
    }

    /// Those of a guest that has no threads: a component's.
    pub(crate) fn own(&mut self) -> &mut WasiP1Ctx {
        match self {
            Self::Own(files) => files,
            Self::Shared(_) => unreachable!("no component has threads"),
        }
    }

    /// Lets threads share them.
    pub(crate) fn shared(self) -> Self {
        match self {
            Self::Own(files) => Self::Shared(Arc::new(Mutex::new(*files))),
            shared @ Self::Shared(_) => shared,
        }
    }

    /// The same for another thread; none if they are not shared.
    pub(crate) fn share(&self) -> Option<Self> {
        match self {
            Self::Own(_) => None,
            Self::Shared(files) => Some(Self::Shared(Arc::clone(files))),
        }
    }

    /// For one call, which may allocate so many bytes.
    pub(crate) async fn hold(&mut self, bytes: usize) -> Held<'_> {
        let mut held = match self {
            Self::Own(files) => Held::Own(files),
            Self::Shared(files) => Held::Shared(files.lock().await),
        };
        // It starts at nothing, and is not refilled by itself.
        held.set_hostcall_fuel(bytes);
        held
    }
}

impl Deref for Held<'_> {
    type Target = WasiP1Ctx;

    fn deref(&self) -> &WasiP1Ctx {
        match self {
            Self::Own(files) => files,
            Self::Shared(files) => files,
        }
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut WasiP1Ctx {
        match self {
            Self::Own(files) => files,
            Self::Shared(files) => files,
        }
    }
}
