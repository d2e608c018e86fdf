//! Counts what is allocated, so that a test can say that hostile numbers make nothing large.
#![allow(unsafe_code, reason = "an allocator cannot be written without; each call goes to the system's as it is")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Bytes of this thread since [`peak_of`] began, now and at most. Below zero when it frees older ones.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The most that this thread held at a time while it did something, in bytes.
pub(crate) fn peak_of<R>(act: impl FnOnce() -> R) -> (R, usize) {
    HELD.set(0);
    PEAK.set(0);
    let outcome = act();
    (outcome, PEAK.get().unsigned_abs())
}

/// While it is held, what is counted is the holder's. Each test of the process has to.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    LARGEST.store(0, Ordering::Relaxed);
    alone
}

/// The largest single allocation of all threads since a test has been [`alone`], in bytes.
pub(crate) fn largest() -> usize {
    LARGEST.load(Ordering::Relaxed)
}

fn count(freed: usize, allocated: usize) {
    LARGEST.fetch_max(allocated, Ordering::Relaxed);
    // An error says that the thread is ending.
    let _ = HELD.try_with(|held| {
        let now = held.get().wrapping_add_unsigned(allocated).wrapping_sub_unsigned(freed);
        held.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

// SAFETY: every call goes to the system's allocator with the arguments that came, and what it answers
// goes back; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout.size(), size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
