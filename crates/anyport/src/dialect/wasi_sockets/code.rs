//! Errors in the words of WASI. Those of 0.2 are what sockets are asked in; 0.3 has the same and one more.

use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup, types};

use crate::errno::Errno;

/// An errno in 0.2's words.
pub(super) fn code(errno: Errno) -> ErrorCode {
    match errno {
        Errno::Access | Errno::NotPermitted | Errno::NotCapable => ErrorCode::AccessDenied,
        Errno::AddressInUse => ErrorCode::AddressInUse,
        Errno::AddressNotAvailable => ErrorCode::AddressNotBindable,
        Errno::Again | Errno::InProgress | Errno::Interrupted => ErrorCode::WouldBlock,
        Errno::Already => ErrorCode::ConcurrencyConflict,
        Errno::TimedOut => ErrorCode::Timeout,
        Errno::ConnectionRefused => ErrorCode::ConnectionRefused,
        Errno::ConnectionReset => ErrorCode::ConnectionReset,
        Errno::ConnectionAborted => ErrorCode::ConnectionAborted,
        Errno::HostUnreachable | Errno::NetworkDown | Errno::NetworkUnreachable => ErrorCode::RemoteUnreachable,
        Errno::Invalid => ErrorCode::InvalidArgument,
        Errno::IsConnected | Errno::NotConnected | Errno::DestinationRequired => ErrorCode::InvalidState,
        Errno::TooManyOpen | Errno::TooManyFiles => ErrorCode::NewSocketLimit,
        Errno::MessageSize => ErrorCode::DatagramTooLarge,
        Errno::NoMemory | Errno::NoBuffers => ErrorCode::OutOfMemory,
        Errno::NotSupported
        | Errno::NoProtocolOption
        | Errno::ProtocolNotSupported
        | Errno::ProtocolType
        | Errno::AddressFamilyNotSupported => ErrorCode::NotSupported,
        Errno::LookupNoName | Errno::LookupNoData => ErrorCode::NameUnresolvable,
        _ => ErrorCode::Unknown,
    }
}

/// The same in 0.3's words.
pub(super) fn code_03(code: ErrorCode) -> types::ErrorCode {
    use types::ErrorCode as Code;
    match code {
        ErrorCode::AccessDenied => Code::AccessDenied,
        ErrorCode::NotSupported => Code::NotSupported,
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::OutOfMemory => Code::OutOfMemory,
        ErrorCode::Timeout => Code::Timeout,
        ErrorCode::InvalidState => Code::InvalidState,
        ErrorCode::AddressNotBindable => Code::AddressNotBindable,
        ErrorCode::AddressInUse => Code::AddressInUse,
        ErrorCode::RemoteUnreachable => Code::RemoteUnreachable,
        ErrorCode::ConnectionRefused => Code::ConnectionRefused,
        ErrorCode::ConnectionReset => Code::ConnectionReset,
        ErrorCode::ConnectionAborted => Code::ConnectionAborted,
        ErrorCode::DatagramTooLarge => Code::DatagramTooLarge,
        ErrorCode::NewSocketLimit => Code::Other(Some("no more sockets may be open".to_owned())),
        _ => Code::Other(None),
    }
}

/// What went wrong with a stream, which 0.2 tells by ending it.
pub(super) fn stream_code_03(errno: Errno) -> types::ErrorCode {
    if errno == Errno::Pipe { types::ErrorCode::ConnectionBroken } else { code_03(code(errno)) }
}

/// What went wrong with a lookup.
pub(super) fn lookup_code_03(code: ErrorCode) -> ip_name_lookup::ErrorCode {
    use ip_name_lookup::ErrorCode as Code;
    match code {
        ErrorCode::AccessDenied => Code::AccessDenied,
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::NameUnresolvable => Code::NameUnresolvable,
        ErrorCode::TemporaryResolverFailure => Code::TemporaryResolverFailure,
        ErrorCode::PermanentResolverFailure => Code::PermanentResolverFailure,
        _ => Code::Other(None),
    }
}
