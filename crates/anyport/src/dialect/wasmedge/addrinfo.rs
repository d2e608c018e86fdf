//! `sock_getaddrinfo`: name lookup into a list that the guest has allocated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dialect::hostcall::{Fault, Hostcall};
use crate::errno::Errno;
use crate::guest::{Generation, Guest};
use crate::limits::{LOOKUP_RESULTS, NAME_BYTES};
use crate::memory::Memory;

/// `__wasi_aiflags_t`: all that are defined, and the two that matter here.
const AI_FLAGS: u16 = 0x7f;
const AI_PASSIVE: u16 = 1;
const AI_NUMERICHOST: u16 = 4;

/// `__wasi_address_family_t` since 0.10.
const UNSPEC: u8 = 0;
const INET4: u8 = 1;
const INET6: u8 = 2;

/// What the guest asked for, in the enums since 0.10.
struct Hints {
    flags: u16,
    family: u8,
    kind: u8,
    protocol: u8,
    /// What the guest's enums are lower by: 1 before 0.10.
    lower: u8,
}

/// `sock_getaddrinfo(node, service, hints, *res, max) -> count`: `WasiGetAddrinfo`.
pub(super) async fn get(
    guest: &mut Guest, memory: &mut Memory<'_>, node: u32, node_len: u32, service: u32, service_len: u32, hints: u32,
    ro_res: u32, max: u32, ro_count: u32,
) -> Hostcall {
    memory.write(ro_count, 0_u32)?;
    if max == 0 {
        return Err(Errno::LookupMemory.into());
    }
    let node = string(memory, node, node_len)?;
    let service = string(memory, service, service_len)?;
    if node.is_empty() && service.is_empty() {
        return Err(Errno::LookupNoName.into());
    }
    let hints = Hints::read(memory, hints, guest.generation == Generation::Before0_10)?;
    let port = port(&service);
    let mut addresses = addresses(guest, &node, &hints).await?;
    addresses.retain(|address| match hints.family {
        INET4 => address.is_ipv4(),
        INET6 => address.is_ipv6(),
        _ => true,
    });
    if addresses.is_empty() {
        return Err(Errno::LookupAddressFamily.into());
    }
    let first = memory.read(ro_res)?;
    let most = LOOKUP_RESULTS.min(max as usize);
    let count = fill(memory, first, &addresses[..addresses.len().min(most)], port, &hints)?;
    Ok(memory.write(ro_count, count)?)
}

async fn addresses(guest: &mut Guest, node: &str, hints: &Hints) -> Result<Vec<IpAddr>, Fault> {
    if node.is_empty() {
        return Ok(match hints.flags & AI_PASSIVE {
            0 => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            _ => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        });
    }
    if hints.flags & AI_NUMERICHOST != 0 && node.parse::<IpAddr>().is_err() {
        return Err(Errno::LookupNoName.into());
    }
    Ok(guest.lookup(node).await?)
}

/// Fills the guest's list of `addrinfo` nodes in place; how many there were.
fn fill(memory: &mut Memory<'_>, first: u32, addresses: &[IpAddr], port: u16, hints: &Hints) -> Result<u32, Fault> {
    let mut node = first;
    let mut count = 0;
    for address in addresses {
        fill_node(memory, node, *address, port, hints)?;
        count += 1;
        node = memory.read(field(node, 24)?)?;
        if node == 0 {
            break;
        }
    }
    Ok(count)
}

/// Fills one `addrinfo` and the sockaddr it points to.
fn fill_node(memory: &mut Memory<'_>, node: u32, address: IpAddr, port: u16, hints: &Hints) -> Result<(), Fault> {
    let sockaddr = memory.read(field(node, 12)?)?;
    let data: u32 = memory.read(field(sockaddr, 8)?)?;
    let (family, bytes) = match address {
        IpAddr::V4(ip) => (INET4, [&port.to_be_bytes()[..], &ip.octets(), &[0; 8]].concat()),
        // Flow information between, scope behind; both nothing.
        IpAddr::V6(ip) => (INET6, [&port.to_be_bytes()[..], &[0; 4], &ip.octets(), &[0; 4]].concat()),
    };
    let length = u32::try_from(bytes.len()).expect("an address is short");
    memory.write_bytes(data, &bytes)?;
    let family = family - hints.lower;
    memory.write(sockaddr, family)?;
    memory.write(field(sockaddr, 4)?, length)?;
    memory.write(node, hints.flags)?;
    memory.write(field(node, 2)?, family)?;
    memory.write(field(node, 3)?, hints.kind.saturating_sub(hints.lower))?;
    memory.write(field(node, 4)?, hints.protocol.saturating_sub(hints.lower))?;
    // `sizeof(struct sockaddr_in)`, and of its IPv6 sister as WasmEdge counts it.
    Ok(memory.write(field(node, 8)?, length + 2)?)
}

fn field(base: u32, offset: u32) -> Result<u32, Fault> {
    Ok(base.checked_add(offset).ok_or(wiggle::GuestError::PtrOverflow)?)
}

impl Hints {
    fn read(memory: &Memory<'_>, at: u32, legacy: bool) -> Result<Self, Fault> {
        let flags = memory.read(at)?;
        let [family, kind, protocol]: [u8; 3] =
            [memory.read(field(at, 2)?)?, memory.read(field(at, 3)?)?, memory.read(field(at, 4)?)?];
        if flags & !AI_FLAGS != 0 {
            return Err(Errno::LookupBadFlags.into());
        }
        let (family, kind, protocol) = if legacy {
            (family.saturating_add(1), kind.saturating_add(1), protocol.saturating_add(1))
        } else {
            (family, kind, protocol)
        };
        match (family, kind, protocol) {
            (UNSPEC..=INET6, 0..=2, 0..=2) => Ok(Self { flags, family, kind, protocol, lower: u8::from(legacy) }),
            (UNSPEC..=INET6, ..) => Err(Errno::NoSystemCall.into()),
            _ => Err(Errno::LookupFamily.into()),
        }
    }
}

/// A string of the guest, whose length usually counts the final NUL.
fn string(memory: &Memory<'_>, pointer: u32, length: u32) -> Result<String, Fault> {
    if length > NAME_BYTES {
        return Err(Errno::LookupFail.into());
    }
    let mut bytes = memory.bytes(pointer, length)?;
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    String::from_utf8(bytes).map_err(|_| Errno::LookupNoName.into())
}

/// The port of a service. The crates ask for `http` whatever they want, and put their own port in;
/// `WasmEdge` needs `/etc/services` for it, which containers do not have.
fn port(service: &str) -> u16 {
    match service {
        "http" => 80,
        "https" => 443,
        number => number.parse().unwrap_or(0),
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_need_no_file() {
        assert_eq!([port("http"), port("https"), port("8080"), port("gopher"), port("")], [80, 443, 8080, 0, 0]);
    }
}
