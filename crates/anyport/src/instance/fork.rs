//! fork(2): a second process, with a copy of the first one's memory and variables, that goes on where the first does.
//!
//! The guest's functions have returned by then, and have left what they were at in its memory; they are entered again
//! in both. What a module has beside memory and variables (tables, dropped segments) is as at its start.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;
use wasmtime::{Extern, Global, Instance, Mutability, Store, Trap, Val, WasmParams};

use super::threads::{Beginning, Crew, live};
use super::{Neighbours, Outcome, behind, store};
use crate::busy::Overrun;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::family::{Child, Ending, SIGKILL};
use crate::guest::forking::{START_REWIND, STOP_UNWIND, Step};
use crate::guest::process::Process;
use crate::memory::Given;

/// Bytes of a memory that are copied before others come first.
const COPIED_AT_ONCE: usize = 4 << 20;

/// As Linux has them, and WASIX: what ends a process that fails.
const SIGABRT: u32 = 6;
const SIGFPE: u32 = 8;
const SIGSEGV: u32 = 11;
const SIGXCPU: u32 = 24;

/// How a process ended.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) fault: Fault,
}

/// Which signal a parent hears of, of a process that failed.
pub(super) enum Fault {
    /// Its own fault was one.
    Own(u32),
    /// It was being told of one, and that ended it.
    Told(u32),
}

/// What the libc of WASIX exits with where a signal is to end a process that has handlers of others.
const ABORTED: u32 = 127;

impl End {
    /// By what is no fault of its own.
    pub(super) fn of(outcome: Outcome) -> Self {
        Self { outcome, fault: Fault::Own(SIGKILL) }
    }

    /// The signal that has ended it, if that was no fault of its own: it was told of it, and has no handler that goes
    /// on. Then it traps, or exits with a code that says so.
    fn killed(&self) -> Option<u32> {
        match (&self.outcome, &self.fault) {
            (Outcome::Trapped { .. }, Fault::Told(signal)) => Some(*signal),
            (Outcome::Exited(code), Fault::Told(signal)) if [ABORTED, 128 + signal].contains(code) => Some(*signal),
            _ => None,
        }
    }

    /// As the end of a guest is told.
    pub(super) fn of_guest(self) -> Outcome {
        match (self.killed(), self.outcome) {
            (Some(signal), Outcome::Exited(ABORTED)) => Outcome::failed(format!("it was ended by signal {signal}")),
            (_, outcome) => outcome,
        }
    }
}

impl Fault {
    /// Of a guest that has ended with this error, if it was one.
    pub(super) fn of(guest: &Guest, error: Option<&wasmtime::Error>) -> Self {
        guest.handling.map_or_else(|| Self::Own(error.map_or(SIGKILL, signal_of)), Self::Told)
    }
}

fn signal_of(error: &wasmtime::Error) -> u32 {
    match error.downcast_ref() {
        Some(Trap::UnreachableCodeReached) => SIGABRT,
        Some(Trap::IntegerDivisionByZero | Trap::IntegerOverflow | Trap::BadConversionToInteger) => SIGFPE,
        None if error.is::<Overrun>() => SIGXCPU,
        _ => SIGSEGV,
    }
}

impl Crew {
    /// Whether a function that has returned did so to fork: it has been made ready to be called again.
    pub(super) async fn forks(&self, store: &mut Store<Guest>, instance: &Instance) -> wasmtime::Result<bool> {
        let Some((area, pid)) = store.data_mut().forking.unwound() else { return Ok(false) };
        call(store, instance, STOP_UNWIND, ()).await?;
        let answer = self.fork(store, instance, area, pid).await;
        rewind(store, instance, area, Step::Rewinds { pid, answer }).await?;
        Ok(true)
    }

    /// Starts another process; its number.
    async fn fork(&self, parent: &mut Store<Guest>, instance: &Instance, area: u32, pid: u32) -> Result<u32, Errno> {
        let (child, killed) = {
            let process = parent.data().process()?;
            process.family.bear(process)?
        };
        let number = child.process.pid;
        let copied = {
            let (guest, bytes) = parent.data_mut().fork(&child.process)?;
            let memory = parent.data().memory.like(&self.engine.wasmtime, bytes);
            self.copy((parent, instance), (guest, memory), (area, pid)).await
        };
        let beginning = copied.map_err(|error| {
            if child.process.family.misses("a process") {
                tracing::warn!("a process of the guest cannot be started: {error:#}");
            }
            Errno::NoMemory
        })?;
        let _ = child.process.memory.set(beginning.store.data().memory.clone());
        tokio::spawn(self.life(child, killed, beginning));
        Ok(number)
    }

