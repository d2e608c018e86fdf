//! The memory that a guest's hostcalls mean: its own, or one that it shares with its other threads.

use std::cell::UnsafeCell;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use wasmtime::{Engine, MemoryType, SharedMemory};
use wiggle::{GuestError, GuestMemory};

use super::Memory;

/// Of an address at which threads wait.
const ALIGNMENT: usize = 4;

/// Bytes of a page.
const PAGE: u64 = 1 << 16;

/// Bytes that are copied at a time from one memory to another.
const COPIED: usize = 1 << 16;

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

    /// Makes a shared memory larger; where the new part begins, unless there is no room for it.
    pub(crate) fn grow(&self, pages: u64) -> Option<u32> {
        let Self::Shared(memory) = self else { return None };
        let before = memory.grow(pages).ok()?;
        u32::try_from(before * PAGE).ok()
    }

    /// Another shared memory of so many bytes, with nothing in it, which may grow as far as this one, but to so many at
    /// most.
    pub(crate) fn like(&self, engine: &Engine, bytes: RangeInclusive<usize>) -> wasmtime::Result<Self> {
        let Self::Shared(memory) = self else { return Err(wasmtime::Error::msg("it shares no memory")) };
        let [least, most] = [*bytes.start(), *bytes.end()].map(|bytes| bytes as u64 / PAGE);
        // Each that is shared has a most.
        let most = memory.ty().maximum().unwrap_or(least).min(most).max(least);
        let kind = MemoryType::shared(u32::try_from(least)?, u32::try_from(most)?);
        Ok(Self::Shared(Arc::new(SharedMemory::new(engine, kind)?)))
    }

    /// Copies what is in this part of a shared memory to another. What is zero in both stays untouched.
    pub(crate) fn copy_to(&self, other: &Self, part: Range<usize>) -> Result<(), GuestError> {
        let (Some(from), Some(to)) = (self.cells(), other.cells()) else { return Ok(()) };
        let (from, mut to) = (Memory::from(GuestMemory::Shared(from)), Memory::from(GuestMemory::Shared(to)));
        for at in part.step_by(COPIED) {
            let (at, length) = (u32::try_from(at)?, u32::try_from(COPIED)?);
            let bytes = from.bytes(at, length)?;
            let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
            if !is_zero(&bytes) || !is_zero(&to.bytes(at, length)?) {
                to.write_bytes(at, &bytes)?;
            }
        }
        Ok(())
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
