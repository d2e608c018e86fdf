//! Why a guest's own request failed, from what the layers below say: the one mapping to `wasi:http`'s codes.

use std::error::Error as StdError;
use std::{fmt, io};

use h2::Reason;
use rustls::AlertDescription;
use wasmtime_wasi_http::Error;

use crate::errno::Errno;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The name has no address.
    NoName,
    /// Its lookup took too long.
    LookupTimeout,
    /// None of its addresses is allowed.
    Prohibited,
    /// There are too many connections.
    LimitReached,
    /// It cannot be made secure here.
    Configuration,
    /// Of the socket.
    Socket(Errno),
    /// The address did not answer while there were others to try.
    Silent,
    /// The URI is none of a host.
    NoHost,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl StdError for Fault {}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            // As wasmtime has it for what `getaddrinfo` does not know.
            Fault::NoName => Self::DnsError { rcode: Some("address not available".to_owned()), info_code: Some(0) },
            Fault::LookupTimeout => Self::DnsTimeout,
            Fault::Prohibited => Self::DestinationIpProhibited,
            Fault::LimitReached => Self::ConnectionLimitReached,
            Fault::Configuration => Self::ConfigurationError,
            Fault::NoHost => Self::HttpRequestUriInvalid,
            Fault::Silent => Self::ConnectionTimeout,
            Fault::Socket(errno) => of_errno(errno).unwrap_or(Self::DestinationUnavailable),
        }
    }
}

/// What went wrong, by the innermost cause that tells; `ended` is for a connection that ended too soon.
pub(super) fn of(error: &(dyn StdError + 'static), ended: Error) -> Error {
    let mut cause = Some(error);
    let mut closed = false;
    while let Some(error) = cause {
        match of_cause(error) {
            Some(Error::ConnectionTerminated) => closed = true,
            Some(found) => return found,
            None => {}
        }
        cause = next(error);
    }
    if closed { ended } else { Error::HttpProtocolError }
}

/// Whether it is a server's answer to one request, while the connection goes on (RFC 9113, 5.4.2). A stream that it has
/// refused it has not looked at (8.7).
pub(super) fn is_answer(error: &(dyn StdError + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| next(*error));
    causes
        .filter_map(|cause| cause.downcast_ref::<h2::Error>())
        .any(|error| error.is_reset() && error.reason() != Some(Reason::REFUSED_STREAM))
}

/// The cause of an error; that of an `io::Error` is what it holds, and HTTP/2 names none but has one.
fn next<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
    if let Some(error) = error.downcast_ref::<h2::Error>().and_then(h2::Error::get_io) {
        return Some(error);
    }
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(held) => Some(held),
        None => error.source(),
    }
}

fn of_cause(error: &(dyn StdError + 'static)) -> Option<Error> {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return Some((*fault).into());
    }
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(of_tls(error));
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return of_hyper(error);
    }
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return error.reason().map(of_reason);
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return of_io(error);
    }
    match error.downcast_ref::<Error>()? {
        Error::HttpRequestBodySize(size) => Some(Error::HttpRequestBodySize(*size)),
        // The guest's own body failed; it knows why.
        _ => Some(Error::InternalError(Some("the body of the request has failed".to_owned()))),
    }
}

/// What hyper says of an HTTP connection.
fn of_hyper(error: &hyper::Error) -> Option<Error> {
    if error.is_parse_too_large() {
        Some(Error::HttpResponseHeaderSectionSize(None))
    } else if error.is_parse() {
        Some(Error::HttpProtocolError)
    } else if error.is_timeout() {
        Some(Error::ConnectionReadTimeout)
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        Some(Error::ConnectionTerminated)
    } else {
        None
    }
}

