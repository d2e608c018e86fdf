//! Why a port cannot be had: which one, and on Linux who holds it, as far as that can be read.

use std::fs;
use std::io;
use std::path::Path;

use crate::address::{HostAddress, Transport};
use crate::error::Error;
use crate::net::unix_path::is_another_file;

/// The error for a port that could not be bound.
pub(crate) fn explain(host: &HostAddress, transport: Transport, error: &io::Error) -> Error {
    let address = match host {
        HostAddress::Ip(address) => *address,
        HostAddress::Unix(path) => return explain_unix(host, path, error),
        HostAddress::Memory => return Error::host(format!("`{host}` cannot be had: {error}")),
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = match holder(address.port(), transport) {
                Some((pid, name)) => format!(" by `{name}` (process {pid})"),
                None => String::new(),
            };
            Error::host(format!("port {}/{transport} on {} is in use{holder}", address.port(), address.ip()))
                .with_hint("stop that process, or publish another port: `-p OTHER:PORT`")
        }
        io::ErrorKind::PermissionDenied => {
            Error::host(format!("port {}/{transport} may be bound by root alone", address.port()))
                .with_hint("publish a port from 1024 up: `-p 8080:PORT`")
        }
        io::ErrorKind::AddrNotAvailable => Error::host(format!("this machine has no address {}", address.ip()))
            .with_hint("`-p 0.0.0.0:HOST:GUEST` publishes on every address"),
        _ => Error::host(format!("{address}/{transport} cannot be bound: {error}")),
    }
}

fn explain_unix(host: &HostAddress, path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AddrInUse if !is_another_file(path) => Error::host(format!("`{host}` is in use"))
            .with_hint("stop the process that listens there, or name another path"),
        io::ErrorKind::AddrInUse => {
            Error::host(format!("`{host}` cannot be made: there is `{}`, and it is no socket", path.display()))
                .with_hint("name another path, or remove what is there")
        }
        io::ErrorKind::InvalidFilename => Error::host(format!("`{host}` cannot be made: the path is too long"))
            .with_hint("the path of a Unix socket has at most 107 bytes; a relative one may be shorter"),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::host(format!("`{host}` cannot be made: its directory is not there"))
                .with_hint("make the directory, or name another path")
        }
        _ => Error::host(format!("`{host}` cannot be made: {error}")),
    }
}

/// The process that has a listening socket on this port: id and name.
fn holder(port: u16, transport: Transport) -> Option<(u32, String)> {
    let inode = [format!("/proc/net/{transport}"), format!("/proc/net/{transport}6")]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| inode_of(&table, port))?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if holds(&process.path().join("fd"), &socket) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// The inode of the bound socket in a table as `/proc/net/tcp` has it: the second column is
/// `ADDRESS:PORT` in hexadecimal, the third the peer's, the tenth the inode.
fn inode_of(table: &str, port: u16) -> Option<u64> {
    let port = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let bound = columns.get(1)?.ends_with(&port) && columns.get(2)?.ends_with(":0000");
        bound.then(|| columns.get(9)?.parse().ok())?
    })
}

fn holds(descriptors: &Path, socket: &str) -> bool {
    fs::read_dir(descriptors).is_ok_and(|descriptors| {
        descriptors.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == socket))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_taken_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let error = explain(&HostAddress::Ip(address), Transport::Tcp, &io::ErrorKind::AddrInUse.into());
        assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
        assert!(error.to_string().contains(&format!("port {}/tcp", address.port())), "{error}");
    }
}
