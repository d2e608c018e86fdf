//! `sock_getsockopt` and `sock_setsockopt`: level `SOL_SOCKET` and the options of `WasmEdge`'s enum.

use std::time::Duration;

use crate::descriptor::{Socket, SocketKind};
use crate::dialect::hostcall::{Fault, Hostcall};
use crate::errno::Errno;
use crate::guest::{Generation, Guest};
use crate::memory::Memory;
use crate::net::{OptionName, SocketOption};

/// The only level there is.
const SOL_SOCKET: u32 = 0;

/// `__wasi_sock_opt_so_t`.
const REUSEADDR: u32 = 0;
const TYPE: u32 = 1;
const ERROR: u32 = 2;
const DONTROUTE: u32 = 3;
const BROADCAST: u32 = 4;
const SNDBUF: u32 = 5;
const RCVBUF: u32 = 6;
const KEEPALIVE: u32 = 7;
const OOBINLINE: u32 = 8;
const LINGER: u32 = 9;
const RCVLOWAT: u32 = 10;
const RCVTIMEO: u32 = 11;
const SNDTIMEO: u32 = 12;
const ACCEPTCONN: u32 = 13;
const BINDTODEVICE: u32 = 14;

/// No toolchain puts data below: a smaller fifth parameter of `sock_getsockopt` is a length by
/// value, as Go's stealthrocket/net passes it, and not a pointer to one.
const LOWEST_POINTER: u32 = 1024;

/// The longest option: two 64-bit numbers.
const VALUE_BYTES: u32 = 16;

/// `sock_getsockopt(fd, level, name, value, len)`: `WasiSockGetOpt`.
pub(super) fn get(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, level: u32, name: u32, value: u32, len: u32,
) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    must_be_socket_level(level, name)?;
    let by_value = len < LOWEST_POINTER;
    let room: u32 = if by_value { len } else { memory.read(len)? };
    let bytes = encode(&socket, name, guest.generation == Generation::Before0_10)?;
    let length = u32::try_from(bytes.len()).expect("an option is short");
    if room < length {
        return Err(Errno::Invalid.into());
    }
    memory.write_bytes(value, &bytes)?;
    if !by_value {
        memory.write(len, length)?;
    }
    Ok(())
}

/// `sock_setsockopt(fd, level, name, value, len)`: `WasiSockSetOpt`.
pub(super) fn set(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, level: u32, name: u32, value: u32, len: u32,
) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    must_be_socket_level(level, name)?;
    if name == BINDTODEVICE {
        // A network interface is the host's, and no flag gives one away.
        return Err(Errno::Access.into());
    }
    if len > VALUE_BYTES {
        return Err(Errno::Invalid.into());
    }
    let bytes = memory.bytes(value, len)?;
    apply(&socket, name, &bytes)
}

fn must_be_socket_level(level: u32, name: u32) -> Result<(), Errno> {
    if level == SOL_SOCKET && name <= BINDTODEVICE { Ok(()) } else { Err(Errno::Invalid) }
}

fn encode(socket: &Socket, name: u32, legacy: bool) -> Result<Vec<u8>, Fault> {
    Ok(match name {
        TYPE => int(match (&socket.kind, legacy) {
            (SocketKind::Udp(_), true) => 0,
            (SocketKind::Udp(_), false) | (SocketKind::Tcp(_), true) => 1,
            (SocketKind::Tcp(_), false) => 2,
        }),
        ERROR => int(match pending_error(socket) {
            Ok(()) => 0,
            Err(errno) => i32::from(errno.number()),
        }),
        // Not settable here, so at Linux's defaults.
        DONTROUTE => int(0),
        RCVLOWAT => int(1),
        RCVTIMEO => timeval(socket.receive_timeout()),
        SNDTIMEO => timeval(socket.send_timeout()),
        ACCEPTCONN => int(i32::from(socket.tcp().is_ok_and(crate::net::tcp::Tcp::is_listening))),
        BINDTODEVICE => Vec::new(),
        name => encode_option(socket.endpoint().option(option_name(name)?).map_err(Errno::from)?),
    })
}

/// `SO_ERROR`: on a connecting socket, how the connect ended.
fn pending_error(socket: &Socket) -> Result<(), Errno> {
    match &socket.kind {
        SocketKind::Tcp(tcp) => tcp.finish_connect(),
        SocketKind::Udp(udp) => Ok(udp.endpoint().take_error()?),
    }
}

