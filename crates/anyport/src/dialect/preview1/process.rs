//! Exit, signals, yielding, randomness.

use std::fmt;

use wasmtime::{Caller, Linker};

use crate::dialect::hostcall::{Fault, Hostcall, Row, Table};
use crate::errno::Errno;
use crate::guest::Guest;
use crate::memory::Memory;

/// The guest ended itself with this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u32);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest exited with code {}", self.0)
    }
}

impl std::error::Error for Exit {}

/// `proc_exit(rval)`: does not return, so it is no ordinary row.
/// <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#proc_exit>
pub(crate) fn define_exit(
    linker: &mut Linker<Guest>, row: &'static Row, table: &'static Table, key: &str,
) -> wasmtime::Result<()> {
    linker.func_wrap(table.module, key, |_: Caller<'_, Guest>, code: u32| -> wasmtime::Result<()> {
        (row.tell)(format_args!("proc_exit(rval={}) = exit", code.cast_signed()));
        Err(Exit(code).into())
    })?;
    Ok(())
}

/// `proc_raise(sig)`: not supported. A guest that aborts does so by a trap.
pub(crate) fn raise(_: &mut Guest, _: &mut Memory<'_>, _sig: u32) -> Hostcall {
    Err(Errno::NotSupported.into())
}

/// `sched_yield()`: lets the poller and other guests of this thread go first.
pub(crate) async fn sched_yield(_: &mut Guest, _: &mut Memory<'_>) -> Hostcall {
    tokio::task::yield_now().await;
    Ok(())
}

/// `random_get(buf, buf_len)`, at most `limits.random_bytes`.
/// <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#random_get>
pub(crate) fn random_get(guest: &mut Guest, memory: &mut Memory<'_>, buf: u32, buf_len: u32) -> Hostcall {
    if buf_len as usize > guest.limits.random_bytes {
        return Err(Errno::TooBig.into());
    }
    let mut bytes = vec![0; buf_len as usize];
    getrandom::fill(&mut bytes).map_err(|error| Fault::Trap(wasmtime::Error::msg(error.to_string())))?;
    Ok(memory.write_bytes(buf, &bytes)?)
}
