//! Addresses, as a person writes them and as guests name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The family of a socket's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Inet4,
    Inet6,
}

impl Family {
    pub(crate) fn of(address: &SocketAddr) -> Self {
        if address.is_ipv4() { Self::Inet4 } else { Self::Inet6 }
    }

    /// The wildcard address of the family, port 0.
    pub(crate) fn unspecified(self) -> SocketAddr {
        match self {
            Self::Inet4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
            Self::Inet6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
        }
    }
}

/// The transport of a socket or of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// A stream of bytes.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A guest's port made reachable on the host: `docker run -p`'s words, but on loopback unless an
/// address is given.
///
/// Parses `[HOST_ADDR:]HOST[:GUEST][/tcp|/udp]`: `8080`, `8080:80`, `0.0.0.0:8080:80`,
/// `[::1]:8080:80/tcp`; and `unix:PATH[:GUEST]`. Host port 0 asks the operating system for a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where clients connect.
    pub host: HostAddress,
    /// The port that the guest binds; `None` is the first one that no other publication names.
    pub guest_port: Option<u16>,
    /// TCP or UDP.
    pub transport: Transport,
}

/// Where clients of a published port come in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostAddress {
    /// A port of the host.
    Ip(SocketAddr),
    /// A Unix socket, which is made at this path. To the guest it is as if over TCP.
    Unix(PathBuf),
    /// None: only the program that embeds the guest reaches it, by [`crate::Running::connect`].
    Memory,
}

impl Publish {
    /// Publishes TCP `port` of the guest as the same port of 127.0.0.1.
    pub fn loopback(port: u16) -> Self {
        Self {
            host: HostAddress::Ip((Ipv4Addr::LOCALHOST, port).into()),
            guest_port: Some(port),
            transport: Transport::Tcp,
        }
    }

    /// Publishes TCP `port` of the guest to this program alone.
    pub fn in_memory(port: u16) -> Self {
        Self { host: HostAddress::Memory, guest_port: Some(port), transport: Transport::Tcp }
    }

    /// Publishes an address of the host as the guest's port of the same number; a Unix socket, as
    /// whichever port the guest binds first.
    pub fn same_port(host: HostAddress) -> Self {
        let guest_port = match &host {
            HostAddress::Ip(address) => Some(address.port()),
            HostAddress::Unix(_) | HostAddress::Memory => None,
        };
        Self { host, guest_port, transport: Transport::Tcp }
    }

    /// The address of the host; none if it is no IP port.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.host {
            HostAddress::Ip(address) => Some(address),
            HostAddress::Unix(_) | HostAddress::Memory => None,
        }
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Memory => f.write_str("memory"),
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.guest_port {
            Some(port) => write!(f, "{}:{port}/{}", self.host, self.transport),
            None => write!(f, "{}/{}", self.host, self.transport),
        }
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        let (ports, transport) = match text.rsplit_once('/') {
            None => (text, Transport::Tcp),
            Some((ports, "tcp")) => (ports, Transport::Tcp),
            Some((ports, "udp")) => (ports, Transport::Udp),
            Some((_, other)) => return Err(format!("`{other}` is not a transport: use `tcp` or `udp`")),
        };
        let (address, ports) = split_address(ports)?;
        let (host, guest) = ports.split_once(':').unwrap_or((ports, ports));
        // `ADDR::GUEST` is Docker's way to ask for a free host port.
        let host = if host.is_empty() { 0 } else { port(host)? };
        Ok(Self { host: HostAddress::Ip((address, host).into()), guest_port: Some(port(guest)?), transport })
    }
}

/// `PATH[:GUEST]`, the part behind `unix:`. A path may have colons: what follows the last one is a port
/// only if it is a number.
fn unix(text: &str) -> Result<Publish, String> {
    let (path, guest_port) = match text.rsplit_once(':') {
        Some((path, guest)) if !guest.is_empty() && guest.bytes().all(|byte| byte.is_ascii_digit()) => {
            (path, Some(port(guest)?))
        }
        _ => (text, None),
    };
    if path.is_empty() {
        return Err("a Unix socket needs a path: `unix:/run/server.sock`".to_owned());
    }
    Ok(Publish { host: HostAddress::Unix(path.into()), guest_port, transport: Transport::Tcp })
}

