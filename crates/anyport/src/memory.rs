//! Guest memory: checked reads and writes, and buffers for the socket calls.
//!
//! Owns how pointers of a guest become Rust values. All of it goes through wiggle's checked types,
//! which know shared memories too; there is no `unsafe` of ours.

mod given;
mod own;

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};

use smallvec::SmallVec;
use wiggle::{GuestError, GuestMemory, GuestPtr, GuestType, Pointee, Region};

pub(crate) use given::Given;
pub(crate) use own::Own;

use crate::errno::Errno;
use crate::limits::Limits;

/// Why a verb did not do what was asked: an errno for the guest, or memory it does not have.
pub(crate) enum Failure {
    Errno(Errno),
    Memory(GuestError),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Self::Memory(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Errno(error.into())
    }
}

/// A guest's linear memory for the time of one hostcall.
pub(crate) struct Memory<'a> {
    inner: GuestMemory<'a>,
}

/// A buffer in guest memory: `iovec` and `ciovec` of preview1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub(crate) pointer: u32,
    pub(crate) length: u32,
}

/// The buffers of one call, those that are not empty. Guests pass one or two; hyper's vectored
/// writes a few more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buffers(SmallVec<[Buffer; 8]>);

/// The length of a buffer that was cut: where it is, and what it was.
pub(crate) struct Cut {
    at: u32,
    length: u32,
}

/// Bytes of an `iovec` in guest memory.
const IOVEC_BYTES: u32 = 8;

impl Buffers {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn total(&self) -> usize {
        self.0.iter().map(|buffer| buffer.length as usize).sum()
    }

    /// Takes `bytes` off the front; true when nothing is left.
    pub(crate) fn advance(&mut self, mut bytes: usize) -> bool {
        let mut done = 0;
        for buffer in &mut self.0 {
            let taken = bytes.min(buffer.length as usize);
            bytes -= taken;
            let taken = u32::try_from(taken).expect("at most a u32 length");
            buffer.pointer += taken;
            buffer.length -= taken;
            if buffer.length > 0 {
                break;
            }
            done += 1;
        }
        self.0.drain(..done);
        self.0.is_empty()
    }
}

impl<'a> From<GuestMemory<'a>> for Memory<'a> {
    fn from(inner: GuestMemory<'a>) -> Self {
        Self { inner }
    }
}