    /// A second instance, that has all that the first has.
    async fn copy(
        &self, (parent, instance): (&mut Store<Guest>, &Instance), (guest, memory): (Guest, wasmtime::Result<Given>),
        (area, pid): (u32, u32),
    ) -> wasmtime::Result<Beginning> {
        let mut child = store(&self.engine, guest.with_memory(memory?), Neighbours::Threads);
        let ready = self.parts.ready(&child)?;
        let second = ready.instantiate_async(&mut child).await?;
        // Not before: to instantiate writes to both.
        copy_globals((&mut *parent, instance), (&mut child, &second))?;
        let (from, to) = (parent.data().memory.clone(), child.data().memory.clone());
        let bytes = to.shared_bytes().min(from.shared_bytes()).unwrap_or(0);
        for at in (0..bytes).step_by(COPIED_AT_ONCE) {
            from.copy_to(&to, at..bytes.min(at + COPIED_AT_ONCE))?;
            tokio::task::yield_now().await;
        }
        rewind(&mut child, &second, area, Step::Rewinds { pid, answer: Ok(0) }).await?;
        Ok(Beginning { store: child, ready, instance: Some(second) })
    }

    /// The life of another process.
    fn life(
        &self, child: Child, killed: oneshot::Receiver<Ending>, beginning: Beginning,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (engine, parts, over) = (Arc::clone(&self.engine), Arc::clone(&self.parts), Arc::clone(&self.over));
        Box::pin(async move {
            // All of it, and not its fields.
            let mut child = child;
            let killed = async { killed.await.unwrap_or(Ending::Killed(SIGKILL)) };
            let (ended, left) = live(&engine, &parts, &over, beginning, killed, || {}).await;
            if left > 0 {
                child.leaves(left);
            }
            child.ending = Some(match ended {
                Ok(end) => ending(&child.process, end),
                Err(ending) => ending,
            });
        })
    }
}

/// How a process ended, as its parent is told; the person is, if it failed by itself.
fn ending(process: &Process, end: End) -> Ending {
    if let Some(signal) = end.killed() {
        return Ending::Killed(signal);
    }
    let End { outcome, fault: Fault::Own(signal) | Fault::Told(signal) } = end;
    let (signal, reason, backtrace) = match outcome {
        Outcome::Exited(code) => return Ending::Exited(code),
        Outcome::Stopped => return Ending::Killed(SIGKILL),
        Outcome::Trapped { reason, backtrace } => (signal, reason, backtrace),
        Outcome::OutOfMemory { reason, backtrace, .. } => (SIGKILL, format!("out of memory: {reason}"), backtrace),
    };
    if let Some(more) = process.family.tells_failure() {
        let (pid, calls) = (process.pid, behind(&backtrace));
        tracing::warn!("process {pid} of the guest has ended by signal {signal}: {reason}{more}{calls}");
    }
    Ending::Killed(signal)
}

/// Has the guest enter its functions again, when its first is called.
async fn rewind(store: &mut Store<Guest>, instance: &Instance, area: u32, step: Step) -> wasmtime::Result<()> {
    store.data_mut().forking.step = step;
    call(store, instance, START_REWIND, area).await
}

async fn call(
    store: &mut Store<Guest>, instance: &Instance, name: &str, parameters: impl WasmParams + Sync,
) -> wasmtime::Result<()> {
    let function = instance.get_typed_func::<_, ()>(&mut *store, name)?;
    function.call_async(store, parameters).await
}

/// Copies variables: all of them are exported, for this ([`crate::globals`]).
fn copy_globals(
    (parent, first): (&mut Store<Guest>, &Instance), (child, second): (&mut Store<Guest>, &Instance),
) -> wasmtime::Result<()> {
    let exports = first.exports(&mut *parent).filter_map(|export| {
        let name = export.name().to_owned();
        if let Extern::Global(global) = export.into_extern() { Some((name, global)) } else { None }
    });
    let globals: Vec<(String, Global)> = exports.collect();
    for (name, global) in globals {
        if global.ty(&*parent).mutability() == Mutability::Const {
            continue;
        }
        let value = global.get(&mut *parent);
        if !matches!(value, Val::I32(_) | Val::I64(_) | Val::F32(_) | Val::F64(_) | Val::V128(_)) {
            // Of another store: nothing that C or Rust compile to has one.
            continue;
        }
        let other = second.get_global(&mut *child, &name);
        let other = other.ok_or_else(|| wasmtime::Error::msg(format!("it has no variable `{name}`")))?;
        other.set(&mut *child, value)?;
    }
    Ok(())
}
