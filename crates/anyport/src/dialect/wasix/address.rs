//! `addr_port` and `addr` of WASIX: 20 and 18 bytes, whatever its headers say (110 since 2023).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wiggle::GuestError;

use crate::address::Family;
use crate::dialect::hostcall::{Fault, Hostcall};
use crate::errno::Errno;
use crate::memory::Memory;

/// The tag of an address, which is the address family too.
pub(super) const INET4: u8 = 1;
pub(super) const INET6: u8 = 2;

/// Bytes of an `addr` in an array of them.
const ADDRESS_BYTES: u32 = 18;

pub(super) fn family(number: u32) -> Result<Family, Errno> {
    match number {
        1 => Ok(Family::Inet4),
        2 => Ok(Family::Inet6),
        _ => Err(Errno::AddressFamilyNotSupported),
    }
}

/// Reads an `addr_port`: tag, a byte of nothing, the port in little-endian, the address.
pub(super) fn read(memory: &Memory<'_>, at: u32) -> Result<SocketAddr, Fault> {
    let tag: u8 = memory.read(at)?;
    let [low, high] = array(memory, offset(at, 2)?)?;
    let port = u16::from_le_bytes([low, high]);
    let at = offset(at, 4)?;
    match tag {
        INET4 => Ok((Ipv4Addr::from(array::<4>(memory, at)?), port).into()),
        INET6 => Ok((Ipv6Addr::from(array::<16>(memory, at)?), port).into()),
        _ => Err(Errno::AddressFamilyNotSupported.into()),
    }
}

/// Writes an `addr_port`, and nothing beyond the address.
pub(super) fn write(memory: &mut Memory<'_>, at: u32, address: SocketAddr) -> Hostcall {
    let mut bytes = vec![if address.is_ipv4() { INET4 } else { INET6 }, 0];
    bytes.extend(address.port().to_le_bytes());
    extend(&mut bytes, address.ip());
    Ok(memory.write_bytes(at, &bytes)?)
}

/// Writes one `addr` of an array.
pub(super) fn write_element(memory: &mut Memory<'_>, array: u32, index: u32, address: IpAddr) -> Hostcall {
    let at = index.checked_mul(ADDRESS_BYTES).and_then(|offset| array.checked_add(offset));
    let mut bytes = vec![if address.is_ipv4() { INET4 } else { INET6 }, 0];
    extend(&mut bytes, address);
    Ok(memory.write_bytes(at.ok_or(GuestError::PtrOverflow)?, &bytes)?)
}

fn extend(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
}

fn array<const N: usize>(memory: &Memory<'_>, at: u32) -> Result<[u8; N], Fault> {
    let length = u32::try_from(N).map_err(|_| GuestError::PtrOverflow)?;
    let bytes = memory.bytes(at, length)?;
    Ok(bytes.try_into().map_err(|_| GuestError::PtrOverflow)?)
}

fn offset(at: u32, by: u32) -> Result<u32, Fault> {
    Ok(at.checked_add(by).ok_or(GuestError::PtrOverflow)?)
}

#[cfg(test)]
mod tests {
    use wiggle::GuestMemory;

    use super::*;

    #[test]
    fn an_address_is_what_was_written_and_no_byte_more() {
        for text in ["127.0.0.1:10275", "[2001:db8::1]:443"] {
            let address: SocketAddr = text.parse().expect("an address");
            let mut bytes = [0xaa; 40];
            let mut memory = Memory::from(GuestMemory::Unshared(&mut bytes));
            assert!(write(&mut memory, 2, address).is_ok());
            assert!(matches!(read(&memory, 2), Ok(read) if read == address));
            let end = if address.is_ipv4() { 2 + 8 } else { 2 + 20 };
            assert!(bytes[end..].iter().all(|byte| *byte == 0xaa));
            assert_eq!(u16::from_le_bytes([bytes[4], bytes[5]]), address.port(), "little-endian");
        }
    }
}
