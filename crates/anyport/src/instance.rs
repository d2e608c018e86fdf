//! From a module to a running guest: its store, its start, its end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use wasmtime::{Module, Store, Trap, UpdateDeadline, WasmBacktrace};
use wiggle::GuestError;

use crate::dialect::preview1::process::Exit;
use crate::engine::Engine;
use crate::error::printable;
use crate::guest::Guest;
use crate::link;

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// By itself: returned from its start (0), or exited with this code.
    Exited(u32),
    /// By a fault of its own.
    Trapped {
        /// One sentence: what the fault was.
        reason: String,
        /// The guest's functions at that point, innermost first; empty if none were running.
        backtrace: String,
    },
    /// By [`crate::Running::stop`].
    Stopped,
}

/// Runs a module's `_start` to its end; calls `before_end` while the guest still holds what it held.
pub(crate) async fn run(engine: Arc<Engine>, module: Module, guest: Guest, before_end: impl FnOnce()) -> Outcome {
    let _alive = engine.ticker.live();
    let ticker = Arc::clone(&engine.ticker);
    let mut store = Store::new(&engine.wasmtime, guest);
    store.limiter(|guest| &mut guest.growth);
    store.set_epoch_deadline(1);
    // tokio's own yield, so that the poller is asked too and timers fire.
    store.epoch_deadline_callback(move |mut store| {
        store.data_mut().sending.end();
        store.data_mut().busy.tick(ticker.has_one_guest())?;
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    let ended = {
        let mut started = pin!(start(&engine, &mut store, &module));
        poll_fn(|context| {
            let _running = engine.ticker.run();
            started.as_mut().poll(context)
        })
        .await
    };
    before_end();
    match ended {
        Ok(()) => Outcome::Exited(0),
        Err(error) => outcome_of(&error),
    }
}

async fn start(engine: &Engine, store: &mut Store<Guest>, module: &Module) -> wasmtime::Result<()> {
    let instance = link::instantiate(engine, store, module).await?;
    store.data_mut().memory = instance.get_memory(&mut *store, "memory");
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
    start.call_async(store, ()).await
}

fn outcome_of(error: &wasmtime::Error) -> Outcome {
    if let Some(Exit(code)) = error.downcast_ref() {
        return Outcome::Exited(*code);
    }
    let reason = match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => "its stack is full: a recursion without end".to_owned(),
        Some(trap) => trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
        None => match error.downcast_ref() {
            Some(GuestError::PtrOutOfBounds(region)) => {
                format!(
                    "it called the host with a pointer outside of its memory ({:#x}, for {} bytes)",
                    region.start, region.len
                )
            }
            _ => error.root_cause().to_string(),
        },
    };
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(printable_lines).unwrap_or_default();
    Outcome::Trapped { reason, backtrace }
}

/// One line for each function. Their names are the module's to choose: each must stay within its line.
fn printable_lines(backtrace: &WasmBacktrace) -> String {
    let text = backtrace.to_string();
    // The engine's heading says that there is an error, which the reason says better.
    let calls = text.lines().filter(|line| !line.starts_with("error while executing"));
    // Modules have no name here.
    calls.map(|call| printable(call).replace("<unknown>!", "")).collect::<Vec<_>>().join("\n")
}