fn option_name(name: u32) -> Result<OptionName, Errno> {
    Ok(match name {
        REUSEADDR => OptionName::ReuseAddress,
        BROADCAST => OptionName::Broadcast,
        SNDBUF => OptionName::SendBuffer,
        RCVBUF => OptionName::ReceiveBuffer,
        KEEPALIVE => OptionName::KeepAlive,
        OOBINLINE => OptionName::OobInline,
        LINGER => OptionName::Linger,
        _ => return Err(Errno::Invalid),
    })
}

fn encode_option(option: SocketOption) -> Vec<u8> {
    match option {
        SocketOption::ReuseAddress(on)
        | SocketOption::Broadcast(on)
        | SocketOption::KeepAlive(on)
        | SocketOption::OobInline(on) => int(i32::from(on)),
        SocketOption::SendBuffer(bytes) | SocketOption::ReceiveBuffer(bytes) => {
            int(i32::try_from(bytes).unwrap_or(i32::MAX))
        }
        SocketOption::Linger(time) => {
            let seconds = time.map_or(0, |time| i32::try_from(time.as_secs()).unwrap_or(i32::MAX));
            [i32::from(time.is_some()).to_le_bytes(), seconds.to_le_bytes()].concat()
        }
        // Options of TCP and IP, which have no name here.
        SocketOption::KeepAliveIdle(_)
        | SocketOption::KeepAliveInterval(_)
        | SocketOption::KeepAliveCount(_)
        | SocketOption::HopLimit(_) => Vec::new(),
    }
}

fn apply(socket: &Socket, name: u32, value: &[u8]) -> Hostcall {
    match name {
        TYPE | ACCEPTCONN | ERROR => return Err(Errno::NoProtocolOption.into()),
        RCVTIMEO => socket.set_receive_timeout(parse_timeval(value)?),
        SNDTIMEO => socket.set_send_timeout(parse_timeval(value)?),
        // Routing and low-water marks change nothing that a guest could see here.
        DONTROUTE | RCVLOWAT => {
            parse_int(value, 0)?;
        }
        name => socket.endpoint().set_option(decode(name, value)?).map_err(Errno::from)?,
    }
    Ok(())
}

fn decode(name: u32, value: &[u8]) -> Result<SocketOption, Errno> {
    let number = parse_int(value, 0)?;
    Ok(match name {
        REUSEADDR => SocketOption::ReuseAddress(number != 0),
        BROADCAST => SocketOption::Broadcast(number != 0),
        KEEPALIVE => SocketOption::KeepAlive(number != 0),
        OOBINLINE => SocketOption::OobInline(number != 0),
        SNDBUF => SocketOption::SendBuffer(size(number)?),
        RCVBUF => SocketOption::ReceiveBuffer(size(number)?),
        LINGER => {
            let seconds = u64::try_from(parse_int(value, 4)?).map_err(|_| Errno::Invalid)?;
            SocketOption::Linger((number != 0).then(|| Duration::from_secs(seconds)))
        }
        _ => return Err(Errno::Invalid),
    })
}

fn size(number: i32) -> Result<usize, Errno> {
    usize::try_from(number).map_err(|_| Errno::Invalid)
}

fn int(number: i32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn parse_int(value: &[u8], at: usize) -> Result<i32, Errno> {
    let bytes = value.get(at..at + 4).ok_or(Errno::Invalid)?;
    Ok(i32::from_le_bytes(bytes.try_into().expect("four bytes")))
}

/// `struct timeval` of a 64-bit Linux: seconds and microseconds, 8 bytes each.
fn timeval(time: Option<Duration>) -> Vec<u8> {
    let time = time.unwrap_or_default();
    [time.as_secs().to_le_bytes(), u64::from(time.subsec_micros()).to_le_bytes()].concat()
}

fn parse_timeval(value: &[u8]) -> Result<Option<Duration>, Errno> {
    let number = |at: usize| {
        let bytes = value.get(at..at + 8).ok_or(Errno::Invalid)?;
        u64::try_from(i64::from_le_bytes(bytes.try_into().expect("eight bytes"))).map_err(|_| Errno::Domain)
    };
    let (seconds, micros) = (number(0)?, number(8)?);
    if micros >= 1_000_000 {
        return Err(Errno::Domain);
    }
    let time = Duration::from_secs(seconds) + Duration::from_micros(micros);
    Ok((!time.is_zero()).then_some(time))
}

#[cfg(test)]
mod properties;
