//! Functions that work on every kind of descriptor: each kind's own way, or delegated.

use crate::descriptor::{Descriptor, Descriptors, Socket, SocketKind};
use crate::dialect::hostcall::{Fault, Hostcall};
use crate::errno::Errno;
use crate::guest::Guest;
use crate::memory::{Buffers, Memory};
use crate::net::{Interest, ReceiveFlags};
use crate::readiness;
use crate::stdio::Stdio;

use super::{NONBLOCK, host_files};

/// `filetype.unknown`.
const UNKNOWN: u8 = 0;

/// Bytes that a read or a write of an eventfd moves.
const EVENT_BYTES: usize = 8;

/// `filetype.socket_dgram` and `filetype.socket_stream`.
const SOCKET_DGRAM: u8 = 5;
const SOCKET_STREAM: u8 = 6;

/// Rights of a socket that the guest opened: `fd_read`, `fd_write` (wasi-libc derives `O_RDWR` from
/// these two), `fd_fdstat_set_flags`, and `WasmEdge`'s own from bit 29 (preview1: `sock_accept`).
/// `WasmEdge` 0.17.1 answers exactly these numbers.
const RIGHTS_OPENED: u64 = 0xf_f800_004a;
const RIGHTS_ACCEPTED: u64 = 0xf_1800_004a;

/// A prestat tag that is not `dir` (0): guests that scan for directories go on past a listener
/// (wasi-libc `preopens.c`, Go `fs_wasip1.go`), where any errno but BADF would end them.
const PRESTAT_NOT_A_DIRECTORY: u8 = 1;

/// `fd_close(fd)`
pub(crate) async fn close(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32) -> Hostcall {
    host_files::close(guest, memory, fd, |descriptors| descriptors.remove(fd)).await
}

/// `fd_renumber(fd, to)`: `to` is closed and becomes `fd`; both must be open.
pub(crate) async fn renumber(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, to: u32) -> Hostcall {
    let is_wasix = guest.is_wasix();
    let replace = |descriptors: &Descriptors| match is_wasix {
        // There it is dup2, as its libc has it.
        true => descriptors.duplicate_to(fd, to),
        false => descriptors.renumber(fd, to),
    };
    host_files::close(guest, memory, to, replace).await
}

/// `fd_read(fd, iovs) -> size`
pub(crate) async fn read(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, iovs: u32, iovs_len: u32, ro_nread: u32,
) -> Hostcall {
    let received = match guest.descriptors.get(fd)? {
        Descriptor::Host(_) => return host_files::fd_read(guest, memory, fd, iovs, iovs_len, ro_nread).await,
        Descriptor::Stdio(stdio) => {
            let buffers = guest.buffers(memory, iovs, iovs_len)?;
            read_stdio(guest, &stdio, memory, &buffers).await?
        }
        Descriptor::Socket(socket) => {
            let buffers = guest.buffers(memory, iovs, iovs_len)?;
            guest.receive(&socket, memory, buffers, ReceiveFlags::default()).await?
        }
        Descriptor::Event(event) => {
            let buffers = guest.buffers(memory, iovs, iovs_len)?;
            if buffers.total() < EVENT_BYTES {
                return Err(Errno::Invalid.into());
            }
            memory.fill(&buffers, &guest.read_event(&event).await?.to_le_bytes())?;
            EVENT_BYTES
        }
        Descriptor::Epoll(_) => return Err(Errno::Invalid.into()),
    };
    write_size(memory, ro_nread, received)
}

/// `fd_write(fd, iovs) -> size`
pub(crate) async fn write(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, iovs: u32, iovs_len: u32, ro_nwritten: u32,
) -> Hostcall {
    let written = match guest.descriptors.get(fd)? {
        Descriptor::Host(_) => {
            guest.sending.end();
            return host_files::fd_write(guest, memory, fd, iovs, iovs_len, ro_nwritten).await;
        }
        Descriptor::Stdio(stdio) => {
            guest.sending.end();
            let buffers = guest.buffers(memory, iovs, iovs_len)?;
            write_stdio(guest, &stdio, memory, &buffers).await?
        }
        Descriptor::Socket(socket) => {
            let buffers = guest.buffers(memory, iovs, iovs_len)?;
            guest.send(&socket, memory, buffers, false).await?
        }
        Descriptor::Event(event) => {
            let bytes = memory.collect(&guest.buffers(memory, iovs, iovs_len)?)?;
            let more = bytes.first_chunk().ok_or(Errno::Invalid)?;
            guest.write_event(&event, u64::from_le_bytes(*more)).await?;
            EVENT_BYTES
        }
        Descriptor::Epoll(_) => return Err(Errno::Invalid.into()),
    };
    write_size(memory, ro_nwritten, written)
}

pub(crate) fn write_size(memory: &mut Memory<'_>, pointer: u32, size: usize) -> Hostcall {
    let size = u32::try_from(size).map_err(|_| Errno::Overflow)?;
    Ok(memory.write(pointer, size)?)
}

