//! No wake-up of a guest's thread is lost, whatever the order in which threads take their steps: the table of
//! futexes, gone through by loom.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use loom::future::block_on;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use futexes::Futexes;

#[path = "../src/guest/futexes.rs"]
mod futexes;

/// The locks that loom watches.
mod sync {
    pub(super) use loom::sync::{Arc, Mutex, MutexGuard};
}

const ADDRESS: u32 = 64;

/// Threads that are interrupted at most so often, each time at every place: nearly all errors need fewer.
const INTERRUPTIONS: usize = 2;

/// Goes through the orders of steps that a body can take.
fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(INTERRUPTIONS);
    builder.check(body);
}

/// Waits until the value is no longer this one.
fn wait_while(futexes: &Futexes, value: &AtomicU32, expected: u32) {
    while value.load(Ordering::SeqCst) == expected {
        let is_expected = || Ok::<_, Infallible>(value.load(Ordering::SeqCst) == expected);
        let Ok(waiting) = futexes.wait(ADDRESS, is_expected);
        if let Some(waiting) = waiting {
            block_on(waiting);
        }
    }
}

#[test]
fn who_waits_is_woken_by_the_change_that_it_waits_for() {
    model(|| {
        let shared = Arc::new((Futexes::default(), AtomicU32::new(0)));
        let waiter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || wait_while(&shared.0, &shared.1, 0))
        };
        shared.1.store(1, Ordering::SeqCst);
        shared.0.wake(ADDRESS, 1);
        waiter.join().expect("it ends");
        assert_eq!(shared.0.wake(ADDRESS, usize::MAX), 0, "nobody is left in the table");
    });
}

#[test]
fn one_wake_up_each_is_enough_for_two() {
    model(|| {
        let shared = Arc::new((Futexes::default(), AtomicU32::new(0)));
        let waiters = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || wait_while(&shared.0, &shared.1, 0))
        });
        shared.1.store(1, Ordering::SeqCst);
        for _ in 0..2 {
            shared.0.wake(ADDRESS, 1);
        }
        for waiter in waiters {
            waiter.join().expect("it ends");
        }
    });
}

#[test]
fn a_wake_up_for_one_who_gives_up_goes_on_to_the_next() {
    model(|| {
        let shared = Arc::new((Futexes::default(), AtomicU32::new(0)));
        let waiter = {
            let shared = Arc::clone(&shared);
            // A token that whoever takes it need not give back.
            thread::spawn(move || wait_while(&shared.0, &shared.1, 0))
        };
        let quitter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let Ok(waiting) = shared.0.wait(ADDRESS, || Ok::<_, Infallible>(shared.1.load(Ordering::SeqCst) == 0));
                let Some(waiting) = waiting else { return };
                let mut waiting = pin!(waiting);
                // As at the end of its time: it looks once, and leaves without having been told.
                let told = block_on(poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())));
                if told {
                    // Then it is for this one to go on with what the wake-up was for.
                    shared.0.wake(ADDRESS, 1);
                }
            })
        };
        shared.1.store(1, Ordering::SeqCst);
        // For one of them, whichever that is.
        shared.0.wake(ADDRESS, 1);
        quitter.join().expect("it ends");
        waiter.join().expect("it ends");
    });
}
