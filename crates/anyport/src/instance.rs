//! From a program to a running guest: its store, its start, its end.

mod ends;
mod fork;
pub(crate) mod threads;

use std::any::Any;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use wasmtime::{ResourceLimiter, Store, ThrownException, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wiggle::GuestError;

use crate::busy::Overrun;
use crate::dialect::preview1::process::Exit;
use crate::engine::Engine;
use crate::error::printable;
use crate::guest::Guest;
use crate::program::Program;

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
    /// By a fault of its own, or with an exit code that is not 0, after it was refused the memory that it asked
    /// for last and before it looked at a socket again. A server goes on where it starts its guests again:
    /// [`crate::Running::status`] has what failed last.
    OutOfMemory {
        /// One sentence: how much it may have, and what the fault was.
        reason: String,
        /// As of a trap.
        backtrace: String,
        /// What it exited with, where it did so by itself.
        code: Option<u32>,
    },
    /// By [`crate::Running::stop`].
    Stopped,
}

impl Outcome {
    /// A fault while none of the guest's functions was running.
    pub(crate) fn failed(reason: String) -> Self {
        Self::Trapped { reason, backtrace: String::new() }
    }
}

/// The guest's functions, as they are told behind a reason: nothing where none were running.
pub(crate) fn behind(backtrace: &str) -> String {
    if backtrace.is_empty() {
        return String::new();
    }
    format!("\nthe guest's functions, innermost first:\n{backtrace}")
}

/// Runs a program to its end; calls `before_end` while the guest still holds what it held.
pub(crate) async fn run(engine: &Engine, program: &Program, guest: Guest, before_end: impl FnOnce()) -> Outcome {
    let _alive = engine.ticker.live();
    let mut store = store(engine, guest, Neighbours::AsCounted);
    let ended = {
        let mut running = pin!(program.run(&mut store));
        poll_fn(|context| {
            let _running = engine.ticker.run();
            running.as_mut().poll(context)
        })
        .await
    };
    before_end();
    outcome(&store, ended)
}

/// Who else there is, while a guest computes for long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbours {
    /// The other guests of the engine, if there are any.
    AsCounted,
    /// The connections of the worker, and other requests.
    Always,
    /// The guest's own threads, each of which is polled by whichever of the host's is free.
    Threads,
}

/// Ticks until a guest is interrupted that begins with something: a whole one at least, so that what takes less is
/// done at once. Guests that are interrupted all are at work at the same time, each with its memory.
pub(crate) const FIRST_TICKS: u64 = 2;

/// A store for a guest, with its limits.
pub(crate) fn store(engine: &Engine, guest: Guest, neighbours: Neighbours) -> Store<Guest> {
    let ticker = Arc::clone(&engine.ticker);
    let mut store = Store::new(&engine.wasmtime, guest);
    store.limiter(|guest| guest);
    store.set_epoch_deadline(FIRST_TICKS);
    // tokio's own yield, so that the poller is asked too and timers fire.
    store.epoch_deadline_callback(move |mut store| {
        store.data_mut().sending.end();
        let alone = match neighbours {
            Neighbours::AsCounted => ticker.has_one_guest(),
            Neighbours::Always => false,
            Neighbours::Threads => {
                store.data().busy.pace().come();
                true
            }
        };
        store.data().tell_shared_memory();
        store.data_mut().busy.tick(alone)?;
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

/// What a panic says.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked").to_owned()
}

/// How a guest ended.
pub(crate) fn outcome(store: &Store<Guest>, ended: wasmtime::Result<()>) -> Outcome {
    match ended {
        Ok(()) => Outcome::Exited(0),
        Err(error) => {
            let shortage = if is_of_memory(&error) { store.data().shortage() } else { None };
            blame_memory(outcome_of(&error), shortage)
        }
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // A heap of exceptions is a memory too.
        let shared = self.memory.shared_bytes().unwrap_or(0);
        let allowed = self.growth.may_grow(shared, current, desired, maximum);
        if !allowed {
            self.short_turn = Some(self.busy.turns());
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.growth.may_grow_table(current, desired, maximum))
    }
}

impl Guest {
    /// What a memory that threads share has grown to: nobody is asked for that.
    fn tell_shared_memory(&self) {
        if let Some(bytes) = self.memory.shared_bytes() {
            self.growth.tell_shared(bytes);
        }
    }

    /// Why a guest that fails now may have: the memory that it asked for last was refused. Who looks at a socket
    /// after that goes on without, and what comes later has other reasons.
    fn shortage(&self) -> Option<String> {
        self.growth.shortage().filter(|_| self.short_turn == Some(self.busy.turns()))
    }
}

/// Whether an end may come of a shortage of memory: not one that was for computing too long, or too deep.
fn is_of_memory(error: &wasmtime::Error) -> bool {
    let too_deep = matches!(error.downcast_ref(), Some(Trap::StackOverflow));
    !too_deep && error.downcast_ref::<Overrun>().is_none()
}

/// A failure that comes of a shortage of memory, as most languages answer one.
fn blame_memory(outcome: Outcome, shortage: Option<String>) -> Outcome {
    match (outcome, shortage) {
        (Outcome::Trapped { reason, backtrace }, Some(shortage)) => {
            Outcome::OutOfMemory { reason: format!("{shortage} ({reason})"), backtrace, code: None }
        }
        (Outcome::Exited(code @ 1..), Some(shortage)) => {
            let reason = format!("{shortage} (it exited with code {code})");
            Outcome::OutOfMemory { reason, backtrace: String::new(), code: Some(code) }
        }
        (outcome, _) => outcome,
    }
}

fn outcome_of(error: &wasmtime::Error) -> Outcome {
    if let Some(Exit(code)) = error.downcast_ref() {
        return Outcome::Exited(*code);
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return Outcome::Exited(code.cast_unsigned());
    }
    let reason = match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => "its stack is full: a recursion without end".to_owned(),
        Some(trap) => trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
        None if error.is::<ThrownException>() => "nothing catches an exception that it threw".to_owned(),
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
    printable_calls(&backtrace.to_string())
}

/// How the engine ends a backtrace of a module with debugging information.
const NOTE: &str = "note: using the `WASMTIME_BACKTRACE_DETAILS=1`";

fn printable_calls(text: &str) -> String {
    let mut calls = String::with_capacity(text.len());
    // The engine's heading says that there is an error, which the reason says better; its note, what to set in the
    // environment of a program that is not this one.
    let is_call = |line: &&str| !line.starts_with("error while executing") && !line.starts_with(NOTE);
    for line in text.split('\n').filter(is_call) {
        // Each line of the engine's is indented: another is a part of a name.
        let separator = if line.starts_with("  ") { '\n' } else { char::REPLACEMENT_CHARACTER };
        if !calls.is_empty() {
            calls.push(separator);
        }
        // Modules have no name here.
        calls.push_str(&printable(line).replace("<unknown>!", ""));
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_line() {
        let text =
            "error while executing at wasm backtrace:\n    0:   0x30 - <unknown>!a\nerror: \u{1b}fake\r\n    1: b";
        let printable = "    0:   0x30 - a\u{fffd}error: \u{fffd}fake\u{fffd}\n    1: b";
        assert_eq!(printable_calls(text), printable);
        let noted = format!("{text}\n{NOTE} environment variable may show more debugging information");
        assert_eq!(printable_calls(&noted), printable);
    }
}
