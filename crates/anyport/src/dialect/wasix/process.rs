//! The process that a guest takes itself for: its number, directory, terminal, signals.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Caller, Extern, Linker};

use crate::descriptor::Descriptor;
use crate::dialect::hostcall::{Fault, Hostcall, Row, Table, enter, given};
use crate::dialect::preview1::host_files;
use crate::dialect::preview1::process::Exit;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::family::{SIGKILL, is_ignored};
use crate::memory::Memory;

/// What `kill` takes for all processes of one's own group, and for all but oneself and the first. A guest is one group.
const GROUP: u32 = 0;
const OTHERS: u32 = u32::MAX;

/// Bytes of a path, as Linux has it.
const PATH_BYTES: u32 = 4096;

/// Bytes of the name of an export that takes signals: libc's is `__wasm_signal`.
const CALLBACK_BYTES: u32 = 256;

/// What a terminal is said to be like where nobody asked one.
const COLUMNS: u32 = 80;
const LINES: u32 = 25;

/// `proc_id() -> pid`
pub(super) fn id(guest: &mut Guest, memory: &mut Memory<'_>, ro_pid: u32) -> Hostcall {
    Ok(memory.write(ro_pid, guest.process()?.pid)?)
}

/// `proc_parent(pid) -> pid`
pub(super) fn parent(guest: &mut Guest, memory: &mut Memory<'_>, pid: u32, ro_parent: u32) -> Hostcall {
    let parent = guest.process()?.family.parent_of(pid).ok_or(Errno::NoProcess)?;
    Ok(memory.write(ro_parent, parent)?)
}

/// `proc_signals_sizes_get() -> size`: nothing was decided for the guest.
pub(super) fn signals_sizes_get(_: &mut Guest, memory: &mut Memory<'_>, ro_count: u32) -> Hostcall {
    Ok(memory.write(ro_count, 0_u32)?)
}

/// `proc_signals_get(buf)`: of which there are none.
pub(super) fn signals_get(_: &mut Guest, _: &mut Memory<'_>, _buf: u32) -> Hostcall {
    Ok(())
}

/// `proc_raise(sig)`
pub(super) async fn raise(guest: &mut Guest, _: &mut Memory<'_>, sig: u32) -> Hostcall {
    raise_for(guest, guest.thread, sig)
}

/// `proc_raise_interval(sig, interval, repeat)`: in milliseconds, of which none ends it. Only who is told of signals
/// has a use for it.
pub(super) fn raise_interval(guest: &mut Guest, _: &mut Memory<'_>, sig: u32, interval: u64, repeat: u32) -> Hostcall {
    let process = guest.process()?;
    if !(1..64).contains(&sig) {
        return Err(Errno::Invalid.into());
    }
    if process.handler().is_none() {
        return Err(Errno::NotSupported.into());
    }
    let time = (interval > 0).then(|| Duration::from_millis(interval));
    process.raise_after(sig, time, repeat != 0);
    Ok(())
}

/// `proc_signal(pid, sig)`
pub(super) async fn signal(guest: &mut Guest, _: &mut Memory<'_>, pid: u32, sig: u32) -> Hostcall {
    let process = Arc::clone(guest.process()?);
    if !matches!(pid, GROUP | OTHERS) {
        return if pid == process.pid { for_itself(guest, sig) } else { Ok(process.family.signal(pid, sig)?) };
    }
    let others = process.family.others_than(process.pid, pid == GROUP);
    if sig > 63 {
        return Err(Errno::Invalid.into());
    }
    if pid == OTHERS && others.is_empty() {
        return Err(Errno::NoProcess.into());
    }
    for other in others {
        // One may end meanwhile.
        let _ = process.family.signal(other, sig);
    }
    if pid == GROUP { for_itself(guest, sig) } else { Ok(()) }
}

fn for_itself(guest: &mut Guest, sig: u32) -> Hostcall {
    let process = Arc::clone(guest.process()?);
    told(guest, sig, || process.raise_for_any(sig))
}

