//! What holds of guest memory whatever a guest passes: buffers are read and written where they are, in
//! their order, and nowhere else.

use std::cell::UnsafeCell;

use fastrand::Rng;
use wiggle::{GuestError, GuestMemory};

use super::{Buffers, IOVEC_BYTES, Memory};
use crate::limits::Limits;
use crate::rounds;

/// Bytes of the memories here: small, so that pointers meet.
pub(crate) const SIZE: u32 = 1024;

/// Memory of random bytes, and what was in it before.
pub(crate) struct Arena {
    pub(crate) bytes: Vec<u8>,
    before: Vec<u8>,
}

impl Arena {
    pub(crate) fn new(random: &mut Rng) -> Self {
        let bytes: Vec<u8> = (0..SIZE).map(|_| random.u8(..)).collect();
        Self { before: bytes.clone(), bytes }
    }

    /// Puts a number where there is room for it.
    pub(crate) fn put(&mut self, at: u32, word: u32) {
        if let Some(place) = self.bytes.get_mut(at as usize..).and_then(<[u8]>::first_chunk_mut) {
            *place = word.to_le_bytes();
        }
    }

    /// From here on changes count.
    pub(crate) fn memory(&mut self) -> Memory<'_> {
        self.before.clone_from(&self.bytes);
        Memory::from(GuestMemory::Unshared(&mut self.bytes))
    }

    /// The bytes of a range as they were, or none if it is not within memory.
    pub(crate) fn before(&self, at: u32, length: u32) -> Option<&[u8]> {
        self.before.get(at as usize..)?.get(..length as usize)
    }

    /// The same as they are.
    pub(crate) fn after(&self, at: u32, length: u32) -> &[u8] {
        &self.bytes[at as usize..][..length as usize]
    }

    /// The number that was at a place; the error that reading it is.
    pub(crate) fn word(&self, at: u32) -> Result<u32, Bad> {
        let bytes = self.before(at, 4).and_then(<[u8]>::first_chunk).ok_or(Bad::Outside)?;
        if at.is_multiple_of(4) { Ok(u32::from_le_bytes(*bytes)) } else { Err(Bad::Misaligned) }
    }

    /// Whether nothing has changed but in these ranges of a pointer and a length.
    pub(crate) fn is_changed_only_in(&self, ranges: &[(u32, u32)]) -> bool {
        (0..SIZE).all(|at| {
            let within = |(start, length): &(u32, u32)| at.checked_sub(*start).is_some_and(|offset| offset < *length);
            self.bytes[at as usize] == self.before[at as usize] || ranges.iter().any(within)
        })
    }
}

/// What is wrong with a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Misaligned,
    Outside,
}

impl From<&GuestError> for Bad {
    fn from(error: &GuestError) -> Self {
        match error {
            GuestError::PtrNotAligned(..) => Self::Misaligned,
            GuestError::PtrOverflow | GuestError::PtrOutOfBounds(_) => Self::Outside,
            other => panic!("{other:?}"),
        }
    }
}

/// A pointer to some bytes: mostly within memory, at times at an edge of it or of all numbers.
pub(crate) fn pointer(random: &mut Rng) -> u32 {
    const EDGES: [u32; 6] = [0, SIZE - 128, SIZE, 1 << 31, u32::MAX - 3, u32::MAX];
    match random.u8(..8) {
        0 => EDGES[random.usize(..EDGES.len())],
        1 => SIZE.wrapping_sub(random.u32(..32)),
        2 => random.u32(..SIZE),
        _ => random.u32(..SIZE / 8) * 8,
    }
}

/// A length: mostly short, at times to the end or beyond it.
pub(crate) fn length(random: &mut Rng) -> u32 {
    match random.u8(..8) {
        0 => [SIZE - 1, SIZE, SIZE + 1, 1 << 31, u32::MAX][random.usize(..5)],
        1 => 0,
        _ => random.u32(..40),
    }
}

/// A list of buffers somewhere in memory.
struct List {
    arena: Arena,
    at: u32,
    count: u32,
    limits: Limits,
}

impl List {
    fn new(random: &mut Rng) -> Self {
        let (at, count) = (pointer(random), random.u32(..6));
        let mut arena = Arena::new(random);
        for index in 0..count {
            let at = at.wrapping_add(index * IOVEC_BYTES);
            arena.put(at, pointer(random));
            arena.put(at.wrapping_add(4), length(random));
        }
        let copy_bytes = [8, 64, 1 << 20][random.usize(..3)];
        Self { arena, at, count, limits: Limits { copy_bytes, ..Limits::default() } }
    }

