//! Threads of guests that are over, and how those are woken that wait in instructions of their own.
//!
//! Nothing but a notification ends such a wait, and where threads wait is known to wasmtime alone: so all there are
//! addresses for are woken, and each finds at its next loop or call that its guest is over. By a thread of the host's:
//! those of the runtime may all be kept, and its timers with them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::poll_immediate;
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::memory::Given;

/// How long the threads of a process that is over are waited for, in milliseconds, before those that wait in
/// instructions are woken, each time; and then once more. One that computes is interrupted by the next tick, one that
/// waits in a hostcall at once.
const PAUSES_MS: [u64; 6] = [50, 100, 200, 400, 800, 50];

/// The processes of a guest that are over, and whose threads have not ended.
pub(super) struct Ends {
    engine: Arc<Engine>,
    pending: Mutex<Pending>,
    /// Told when there is another.
    more: Condvar,
}

#[derive(Default)]
struct Pending {
    processes: Vec<Over>,
    /// There is a thread that wakes theirs.
    is_watched: bool,
}

impl Pending {
    /// Those whose time it is to be woken. Who has ended is forgotten, and who does not.
    fn due(&mut self, now: Instant) -> Vec<(Given, Arc<oneshot::Sender<()>>)> {
        let mut due = Vec::new();
        self.processes.retain_mut(|over| {
            if over.waits.is_closed() {
                return false;
            }
            if over.next <= now {
                over.turns += 1;
                let Some(pause) = PAUSES_MS.get(over.turns) else { return false };
                over.next = now + Duration::from_millis(*pause);
                due.push((over.memory.clone(), Arc::clone(&over.waits)));
            }
            true
        });
        due
    }
}

struct Over {
    memory: Given,
    /// How often they were woken.
    turns: usize,
    next: Instant,
    /// Closed by who waits for them, when they have ended; dropped when they are given up.
    waits: Arc<oneshot::Sender<()>>,
}

/// What is longer than all of them, for where there is no thread left that counts them.
const LONGEST: Duration = Duration::from_secs(3);

impl Ends {
    pub(super) fn new(engine: &Arc<Engine>) -> Arc<Self> {
        Arc::new(Self { engine: Arc::clone(engine), pending: Mutex::default(), more: Condvar::new() })
    }

    /// Waits until all threads of a process have ended, which have this memory, or all processes; false if they do not.
    pub(super) async fn all_end(self: &Arc<Self>, memory: Given, all: impl Future<Output = ()>) -> bool {
        let mut all = std::pin::pin!(all);
        // Most do so at once.
        if poll_immediate(all.as_mut()).await.is_some() {
            return true;
        }
        let mut is_given_up = self.watch(memory);
        tokio::select! {
            biased;
            () = all => true,
            _ = &mut is_given_up => false,
            () = tokio::time::sleep(LONGEST) => false,
        }
    }

    /// Has the threads of a memory woken until the receiver is dropped; it ends when they are given up.
    pub(super) fn watch(self: &Arc<Self>, memory: Given) -> oneshot::Receiver<()> {
        let (waits, is_given_up) = oneshot::channel();
        let over = Over {
            memory,
            turns: 0,
            next: Instant::now() + Duration::from_millis(PAUSES_MS[0]),
            waits: Arc::new(waits),
        };
        let mut pending = self.lock();
        pending.processes.push(over);
        if pending.is_watched {
            self.more.notify_one();
        } else {
            let ends = Arc::clone(self);
            let thread = std::thread::Builder::new().name("anyport-end".to_owned());
            pending.is_watched = thread.spawn(move || ends.wake()).is_ok();
        }
        is_given_up
    }

    /// Wakes those that do not end, until none is left.
    fn wake(&self) {
        let mut pending = self.lock();
        loop {
            let now = Instant::now();
            let due = pending.due(now);
            if !due.is_empty() {
                drop(pending);
                self.engine.wasmtime.increment_epoch();
                for (memory, waits) in due {
                    memory.notify_all(|| !waits.is_closed());
                }
                pending = self.lock();
            } else if let Some(next) = pending.processes.iter().map(|over| over.next).min() {
                let waited = self.more.wait_timeout(pending, next - now);
                pending = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                pending.is_watched = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
