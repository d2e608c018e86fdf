//! Threads of WASIX and of wasi-threads, and the futexes that they wait at.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use wasmtime::{Caller, Linker};

use super::option;
use crate::dialect::hostcall::{Hostcall, Param, Row, Table};
use crate::dialect::trace::tell;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::process::MAIN;
use crate::memory::Memory;

/// A thread ended itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadExit;

impl fmt::Display for ThreadExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a thread of the guest has ended itself")
    }
}

impl std::error::Error for ThreadExit {}

/// The one function of wasi-threads.
pub(crate) const SPAWN: &[Row] = &[Row {
    name: "thread-spawn",
    params: &[Param { name: "start_arg", wide: false }],
    result: true,
    is_absent: false,
    tell: tell!("thread-spawn"),
    define: define_spawn,
    define_telling: None,
}];

/// `wasi.thread-spawn(start_arg) -> tid`: below zero is an errno, so it is no ordinary row.
fn define_spawn(
    linker: &mut Linker<Guest>, row: &'static Row, table: &'static Table, key: &str,
) -> wasmtime::Result<()> {
    linker.func_wrap(table.module, key, |mut caller: Caller<'_, Guest>, start_arg: u32| -> u32 {
        let number = match caller.data_mut().start_thread(start_arg) {
            Ok(number) => number.cast_signed(),
            Err(errno) => -i32::from(errno.number()),
        };
        (row.tell)(format_args!("thread-spawn(start_arg={start_arg:#x}) = {number}"));
        number.cast_unsigned()
    })?;
    Ok(())
}

/// `thread_exit(code)`: does not return.
pub(super) fn define_exit(
    linker: &mut Linker<Guest>, row: &'static Row, table: &'static Table, key: &str,
) -> wasmtime::Result<()> {
    linker.func_wrap(table.module, key, |_: Caller<'_, Guest>, code: u32| -> wasmtime::Result<()> {
        (row.tell)(format_args!("thread_exit(exitcode={code}) = exit"));
        Err(ThreadExit.into())
    })?;
    Ok(())
}

/// `thread_spawn_v2(start) -> tid`
pub(super) fn spawn(guest: &mut Guest, memory: &mut Memory<'_>, start: u32, ro_tid: u32) -> Hostcall {
    // What points nowhere starts nothing.
    memory.read::<u32>(ro_tid)?;
    let number = guest.start_thread(start)?;
    Ok(memory.write(ro_tid, number)?)
}

/// `thread_id() -> tid`
pub(super) fn id(guest: &mut Guest, memory: &mut Memory<'_>, ro_tid: u32) -> Hostcall {
    Ok(memory.write(ro_tid, guest.thread)?)
}

/// `thread_join(tid)`
pub(super) async fn join(guest: &mut Guest, _: &mut Memory<'_>, tid: u32) -> Hostcall {
    let process = guest.process()?;
    if tid == guest.thread || tid == MAIN {
        return Err(Errno::Deadlock.into());
    }
    poll_fn(|context| process.poll_ended(context, Some(tid))).await;
    Ok(())
}

/// `thread_sleep(duration)`, in nanoseconds.
pub(super) async fn sleep(_: &mut Guest, _: &mut Memory<'_>, duration: u64) -> Hostcall {
    tokio::time::sleep(Duration::from_nanos(duration)).await;
    Ok(())
}

/// `thread_parallelism() -> size`
pub(super) fn parallelism(_: &mut Guest, memory: &mut Memory<'_>, ro_parallelism: u32) -> Hostcall {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(memory.write(ro_parallelism, u32::try_from(cores).unwrap_or(1))?)
}

/// `thread_signal(tid, signal)`
pub(super) async fn signal(guest: &mut Guest, _: &mut Memory<'_>, tid: u32, signal: u32) -> Hostcall {
    super::process::raise_for(guest, tid, signal)
}

/// `futex_wait(futex, expected, timeout) -> bool`: whether it was woken, or need not wait. Its callers trap on any
/// errno, so a time that is over is none.
pub(super) async fn futex_wait(
    guest: &mut Guest, memory: &mut Memory<'_>, futex: u32, expected: u32, timeout: u32, ro_woken: u32,
) -> Hostcall {
    memory.write(ro_woken, 0_u8)?;
    let timeout = if timeout == 0 { None } else { option::read_time(memory, timeout)? };
    let process = guest.process()?;
    let is_expected = || memory.read::<u32>(futex).map(|value| value == expected);
    let woken = match process.futexes.wait(futex, is_expected)? {
        None => true,
        Some(waiting) => {
            let signals = guest.signals();
            let mut waiting = pin!(waiting);
            // All who wait look again: being told of a signal is as good as being woken.
            let woken = poll_fn(|context| match (waiting.as_mut().poll(context), &signals) {
                (Poll::Pending, Some(signals)) => signals.poll_arrived(context),
                (polled, _) => polled,
            });
            match timeout {
                None => {
                    woken.await;
                    true
                }
                Some(timeout) => tokio::time::timeout(timeout, woken).await.is_ok(),
            }
        }
    };
    Ok(memory.write(ro_woken, u8::from(woken))?)
}

/// `futex_wake(futex) -> bool`: whether somebody was woken.
pub(super) fn futex_wake(guest: &mut Guest, memory: &mut Memory<'_>, futex: u32, ro_woken: u32) -> Hostcall {
    let woken = guest.process()?.futexes.wake(futex, 1);
    Ok(memory.write(ro_woken, u8::from(woken > 0))?)
}

/// `futex_wake_all(futex) -> bool`
pub(super) fn futex_wake_all(guest: &mut Guest, memory: &mut Memory<'_>, futex: u32, ro_woken: u32) -> Hostcall {
    let woken = guest.process()?.futexes.wake(futex, usize::MAX);
    Ok(memory.write(ro_woken, u8::from(woken > 0))?)
}
