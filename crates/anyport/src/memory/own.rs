//! Memory of the host's own, for one call of wasmtime-wasi that is not to read or write the guest's.

use wiggle::GuestMemory;

use super::Memory;

/// Aligned as a guest's memory is.
pub(crate) struct Own {
    bytes: Vec<u8>,
    /// Bytes in front that are not aligned.
    skipped: usize,
}

/// What the largest number of an interface is aligned to.
const ALIGNMENT: usize = 8;

impl Own {
    /// So many zeros.
    pub(crate) fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT];
        let skipped = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, skipped }
    }

    /// As a call takes it, with pointers that count from its first byte.
    pub(crate) fn memory(&mut self) -> Memory<'_> {
        GuestMemory::Unshared(&mut self.bytes[self.skipped..]).into()
    }
}