    /// The buffers as they should be found.
    fn expected(&self) -> Result<Vec<(u32, u32)>, Bad> {
        let mut left = u32::try_from(self.limits.copy_bytes).expect("it is small");
        let mut buffers = Vec::new();
        for index in 0..self.count {
            let at = self.at.checked_add(index * IOVEC_BYTES).ok_or(Bad::Outside)?;
            let pointer = self.arena.word(at)?;
            let length = self.arena.word(at.checked_add(4).ok_or(Bad::Outside)?)?;
            self.arena.before(pointer, length).ok_or(Bad::Outside)?;
            let taken = length.min(left);
            left -= taken;
            if taken > 0 {
                buffers.push((pointer, taken));
            }
        }
        Ok(buffers)
    }

    /// The buffers as they are found, if that is as it should be.
    fn found(&mut self) -> Option<Buffers> {
        let (at, count, limits) = (self.at, self.count, self.limits.clone());
        let found = self.arena.memory().buffers(at, count, &limits);
        let plain = match &found {
            Ok(buffers) => Ok(places(buffers)),
            Err(error) => Err(Bad::from(error)),
        };
        assert_eq!(plain, self.expected());
        found.ok()
    }
}

/// The pointer and length of each.
fn places(buffers: &Buffers) -> Vec<(u32, u32)> {
    buffers.0.iter().map(|buffer| (buffer.pointer, buffer.length)).collect()
}

#[test]
fn buffers_are_found_where_they_are() {
    let mut found = 0;
    rounds::play(10_000, |seed| {
        let mut list = List::new(&mut Rng::with_seed(seed));
        found += u64::from(list.found().is_some());
    });
    assert!(found > 0, "no list was good");
}

#[test]
fn gathered_bytes_are_those_of_the_buffers() {
    rounds::play(10_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let mut list = List::new(&mut random);
        let Some(mut buffers) = list.found() else { return };
        let mut all: Vec<u8> = Vec::new();
        for buffer in &buffers.0 {
            all.extend(list.arena.before(buffer.pointer, buffer.length).expect("it was found"));
        }
        assert_eq!(all.len(), buffers.total());
        // As a send that takes a part of them goes on.
        let sent = random.usize(..=all.len());
        assert_eq!(buffers.advance(sent), sent == all.len());
        let memory = list.arena.memory();
        let rest = memory
            .gather(&buffers, |slices| slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>())
            .expect("they were checked");
        assert_eq!(rest, &all[sent..]);
    });
}

#[test]
fn scattered_bytes_are_in_the_buffers_and_nowhere_else() {
    rounds::play(10_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let mut list = List::new(&mut random);
        let Some(buffers) = list.found() else { return };
        let places = places(&buffers);
        let received = random.u8(..);
        let filled = list.arena.memory().scatter(&buffers, |slices| {
            slices.iter_mut().for_each(|slice| slice.fill(received));
            Ok::<_, ()>(slices.iter().map(|slice| slice.len()).sum::<usize>())
        });
        let filled = filled.expect("they were checked").expect("nothing fails");
        assert!(list.arena.is_changed_only_in(&places));
        // All of them, or those before the first that overlaps or runs backwards.
        let ascends = places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
        assert!(filled <= buffers.total() && (filled == buffers.total()) == (ascends || places.is_empty()));
        let mut left = filled;
        for (at, length) in places {
            if left > 0 {
                assert!(list.arena.after(at, length).iter().all(|byte| *byte == received));
                left -= length as usize;
            }
        }
    });
}

/// Memory that threads share is filled through a copy, with the same outcome but for buffers that overlap.
#[test]
fn shared_memory_is_filled_as_other_memory_is() {
    rounds::play(5_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let mut list = List::new(&mut random);
        let Some(buffers) = list.found() else { return };
        let bytes: Vec<u8> = (0..random.usize(..=buffers.total())).map(|_| random.u8(..)).collect();
        let cells: Vec<UnsafeCell<u8>> = list.arena.bytes.iter().copied().map(UnsafeCell::new).collect();
        let filled = Memory::from(GuestMemory::Shared(&cells)).scatter(&buffers, |slices| {
            slices[0][..bytes.len()].copy_from_slice(&bytes);
            Ok::<_, ()>(bytes.len())
        });
        assert_eq!(filled.expect("they were checked"), Ok(bytes.len()));
        list.arena.memory().fill(&buffers, &bytes).expect("they were checked");
        let shared: Vec<u8> = cells.into_iter().map(UnsafeCell::into_inner).collect();
        assert!(list.arena.bytes == shared);
        assert!(list.arena.is_changed_only_in(&places(&buffers)));
    });
}

/// What a short read needs changed in the guest's own list is as it was afterwards.
#[test]
fn a_list_that_was_cut_is_restored() {
    rounds::play(10_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let mut list = List::new(&mut random);
        let most = random.u32(..20);
        let (at, count) = (list.at, list.count);
        let mut memory = list.arena.memory();
        if let Ok(cut) = memory.cut_first(at, count, most) {
            memory.restore(cut).expect("it was written before");
        }
        assert!(list.arena.is_changed_only_in(&[]));
    });
}
