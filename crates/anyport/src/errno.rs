//! The numbers a guest is told when a call fails.
//!
//! Owns the one list of error numbers and the one mapping from the host's. Preview1 and `WasmEdge`
//! agree on 0 to 76; `WasmEdge` adds its name-lookup errors from 77.
//! See <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#errno> and `WasmEdge`'s
//! `include/host/wasi/vfs/api.h` (`__WASI_ERRNO_AIADDRFAMILY` and after).

use std::io;

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal,)*) => {
        /// Why a hostcall failed, as the guest is told.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub(crate) enum Errno { $($(#[$doc])* $name = $number,)* }

        impl Errno {
            /// The lower-case name of the specification, for the trace and for messages.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The errno of this number in preview1 and in the `WasmEdge` dialect.
            pub(crate) const fn from_number(number: i32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

errnos! {
    TooBig = 1 "2big", Access = 2 "acces", AddressInUse = 3 "addrinuse",
    AddressNotAvailable = 4 "addrnotavail", AddressFamilyNotSupported = 5 "afnosupport",
    Again = 6 "again", Already = 7 "already", BadDescriptor = 8 "badf", BadMessage = 9 "badmsg",
    Busy = 10 "busy", Canceled = 11 "canceled", Child = 12 "child",
    ConnectionAborted = 13 "connaborted", ConnectionRefused = 14 "connrefused",
    ConnectionReset = 15 "connreset", Deadlock = 16 "deadlk",
    DestinationRequired = 17 "destaddrreq", Domain = 18 "dom", Exists = 20 "exist",
    Fault = 21 "fault", FileTooBig = 22 "fbig", HostUnreachable = 23 "hostunreach",
    IllegalSequence = 25 "ilseq", InProgress = 26 "inprogress", Interrupted = 27 "intr",
    Invalid = 28 "inval", Io = 29 "io", IsConnected = 30 "isconn", IsDirectory = 31 "isdir",
    Loop = 32 "loop", TooManyOpen = 33 "mfile", TooManyLinks = 34 "mlink",
    MessageSize = 35 "msgsize", NameTooLong = 37 "nametoolong", NetworkDown = 38 "netdown",
    NetworkReset = 39 "netreset", NetworkUnreachable = 40 "netunreach", TooManyFiles = 41 "nfile",
    NoBuffers = 42 "nobufs", NoDevice = 43 "nodev", NoEntry = 44 "noent", NoMemory = 48 "nomem",
    NoProtocolOption = 50 "noprotoopt", NoSpace = 51 "nospc", NoSystemCall = 52 "nosys",
    NotConnected = 53 "notconn", NotDirectory = 54 "notdir", NotEmpty = 55 "notempty",
    NotSocket = 57 "notsock", NotSupported = 58 "notsup", NotTerminal = 59 "notty",
    Overflow = 61 "overflow", NotPermitted = 63 "perm", Pipe = 64 "pipe",
    Protocol = 65 "proto", ProtocolNotSupported = 66 "protonosupport",
    ProtocolType = 67 "prototype", Range = 68 "range", ReadOnlyFilesystem = 69 "rofs",
    IllegalSeek = 70 "spipe", NoProcess = 71 "srch", TimedOut = 73 "timedout", CrossDevice = 75 "xdev",
    NotCapable = 76 "notcapable",
    LookupAddressFamily = 77 "aiaddrfamily", LookupAgain = 78 "aiagain",
    LookupBadFlags = 79 "aibadflag", LookupFail = 80 "aifail", LookupFamily = 81 "aifamily",
    LookupMemory = 82 "aimemory", LookupNoData = 83 "ainodata", LookupNoName = 84 "ainoname",
    LookupService = 85 "aiservice",
}

impl Errno {
    /// The number in preview1 and in the `WasmEdge` dialect.
    pub(crate) const fn number(self) -> u16 {
        self as u16
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Errno {}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(raw) => rustix::io::Errno::from_raw_os_error(raw).into(),
            None => from_kind(error.kind()),
        }
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        use rustix::io::Errno as Host;
        match errno {
            Host::TOOBIG => Self::TooBig,
            Host::ACCESS => Self::Access,
            Host::ADDRINUSE => Self::AddressInUse,
            Host::ADDRNOTAVAIL => Self::AddressNotAvailable,
            Host::AFNOSUPPORT => Self::AddressFamilyNotSupported,
            Host::AGAIN => Self::Again,
            Host::ALREADY => Self::Already,
            Host::BADF => Self::BadDescriptor,
            Host::CONNABORTED => Self::ConnectionAborted,
            Host::CONNREFUSED => Self::ConnectionRefused,
            Host::CONNRESET => Self::ConnectionReset,
            Host::DESTADDRREQ => Self::DestinationRequired,
            Host::HOSTUNREACH => Self::HostUnreachable,
            Host::INPROGRESS => Self::InProgress,
            Host::INTR => Self::Interrupted,
            Host::INVAL => Self::Invalid,
            Host::ISCONN => Self::IsConnected,
            Host::MFILE => Self::TooManyOpen,
            Host::MSGSIZE => Self::MessageSize,
            Host::NETDOWN => Self::NetworkDown,
            Host::NETRESET => Self::NetworkReset,
            Host::NETUNREACH => Self::NetworkUnreachable,
            Host::NFILE => Self::TooManyFiles,
            Host::NOBUFS => Self::NoBuffers,
            Host::NODEV => Self::NoDevice,
            Host::NOENT => Self::NoEntry,
            Host::NOMEM => Self::NoMemory,
            Host::NOPROTOOPT => Self::NoProtocolOption,
            Host::NOSPC => Self::NoSpace,
            Host::NOTCONN => Self::NotConnected,
            Host::NOTSOCK => Self::NotSocket,
            Host::OPNOTSUPP => Self::NotSupported,
            Host::PERM => Self::NotPermitted,
            Host::PIPE => Self::Pipe,
            Host::PROTO => Self::Protocol,
            Host::PROTONOSUPPORT => Self::ProtocolNotSupported,
            Host::PROTOTYPE => Self::ProtocolType,
            Host::TIMEDOUT => Self::TimedOut,
            _ => Self::Io,
        }
    }
}

/// Errors made by this process rather than by the operating system (the simulated network's).
fn from_kind(kind: io::ErrorKind) -> Errno {
    match kind {
        io::ErrorKind::WouldBlock => Errno::Again,
        io::ErrorKind::ConnectionRefused => Errno::ConnectionRefused,
        io::ErrorKind::ConnectionReset => Errno::ConnectionReset,
        io::ErrorKind::ConnectionAborted => Errno::ConnectionAborted,
        io::ErrorKind::NotConnected => Errno::NotConnected,
        io::ErrorKind::AddrInUse => Errno::AddressInUse,
        io::ErrorKind::AddrNotAvailable => Errno::AddressNotAvailable,
        io::ErrorKind::BrokenPipe => Errno::Pipe,
        io::ErrorKind::TimedOut => Errno::TimedOut,
        io::ErrorKind::InvalidInput => Errno::Invalid,
        io::ErrorKind::PermissionDenied => Errno::Access,
        io::ErrorKind::Unsupported => Errno::NotSupported,
        _ => Errno::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_within_the_dialects() {
        let mut numbers: Vec<u16> = Errno::ALL.iter().map(|errno| errno.number()).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), Errno::ALL.len());
        assert!(numbers.is_sorted());
        assert_eq!(Errno::NotCapable.number(), 76);
        assert_eq!(Errno::LookupService.number(), 85);
    }

    #[test]
    fn the_hosts_errors_keep_their_meaning() {
        let again = io::Error::from(rustix::io::Errno::AGAIN);
        assert_eq!(Errno::from(again), Errno::Again);
        assert_eq!(Errno::from(io::Error::from(io::ErrorKind::ConnectionReset)), Errno::ConnectionReset);
        assert_eq!(Errno::from(io::Error::other("x")), Errno::Io);
    }
}
