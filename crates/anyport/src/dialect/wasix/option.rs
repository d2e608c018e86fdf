//! Socket options of WASIX: flags, times, sizes.

use std::time::Duration;

use crate::descriptor::Socket;
use crate::dialect::hostcall::{Fault, Hostcall};
use crate::errno::Errno;
use crate::guest::Guest;
use crate::memory::Memory;
use crate::net::{OptionName, SocketOption};

/// `sockoption`.
const REUSE_PORT: u32 = 1;
const REUSE_ADDR: u32 = 2;
const NO_DELAY: u32 = 3;
const DONT_ROUTE: u32 = 4;
const ONLY_V6: u32 = 5;
const BROADCAST: u32 = 6;
const LISTENING: u32 = 10;
const KEEP_ALIVE: u32 = 12;
const LINGER: u32 = 13;
const OOB_INLINE: u32 = 14;
const RECV_BUF_SIZE: u32 = 15;
const SEND_BUF_SIZE: u32 = 16;
const RECV_LOWAT: u32 = 17;
const SEND_LOWAT: u32 = 18;
const RECV_TIMEOUT: u32 = 19;
const SEND_TIMEOUT: u32 = 20;
const CONNECT_TIMEOUT: u32 = 21;
const ACCEPT_TIMEOUT: u32 = 22;
const TTL: u32 = 23;

/// The name of a flag that a kernel has.
fn flag_name(option: u32) -> Option<OptionName> {
    match option {
        REUSE_ADDR => Some(OptionName::ReuseAddress),
        BROADCAST => Some(OptionName::Broadcast),
        KEEP_ALIVE => Some(OptionName::KeepAlive),
        OOB_INLINE => Some(OptionName::OobInline),
        _ => None,
    }
}

/// Whether a flag is kept for who asks, and changes nothing. `ONLY_V6` is one: libc sets it whatever it is told, and
/// a server that clears it is to be reached over IPv4 too.
fn is_kept(option: u32) -> bool {
    matches!(option, REUSE_PORT | NO_DELAY | DONT_ROUTE | ONLY_V6)
}

/// `sock_set_opt_flag(fd, opt, flag)`
pub(super) fn set_flag(guest: &mut Guest, _: &mut Memory<'_>, fd: u32, option: u32, flag: u32) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    let on = flag != 0;
    if is_kept(option) {
        socket.keep_flag(option, on);
        return Ok(());
    }
    let option = match flag_name(option) {
        Some(OptionName::ReuseAddress) => SocketOption::ReuseAddress(on),
        Some(OptionName::Broadcast) => SocketOption::Broadcast(on),
        Some(OptionName::KeepAlive) => SocketOption::KeepAlive(on),
        Some(OptionName::OobInline) => SocketOption::OobInline(on),
        _ => return Err(Errno::NoProtocolOption.into()),
    };
    Ok(socket.endpoint().set_option(option).map_err(Errno::from)?)
}

/// `sock_get_opt_flag(fd, opt) -> flag`
pub(super) fn get_flag(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, option: u32, ro_flag: u32) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    let on = match (flag_name(option), option) {
        (Some(name), _) => is_on(&socket, name)?,
        (None, LISTENING) => socket.tcp().is_ok_and(|tcp| tcp.is_listening()),
        (None, option) if is_kept(option) => socket.has_flag(option),
        _ => return Err(Errno::NoProtocolOption.into()),
    };
    Ok(memory.write(ro_flag, u8::from(on))?)
}

fn is_on(socket: &Socket, name: OptionName) -> Result<bool, Errno> {
    Ok(match socket.endpoint().option(name)? {
        SocketOption::ReuseAddress(on)
        | SocketOption::Broadcast(on)
        | SocketOption::KeepAlive(on)
        | SocketOption::OobInline(on) => on,
        _ => false,
    })
}

/// `option_timestamp`: a tag, and nanoseconds 8 bytes on.
pub(super) fn read_time(memory: &Memory<'_>, at: u32) -> Result<Option<Duration>, Fault> {
    let tag: u8 = memory.read(at)?;
    let nanoseconds: u64 = memory.read(at.checked_add(8).ok_or(wiggle::GuestError::PtrOverflow)?)?;
    Ok((tag != 0).then(|| Duration::from_nanos(nanoseconds)))
}

/// `sock_set_opt_time(fd, opt, time)`
pub(super) fn set_time(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, option: u32, time: u32) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    let time = read_time(memory, time)?;
    // As `SO_RCVTIMEO` has it, zero is for ever.
    let timeout = time.filter(|time| !time.is_zero());
    match option {
        RECV_TIMEOUT | ACCEPT_TIMEOUT => socket.set_receive_timeout(timeout),
        SEND_TIMEOUT | CONNECT_TIMEOUT => socket.set_send_timeout(timeout),
        LINGER => socket.endpoint().set_option(SocketOption::Linger(time)).map_err(Errno::from)?,
        _ => return Err(Errno::NoProtocolOption.into()),
    }
    Ok(())
}

/// `sock_get_opt_time(fd, opt) -> time`
pub(super) fn get_time(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, option: u32, ro_time: u32) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    let time = match option {
        RECV_TIMEOUT | ACCEPT_TIMEOUT => socket.receive_timeout(),
        SEND_TIMEOUT | CONNECT_TIMEOUT => socket.send_timeout(),
        LINGER => match socket.endpoint().option(OptionName::Linger).map_err(Errno::from)? {
            SocketOption::Linger(time) => time,
            _ => None,
        },
        _ => return Err(Errno::NoProtocolOption.into()),
    };
    let nanoseconds = u64::try_from(time.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
    memory.write(ro_time, u8::from(time.is_some()))?;
    Ok(memory.write(ro_time.checked_add(8).ok_or(wiggle::GuestError::PtrOverflow)?, nanoseconds)?)
}

/// `sock_set_opt_size(fd, opt, size)`
pub(super) fn set_size(guest: &mut Guest, _: &mut Memory<'_>, fd: u32, option: u32, size: u64) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    let bytes = || usize::try_from(size).map_err(|_| Errno::Invalid);
    let option = match option {
        RECV_BUF_SIZE => SocketOption::ReceiveBuffer(bytes()?),
        SEND_BUF_SIZE => SocketOption::SendBuffer(bytes()?),
        TTL => SocketOption::HopLimit(u8::try_from(size).map_err(|_| Errno::Invalid)?),
        // Change nothing that a guest could see here.
        RECV_LOWAT | SEND_LOWAT => return Ok(()),
        _ => return Err(Errno::NoProtocolOption.into()),
    };
    Ok(socket.endpoint().set_option(option).map_err(Errno::from)?)
}

/// `sock_get_opt_size(fd, opt) -> size`
pub(super) fn get_size(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, option: u32, ro_size: u32) -> Hostcall {
    let socket = guest.descriptors.socket(fd)?;
    let name = match option {
        RECV_BUF_SIZE => OptionName::ReceiveBuffer,
        SEND_BUF_SIZE => OptionName::SendBuffer,
        TTL => OptionName::HopLimit,
        RECV_LOWAT | SEND_LOWAT => return Ok(memory.write(ro_size, 1_u64)?),
        _ => return Err(Errno::NoProtocolOption.into()),
    };
    let size = match socket.endpoint().option(name).map_err(Errno::from)? {
        SocketOption::ReceiveBuffer(bytes) | SocketOption::SendBuffer(bytes) => bytes as u64,
        SocketOption::HopLimit(hops) => hops.into(),
        _ => 0,
    };
    Ok(memory.write(ro_size, size)?)
}
