//! The other side of a guest's sockets: clients, and what the operating system knows.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use rustix::net::sockopt;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::puppet::DEADLINE;

/// A client. All it does has an end.
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, DEADLINE).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("it is not zero");
    stream.set_nodelay(true).expect("it is a stream");
    stream
}

/// All that comes until the other side closes.
pub(crate) fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the other side closes");
    bytes
}

/// When something that is looked at again and again counts as stuck.
pub(crate) fn past_deadline(since: Instant) -> bool {
    since.elapsed() > DEADLINE
}

/// Whether this process's socket with this peer sends at once (`TCP_NODELAY`).
pub(crate) fn nodelay_of(peer: SocketAddr) -> Option<bool> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("Linux 5.3");
    let numbers = fs::read_dir("/proc/self/fd")
        .expect("Linux")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.into_iter().find_map(|number| {
        let socket = rustix::process::pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).ok()?;
        let found = SocketAddr::try_from(rustix::net::getpeername(&socket).ok()??).ok()?;
        // A socket of both IP versions has IPv4's mapped.
        let found = SocketAddr::new(found.ip().to_canonical(), found.port());
        if found == peer { sockopt::tcp_nodelay(&socket).ok() } else { None }
    })
}