/// Raises a signal for a thread.
pub(super) fn raise_for(guest: &mut Guest, tid: u32, sig: u32) -> Hostcall {
    let process = Arc::clone(guest.process()?);
    if !process.lives(tid) {
        return Err(Errno::NoProcess.into());
    }
    told(guest, sig, || process.raise(tid, sig))
}

/// What comes of a signal. Without a handler it ends the process, as shells tell that.
fn told(guest: &mut Guest, sig: u32, raise: impl FnOnce() -> bool) -> Hostcall {
    match sig {
        0 => Ok(()),
        1..64 if (sig != SIGKILL && raise()) || is_ignored(sig) => Ok(()),
        1..64 => {
            guest.handling = Some(sig);
            Err(Fault::Trap(Exit(128 + sig).into()))
        }
        _ => Err(Errno::Invalid.into()),
    }
}

/// `callback_signal(name)`: the export that is called with each signal. It has no result, so it is no ordinary row.
pub(super) fn define_callback(
    linker: &mut Linker<Guest>, row: &'static Row, table: &'static Table, key: &str,
) -> wasmtime::Result<()> {
    linker.func_wrap(table.module, key, |mut caller: Caller<'_, Guest>, name: u32, length: u32| {
        let given = given(&mut caller);
        let (guest, memory) = enter(&mut caller, &given, false);
        let name = memory.bytes(name, length.min(CALLBACK_BYTES)).unwrap_or_default();
        (row.tell)(format_args!("callback_signal(name=\"{}\")", name.escape_ascii()));
        let (Ok(process), Ok(name)) = (guest.process().map(Arc::clone), String::from_utf8(name)) else { return };
        if matches!(caller.get_export(&name), Some(Extern::Func(_))) {
            process.handle_signals(name);
        } else {
            process.block_signals(true);
        }
    })?;
    Ok(())
}

/// `getcwd(path, len)`: `len` is the room there, and then what was written.
pub(super) fn getcwd(guest: &mut Guest, memory: &mut Memory<'_>, path: u32, path_len: u32) -> Hostcall {
    let directory = guest.process()?.directory();
    let room: u32 = memory.read(path_len)?;
    let length = u32::try_from(directory.len()).map_err(|_| Errno::Overflow)?;
    memory.write(path_len, length)?;
    if path == 0 {
        return Err(Errno::Invalid.into());
    }
    if room < length {
        return Err(Errno::Range.into());
    }
    memory.write_bytes(path, directory.as_bytes())?;
    if room > length {
        memory.write(path.checked_add(length).ok_or(wiggle::GuestError::PtrOverflow)?, 0_u8)?;
    }
    Ok(())
}

/// `chdir(path)`: to what is there.
pub(super) async fn chdir(guest: &mut Guest, memory: &mut Memory<'_>, path: u32, path_len: u32) -> Hostcall {
    if path_len > PATH_BYTES {
        return Err(Errno::NameTooLong.into());
    }
    let path = String::from_utf8(memory.bytes(path, path_len)?).map_err(|_| Errno::IllegalSequence)?;
    if path.is_empty() {
        return Err(Errno::NoEntry.into());
    }
    let path = guest.process()?.absolute(&path);
    host_files::must_be_directory(guest, &path).await?;
    guest.process()?.enter(path);
    Ok(())
}

/// `tty_get() -> tty`
pub(super) fn tty_get(guest: &mut Guest, memory: &mut Memory<'_>, ro_tty: u32) -> Hostcall {
    let is_terminal = |fd| matches!(guest.descriptors.get(fd), Ok(Descriptor::Stdio(stdio)) if stdio.is_terminal());
    let mut tty = Vec::with_capacity(24);
    for number in [COLUMNS, LINES, 0, 0] {
        tty.extend(number.to_le_bytes());
    }
    tty.extend([0, 1, 2].map(|fd| u8::from(is_terminal(fd))));
    // Echo and line buffers, as every terminal begins.
    tty.extend([1, 1, 1, 0, 0]);
    Ok(memory.write_bytes(ro_tty, &tty)?)
}

/// `tty_set(tty)`: the terminal stays as it is.
pub(super) fn tty_set(_: &mut Guest, memory: &mut Memory<'_>, tty: u32) -> Hostcall {
    memory.bytes(tty, 24)?;
    Ok(())
}
