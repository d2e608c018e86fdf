//! Processes: how one is forked, and how its end is waited for.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use wasmtime::{Extern, Linker, WasmParams};
use wiggle::GuestError;

use crate::dialect::hostcall::{Call, Fault, Hostcall, Param, Row, Table, apart, enter, given, leave};
use crate::dialect::trace::tell;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::family::Ending;
use crate::guest::forking::{HEAD, START_UNWIND, STOP_REWIND};
use crate::memory::Memory;

/// `proc_fork(copy_memory) -> pid`: it is entered twice, so it is no ordinary row.
pub(super) const ROW: Row = Row {
    name: "proc_fork",
    params: &[Param { name: "copy_memory", wide: false }, Param { name: "ro_pid", wide: false }],
    result: true,
    is_absent: false,
    tell: tell!("proc_fork"),
    define: define_fork,
    define_telling: None,
};

/// Of `proc_join`: it does not wait.
const NON_BLOCKING: u32 = 1;

/// Of its answer, what a process did: nothing yet, exit, or end by a signal.
const NOTHING: u8 = 0;
const EXITED: u8 = 1;
const KILLED: u8 = 2;

/// Where asyncify's head has the end of what it may write to, behind where that begins.
const END_AT: u32 = 4;

/// What an optional process has in front of its number where there is one, and bytes up to that.
const SOME: u8 = 1;
const TAG_BYTES: u32 = 4;

/// A child that shares its parent's memory until it runs another program may have its own too, so it always has.
fn define_fork(
    linker: &mut Linker<Guest>, row: &'static Row, table: &'static Table, key: &str,
) -> wasmtime::Result<()> {
    linker.func_wrap_async(table.module, key, move |mut caller: Call<'_>, (_, ro_pid): (u32, u32)| {
        Box::new(async move {
            let call = pin!(async move {
                let outcome = fork(&mut caller, row, ro_pid).await;
                let given = given(&mut caller);
                let (guest, memory) = enter(&mut caller, &given, false);
                leave(table, None, guest, &memory, outcome)
            });
            apart(call).await
        })
    })?;
    Ok(())
}

/// Makes the guest leave its functions; or tells it what came of that, when it is here again.
async fn fork(caller: &mut Call<'_>, row: &Row, ro_pid: u32) -> Hostcall {
    let Some((ro_pid, answer)) = caller.data_mut().forking.rewound() else {
        let area = begin(caller, ro_pid)?;
        return call(caller, START_UNWIND, area).await;
    };
    call(caller, STOP_REWIND, ()).await?;
    match &answer {
        Ok(pid) => (row.tell)(format_args!("proc_fork() = {pid}")),
        Err(errno) => (row.tell)(format_args!("proc_fork() = {}", errno.name())),
    }
    let given = given(caller);
    let (_, mut memory) = enter(caller, &given, false);
    Ok(memory.write(ro_pid, answer?)?)
}

/// Where the guest is to keep its variables meanwhile.
fn begin(caller: &mut Call<'_>, ro_pid: u32) -> Result<u32, Fault> {
    let given = given(caller);
    let (guest, memory) = enter(caller, &given, false);
    memory.read::<u32>(ro_pid)?;
    if let Err(why) = guest.may_fork() {
        if guest.misses("proc_fork") {
            tracing::warn!("the guest calls `proc_fork`, {why}");
        }
        return Err(Errno::NotSupported.into());
    }
    let (area, end) = guest.unwinds(ro_pid)?;
    // It may be larger by now.
    let (_, mut memory) = enter(caller, &given, false);
    memory.write(area, area + HEAD)?;
    memory.write(area + END_AT, end)?;
    Ok(area)
}

/// Calls a function of the guest's.
async fn call(caller: &mut Call<'_>, name: &str, parameters: impl WasmParams + Sync) -> Hostcall {
    let function = match caller.get_export(name) {
        Some(Extern::Func(function)) => function.typed::<_, ()>(&*caller).map_err(Fault::Trap)?,
        _ => return Err(Errno::NotSupported.into()),
    };
    function.call_async(caller, parameters).await.map_err(Fault::Trap)
}

/// `proc_join(pid, flags) -> status`: `pid` is the child that is meant, if it is one, and then the one that ended; 0
/// where none has.
pub(super) async fn join(guest: &mut Guest, memory: &mut Memory<'_>, pid: u32, flags: u32, ro_status: u32) -> Hostcall {
    let process = Arc::clone(guest.process()?);
    let number = pid.checked_add(TAG_BYTES).ok_or(GuestError::PtrOverflow)?;
    let (tag, child): (u8, u32) = (memory.read(pid)?, memory.read(number)?);
    let child = (tag == SOME && child != 0).then_some(child);
    // None is forgotten of which the guest is not told.
    memory.bytes(ro_status, 6)?;
    let ended = poll_fn(|context| match process.family.poll_join(context, process.pid, child) {
        Poll::Pending if flags & NON_BLOCKING != 0 => Poll::Ready(Ok(None)),
        polled => polled.map_ok(Some),
    });
    let ended = ended.await?;
    let (child, [tag, code, signal]) = match ended {
        None => (0, [NOTHING, 0, 0]),
        Some((child, Ending::Exited(code))) => (child, [EXITED, code.to_le_bytes()[0], 0]),
        Some((child, Ending::Killed(signal))) => (child, [KILLED, 0, signal.to_le_bytes()[0]]),
    };
    memory.write(pid, SOME)?;
    memory.write(number, child)?;
    Ok(memory.write_bytes(ro_status, &[tag, 0, code, 0, signal, 0])?)
}
