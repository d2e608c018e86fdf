//! The memory that a guest's hostcalls mean: its own, or one that it shares with its other threads.

use std::cell::UnsafeCell;
use std::sync::Arc;

use wasmtime::SharedMemory;

/// Of an address at which threads wait.
const ALIGNMENT: usize = 4;

/// Bytes of a page.
const PAGE: u64 = 1 << 16;

/// Given to a guest once, when it is instantiated, and never looked up by a hostcall.
#[derive(Clone, Default)]
pub(crate) enum Given {
    /// None yet, or it has none: every pointer is outside of it.
    #[default]
    None,
    Own(wasmtime::Memory),
    Shared(Arc<SharedMemory>),
}

impl Given {
    /// The same for another thread, counted apart: each hostcall counts its holders, and threads of one count would
    /// wait for each other.
    pub(crate) fn apart(&self) -> Self {
        match self {
            Self::Shared(memory) => Self::Shared(Arc::new(memory.as_ref().clone())),
            other => other.clone(),
        }
    }

    /// The bytes of a shared memory, which other threads change at any time.
    pub(crate) fn cells(&self) -> Option<&[UnsafeCell<u8>]> {
        match self {
            Self::Shared(memory) => Some(memory.data()),
            Self::None | Self::Own(_) => None,
        }
    }

    /// Bytes of a shared memory.
    pub(crate) fn shared_bytes(&self) -> Option<usize> {
        match self {
            Self::Shared(memory) => Some(memory.data_size()),
            Self::None | Self::Own(_) => None,
        }
    }

    /// Wakes all who wait at an address of a shared memory, by an instruction, while this is so.
    pub(crate) fn notify_all(&self, mut goes_on: impl FnMut() -> bool) {
        let Self::Shared(memory) = self else { return };
        for address in (0..memory.data_size() as u64).step_by(ALIGNMENT) {
            if address % PAGE == 0 && !goes_on() {
                return;
            }
            // Each of them is within the memory, and aligned.
            let _ = memory.atomic_notify(address, u32::MAX);
        }
    }
}
