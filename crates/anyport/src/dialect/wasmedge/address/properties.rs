//! What holds of addresses whatever a guest passes: they are read where they are, what is written is
//! read back as it was, and nothing is written beside it.

use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;

use super::{INET4, INET6, SOCKADDR_BYTES, Slot};
use crate::dialect::hostcall::Fault;
use crate::dialect::wasmedge::errno_on_bad_pointer;
use crate::errno::Errno;
use crate::memory::properties::{Arena, Bad, length, pointer};
use crate::rounds;

/// The errno that a guest gets.
pub(crate) fn errno(fault: Fault) -> Errno {
    match fault {
        Fault::Errno(errno) => errno,
        Fault::Memory(error) => errno(errno_on_bad_pointer(error)),
        Fault::Trap(error) => panic!("{error}"),
    }
}

/// What `WasmEdge` answers to a bad pointer.
pub(crate) fn errno_of(bad: Bad) -> Errno {
    match bad {
        Bad::Misaligned => Errno::AddressNotAvailable,
        Bad::Outside => Errno::Fault,
    }
}

pub(crate) fn any_ip(random: &mut Rng) -> IpAddr {
    if random.bool() { random.u32(..).to_be_bytes().into() } else { random.u128(..).to_be_bytes().into() }
}

/// Memory with a slot somewhere, and where that is.
fn arena(random: &mut Rng) -> (Arena, u32) {
    let mut arena = Arena::new(random);
    let (at, buffer) = (pointer(random), pointer(random));
    let length = if random.bool() { [4, 16, SOCKADDR_BYTES][random.usize(..3)] } else { length(random) };
    // A family that there is.
    arena.put(buffer, random.u32(..) << 16 | random.u32(..4));
    arena.put(at, buffer);
    arena.put(at.wrapping_add(4), length);
    (arena, at)
}

/// The slot that should be found.
fn slot_in(arena: &Arena, at: u32) -> Result<(u32, u32), Errno> {
    let pointer = arena.word(at).map_err(errno_of)?;
    let length = at.checked_add(4).ok_or(Bad::Outside).and_then(|at| arena.word(at)).map_err(errno_of)?;
    Ok((pointer, length))
}

/// The address that should be found.
fn address_in(arena: &Arena, at: u32) -> Result<IpAddr, Errno> {
    let (pointer, length) = slot_in(arena, at)?;
    let bytes = |offset: u32, length: u32| {
        let start = pointer.checked_add(offset).ok_or(Errno::Fault)?;
        arena.before(start, length).ok_or(Errno::Fault)
    };
    let four = |bytes: &[u8]| IpAddr::from(<[u8; 4]>::try_from(bytes).expect("four bytes"));
    let sixteen = |bytes: &[u8]| IpAddr::from(<[u8; 16]>::try_from(bytes).expect("sixteen bytes"));
    match length {
        4 => bytes(0, 4).map(four),
        16 => bytes(0, 16).map(sixteen),
        SOCKADDR_BYTES => match bytes(0, 2)? {
            [1, 0] => bytes(2, 4).map(four),
            [2, 0] => bytes(2, 16).map(sixteen),
            _ => Err(Errno::AddressFamilyNotSupported),
        },
        _ => Err(Errno::Invalid),
    }
}

#[test]
fn an_address_is_read_where_it_is() {
    let mut good = 0;
    rounds::play(10_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let (mut arena, at) = arena(&mut random);
        let port = random.u32(..);
        let memory = arena.memory();
        let found = Slot::read(&memory, at).and_then(|slot| slot.decode(&memory, port)).map_err(errno);
        // The low half, as WasmEdge has it.
        let low = u16::try_from(port % 0x1_0000).expect("it is half as long");
        let expected = address_in(&arena, at).map(|ip| SocketAddr::new(ip, low));
        assert_eq!(found, expected);
        good += u64::from(found.is_ok());
    });
    assert!(good > 0, "no address was good");
}

/// How an address is written: the bytes that should be there, or why there are none.
type Expected = Result<Vec<u8>, Errno>;

#[test]
fn a_written_address_is_read_back_and_nothing_is_written_beside_it() {
    let mut good = 0;
    rounds::play(10_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let (mut arena, at) = arena(&mut random);
        let (ip, port) = (any_ip(&mut random), random.u16(..));
        let Ok(slot) = Slot::read(&arena.memory(), at) else { return };
        let shape = random.u8(..3);
        let mut memory = arena.memory();
        let written = match shape {
            0 => slot.write_raw(&mut memory, ip),
            1 => slot.write_sockaddr(&mut memory, ip),
            _ => slot.write_linux_sockaddr(&mut memory, (ip, port).into()),
        };
        let expected = match shape {
            0 => raw(ip, slot.length),
            1 => sockaddr(ip, slot.length),
            _ => Ok(linux_sockaddr(ip, port, slot.length)),
        };
        assert_written(&arena, slot, written.map_err(errno), expected);
        if written_whole(&arena, slot, shape, ip) {
            let memory = arena.memory();
            assert_eq!(slot.decode(&memory, port.into()).map_err(errno), Ok((ip, port).into()));
            good += 1;
        }
    });
    assert!(good > 0, "no address was written");
}

/// Where the decoder takes what was written for the same.
fn written_whole(arena: &Arena, slot: Slot, shape: u8, ip: IpAddr) -> bool {
    let bytes = if ip.is_ipv4() { 4 } else { 16 };
    match shape {
        0 => slot.length == bytes && arena.before(slot.pointer, bytes).is_some(),
        1 => slot.length == SOCKADDR_BYTES && arena.before(slot.pointer, bytes + 2).is_some(),
        _ => false,
    }
}

fn assert_written(arena: &Arena, slot: Slot, written: Result<(), Errno>, expected: Expected) {
    let expected = expected.and_then(|bytes| {
        let length = u32::try_from(bytes.len()).expect("it is short");
        // Nothing can be written anywhere.
        let fits = length == 0 || arena.before(slot.pointer, length).is_some();
        fits.then_some((bytes, length)).ok_or(Errno::Fault)
    });
    match expected {
        Ok((bytes, length)) => {
            assert_eq!(written, Ok(()));
            assert!(length <= slot.length && arena.is_changed_only_in(&[(slot.pointer, length)]));
            assert!(length == 0 || arena.after(slot.pointer, length) == bytes);
        }
        Err(errno) => {
            assert_eq!(written, Err(errno));
            assert!(arena.is_changed_only_in(&[]));
        }
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn raw(ip: IpAddr, room: u32) -> Expected {
    let bytes = octets(ip);
    if bytes.len() <= room as usize { Ok(bytes) } else { Err(Errno::NoMemory) }
}

fn sockaddr(ip: IpAddr, room: u32) -> Expected {
    let family = if ip.is_ipv4() { INET4 } else { INET6 };
    if room == SOCKADDR_BYTES { Ok([family.to_le_bytes().to_vec(), octets(ip)].concat()) } else { Err(Errno::Invalid) }
}

/// `struct sockaddr_in` and `sockaddr_in6`, with the port in the host's order.
fn linux_sockaddr(ip: IpAddr, port: u16, room: u32) -> Vec<u8> {
    let port = port.to_le_bytes().to_vec();
    let mut bytes = match ip {
        IpAddr::V4(_) => [vec![2, 0], port, octets(ip), vec![0; 8]].concat(),
        IpAddr::V6(_) => [vec![10, 0], port, vec![0; 4], octets(ip), vec![0; 4]].concat(),
    };
    bytes.truncate(room as usize);
    bytes
}