/// What an HTTP/2 connection or one request of it ended with, whichever end says so.
fn of_reason(reason: Reason) -> Error {
    match reason {
        // It goes, or gives the request up: nothing was wrong with what was said.
        Reason::NO_ERROR
        | Reason::REFUSED_STREAM
        | Reason::CANCEL
        | Reason::INTERNAL_ERROR
        | Reason::CONNECT_ERROR
        | Reason::STREAM_CLOSED
        | Reason::ENHANCE_YOUR_CALM => Error::ConnectionTerminated,
        Reason::INADEQUATE_SECURITY => Error::TlsProtocolError,
        Reason::HTTP_1_1_REQUIRED => Error::HttpUpgradeFailed,
        _ => Error::HttpProtocolError,
    }
}

fn of_tls(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Error::TlsCertificateError,
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        _ => Error::TlsProtocolError,
    }
}

fn of_alert(alert: AlertDescription) -> Error {
    Error::TlsAlertReceived { alert_id: Some(alert.into()), alert_message: Some(format!("{alert:?}")) }
}

fn of_io(error: &io::Error) -> Option<Error> {
    if let Some(raw) = error.raw_os_error() {
        return of_errno(rustix::io::Errno::from_raw_os_error(raw).into());
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => Some(Error::ConnectionTerminated),
        _ => None,
    }
}

fn of_errno(errno: Errno) -> Option<Error> {
    match errno {
        Errno::ConnectionRefused => Some(Error::ConnectionRefused),
        Errno::ConnectionReset | Errno::ConnectionAborted | Errno::Pipe | Errno::NotConnected => {
            Some(Error::ConnectionTerminated)
        }
        Errno::TimedOut => Some(Error::ConnectionTimeout),
        Errno::HostUnreachable | Errno::NetworkUnreachable | Errno::NetworkDown | Errno::AddressNotAvailable => {
            Some(Error::DestinationIpUnroutable)
        }
        Errno::TooManyOpen | Errno::TooManyFiles | Errno::NoBuffers => Some(Error::ConnectionLimitReached),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: &(dyn StdError + 'static)) -> String {
        format!("{:?}", of(error, Error::HttpResponseIncomplete))
    }

    #[test]
    fn the_cause_that_tells_is_found_however_deep_it_is() {
        let wrapped = |cause: rustls::Error| io::Error::other(io::Error::new(io::ErrorKind::InvalidData, cause));
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        for (error, want) in [
            (io::Error::other(Fault::NoName), "DnsError"),
            (io::Error::other(Fault::Prohibited), "DestinationIpProhibited"),
            (io::Error::other(Fault::Socket(Errno::ConnectionRefused)), "ConnectionRefused"),
            (io::Error::other(Fault::Socket(Errno::NetworkUnreachable)), "DestinationIpUnroutable"),
            (io::Error::other(Fault::Socket(Errno::TooManyOpen)), "ConnectionLimitReached"),
            (io::Error::other(Fault::Socket(Errno::Invalid)), "DestinationUnavailable"),
            (wrapped(bad), "TlsCertificateError"),
            (wrapped(rustls::Error::HandshakeNotComplete), "TlsProtocolError"),
            (wrapped(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)), "alert_id: Some(40)"),
            (io::ErrorKind::UnexpectedEof.into(), "HttpResponseIncomplete"),
            (io::Error::from_raw_os_error(rustix::io::Errno::CONNRESET.raw_os_error()), "HttpResponseIncomplete"),
            (io::Error::other("?"), "HttpProtocolError"),
            (io::Error::other(h2::Error::from(Reason::REFUSED_STREAM)), "HttpResponseIncomplete"),
            (io::Error::other(h2::Error::from(Reason::INADEQUATE_SECURITY)), "TlsProtocolError"),
            (io::Error::other(h2::Error::from(Reason::COMPRESSION_ERROR)), "HttpProtocolError"),
            (io::Error::other(Error::HttpRequestBodySize(Some(3))), "HttpRequestBodySize(Some(3))"),
        ] {
            assert!(told(&error).contains(want), "{error:?}: {}", told(&error));
        }
    }
}
