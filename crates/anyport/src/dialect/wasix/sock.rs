//! Sockets of WASIX.

use crate::address::Transport;
use crate::descriptor::{Descriptor, Opened, Socket, SocketKind};
use crate::dialect::hostcall::Hostcall;
use crate::dialect::preview1::NONBLOCK;
use crate::dialect::preview1::fd::write_size;
use crate::dialect::preview1::host_files;
use crate::dialect::preview1::sock::{receive_flags, write_roflags};
use crate::errno::Errno;
use crate::guest::Guest;
use crate::memory::Memory;
use crate::net::tcp::Tcp;

use super::address;

/// What a socket type is without its flags, and those.
const TYPE_MASK: u32 = 0xff;
const TYPE_NONBLOCK: u32 = 0x4000;
const TYPE_CLOEXEC: u32 = 0x2000;
/// `socktype`.
const STREAM: u32 = 1;
const DGRAM: u32 = 2;
/// `sockstatus`.
const OPENING: u8 = 0;
const OPENED: u8 = 1;
/// `siflags`.
const SEND_DONT_WAIT: u32 = 1;

fn transport(kind: u32) -> Result<Transport, Errno> {
    match kind & TYPE_MASK {
        STREAM => Ok(Transport::Tcp),
        DGRAM => Ok(Transport::Udp),
        _ => Err(Errno::ProtocolNotSupported),
    }
}

/// `sock_open(af, type, protocol) -> fd`; libc passes `SOCK_NONBLOCK` and `SOCK_CLOEXEC` through as they are.
pub(super) fn open(
    guest: &mut Guest, memory: &mut Memory<'_>, family: u32, kind: u32, _protocol: u32, ro_fd: u32,
) -> Hostcall {
    let opened = guest.open(address::family(family)?, transport(kind)?)?;
    opened.socket()?.set_nonblocking(kind & TYPE_NONBLOCK != 0);
    guest.descriptors.close_on_exec(opened.fd(), kind & TYPE_CLOEXEC != 0)?;
    memory.write(ro_fd, opened.fd())?;
    opened.keep();
    Ok(())
}

/// `sock_pair(af, type, protocol) -> (fd, fd)`: a connection of the guest with itself.
pub(super) fn pair(
    guest: &mut Guest, memory: &mut Memory<'_>, _family: u32, kind: u32, _protocol: u32, ro_one: u32, ro_other: u32,
) -> Hostcall {
    if transport(kind)? != Transport::Tcp {
        return Err(Errno::NotSupported.into());
    }
    let (one, other) = Tcp::pair()?;
    let open = |tcp| {
        let socket = Socket::new(SocketKind::Tcp(tcp));
        socket.set_nonblocking(kind & TYPE_NONBLOCK != 0);
        let opened = Opened::new(&guest.descriptors, Descriptor::Socket(socket.into()))?;
        guest.descriptors.close_on_exec(opened.fd(), kind & TYPE_CLOEXEC != 0)?;
        Ok::<_, Errno>(opened)
    };
    let (one, other) = (open(one)?, open(other)?);
    memory.write(ro_one, one.fd())?;
    memory.write(ro_other, other.fd())?;
    one.keep();
    other.keep();
    Ok(())
}

/// `sock_bind(fd, addr_port)`
pub(super) fn bind(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, addr_port: u32) -> Hostcall {
    let address = address::read(memory, addr_port)?;
    Ok(guest.bind_or_note(fd, address)?)
}

/// `sock_listen(fd, backlog)`
pub(super) fn listen(guest: &mut Guest, _: &mut Memory<'_>, fd: u32, backlog: u32) -> Hostcall {
    guest.bind_noted(fd)?;
    Ok(guest.listen(fd, backlog)?)
}

/// `sock_accept_v2(fd, flags) -> (fd, addr_port)`: what is accepted blocks unless the flags say otherwise.
pub(super) async fn accept(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, flags: u32, ro_fd: u32, ro_addr_port: u32,
) -> Hostcall {
    let accepted = guest.accept(fd, flags & NONBLOCK != 0).await?;
    let peer = accepted.socket()?.peer_address()?;
    memory.write(ro_fd, accepted.fd())?;
    address::write(memory, ro_addr_port, peer)?;
    accepted.keep();
    Ok(())
}

/// `sock_connect(fd, addr_port)`
pub(super) async fn connect(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, addr_port: u32) -> Hostcall {
    let to = address::read(memory, addr_port)?;
    guest.bind_noted(fd)?;
    Ok(guest.connect(fd, to).await?)
}

/// `sock_addr_local(fd) -> addr_port`
pub(super) fn address_local(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ro_addr_port: u32) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    let local = match socket.noted() {
        Some(noted) => noted,
        None => socket.local_address()?,
    };
    address::write(memory, ro_addr_port, local)
}

