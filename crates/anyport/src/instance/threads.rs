//! A guest with threads: each is a store, an instance, and a task; all have one memory and one table of descriptors.
//!
//! Whichever thread ends the guest, by a trap or with an exit code, ends all; so does the first one's return.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use wasmtime::Store;

use super::{Neighbours, Outcome, outcome, panic_message, store};
use crate::busy::Pending;
use crate::dialect::wasix::thread::ThreadExit;
use crate::engine::Engine;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::process::{Member, Process};
use crate::program::Parts;
use crate::stage::Stage;

/// How long the threads of a guest that is over may take to be gone: one that computes is interrupted by the next
/// tick, one that waits at once. What waits in an instruction of its own is left behind.
const GONE_MOST: Duration = Duration::from_secs(1);

/// What a guest's threads have in common.
#[derive(Clone)]
struct Crew {
    engine: Arc<Engine>,
    parts: Arc<Parts>,
    /// Takes how the guest ended.
    ends: mpsc::UnboundedSender<Outcome>,
    /// What is held until the last of them is gone.
    _held: Arc<dyn Send + Sync>,
}

/// Runs a guest to its end, or until its server is stopped; calls `before_end` while it still holds what it held.
/// `held` is let go when no thread is left, however long after that.
pub(crate) async fn run(
    engine: &Arc<Engine>, parts: &Arc<Parts>, guest: Guest, mut stage: watch::Receiver<Stage>,
    held: impl Send + Sync + 'static, before_end: impl FnOnce(),
) -> Outcome {
    let _alive = engine.ticker.live();
    let Ok(process) = guest.process().map(Arc::clone) else { return Outcome::Stopped };
    let (ends, mut ended) = mpsc::unbounded_channel();
    let crew = Crew { engine: Arc::clone(engine), parts: Arc::clone(parts), ends, _held: Arc::new(held) };
    let starter = crew.clone();
    process.can_start(Box::new(move |guest, member, pointer| starter.start(guest, member, pointer)));
    let (alive, gone) = oneshot::channel::<()>();
    let (first, abort) = futures_util::future::abortable(crew.clone().first(guest, Arc::clone(&process), alive));
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
    let all = async {
        let _ = gone.await;
        poll_fn(|context| process.poll_ended(context, None)).await;
    };
    tokio::select! {
        () = all => {}
        () = gone_most() => {
            tracing::debug!("{} threads of the guest wait in instructions of their own", process.threads());
        }
    }
    outcome
}

/// When somebody is told that it has been long enough.
type Wait = (Instant, oneshot::Sender<()>);

/// Waits that long by a thread of the host's: those of the runtime may all be kept, and its timers with them. One does
/// it for all guests, of which a server of CGI ends many each second.
async fn gone_most() {
    static WAITS: OnceLock<Option<Sender<Wait>>> = OnceLock::new();
    let waits = WAITS.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel::<Wait>();
        let wait = move || {
            // Whoever came first is over first.
            for (end, over) in receiver {
                if !over.is_closed() {
                    std::thread::sleep(end.saturating_duration_since(Instant::now()));
                }
            }
        };
        std::thread::Builder::new().name("anyport-ends".to_owned()).spawn(wait).is_ok().then_some(sender)
    });
    let (over, is_over) = oneshot::channel();
    if waits.as_ref().is_some_and(|waits| waits.send((Instant::now() + GONE_MOST, over)).is_ok()) {
        let _ = is_over.await;
    }
}

impl Crew {
    /// The first thread: from `_start` to its end, which is the guest's.
    async fn first(self, guest: Guest, process: Arc<Process>, alive: oneshot::Sender<()>) {
        let mut store = store(&self.engine, guest, Neighbours::Threads);
        let ended = self.polled(&mut store, async |store| self.parts.run(store).await).await;
        let ended = match ended {
            Ok(Err(error)) if error.is::<ThreadExit>() => {
                // Of the first thread alone: the guest goes on while it has others.
                poll_fn(|context| process.poll_ended(context, None)).await;
                Ok(Ok(()))
            }
            ended => ended,
        };
        self.end(&store, ended);
        drop(store);
        // What is held for the guest is free when it is said to be gone.
        drop((self, process));
        drop(alive);
    }

    /// Starts another.
    fn start(&self, guest: Guest, member: Member, pointer: u32) -> Result<(), Errno> {
        let (life, abort) = futures_util::future::abortable(self.clone().another(guest, pointer, member.number));
        member.can_end(abort);
        self.spawn(async move {
            let _ = life.await;
            drop(member);
        })
    }

    async fn another(self, guest: Guest, pointer: u32, number: u32) {
        let mut store = store(&self.engine, guest, Neighbours::Threads);
        let ended = self.polled(&mut store, async |store| self.parts.run_thread(store, number, pointer).await).await;
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
        if !self.parts.abi.blocks {
            tokio::spawn(life);
            return Ok(());
        }
        let runtime = Handle::current();
        let thread = std::thread::Builder::new().name("anyport-guest".to_owned());
        // A limit of the machine, as that of a guest's threads is.
        thread.spawn(move || runtime.block_on(life)).map(drop).map_err(|_| Errno::Again)
    }

    /// Runs it with what each poll of a thread needs; fails with the message of a hostcall that panicked.
    async fn polled(
        &self, store: &mut Store<Guest>, run: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<()>,
    ) -> Result<wasmtime::Result<()>, String> {
        let pace = store.data().busy.pace();
        let mut running = pin!(run(store));
        let mut computes = false;
        poll_fn(|context| {
            let _running = self.engine.ticker.run();
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
