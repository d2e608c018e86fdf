//! `WasmEdge`'s socket calls. Enums were renumbered in 0.10: where the imports leave open which a guest
//! speaks, its first `sock_open` tells.
//! <https://github.com/WasmEdge/WasmEdge/blob/0.17.1/lib/host/wasi/wasifunc.cpp>

use std::net::SocketAddr;

use crate::address::{Family, Transport};
use crate::descriptor::SocketKind;
use crate::dialect::hostcall::{Fault, Hostcall};
use crate::dialect::preview1::fd::write_size;
use crate::dialect::preview1::sock::{receive_flags, write_roflags};
use crate::errno::Errno;
use crate::guest::{Generation, Guest};
use crate::memory::Memory;
use crate::net::{Datagram, ReceiveFlags};

use super::address::Slot;

/// The family as the first shape of `sock_get*addr` tells it: 4 and 6, which every crate takes
/// (those up to 0.5.0 take nothing else).
const V1_INET4: u32 = 4;
const V1_INET6: u32 = 6;

/// What crates up to 0.3.3 open, and all they open: INET4 and STREAM before 0.10, never valid since.
const LEGACY_STREAM: (u32, u32) = (0, 1);

/// `sock_open(family, type) -> fd`: `WasiSockOpenV1`.
pub(super) fn open(guest: &mut Guest, memory: &mut Memory<'_>, family: u32, kind: u32, ro_fd: u32) -> Hostcall {
    if guest.generation == Generation::Untold {
        let legacy = (family, kind) == LEGACY_STREAM;
        guest.generation = if legacy { Generation::Before0_10 } else { Generation::Since0_10 };
    }
    let legacy = guest.generation == Generation::Before0_10;
    let opened = match (legacy, family, kind) {
        (true, 0, 1) | (false, 1, 2) => guest.open(Family::Inet4, Transport::Tcp)?,
        (true, 1, 1) | (false, 2, 2) => guest.open(Family::Inet6, Transport::Tcp)?,
        (true, 0, 0) | (false, 1, 1) => guest.open(Family::Inet4, Transport::Udp)?,
        (true, 1, 0) | (false, 2, 1) => guest.open(Family::Inet6, Transport::Udp)?,
        // AF_UNIX: WasmEdge answers the same without `--allow-af-unix`.
        (false, 3, _) => return Err(Errno::NoSystemCall.into()),
        _ => return Err(Errno::Invalid.into()),
    };
    memory.write(ro_fd, opened.fd())?;
    opened.keep();
    Ok(())
}

/// `sock_bind(fd, address, port)`: `WasiSockBindV1` and `V2`.
pub(super) fn bind(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, address: u32, port: u32) -> Hostcall {
    let address = Slot::read(memory, address)?.decode(memory, port)?;
    Ok(guest.bind(fd, address)?)
}

/// `sock_listen(fd, backlog)`: `WasiSockListenV1`.
pub(super) fn listen(guest: &mut Guest, _: &mut Memory<'_>, fd: u32, backlog: u32) -> Hostcall {
    Ok(guest.listen(fd, backlog)?)
}

/// `sock_accept(fd) -> fd`: `WasiSockAcceptV1`. The new socket blocks, whatever the listener does.
pub(super) async fn accept(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ro_fd: u32) -> Hostcall {
    let accepted = guest.accept(fd, false).await?;
    memory.write(ro_fd, accepted.fd())?;
    accepted.keep();
    Ok(())
}

/// `sock_connect(fd, address, port)`: `WasiSockConnectV1` and `V2`.
pub(super) async fn connect(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, address: u32, port: u32) -> Hostcall {
    let address = Slot::read(memory, address)?.decode(memory, port)?;
    Ok(guest.connect(fd, address).await?)
}

/// `sock_recv_from` with 7 parameters: `WasiSockRecvFromV1`. Only crates 0.4 and 0.5.0 to 0.5.3 use
/// it, and read the sender as `WasmEdge` 0.10 wrote it.
pub(super) async fn recv_from_v1(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ri_data: u32, ri_data_len: u32, address: u32, ri_flags: u32,
    ro_datalen: u32, ro_flags: u32,
) -> Hostcall {
    let slot = Slot::read(memory, address)?;
    let datagram = receive(guest, memory, fd, (ri_data, ri_data_len), receive_flags(guest, ri_flags)?).await?;
    slot.write_linux_sockaddr(memory, datagram.from)?;
    write_outcome(memory, &datagram, ro_datalen, ro_flags)
}

