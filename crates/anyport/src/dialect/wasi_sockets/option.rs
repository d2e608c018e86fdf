//! The options of sockets: what WASI clamps, and what it refuses.

use std::time::Duration;

use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

use super::code::code;
use crate::descriptor::Socket;
use crate::net::{OptionName, SocketOption};

/// The options of one socket.
pub(super) struct Options<'s>(pub(super) &'s Socket);

/// Linux takes whole seconds, and up to these (`MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPCNT`).
const KEEP_ALIVE_LEAST: Duration = Duration::from_secs(1);
const KEEP_ALIVE_MOST: Duration = Duration::from_secs(32_767);
const KEEP_ALIVE_COUNT_MOST: u32 = 127;

/// An option of another name than was asked for, which there never is.
const OTHER: ErrorCode = ErrorCode::Unknown;

impl Options<'_> {
    pub(super) fn keep_alive(&self) -> Result<bool, ErrorCode> {
        match self.get(OptionName::KeepAlive)? {
            SocketOption::KeepAlive(on) => Ok(on),
            _ => Err(OTHER),
        }
    }

    pub(super) fn set_keep_alive(&self, on: bool) -> Result<(), ErrorCode> {
        self.set(SocketOption::KeepAlive(on))
    }

    pub(super) fn keep_alive_idle(&self) -> Result<u64, ErrorCode> {
        match self.get(OptionName::KeepAliveIdle)? {
            SocketOption::KeepAliveIdle(time) => Ok(nanoseconds(time)),
            _ => Err(OTHER),
        }
    }

    pub(super) fn set_keep_alive_idle(&self, time: u64) -> Result<(), ErrorCode> {
        self.set(SocketOption::KeepAliveIdle(keep_alive_time(time)?))
    }

    pub(super) fn keep_alive_interval(&self) -> Result<u64, ErrorCode> {
        match self.get(OptionName::KeepAliveInterval)? {
            SocketOption::KeepAliveInterval(time) => Ok(nanoseconds(time)),
            _ => Err(OTHER),
        }
    }

    pub(super) fn set_keep_alive_interval(&self, time: u64) -> Result<(), ErrorCode> {
        self.set(SocketOption::KeepAliveInterval(keep_alive_time(time)?))
    }

    pub(super) fn keep_alive_count(&self) -> Result<u32, ErrorCode> {
        match self.get(OptionName::KeepAliveCount)? {
            SocketOption::KeepAliveCount(count) => Ok(count),
            _ => Err(OTHER),
        }
    }

    pub(super) fn set_keep_alive_count(&self, count: u32) -> Result<(), ErrorCode> {
        self.set(SocketOption::KeepAliveCount(not_zero(count)?.min(KEEP_ALIVE_COUNT_MOST)))
    }

    pub(super) fn hop_limit(&self) -> Result<u8, ErrorCode> {
        match self.get(OptionName::HopLimit)? {
            SocketOption::HopLimit(hops) => Ok(hops),
            _ => Err(OTHER),
        }
    }

    pub(super) fn set_hop_limit(&self, hops: u8) -> Result<(), ErrorCode> {
        self.set(SocketOption::HopLimit(not_zero(hops)?))
    }

    pub(super) fn receive_buffer(&self) -> Result<u64, ErrorCode> {
        match self.get(OptionName::ReceiveBuffer)? {
            SocketOption::ReceiveBuffer(bytes) => Ok(undoubled(bytes)),
            _ => Err(OTHER),
        }
    }

    pub(super) fn set_receive_buffer(&self, bytes: u64) -> Result<(), ErrorCode> {
        self.set(SocketOption::ReceiveBuffer(buffer(bytes)?))
    }

    pub(super) fn send_buffer(&self) -> Result<u64, ErrorCode> {
        match self.get(OptionName::SendBuffer)? {
            SocketOption::SendBuffer(bytes) => Ok(undoubled(bytes)),
            _ => Err(OTHER),
        }
    }

    pub(super) fn set_send_buffer(&self, bytes: u64) -> Result<(), ErrorCode> {
        self.set(SocketOption::SendBuffer(buffer(bytes)?))
    }

    fn get(&self, name: OptionName) -> Result<SocketOption, ErrorCode> {
        self.0.endpoint().option(name).map_err(|error| code(error.into()))
    }

    fn set(&self, option: SocketOption) -> Result<(), ErrorCode> {
        self.0.endpoint().set_option(option).map_err(|error| code(error.into()))
    }
}

fn not_zero<T: Default + PartialEq>(value: T) -> Result<T, ErrorCode> {
    if value == T::default() { Err(ErrorCode::InvalidArgument) } else { Ok(value) }
}

fn keep_alive_time(nanoseconds: u64) -> Result<Duration, ErrorCode> {
    let time = Duration::from_nanos(not_zero(nanoseconds)?);
    Ok(time.clamp(KEEP_ALIVE_LEAST, KEEP_ALIVE_MOST))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Larger sizes than there are become the largest that there is.
fn buffer(bytes: u64) -> Result<usize, ErrorCode> {
    let most = i32::MAX.unsigned_abs() as usize / 2;
    Ok(usize::try_from(not_zero(bytes)?).unwrap_or(most).min(most))
}

/// Linux tells twice what was set (socket(7), `SO_SNDBUF`).
fn undoubled(bytes: usize) -> u64 {
    bytes as u64 / 2
}