impl<'a> Memory<'a> {
    /// The same memory as wasmtime-wasi's functions take it.
    pub(crate) fn wiggle(&mut self) -> &mut GuestMemory<'a> {
        &mut self.inner
    }

    pub(crate) fn read<T: GuestType + Pointee<Pointer = u32>>(&self, pointer: u32) -> Result<T, GuestError> {
        self.inner.read(GuestPtr::<T>::new(pointer))
    }

    pub(crate) fn write<T: GuestType + Pointee<Pointer = u32>>(
        &mut self, pointer: u32, value: T,
    ) -> Result<(), GuestError> {
        self.inner.write(GuestPtr::<T>::new(pointer), value)
    }

    /// The bytes at `pointer`. Copied: compare `length` with a limit first.
    pub(crate) fn bytes(&self, pointer: u32, length: u32) -> Result<Vec<u8>, GuestError> {
        self.inner.to_vec(GuestPtr::<[u8]>::new((pointer, length)))
    }

    pub(crate) fn write_bytes(&mut self, pointer: u32, bytes: &[u8]) -> Result<(), GuestError> {
        let length = u32::try_from(bytes.len())?;
        self.inner.copy_from_slice(bytes, GuestPtr::<[u8]>::new((pointer, length)))
    }

    /// The array of buffers at `pointer`, each within memory, together at most
    /// `limits.copy_bytes`: a later buffer is cut off, which makes a short read or write.
    pub(crate) fn buffers(&self, pointer: u32, count: u32, limits: &Limits) -> Result<Buffers, GuestError> {
        let mut left = u32::try_from(limits.copy_bytes).unwrap_or(u32::MAX);
        let mut buffers = Buffers::default();
        for index in 0..count {
            let at = index.checked_mul(IOVEC_BYTES).and_then(|offset| pointer.checked_add(offset));
            let at = at.ok_or(GuestError::PtrOverflow)?;
            let buffer = Buffer {
                pointer: self.read(at)?,
                length: self.read(at.checked_add(4).ok_or(GuestError::PtrOverflow)?)?,
            };
            self.check(buffer)?;
            if buffer.length == 0 || left == 0 {
                continue;
            }
            let length = buffer.length.min(left);
            left -= length;
            buffers.0.push(Buffer { length, ..buffer });
        }
        Ok(buffers)
    }

    /// Cuts the first buffer that is not empty to `most` bytes in the guest's own list, for
    /// [`Memory::restore`] to undo.
    pub(crate) fn cut_first(&mut self, pointer: u32, count: u32, most: u32) -> Result<Option<Cut>, GuestError> {
        for index in 0..count {
            let offset = index.checked_mul(IOVEC_BYTES).and_then(|offset| offset.checked_add(4));
            let at = offset.and_then(|offset| pointer.checked_add(offset)).ok_or(GuestError::PtrOverflow)?;
            let length: u32 = self.read(at)?;
            if length > most {
                self.write(at, most)?;
                return Ok(Some(Cut { at, length }));
            }
            if length > 0 {
                break;
            }
        }
        Ok(None)
    }

    pub(crate) fn restore(&mut self, cut: Option<Cut>) -> Result<(), GuestError> {
        match cut {
            Some(Cut { at, length }) => self.write(at, length),
            None => Ok(()),
        }
    }

    /// Fails if the buffer is not within memory.
    fn check(&self, buffer: Buffer) -> Result<(), GuestError> {
        let size = match &self.inner {
            GuestMemory::Unshared(bytes) => bytes.len(),
            GuestMemory::Shared(cells) => cells.len(),
        };
        let end = u64::from(buffer.pointer) + u64::from(buffer.length);
        if usize::try_from(end).is_ok_and(|end| end <= size) {
            return Ok(());
        }
        Err(GuestError::PtrOutOfBounds(Region::new(buffer.pointer, buffer.length)))
    }

    /// Calls `send` with the bytes of the buffers: in place, or through a copy where the memory is
    /// shared with other threads of the guest.
    pub(crate) fn gather<R>(&self, buffers: &Buffers, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> Result<R, GuestError> {
        let mut bytes: SmallVec<[Cow<'_, [u8]>; 8]> = SmallVec::new();
        for buffer in &buffers.0 {
            bytes.push(self.inner.as_cow(GuestPtr::new((buffer.pointer, buffer.length)))?);
        }
        let slices: SmallVec<[IoSlice<'_>; 8]> = bytes.iter().map(|bytes| IoSlice::new(bytes)).collect();
        Ok(send(&slices))
    }

    /// A copy of the bytes of the buffers.
    pub(crate) fn collect(&self, buffers: &Buffers) -> Result<Vec<u8>, GuestError> {
        self.gather(buffers, |slices| slices.iter().flat_map(|slice| slice.iter().copied()).collect())
    }

    /// Calls `receive` with the buffers as slices to fill: in place, or through a copy where the
    /// memory is shared. `receive` answers how many bytes it filled.
    ///
    /// Buffers that overlap or run backwards end the list: the rest is a short read.
    pub(crate) fn scatter<E>(
        &mut self, buffers: &Buffers, receive: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, E>,
    ) -> Result<Result<usize, E>, GuestError> {
        match &mut self.inner {
            GuestMemory::Unshared(bytes) => Ok(receive(&mut slices_of(bytes, &buffers.0))),
            GuestMemory::Shared(_) => self.scatter_through_copy(buffers, receive),
        }
    }

    fn scatter_through_copy<E>(
        &mut self, buffers: &Buffers, receive: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, E>,
    ) -> Result<Result<usize, E>, GuestError> {
        let total = buffers.total();
        with_scratch(total, |copy| {
            let received = match receive(&mut [IoSliceMut::new(copy)]) {
                Ok(received) => received.min(total),
                Err(error) => return Ok(Err(error)),
            };
            self.fill(buffers, &copy[..received])?;
            Ok(Ok(received))
        })
    }

    /// Writes `bytes` to the buffers in their order.
    pub(crate) fn fill(&mut self, buffers: &Buffers, mut bytes: &[u8]) -> Result<(), GuestError> {
        for buffer in &buffers.0 {
            let (now, later) = bytes.split_at(bytes.len().min(buffer.length as usize));
            self.write_bytes(buffer.pointer, now)?;
            bytes = later;
        }
        Ok(())
    }
}

/// Bytes of a thread's scratch that are kept for its next call: those of most requests.
const SCRATCH_KEPT: usize = 64 << 10;

/// Bytes of the host's for one call, whatever was in them before: to make none is a zeroed buffer less for each
/// receive of a guest with threads.
fn with_scratch<R>(length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) if length <= SCRATCH_KEPT => {
            if scratch.len() < length {
                scratch.resize(length, 0);
            }
            fill(&mut scratch[..length])
        }
        _ => fill(&mut vec![0; length]),
    })
}

