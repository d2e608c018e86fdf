//! Sockets of preview1: accept, receive, send, shut down. `WasmEdge` shares the last three.
//! <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#sock_accept>

use crate::descriptor::SocketKind;
use crate::dialect::hostcall::Hostcall;
use crate::errno::Errno;
use crate::guest::{Generation, Guest};
use crate::memory::Memory;
use crate::net::{ReceiveFlags, Shutdown};

use super::{NONBLOCK, fd};

/// All of `fdflags`; a socket keeps `nonblock` of them.
const FDFLAGS: u32 = 0x1f;
/// `riflags`.
const RECV_PEEK: u32 = 1;
const RECV_WAITALL: u32 = 2;
/// What WASIX has beside: how a datagram was cut is told in any case.
const WASIX_RECV_TRUNCATED: u32 = 4;
const WASIX_RECV_DONT_WAIT: u32 = 8;
/// `siflags`, of which preview1 has none.
const WASIX_SEND_DONT_WAIT: u32 = 1;
/// `roflags`.
const RECV_DATA_TRUNCATED: u16 = 1;

/// `sock_accept(fd, flags) -> fd`. In `WasmEdge` 0.8.2 the second parameter was a port, to ignore.
pub(crate) async fn accept(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, flags: u32, ro_fd: u32) -> Hostcall {
    let flags = if guest.generation == Generation::Before0_10 { 0 } else { flags };
    if flags & !FDFLAGS != 0 {
        return Err(Errno::Invalid.into());
    }
    let accepted = guest.accept(fd, flags & NONBLOCK != 0).await?;
    memory.write(ro_fd, accepted.fd())?;
    accepted.keep();
    Ok(())
}

/// `sock_recv(fd, ri_data, ri_flags) -> (size, roflags)`
pub(crate) async fn recv(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ri_data: u32, ri_data_len: u32, ri_flags: u32,
    ro_datalen: u32, ro_flags: u32,
) -> Hostcall {
    let flags = receive_flags(guest, ri_flags)?;
    let socket = guest.descriptors.socket(fd)?;
    let buffers = guest.buffers(memory, ri_data, ri_data_len)?;
    let (received, truncated) = match &socket.kind {
        // Nothing is ever cut off a stream.
        SocketKind::Tcp(_) => (guest.receive(&socket, memory, buffers, flags).await?, false),
        SocketKind::Udp(_) => {
            let datagram = guest.receive_datagram(&socket, memory, &buffers, flags).await?;
            (datagram.length, datagram.truncated)
        }
    };
    write_roflags(memory, ro_flags, truncated)?;
    fd::write_size(memory, ro_datalen, received)
}

/// `sock_send(fd, si_data, si_flags) -> size`; no flag is defined.
pub(crate) async fn send(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, si_data: u32, si_data_len: u32, si_flags: u32, so_datalen: u32,
) -> Hostcall {
    let dont_wait = guest.is_wasix() && si_flags == WASIX_SEND_DONT_WAIT;
    if si_flags != 0 && !dont_wait {
        return Err(Errno::Invalid.into());
    }
    let socket = guest.descriptors.socket(fd)?;
    let buffers = guest.buffers(memory, si_data, si_data_len)?;
    let sent = guest.send(&socket, memory, buffers, dont_wait).await?;
    fd::write_size(memory, so_datalen, sent)
}

/// `sock_shutdown(fd, how)`: 1 receiving, 2 sending, 3 both.
pub(crate) fn shutdown(guest: &mut Guest, _: &mut Memory<'_>, fd: u32, how: u32) -> Hostcall {
    let how = match how {
        // `WasiSockShutdownV1`'s default.
        0 if guest.generation != Generation::NotWasmEdge => Shutdown::Read,
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        3 => Shutdown::Both,
        // What is no socket is told first, as on Linux.
        _ => return Err(guest.descriptors.socket(fd).err().unwrap_or(Errno::Invalid).into()),
    };
    Ok(guest.shutdown(fd, how)?)
}

/// Writes `roflags`: 16 bits only, what follows them is the guest's.
pub(crate) fn write_roflags(memory: &mut Memory<'_>, pointer: u32, truncated: bool) -> Hostcall {
    Ok(memory.write(pointer, if truncated { RECV_DATA_TRUNCATED } else { 0 })?)
}

pub(crate) fn receive_flags(guest: &Guest, flags: u32) -> Result<ReceiveFlags, Errno> {
    let more = if guest.is_wasix() { WASIX_RECV_TRUNCATED | WASIX_RECV_DONT_WAIT } else { 0 };
    if flags & !(RECV_PEEK | RECV_WAITALL | more) != 0 {
        return Err(Errno::Invalid);
    }
    Ok(ReceiveFlags {
        peek: flags & RECV_PEEK != 0,
        wait_all: flags & RECV_WAITALL != 0,
        dont_wait: flags & more & WASIX_RECV_DONT_WAIT != 0,
    })
}