/// Splits `ADDR:` off the front: a bracketed IPv6 address, or anything with a dot in it.
fn split_address(text: &str) -> Result<(IpAddr, &str), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, ports) = rest.split_once("]:").ok_or("an IPv6 address is written `[::1]:PORT`")?;
        let address: Ipv6Addr = address.parse().map_err(|_| format!("`{address}` is not an IPv6 address"))?;
        return Ok((address.into(), ports));
    }
    match text.split_once(':') {
        Some((address, ports)) if address.contains('.') => {
            let address: Ipv4Addr = address.parse().map_err(|_| format!("`{address}` is not an IPv4 address"))?;
            Ok((address.into(), ports))
        }
        Some(("localhost", ports)) => Ok((Ipv4Addr::LOCALHOST.into(), ports)),
        _ => Ok((Ipv4Addr::LOCALHOST.into(), text)),
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("`{text}` is not a port number (0 to 65535)"))
}

/// Parses a listen address as the peers' users type it: `127.0.0.1:8080`, `[::]:80`, `:8080` and
/// `localhost:8080`. Without a host it is loopback.
///
/// # Errors
/// A sentence that says which part is not an address or a port.
pub fn parse_listen_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.strip_prefix(':').unwrap_or(text);
    let (address, rest) = split_address(text)?;
    Ok((address, port(rest)?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(text: &str) -> String {
        match text.parse::<Publish>() {
            Ok(publish) => publish.to_string(),
            Err(error) => error,
        }
    }

    #[test]
    fn publish_takes_dockers_forms() {
        assert_eq!(publish("8080"), "127.0.0.1:8080:8080/tcp");
        assert_eq!(publish("8080:80"), "127.0.0.1:8080:80/tcp");
        assert_eq!(publish("0.0.0.0:8080:80"), "0.0.0.0:8080:80/tcp");
        assert_eq!(publish("0.0.0.0:8080"), "0.0.0.0:8080:8080/tcp");
        assert_eq!(publish("127.0.0.1::80"), "127.0.0.1:0:80/tcp");
        assert_eq!(publish("[::1]:8080:80/udp"), "[::1]:8080:80/udp");
        assert_eq!(publish("localhost:8080:80"), "127.0.0.1:8080:80/tcp");
        assert_eq!(publish("unix:/run/a.sock"), "unix:/run/a.sock/tcp");
        assert_eq!(publish("unix:/run/a.sock:80"), "unix:/run/a.sock:80/tcp");
        for (text, path, guest_port) in [
            ("unix:/run/a:b.sock", "/run/a:b.sock", None),
            ("unix:/run/a:80/b", "/run/a:80/b", None),
            ("unix:/run/a:b:80", "/run/a:b", Some(80)),
            ("unix:a:http", "a:http", None),
            ("unix:a:+80", "a:+80", None),
            ("unix:a:", "a:", None),
        ] {
            let publish: Publish = text.parse().expect(text);
            assert_eq!((publish.host, publish.guest_port), (HostAddress::Unix(path.into()), guest_port), "{text}");
        }
    }

    #[test]
    fn publish_says_which_part_is_wrong() {
        assert_eq!(publish("http"), "`http` is not a port number (0 to 65535)");
        assert_eq!(publish("8080:99999"), "`99999` is not a port number (0 to 65535)");
        assert_eq!(publish("8080/sctp"), "`sctp` is not a transport: use `tcp` or `udp`");
        assert_eq!(publish("1.2.3:80"), "`1.2.3` is not an IPv4 address");
        assert_eq!(publish("unix:a:99999"), "`99999` is not a port number (0 to 65535)");
        assert_eq!(publish("unix::80"), "a Unix socket needs a path: `unix:/run/server.sock`");
        assert_eq!(publish("[::1:80"), "an IPv6 address is written `[::1]:PORT`");
    }

    #[test]
    fn listen_addresses_of_the_peers() {
        for (text, want) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            (":8080", "127.0.0.1:8080"),
            ("8080", "127.0.0.1:8080"),
            ("localhost:80", "127.0.0.1:80"),
            ("[::]:80", "[::]:80"),
        ] {
            assert_eq!(parse_listen_address(text).map(|address| address.to_string()).as_deref(), Ok(want));
        }
    }
}
