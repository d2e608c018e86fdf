//! Which addresses a socket may be given, and how it names those of others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wasmtime_wasi::p2::bindings::sockets::network::IpAddressFamily;
use wasmtime_wasi::p3::bindings::sockets::types;

use crate::address::Family;

/// Whether a TCP socket may be bound to it.
pub(super) fn is_local_tcp(address: SocketAddr, family: Family) -> bool {
    is_of(address.ip(), family) && is_unicast(address.ip())
}

/// Whether a UDP socket may be bound to it.
pub(super) fn is_local_udp(address: SocketAddr, family: Family) -> bool {
    is_of(address.ip(), family)
}

/// Whether a TCP socket may connect to it.
pub(super) fn is_remote_tcp(address: SocketAddr, family: Family) -> bool {
    is_remote_udp(address, family) && is_unicast(address.ip())
}

/// Whether a datagram may be sent to it.
pub(super) fn is_remote_udp(address: SocketAddr, family: Family) -> bool {
    is_of(address.ip(), family) && !address.ip().is_unspecified() && address.port() != 0
}

fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_multicast(),
    }
}

/// IPv4 within IPv6 is no address of either: a socket of WASI has one version.
fn is_of(ip: IpAddr, family: Family) -> bool {
    match (family, ip) {
        (Family::Inet4, IpAddr::V4(_)) => true,
        (Family::Inet6, IpAddr::V6(v6)) => v6.to_ipv4_mapped().is_none() && !is_compatible(v6),
        _ => false,
    }
}

/// The deprecated `::a.b.c.d`, but for `::` and `::1`.
fn is_compatible(v6: Ipv6Addr) -> bool {
    matches!(v6.segments(), [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1)
}

/// An address as a socket of this family says it. Clients of a published port may have the other, in which a libc
/// would not look for one.
pub(super) fn named(address: SocketAddr, family: Family) -> SocketAddr {
    let ip: IpAddr = match (family, address.ip()) {
        (Family::Inet6, IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
        (Family::Inet4, IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None if v6.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            None => Ipv4Addr::UNSPECIFIED.into(),
        },
        _ => return address,
    };
    (ip, address.port()).into()
}

pub(super) fn family_02(family: IpAddressFamily) -> Family {
    match family {
        IpAddressFamily::Ipv4 => Family::Inet4,
        IpAddressFamily::Ipv6 => Family::Inet6,
    }
}

pub(super) fn as_02(family: Family) -> IpAddressFamily {
    match family {
        Family::Inet4 => IpAddressFamily::Ipv4,
        Family::Inet6 => IpAddressFamily::Ipv6,
    }
}

pub(super) fn family_03(family: types::IpAddressFamily) -> Family {
    match family {
        types::IpAddressFamily::Ipv4 => Family::Inet4,
        types::IpAddressFamily::Ipv6 => Family::Inet6,
    }
}

pub(super) fn as_03(family: Family) -> types::IpAddressFamily {
    match family {
        Family::Inet4 => types::IpAddressFamily::Ipv4,
        Family::Inet6 => types::IpAddressFamily::Ipv6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_may_be_given() {
        let (v4, v6) = (Family::Inet4, Family::Inet6);
        for (text, family, local, remote) in [
            ("127.0.0.1:80", v4, true, true),
            ("127.0.0.1:0", v4, true, false),
            ("0.0.0.0:80", v4, true, false),
            ("224.0.0.1:80", v4, false, false),
            ("255.255.255.255:80", v4, false, false),
            ("[::1]:80", v4, false, false),
            ("[::1]:80", v6, true, true),
            ("[::]:80", v6, true, false),
            ("[::ffff:127.0.0.1]:80", v6, false, false),
            ("[::127.0.0.1]:80", v6, false, false),
            ("[ff02::1]:80", v6, false, false),
            ("127.0.0.1:80", v6, false, false),
        ] {
            let address = text.parse().expect("an address");
            assert_eq!(is_local_tcp(address, family), local, "{text} to bind");
            assert_eq!(is_remote_tcp(address, family), remote, "{text} to connect to");
        }
        assert!(is_remote_udp("224.0.0.1:80".parse().expect("an address"), v4));
    }

    #[test]
    fn a_socket_names_others_in_its_own_family() {
        for (address, family, name) in [
            ("10.0.0.1:7", Family::Inet4, "10.0.0.1:7"),
            ("10.0.0.1:7", Family::Inet6, "[::ffff:10.0.0.1]:7"),
            ("[::ffff:10.0.0.1]:7", Family::Inet4, "10.0.0.1:7"),
            ("[::1]:7", Family::Inet4, "127.0.0.1:7"),
            ("[2001:db8::1]:7", Family::Inet4, "0.0.0.0:7"),
        ] {
            let named = named(address.parse().expect("an address"), family);
            assert_eq!(named, name.parse().expect("an address"));
        }
    }
}