/// The checked buffers as disjoint slices, as far as they follow each other in memory.
fn slices_of<'m>(memory: &'m mut [u8], buffers: &[Buffer]) -> SmallVec<[IoSliceMut<'m>; 8]> {
    let mut slices = SmallVec::new();
    let mut rest = memory;
    let mut consumed = 0;
    for buffer in buffers {
        let Some(skip) = (buffer.pointer as usize).checked_sub(consumed) else { break };
        let length = buffer.length as usize;
        let (taken, after) = rest.split_at_mut(skip + length);
        slices.push(IoSliceMut::new(&mut taken[skip..]));
        consumed += skip + length;
        rest = after;
    }
    slices
}

#[cfg(test)]
pub(crate) mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn memory_with(words: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(256, 0);
        bytes
    }

    #[test]
    fn buffers_are_cut_at_the_copy_limit() {
        let mut bytes = memory_with(&[64, 16, 96, 16, 128, 16]);
        let memory = Memory::from(GuestMemory::Unshared(&mut bytes));
        for (limit, want) in [(15, &[15][..]), (16, &[16]), (17, &[16, 1]), (48, &[16, 16, 16])] {
            let limits = Limits { copy_bytes: limit, ..Limits::default() };
            let buffers = memory.buffers(0, 3, &limits).expect("in bounds");
            assert_eq!(buffers.0.iter().map(|buffer| buffer.length).collect::<Vec<_>>(), want);
        }
    }

    #[test]
    fn a_buffer_past_the_end_is_refused() {
        for words in [[250, 7], [u32::MAX, 1], [0, u32::MAX]] {
            let mut bytes = memory_with(&words);
            let memory = Memory::from(GuestMemory::Unshared(&mut bytes));
            assert!(memory.buffers(0, 1, &Limits::default()).is_err(), "{words:?}");
        }
        let mut bytes = memory_with(&[]);
        let memory = Memory::from(GuestMemory::Unshared(&mut bytes));
        assert!(memory.buffers(u32::MAX - 3, 1, &Limits::default()).is_err());
        assert!(memory.buffers(256, 1, &Limits::default()).is_err());
        assert!(memory.buffers(256, 0, &Limits::default()).is_ok_and(|buffers| buffers.is_empty()));
    }

    #[test]
    fn scatter_fills_in_order_and_stops_at_overlap() {
        let mut bytes = memory_with(&[]);
        let buffers = Buffers(
            [(64, 4), (80, 4), (66, 4)].map(|(pointer, length)| Buffer { pointer, length }).into_iter().collect(),
        );
        let mut memory = Memory::from(GuestMemory::Unshared(&mut bytes));
        let seen = memory.scatter(&buffers, |slices| {
            for (fill, slice) in (1..).zip(slices.iter_mut()) {
                slice.fill(fill);
            }
            Ok::<_, ()>(slices.len())
        });
        assert_eq!(seen.expect("in bounds"), Ok(2));
        assert_eq!((&bytes[64..68], &bytes[80..84]), (&[1; 4][..], &[2; 4][..]));
    }
}
