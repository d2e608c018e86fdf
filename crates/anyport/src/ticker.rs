//! The epoch ticks of an engine: what interrupts guests that compute.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::error::Error;

/// How long a guest computes before the poller, its timers and its end get their turn.
const TICK: Duration = Duration::from_millis(10);

/// Ticks without any guest at work after which the ticking rests: an idle server uses no CPU.
const IDLE_TICKS: u32 = 10;

/// Advances the engine's epoch from a thread of its own, so that no guest can stall another, nor the
/// timers, nor its own end. Rests while no guest is at work.
pub(crate) struct Ticker {
    engine: wasmtime::EngineWeak,
    /// Guests that live, whatever they do.
    alive: AtomicUsize,
    /// Guests that are computing right now.
    running: AtomicUsize,
    /// Counts the times that a guest began to.
    resumed: AtomicU64,
    resting: AtomicBool,
    /// From when it was started.
    thread: Mutex<Option<Thread>>,
}

/// A guest is computing for as long as this is held.
pub(crate) struct Running<'a>(&'a Ticker);

/// A guest lives for as long as this is held.
pub(crate) struct Alive<'a>(&'a Ticker);

impl Ticker {
    /// One that does not tick yet.
    pub(crate) fn new(engine: wasmtime::EngineWeak) -> Arc<Self> {
        Arc::new(Self {
            engine,
            alive: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            resumed: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            thread: Mutex::new(None),
        })
    }

    /// Ticks from now on: before any guest runs.
    pub(crate) fn start(self: &Arc<Self>) -> Result<(), Error> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (engine, ticker) = (self.engine.clone(), Arc::downgrade(self));
            let started =
                thread::Builder::new().name("anyport-ticker".to_owned()).spawn(move || tick(&engine, &ticker));
            let started =
                started.map_err(|error| Error::host(format!("the ticker thread cannot be started: {error}")))?;
            *thread = Some(started.thread().clone());
        }
        Ok(())
    }

    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    /// A guest begins its life.
    pub(crate) fn live(&self) -> Alive<'_> {
        self.alive.fetch_add(1, Ordering::Relaxed);
        Alive(self)
    }

    /// Whether a guest that lives is the only one.
    pub(crate) fn has_one_guest(&self) -> bool {
        self.alive.load(Ordering::Relaxed) == 1
    }

    /// A guest begins to compute.
    pub(crate) fn run(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.resumed.fetch_add(1, Ordering::SeqCst);
        if self.resting.load(Ordering::SeqCst) {
            self.wake();
        }
        Running(self)
    }

    /// Whether nothing has computed since `seen`.
    fn is_idle_since(&self, seen: u64) -> bool {
        self.running.load(Ordering::SeqCst) == 0 && self.resumed.load(Ordering::SeqCst) == seen
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.wake();
    }
}

/// Ticks until the ticker is dropped.
fn tick(engine: &wasmtime::EngineWeak, ticker: &Weak<Ticker>) {
    let mut seen = 0;
    let mut idle_ticks = 0;
    loop {
        thread::sleep(TICK);
        let (Some(engine), Some(ticker_now)) = (engine.upgrade(), ticker.upgrade()) else { return };
        engine.increment_epoch();
        if !ticker_now.is_idle_since(seen) {
            seen = ticker_now.resumed.load(Ordering::SeqCst);
            idle_ticks = 0;
            continue;
        }
        idle_ticks += 1;
        if idle_ticks < IDLE_TICKS {
            continue;
        }
        // Says so first and looks again after: whoever begins in between either is seen or wakes us.
        ticker_now.resting.store(true, Ordering::SeqCst);
        drop((engine, ticker_now));
        while ticker.upgrade().is_some_and(|ticker| ticker.is_idle_since(seen)) {
            thread::park();
        }
        let Some(ticker_now) = ticker.upgrade() else { return };
        ticker_now.resting.store(false, Ordering::SeqCst);
        idle_ticks = 0;
    }
}