/// `sock_recv_from` with 8 parameters: `WasiSockRecvFromV2`. The port is written in host order and
/// whole: `WasmEdge` writes two bytes in network order, which no guest expects.
pub(super) async fn recv_from(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, ri_data: u32, ri_data_len: u32, address: u32, ri_flags: u32,
    ro_port: u32, ro_datalen: u32, ro_flags: u32,
) -> Hostcall {
    let slot = Slot::read(memory, address)?;
    if !matches!(slot.length, 4 | 16 | 128) {
        return Err(Errno::Invalid.into());
    }
    let datagram = receive(guest, memory, fd, (ri_data, ri_data_len), receive_flags(guest, ri_flags)?).await?;
    match slot.length {
        128 => slot.write_sockaddr(memory, datagram.from.ip())?,
        _ => slot.write_raw(memory, datagram.from.ip())?,
    }
    memory.write(ro_port, u32::from(datagram.from.port()))?;
    write_outcome(memory, &datagram, ro_datalen, ro_flags)
}

/// Receives a datagram, or from a stream its next bytes with the peer as the sender.
async fn receive(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, data: (u32, u32), flags: ReceiveFlags,
) -> Result<Datagram, Fault> {
    let socket = guest.descriptors.socket(fd)?;
    let buffers = guest.buffers(memory, data.0, data.1)?;
    if let SocketKind::Tcp(tcp) = &socket.kind {
        let from = tcp.peer_address()?;
        let length = guest.receive(&socket, memory, buffers, flags).await?;
        return Ok(Datagram { length, truncated: false, from });
    }
    Ok(guest.receive_datagram(&socket, memory, &buffers, flags).await?)
}

fn write_outcome(memory: &mut Memory<'_>, datagram: &Datagram, ro_datalen: u32, ro_flags: u32) -> Hostcall {
    write_roflags(memory, ro_flags, datagram.truncated)?;
    write_size(memory, ro_datalen, datagram.length)
}

/// `sock_send_to(fd, data, address, port, flags) -> size`: `WasiSockSendToV1` and `V2`.
pub(super) async fn send_to(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, si_data: u32, si_data_len: u32, address: u32, port: u32,
    si_flags: u32, so_datalen: u32,
) -> Hostcall {
    if si_flags != 0 {
        return Err(Errno::Invalid.into());
    }
    let socket = guest.descriptors.socket(fd)?;
    let to = Slot::read(memory, address)?.decode(memory, port)?;
    let buffers = guest.buffers(memory, si_data, si_data_len)?;
    let bytes =
        memory.gather(&buffers, |slices| slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>())?;
    let sent = guest.send_to(&socket, &bytes, to).await?;
    write_size(memory, so_datalen, sent)
}

/// `sock_getlocaladdr` with 4 parameters: `WasiSockGetLocalAddrV1`.
pub(super) fn local_address_v1(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, address: u32, ro_type: u32, ro_port: u32,
) -> Hostcall {
    let local = guest.descriptors.socket(fd)?.local_address()?;
    write_address_v1(memory, local, address, ro_type, ro_port)
}

/// `sock_getpeeraddr` with 4 parameters: `WasiSockGetPeerAddrV1`.
pub(super) fn peer_address_v1(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, address: u32, ro_type: u32, ro_port: u32,
) -> Hostcall {
    let peer = guest.descriptors.socket(fd)?.peer_address()?;
    write_address_v1(memory, peer, address, ro_type, ro_port)
}

/// `sock_getlocaladdr` with 3 parameters: `WasiSockGetLocalAddrV2`.
pub(super) fn local_address(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, address: u32, ro_port: u32,
) -> Hostcall {
    let local = guest.descriptors.socket(fd)?.local_address()?;
    write_address(memory, local, address, ro_port)
}

/// `sock_getpeeraddr` with 3 parameters: `WasiSockGetPeerAddrV2`.
pub(super) fn peer_address(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, address: u32, ro_port: u32,
) -> Hostcall {
    let peer = guest.descriptors.socket(fd)?.peer_address()?;
    write_address(memory, peer, address, ro_port)
}

fn write_address_v1(memory: &mut Memory<'_>, found: SocketAddr, address: u32, ro_type: u32, ro_port: u32) -> Hostcall {
    let slot = Slot::read(memory, address)?;
    if !matches!(slot.length, 4 | 16) {
        return Err(Errno::Invalid.into());
    }
    slot.write_raw(memory, found.ip())?;
    memory.write(ro_type, if found.is_ipv4() { V1_INET4 } else { V1_INET6 })?;
    Ok(memory.write(ro_port, u32::from(found.port()))?)
}

fn write_address(memory: &mut Memory<'_>, found: SocketAddr, address: u32, ro_port: u32) -> Hostcall {
    Slot::read(memory, address)?.write_sockaddr(memory, found.ip())?;
    Ok(memory.write(ro_port, u32::from(found.port()))?)
}