async fn read_stdio(
    guest: &mut Guest, stdio: &Stdio, memory: &mut Memory<'_>, buffers: &Buffers,
) -> Result<usize, Fault> {
    if buffers.is_empty() {
        return Ok(0);
    }
    loop {
        match memory.scatter(buffers, |slices| stdio.try_read(&mut slices[0]))?.map_err(Errno::from) {
            Err(Errno::Again) if !stdio.is_nonblocking() => {
                guest.waits(readiness::stdio_ready(stdio, Interest::Read)).await?;
            }
            outcome => return Ok(outcome?),
        }
    }
}

async fn write_stdio(guest: &mut Guest, stdio: &Stdio, memory: &Memory<'_>, buffers: &Buffers) -> Result<usize, Fault> {
    if buffers.is_empty() {
        return Ok(0);
    }
    loop {
        match memory.gather(buffers, |slices| stdio.try_write(slices))?.map_err(Errno::from) {
            Err(Errno::Again) if !stdio.is_nonblocking() => {
                guest.waits(readiness::stdio_ready(stdio, Interest::Write)).await?;
            }
            outcome => return Ok(outcome?),
        }
    }
}

/// `fd_fdstat_get(fd) -> fdstat`
pub(crate) async fn fdstat_get(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ro_stat: u32) -> Hostcall {
    let (file_type, nonblocking, rights) = match guest.descriptors.get(fd)? {
        Descriptor::Host(_) => return host_files::fd_fdstat_get(guest, memory, fd, ro_stat).await,
        // No seek, no tell: with a character device that is what isatty looks for.
        Descriptor::Stdio(stdio) => (stdio.file_type(), stdio.is_nonblocking(), RIGHTS_STDIO),
        Descriptor::Event(event) => (UNKNOWN, event.is_nonblocking(), RIGHTS_STDIO),
        Descriptor::Epoll(_) => (UNKNOWN, false, 0),
        Descriptor::Socket(socket) => {
            let rights = if socket.accepted { RIGHTS_ACCEPTED } else { RIGHTS_OPENED };
            (socket_type(&socket), socket.is_nonblocking(), rights)
        }
    };
    memory.write_bytes(ro_stat, &[0; 24])?;
    memory.write(ro_stat, file_type)?;
    memory.write(ro_stat + 2, if nonblocking { FDFLAGS_NONBLOCK } else { 0 })?;
    memory.write(ro_stat + 8, rights)?;
    memory.write(ro_stat + 16, rights)?;
    Ok(())
}

/// [`NONBLOCK`] as an fdstat holds it.
const FDFLAGS_NONBLOCK: u16 = 1 << 2;

/// `fd_read`, `fd_write`, `fd_fdstat_set_flags`, `fd_filestat_get`, `poll_fd_readwrite`.
const RIGHTS_STDIO: u64 = 1 << 1 | 1 << 6 | 1 << 3 | 1 << 21 | 1 << 27;

/// `fd_fdstat_set_flags(fd, flags)`: on sockets and standard streams only `nonblock` has a meaning.
pub(crate) async fn fdstat_set_flags(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, flags: u32) -> Hostcall {
    let descriptor = guest.descriptors.get(fd)?;
    if let Descriptor::Host(_) = descriptor {
        return host_files::fd_fdstat_set_flags(guest, memory, fd, flags).await;
    }
    if flags & !NONBLOCK != 0 {
        return Err(Errno::Invalid.into());
    }
    let nonblocking = flags & NONBLOCK != 0;
    match descriptor {
        Descriptor::Socket(socket) => socket.set_nonblocking(nonblocking),
        Descriptor::Stdio(stdio) => stdio.set_nonblocking(nonblocking),
        Descriptor::Event(event) => event.set_nonblocking(nonblocking),
        Descriptor::Host(_) | Descriptor::Epoll(_) => {}
    }
    Ok(())
}

/// `fd_filestat_get(fd) -> filestat`: for what is no file, its type and zeros.
pub(crate) async fn filestat_get(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ro_stat: u32) -> Hostcall {
    let file_type = match guest.descriptors.get(fd)? {
        Descriptor::Host(_) => return host_files::fd_filestat_get(guest, memory, fd, ro_stat).await,
        Descriptor::Stdio(stdio) => stdio.file_type(),
        Descriptor::Socket(socket) => socket_type(&socket),
        Descriptor::Event(_) | Descriptor::Epoll(_) => UNKNOWN,
    };
    memory.write_bytes(ro_stat, &[0; 64])?;
    memory.write(ro_stat + 16, file_type)?;
    Ok(())
}

/// `fd_prestat_get(fd) -> prestat`
pub(crate) async fn prestat_get(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ro_prestat: u32) -> Hostcall {
    match guest.descriptors.get(fd)? {
        Descriptor::Socket(_) => Ok(memory.write_bytes(ro_prestat, &[PRESTAT_NOT_A_DIRECTORY, 0, 0, 0, 0, 0, 0, 0])?),
        _ => host_files::fd_prestat_get(guest, memory, fd, ro_prestat).await,
    }
}

fn socket_type(socket: &Socket) -> u8 {
    match socket.kind {
        SocketKind::Tcp(_) => SOCKET_STREAM,
        SocketKind::Udp(_) => SOCKET_DGRAM,
    }
}
