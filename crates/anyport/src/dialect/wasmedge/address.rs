//! `WasmEdge`'s addresses: a pointer and a length, 4 or 16 raw bytes or a 128-byte sockaddr.

use std::net::{IpAddr, SocketAddr};

use crate::dialect::hostcall::Fault;
use crate::errno::Errno;
use crate::memory::Memory;

/// Bytes of the second shape's buffer: a family, then the address; never the port.
const SOCKADDR_BYTES: u32 = 128;

/// `__wasi_address_family_t` as a sockaddr holds it.
const INET4: u16 = 1;
const INET6: u16 = 2;

/// `__wasi_address_t`: where an address is, and how much room it has.
#[derive(Clone, Copy)]
pub(in crate::dialect) struct Slot {
    pointer: u32,
    pub(in crate::dialect) length: u32,
}

impl Slot {
    pub(in crate::dialect) fn read(memory: &Memory<'_>, at: u32) -> Result<Self, Fault> {
        let length = at.checked_add(4).ok_or(wiggle::GuestError::PtrOverflow)?;
        Ok(Self { pointer: memory.read(at)?, length: memory.read(length)? })
    }

    /// Decodes the address in the buffer, by its length.
    pub(in crate::dialect) fn decode(self, memory: &Memory<'_>, port: u32) -> Result<SocketAddr, Fault> {
        // Guests pass the port as an i32; WasmEdge looks at the low 16 bits.
        let port = (port & 0xffff) as u16;
        let ip: IpAddr = match self.length {
            4 => self.bytes::<4>(memory, 0)?.into(),
            16 => self.bytes::<16>(memory, 0)?.into(),
            SOCKADDR_BYTES => match u16::from_le_bytes(self.bytes(memory, 0)?) {
                INET4 => self.bytes::<4>(memory, 2)?.into(),
                INET6 => self.bytes::<16>(memory, 2)?.into(),
                _ => return Err(Errno::AddressFamilyNotSupported.into()),
            },
            _ => return Err(Errno::Invalid.into()),
        };
        Ok((ip, port).into())
    }

    /// Writes the raw address; the rest of a longer buffer is left alone.
    pub(super) fn write_raw(self, memory: &mut Memory<'_>, ip: IpAddr) -> Result<(), Fault> {
        match ip {
            IpAddr::V4(ip) if self.length >= 4 => memory.write_bytes(self.pointer, &ip.octets())?,
            IpAddr::V6(ip) if self.length >= 16 => memory.write_bytes(self.pointer, &ip.octets())?,
            _ => return Err(Errno::NoMemory.into()),
        }
        Ok(())
    }

    /// Writes family and address; the buffer must be a sockaddr's.
    pub(super) fn write_sockaddr(self, memory: &mut Memory<'_>, ip: IpAddr) -> Result<(), Fault> {
        if self.length != SOCKADDR_BYTES {
            return Err(Errno::Invalid.into());
        }
        self.write_bytes(memory, &sockaddr(ip))
    }

    /// Writes what fits of a sockaddr as Linux lays it out, which is what `WasmEdge` 0.10 gave away and
    /// what crate 0.4 reads: family 2 or 10, then port and address. The crate reads the port as
    /// little-endian, and it is its own to read.
    pub(super) fn write_linux_sockaddr(self, memory: &mut Memory<'_>, address: SocketAddr) -> Result<(), Fault> {
        let mut bytes = [0_u8; 28];
        let family: u16 = if address.is_ipv4() { 2 } else { 10 };
        bytes[..2].copy_from_slice(&family.to_le_bytes());
        bytes[2..4].copy_from_slice(&address.port().to_le_bytes());
        let length = match address.ip() {
            IpAddr::V4(ip) => {
                bytes[4..8].copy_from_slice(&ip.octets());
                16
            }
            IpAddr::V6(ip) => {
                bytes[8..24].copy_from_slice(&ip.octets());
                28
            }
        };
        self.write_bytes(memory, &bytes[..length])
    }

    /// Writes the front of `bytes` as far as the buffer has room.
    fn write_bytes(self, memory: &mut Memory<'_>, bytes: &[u8]) -> Result<(), Fault> {
        let room = bytes.len().min(self.length as usize);
        Ok(memory.write_bytes(self.pointer, &bytes[..room])?)
    }

    fn bytes<const N: usize>(self, memory: &Memory<'_>, offset: u32) -> Result<[u8; N], Fault> {
        let at = self.pointer.checked_add(offset).ok_or(wiggle::GuestError::PtrOverflow)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&memory.bytes(at, u32::try_from(N).expect("an address is short"))?);
        Ok(bytes)
    }
}

/// The second shape's family and address, without the zeros that may follow.
fn sockaddr(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => [&INET4.to_le_bytes()[..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&INET6.to_le_bytes()[..], &ip.octets()].concat(),
    }
}

#[cfg(test)]
pub(super) mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use wiggle::GuestMemory;

    fn decoded(buffer: &[u8], length: u32) -> Result<String, Errno> {
        let mut bytes = vec![0; 256];
        bytes[..8].copy_from_slice(&[16_u32.to_le_bytes(), length.to_le_bytes()].concat());
        bytes[16..16 + buffer.len()].copy_from_slice(buffer);
        let memory = Memory::from(GuestMemory::Unshared(&mut bytes));
        let slot = Slot::read(&memory, 0).unwrap_or_else(|_| panic!("in bounds"));
        match slot.decode(&memory, 0x1_0050) {
            Ok(address) => Ok(address.to_string()),
            Err(Fault::Errno(errno)) => Err(errno),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_length_says_which_shape_it_is() {
        assert_eq!(decoded(&[127, 0, 0, 1], 4), Ok("127.0.0.1:80".to_owned()));
        assert_eq!(decoded(&[0; 16], 16), Ok("[::]:80".to_owned()));
        assert_eq!(decoded(&[1, 0, 10, 0, 0, 1], 128), Ok("10.0.0.1:80".to_owned()));
        assert_eq!(decoded(&[2, 0], 128), Ok("[::]:80".to_owned()));
        assert_eq!(decoded(&[3, 0], 128), Err(Errno::AddressFamilyNotSupported));
        for length in [0, 3, 5, 15, 17, 127, 129, u32::MAX] {
            assert_eq!(decoded(&[], length), Err(Errno::Invalid), "{length}");
        }
    }
}
