//! A guest with threads: each is a store, an instance, and a task; all have one memory and one table of descriptors.
//!
//! Whichever thread ends the guest, by a trap or with an exit code, ends all; so does the first one's return.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use wasmtime::{InstancePre, Store, WasmParams};

use super::{Neighbours, Outcome, outcome, panic_message, store};
use crate::busy::Pending;
use crate::dialect::wasix::thread::ThreadExit;
use crate::engine::Engine;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::process::{Member, Process};
use crate::memory::Given;
use crate::program::Parts;
use crate::stage::Stage;

/// How long the threads of a guest that is over are waited for, before those that wait in instructions of their own
/// are woken, each time. One that computes is interrupted by the next tick, one that waits in a hostcall at once.
const PAUSES_MS: [u64; 5] = [50, 100, 200, 400, 800];

/// Threads of the host beyond which each of a guest's next takes this time to start. While one is made, nothing else of
/// the process gets memory: of a guest that starts them without end, which is told to end, it takes one second with
/// this, and up to thirty without.
const UNPACED: usize = 64;
const PACE: Duration = Duration::from_millis(2);

/// What a guest's threads have in common.
#[derive(Clone)]
struct Crew {
    engine: Arc<Engine>,
    ready: InstancePre<Guest>,
    /// Its threads wait in instructions of their own.
    blocks: bool,
    /// Takes how the guest ended.
    ends: mpsc::UnboundedSender<Outcome>,
}

/// Runs a guest to its end, or until its server is stopped; calls `before_end` while it still holds what it held.
/// Tells how it ended, and how many of its threads did not.
pub(crate) async fn run(
    engine: &Arc<Engine>, parts: &Arc<Parts>, guest: Guest, mut stage: watch::Receiver<Stage>,
    before_end: impl FnOnce(),
) -> (Outcome, usize) {
    let _alive = engine.ticker.live();
    let Ok(process) = guest.process().map(Arc::clone) else { return (Outcome::Stopped, 0) };
    let (descriptors, memory) = (Arc::clone(&guest.descriptors), guest.memory.clone());
    let (ends, mut ended) = mpsc::unbounded_channel();
    let store = store(engine, guest, Neighbours::Threads);
    let ready = match parts.ready(&store) {
        Ok(ready) => ready,
        Err(error) => return (Outcome::failed(format!("it cannot be linked: {error:#}")), 0),
    };
    let crew = Crew { engine: Arc::clone(engine), ready, blocks: parts.abi.blocks, ends };
    let starter = crew.clone();
    process.can_start(Box::new(move |guest, member, pointer| starter.start(guest, member, pointer)));
    let (alive, gone) = oneshot::channel::<()>();
    let (first, abort) = futures_util::future::abortable(crew.clone().first(store, Arc::clone(&process), alive));
    let started = crew.spawn(async move {
        let _ = first.await;
    });
    let outcome = match started {
        Err(_) => Outcome::Trapped { reason: "there is no thread left for it".to_owned(), backtrace: String::new() },
        Ok(()) => tokio::select! {
            outcome = ended.recv() => outcome.unwrap_or(Outcome::Stopped),
            () = Stage::Stopped.reached(&mut stage) => Outcome::Stopped,
        },
    };
    before_end();
    process.end();
    abort.abort();
    // Connections and ports go now, whatever holds up a thread.
    descriptors.close_all();
    let all = async {
        let _ = gone.await;
        poll_fn(|context| process.poll_ended(context, None)).await;
    };
    let left = if all_end(engine, memory, all).await { 0 } else { process.threads().max(1) };
    (outcome, left)
}

