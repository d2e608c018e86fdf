//! A guest with threads: each is a store, an instance, and a task; all have one memory and one table of descriptors.
//!
//! Whichever thread ends its process, by a trap or with an exit code, ends all; so does the first one's return. The
//! end of the first process is the guest's.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use wasmtime::{Instance, InstancePre, Store, WasmParams};

use super::ends::Ends;
use super::fork::{End, Fault};
use super::{Neighbours, Outcome, outcome, panic_message, store};
use crate::busy::Pending;
use crate::dialect::preview1::host_files;
use crate::dialect::wasix::thread::ThreadExit;
use crate::engine::Engine;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::process::{Member, Process};
use crate::memory::Given;
use crate::program::Parts;
use crate::stage::Stage;

/// Threads of the host beyond which each of a guest's next takes this time to start. While one is made, nothing else of
/// the process gets memory: of a guest that starts them without end, which is told to end, it takes one second with
/// this, and up to thirty without.
const UNPACED: usize = 64;
const PACE: Duration = Duration::from_millis(2);

/// What a process's threads have in common.
#[derive(Clone)]
pub(super) struct Crew {
    pub(super) engine: Arc<Engine>,
    pub(super) parts: Arc<Parts>,
    /// Of all processes.
    pub(super) over: Arc<Ends>,
    ready: InstancePre<Guest>,
    /// Its threads wait in instructions of their own.
    blocks: bool,
    /// Takes how the process ended.
    ends: mpsc::UnboundedSender<End>,
}

/// What a process begins with.
pub(super) struct Beginning {
    /// Of its first thread.
    pub(super) store: Store<Guest>,
    pub(super) ready: InstancePre<Guest>,
    /// Of one that was forked.
    pub(super) instance: Option<Instance>,
}

/// Runs a guest to its end, or until its server is stopped; calls `before_end` while it still holds what it held.
/// Tells how it ended, and how many of its threads did not.
pub(crate) async fn run(
    engine: &Arc<Engine>, parts: &Arc<Parts>, guest: Guest, mut stage: watch::Receiver<Stage>,
    before_end: impl FnOnce(),
) -> (Outcome, usize) {
    let _alive = engine.ticker.live();
    let Ok(family) = guest.process().map(|process| Arc::clone(&process.family)) else { return (Outcome::Stopped, 0) };
    let (store, over) = (store(engine, guest, Neighbours::Threads), Ends::new(engine));
    let ready = match parts.ready(&store) {
        Ok(ready) => ready,
        Err(error) => return (Outcome::failed(format!("it cannot be linked: {error:#}")), 0),
    };
    let first = Beginning { store, ready, instance: None };
    let before_end = || {
        before_end();
        for process in family.end() {
            // Its own life has them woken too, unless they keep it from that.
            if let Some(memory) = process.memory.get() {
                process.is_woken(over.watch(memory.clone()));
            }
        }
    };
    let stopped = Stage::Stopped.reached(&mut stage);
    let (ended, left) = live(engine, parts, &over, first, stopped, before_end).await;
    let alone = poll_fn(|context| family.poll_alone(context));
    let others = if over.all_end(Given::None, alone).await { 0 } else { family.children() };
    (ended.map_or(Outcome::Stopped, End::of_guest), left + family.left() + others)
}