/// `sock_addr_peer(fd) -> addr_port`
pub(super) fn address_peer(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ro_addr_port: u32) -> Hostcall {
    let peer = guest.descriptors.socket(fd)?.peer_address()?;
    address::write(memory, ro_addr_port, peer)
}

/// `sock_recv_from(fd, data, flags) -> (size, roflags, addr_port)`
pub(super) async fn recv_from(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ri_data: u32, ri_data_len: u32, ri_flags: u32,
    ro_datalen: u32, ro_flags: u32, ro_addr_port: u32,
) -> Hostcall {
    let flags = receive_flags(guest, ri_flags)?;
    let socket = guest.descriptors.socket(fd)?;
    let buffers = guest.buffers(memory, ri_data, ri_data_len)?;
    let (length, truncated, from) = match &socket.kind {
        SocketKind::Tcp(tcp) => {
            let from = tcp.peer_address()?;
            (guest.receive(&socket, memory, buffers, flags).await?, false, from)
        }
        SocketKind::Udp(_) => {
            let datagram = guest.receive_datagram(&socket, memory, &buffers, flags).await?;
            (datagram.length, datagram.truncated, datagram.from)
        }
    };
    write_roflags(memory, ro_flags, truncated)?;
    address::write(memory, ro_addr_port, from)?;
    write_size(memory, ro_datalen, length)
}

/// `sock_send_to(fd, data, flags, addr_port) -> size`
pub(super) async fn send_to(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, si_data: u32, si_data_len: u32, si_flags: u32, addr_port: u32,
    so_datalen: u32,
) -> Hostcall {
    if si_flags & !SEND_DONT_WAIT != 0 {
        return Err(Errno::Invalid.into());
    }
    let socket = guest.descriptors.socket(fd)?;
    let to = address::read(memory, addr_port)?;
    let buffers = guest.buffers(memory, si_data, si_data_len)?;
    let sent = match &socket.kind {
        // A stream has its peer already.
        SocketKind::Tcp(_) => guest.send(&socket, memory, buffers, si_flags & SEND_DONT_WAIT != 0).await?,
        SocketKind::Udp(_) => {
            let bytes = memory.collect(&buffers)?;
            guest.send_to(&socket, &bytes, to).await?
        }
    };
    write_size(memory, so_datalen, sent)
}

/// Bytes of a file that are sent at once.
const PIECE_BYTES: u32 = 64 << 10;

/// `sock_send_file(fd, in_fd, offset, count) -> filesize`: as far as it goes at once where the socket does not block.
/// The file is read on behind what was sent, which libc relies on.
pub(super) async fn send_file(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, in_fd: u32, offset: u64, count: u64, ro_sent: u32,
) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    let _: u64 = memory.read(ro_sent)?;
    let mut sent = 0;
    while sent < count {
        let most = u32::try_from(count - sent).unwrap_or(u32::MAX).min(PIECE_BYTES);
        let from = offset.checked_add(sent).ok_or(Errno::Overflow)?;
        let mut piece = host_files::read_at(guest, in_fd, from, most).await?;
        let piece = piece.memory();
        let buffers = guest.buffers(&piece, 0, 1)?;
        let length = buffers.total();
        match guest.send(&socket, &piece, buffers, false).await {
            Err(failure) if sent == 0 => return Err(failure.into()),
            Ok(moved) if moved > 0 && moved == length => sent += moved as u64,
            moved => {
                sent += moved.map_or(0, |moved| moved as u64);
                break;
            }
        }
    }
    host_files::seek_to(guest, in_fd, offset + sent).await?;
    Ok(memory.write(ro_sent, sent)?)
}

/// `sock_status(fd) -> sockstatus`
pub(super) fn status(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ro_status: u32) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    let status = match &socket.kind {
        SocketKind::Tcp(tcp) if tcp.is_connecting() => OPENING,
        _ => OPENED,
    };
    Ok(memory.write(ro_status, status)?)
}

/// `resolve(host, port, naddrs) -> (addrs, size)`: a port changes nothing.
pub(super) async fn resolve(
    guest: &mut Guest, memory: &mut Memory<'_>, node: u32, node_len: u32, _port: u32, addresses: u32, most: u32,
    ro_naddrs: u32,
) -> Hostcall {
    if node_len > crate::limits::NAME_BYTES {
        return Err(Errno::NameTooLong.into());
    }
    let name = memory.bytes(node, node_len)?;
    let name = String::from_utf8(name).map_err(|_| Errno::IllegalSequence)?;
    let found = guest.lookup(name.trim_end_matches('\0')).await.map_err(|errno| match errno {
        // WASIX has no number of its own for that.
        Errno::LookupNoName => Errno::NoEntry,
        errno => errno,
    })?;
    let mut told = 0;
    for address in found.into_iter().take(most as usize) {
        address::write_element(memory, addresses, told, address)?;
        told += 1;
    }
    Ok(memory.write(ro_naddrs, told)?)
}
