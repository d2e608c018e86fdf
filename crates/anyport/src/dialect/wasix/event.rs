//! Descriptors of WASIX that preview1 has not: epoll sets, eventfds, pipes, second numbers.

use std::sync::Arc;
use std::time::Duration;

use crate::descriptor::Descriptor;
use crate::dialect::hostcall::Hostcall;
use crate::dialect::preview1::host_files;
use crate::epoll::{Data, Epoll};
use crate::errno::Errno;
use crate::event::Event;
use crate::guest::Guest;
use crate::memory::Memory;

/// Bytes of an `epoll_event`, and where what the guest gave with it begins.
const EVENT_BYTES: u32 = 32;
const DATA_AT: u32 = 8;
/// `epoll_ctl`'s operations as they come: the header says others.
const ADD: u32 = 1;
const DEL: u32 = 2;
const MOD: u32 = 3;
/// A timeout that never comes.
const FOREVER: u64 = u64::MAX;
/// `eventfdflags`.
const SEMAPHORE: u32 = 1;
const NONBLOCK: u32 = 4;
/// The one of `fdflagsext`. Nothing is executed here: who asks is told what was set.
const CLOEXEC: u16 = 1;
/// Events that one wait tells at most.
const EVENTS_MOST: usize = 1024;

/// `epoll_create() -> fd`
pub(super) async fn epoll_create(guest: &mut Guest, memory: &mut Memory<'_>, ro_fd: u32) -> Hostcall {
    let opened = guest.open_epoll()?;
    memory.write(ro_fd, opened.fd())?;
    opened.keep();
    Ok(())
}

fn epoll(guest: &Guest, fd: u32) -> Result<Arc<Epoll>, Errno> {
    match guest.descriptors.get(fd)? {
        Descriptor::Epoll(epoll) => Ok(epoll),
        _ => Err(Errno::Invalid),
    }
}

/// `epoll_ctl(epfd, op, fd, event)`
pub(super) fn epoll_ctl(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, op: u32, target: u32, event: u32,
) -> Hostcall {
    let epoll = epoll(guest, fd)?;
    let descriptor = guest.descriptors.get(target)?;
    if op == DEL {
        return Ok(epoll.remove(target, &descriptor)?);
    }
    guest.looks_for_connections(&descriptor);
    let wanted: u32 = memory.read(event)?;
    let data = memory.bytes(event.checked_add(DATA_AT).ok_or(wiggle::GuestError::PtrOverflow)?, 24)?;
    let data = Data::try_from(data).map_err(|_| Errno::Invalid)?;
    let outcome = match op {
        0 | ADD => epoll.add(target, &descriptor, wanted, data),
        MOD => epoll.change(target, &descriptor, wanted, data),
        _ => Err(Errno::Invalid),
    };
    Ok(outcome?)
}

/// `epoll_wait(epfd, maxevents, timeout) -> (events, size)`, the timeout in nanoseconds.
pub(super) async fn epoll_wait(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, events: u32, most: u32, timeout: u64, ro_nevents: u32,
) -> Hostcall {
    let epoll = epoll(guest, fd)?;
    if most == 0 || most.cast_signed() < 0 {
        return Err(Errno::Invalid.into());
    }
    let timeout = (timeout != FOREVER).then(|| Duration::from_nanos(timeout));
    let told = guest.epoll(&epoll, EVENTS_MOST.min(most as usize), timeout).await;
    let mut at = events;
    for (events, data) in &told {
        memory.write_bytes(at, &[0; EVENT_BYTES as usize])?;
        memory.write(at, *events)?;
        memory.write_bytes(at + DATA_AT, data)?;
        at = at.checked_add(EVENT_BYTES).ok_or(wiggle::GuestError::PtrOverflow)?;
    }
    Ok(memory.write(ro_nevents, u32::try_from(told.len()).unwrap_or(u32::MAX))?)
}

/// `fd_event(initial, flags) -> fd`
pub(super) fn fd_event(guest: &mut Guest, memory: &mut Memory<'_>, initial: u64, flags: u32, ro_fd: u32) -> Hostcall {
    let event = Event::new(initial, flags & SEMAPHORE != 0, flags & NONBLOCK != 0);
    let opened = guest.open_event(event)?;
    memory.write(ro_fd, opened.fd())?;
    opened.keep();
    Ok(())
}

/// `fd_pipe() -> (fd, fd)`
pub(super) fn fd_pipe(guest: &mut Guest, memory: &mut Memory<'_>, ro_read_fd: u32, ro_write_fd: u32) -> Hostcall {
    let (reads, writes) = guest.open_pipe()?;
    memory.write(ro_read_fd, reads.fd())?;
    memory.write(ro_write_fd, writes.fd())?;
    reads.keep();
    writes.keep();
    Ok(())
}

/// `fd_dup(fd) -> fd`
pub(super) fn fd_dup(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ro_fd: u32) -> Hostcall {
    fd_dup2(guest, memory, fd, 0, 0, ro_fd)
}

/// `fd_dup2(fd, min_result_fd, cloexec) -> fd`: as `F_DUPFD`, or `F_DUPFD_CLOEXEC`.
pub(super) fn fd_dup2(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, least: u32, cloexec: u32, ro_fd: u32,
) -> Hostcall {
    let number = guest.descriptors.duplicate(fd, least)?;
    guest.descriptors.close_on_exec(number, cloexec != 0)?;
    memory.write(ro_fd, number)?;
    Ok(())
}

/// `fd_fdflags_get(fd) -> fdflagsext`
pub(super) fn fdflags_get(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ro_flags: u32) -> Hostcall {
    let flags = if guest.descriptors.closes_on_exec(fd)? { CLOEXEC } else { 0 };
    Ok(memory.write(ro_flags, flags)?)
}

/// `fd_fdflags_set(fd, fdflagsext)`
pub(super) fn fdflags_set(guest: &mut Guest, _: &mut Memory<'_>, fd: u32, flags: u32) -> Hostcall {
    Ok(guest.descriptors.close_on_exec(fd, flags & u32::from(CLOEXEC) != 0)?)
}

/// `path_open2`: with the flags of `fd_fdflags_set` in addition.
#[expect(clippy::too_many_arguments, reason = "so many has the interface")]
pub(super) async fn path_open2(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, dirflags: u32, path: u32, path_len: u32, oflags: u32,
    rights_base: u64, rights_inheriting: u64, fdflags: u32, fdflagsext: u32, ro_fd: u32,
) -> Hostcall {
    host_files::path_open(
        guest,
        memory,
        fd,
        dirflags,
        path,
        path_len,
        oflags,
        rights_base,
        rights_inheriting,
        fdflags,
        ro_fd,
    )
    .await?;
    fdflags_set(guest, memory, memory.read(ro_fd)?, fdflagsext)
}