/// Runs a process to its end, or until it is told to end; calls `before_end` while it still holds what it held. Tells
/// how it ended, or what it was told, and how many of its threads did not end.
pub(super) async fn live<T>(
    engine: &Arc<Engine>, parts: &Arc<Parts>, over: &Arc<Ends>, first: Beginning, told: impl Future<Output = T>,
    before_end: impl FnOnce(),
) -> (Result<End, T>, usize) {
    let guest = first.store.data();
    let (process, files) = (guest.process().map(Arc::clone), guest.files.share());
    let (descriptors, memory) = (Arc::clone(&guest.descriptors), guest.memory.clone());
    let Ok(process) = process else { return (Ok(End::of(Outcome::Stopped)), 0) };
    let (ends, mut ended) = mpsc::unbounded_channel();
    let (engine, parts, over) = (Arc::clone(engine), Arc::clone(parts), Arc::clone(over));
    let crew =
        Crew { engine, blocks: parts.abi.blocks, parts, over: Arc::clone(&over), ready: first.ready.clone(), ends };
    let starter = crew.clone();
    process.can_start(Box::new(move |guest, member, pointer| starter.start(guest, member, pointer)));
    let (alive, gone) = oneshot::channel::<()>();
    let (life, abort) = futures_util::future::abortable(crew.clone().first(first, Arc::clone(&process), alive));
    process.can_end(abort);
    let started = crew.spawn(process.family.tasks(), async move {
        let _ = life.await;
    });
    let end = match started {
        Err(_) => Ok(End::of(Outcome::failed("there is no thread left for it".to_owned()))),
        Ok(()) => tokio::select! {
            end = ended.recv() => Ok(end.unwrap_or_else(|| End::of(Outcome::Stopped))),
            told = told => Err(told),
        },
    };
    before_end();
    process.end();
    // Connections and ports go now, whatever holds up a thread.
    let open = descriptors.close_all();
    if let Some(files) = files.filter(|_| !open.is_empty()) {
        // They may be in use, by another process.
        tokio::spawn(host_files::close_all(files, open));
    }
    let all = async {
        let _ = gone.await;
        poll_fn(|context| process.poll_ended(context, None)).await;
    };
    let have_ended = over.all_end(memory, all).await;
    (end, if have_ended { 0 } else { process.threads().max(1) })
}

impl Crew {
    /// The first thread: from `_start` to its end, which is the process's.
    async fn first(self, beginning: Beginning, process: Arc<Process>, alive: oneshot::Sender<()>) {
        let Beginning { mut store, instance, .. } = beginning;
        let ended = self.run(&mut store, instance, "_start", ()).await;
        let ended = match ended {
            Ok(Err(error)) if error.is::<ThreadExit>() => {
                // Of the first thread alone: the process goes on while it has others.
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
        let (life, abort) = futures_util::future::abortable(self.clone().another(guest, pointer, member.number));
        member.can_end(abort);
        self.spawn(member.family().tasks(), async move {
            let _ = life.await;
            drop(member);
        })
    }

    async fn another(self, guest: Guest, pointer: u32, number: u32) {
        let mut store = store(&self.engine, guest, Neighbours::Threads);
        let ended = self.run(&mut store, None, "wasi_thread_start", (number, pointer)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is::<ThreadExit>() => {}
            ended => self.end(&store, ended),
        }
    }

    /// A task for a thread, beside so many others of the guest; a thread of the host where it may wait in instructions
    /// of its own.
    fn spawn(&self, others: usize, life: impl Future<Output = ()> + Send + 'static) -> Result<(), Errno> {
        // Unconstrained: tokio's budget would make ready sockets look unready.
        let life = tokio::task::unconstrained(life);
        if !self.blocks {
            tokio::spawn(life);
            return Ok(());
        }
        if others > UNPACED {
            std::thread::sleep(PACE);
        }
        let runtime = Handle::current();
        let thread = std::thread::Builder::new().name("anyport-guest".to_owned());
        // A limit of the machine, as that of a guest's threads is.
        thread.spawn(move || runtime.block_on(life)).map(drop).map_err(|_| Errno::Again)
    }

    /// Runs a function in an instance of its own, or in one that there is, with what each poll of a thread needs; fails
    /// with the message of a hostcall that panicked.
    async fn run(
        &self, store: &mut Store<Guest>, instance: Option<Instance>, function: &str,
        parameters: impl WasmParams + Clone + Sync,
    ) -> Result<wasmtime::Result<()>, String> {
        let pace = store.data().busy.pace();
        let mut running = pin!(async {
            let instance = match instance {
                Some(instance) => instance,
                None => self.ready.instantiate_async(&mut *store).await?,
            };
            let function = instance.get_typed_func::<_, ()>(&mut *store, function)?;
            loop {
                function.call_async(&mut *store, parameters.clone()).await?;
                if !self.forks(store, &instance).await? {
                    return Ok(());
                }
            }
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

    /// Ends the process so.
    fn end(&self, store: &Store<Guest>, ended: Result<wasmtime::Result<()>, String>) {
        let end = match ended {
            Ok(ended) => {
                let fault = Fault::of(store.data(), ended.as_ref().err());
                End { outcome: outcome(store, ended), fault }
            }
            Err(panic) => End::of(Outcome::failed(format!("anyport failed in a hostcall: {panic}"))),
        };
        // Nobody listens any more where another thread was first.
        let _ = self.ends.send(end);
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").finish_non_exhaustive()
    }
}