/// Waits until all threads have ended; false if they do not. Nothing but a notification ends a wait in an
/// instruction, and where threads wait is known to wasmtime alone: so all there are addresses for are woken, and each
/// finds at its next loop or call that its guest is over.
///
/// By a thread of the host's: those of the runtime may all be kept, and its timers with them.
async fn all_end(engine: &Arc<Engine>, memory: Given, all: impl Future<Output = ()>) -> bool {
    let (ended, is_ended) = std::sync::mpsc::channel::<()>();
    let (over, is_over) = oneshot::channel::<()>();
    let engine = Arc::clone(engine);
    let wakes = std::thread::Builder::new().name("anyport-end".to_owned()).spawn(move || {
        for pause in PAUSES_MS {
            if is_ended.recv_timeout(Duration::from_millis(pause)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            engine.wasmtime.increment_epoch();
            memory.notify_all(|| is_ended.try_recv() == Err(TryRecvError::Empty));
        }
        let _ = is_ended.recv_timeout(Duration::from_millis(PAUSES_MS[0]));
        drop(over);
    });
    let have_ended = tokio::select! {
        biased;
        () = all => true,
        _ = is_over => false,
    };
    // Ends that thread, if it is there.
    drop((ended, wakes));
    have_ended
}

impl Crew {
    /// The first thread: from `_start` to its end, which is the guest's.
    async fn first(self, mut store: Store<Guest>, process: Arc<Process>, alive: oneshot::Sender<()>) {
        let ended = self.run(&mut store, "_start", ()).await;
        let ended = match ended {
            Ok(Err(error)) if error.is::<ThreadExit>() => {
                // Of the first thread alone: the guest goes on while it has others.
                process.first_left();
                poll_fn(|context| process.poll_ended(context, None)).await;
                Ok(Ok(()))
            }
            ended => ended,
        };
        self.end(&store, ended);
        drop(store);
        drop(alive);
    }

    /// Starts another.
    fn start(&self, guest: Guest, member: Member, pointer: u32) -> Result<(), Errno> {
        if self.blocks && member.crew() > UNPACED {
            std::thread::sleep(PACE);
        }
        let (life, abort) = futures_util::future::abortable(self.clone().another(guest, pointer, member.number));
        member.can_end(abort);
        self.spawn(async move {
            let _ = life.await;
            drop(member);
        })
    }

    async fn another(self, guest: Guest, pointer: u32, number: u32) {
        let mut store = store(&self.engine, guest, Neighbours::Threads);
        let ended = self.run(&mut store, "wasi_thread_start", (number, pointer)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is::<ThreadExit>() => {}
            ended => self.end(&store, ended),
        }
    }

    /// A task for a thread; a thread of the host where it may wait in instructions of its own.
    fn spawn(&self, life: impl Future<Output = ()> + Send + 'static) -> Result<(), Errno> {
        // Unconstrained: tokio's budget would make ready sockets look unready.
        let life = tokio::task::unconstrained(life);
        if !self.blocks {
            tokio::spawn(life);
            return Ok(());
        }
        let runtime = Handle::current();
        let thread = std::thread::Builder::new().name("anyport-guest".to_owned());
        // A limit of the machine, as that of a guest's threads is.
        thread.spawn(move || runtime.block_on(life)).map(drop).map_err(|_| Errno::Again)
    }

    /// Runs a function in an instance of its own, with what each poll of a thread needs; fails with the message of a
    /// hostcall that panicked.
    async fn run(
        &self, store: &mut Store<Guest>, function: &str, parameters: impl WasmParams + Sync,
    ) -> Result<wasmtime::Result<()>, String> {
        let pace = store.data().busy.pace();
        let mut running = pin!(async {
            let instance = self.ready.instantiate_async(&mut *store).await?;
            let function = instance.get_typed_func(&mut *store, function)?;
            function.call_async(store, parameters).await
        });
        let mut computes = false;
        let mut looking = None;
        poll_fn(|context| {
            let _running = self.engine.ticker.run();
            looking.take();
            if computes {
                pace.come();
            }
            let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context)));
            pace.go();
            match polled {
                Err(panic) => Poll::Ready(Err(panic_message(&*panic))),
                Ok(Poll::Ready(ended)) => Poll::Ready(Ok(ended)),
                Ok(Poll::Pending) => {
                    computes = pace.pending() != Pending::Waits;
                    looking = if computes { None } else { pace.look() };
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Ends the guest so.
    fn end(&self, store: &Store<Guest>, ended: Result<wasmtime::Result<()>, String>) {
        let outcome = match ended {
            Ok(ended) => outcome(store, ended),
            Err(panic) => {
                let reason = format!("anyport failed in a hostcall: {panic}");
                Outcome::Trapped { reason, backtrace: String::new() }
            }
        };
        // Nobody listens any more where another thread was first.
        let _ = self.ends.send(outcome);
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").finish_non_exhaustive()
    }
}
