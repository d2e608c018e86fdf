//! What holds of lookups whatever list a guest lays out: each node that is counted has an address, what
//! is not part of the list stays as it was, and a list without end is not followed for ever.

use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;

use super::{Hints, fill, get};
use crate::dialect::wasmedge::address::properties::{any_ip, errno, errno_of};
use crate::guest::{self, Generation};
use crate::limits::LOOKUP_RESULTS;
use crate::memory::properties::{Arena, Bad, SIZE, length, pointer};
use crate::rounds;

/// Bytes of a node, of its sockaddr, and of the longest address; each on its own in the memory here.
const NODE: u32 = 28;
const SOCKADDR: u32 = 12;
const ADDRESS: u32 = 26;
/// All of them for one node, at multiples of four.
const STRIDE: u32 = NODE + SOCKADDR + ADDRESS + 2;

/// Where lists begin; what is in front is for other arguments.
const LIST: u32 = 256;

/// Nodes that there is room for.
const NODES: u32 = (SIZE - LIST) / STRIDE;

/// A list as a toolchain lays it out, in random order; where its first node is.
fn lay_out(arena: &mut Arena, random: &mut Rng) -> u32 {
    let mut places: Vec<u32> = (0..NODES).map(|index| LIST + index * STRIDE).collect();
    random.shuffle(&mut places);
    places.truncate(random.usize(1..=places.len()));
    for (index, &node) in places.iter().enumerate() {
        arena.put(node + 12, node + NODE);
        arena.put(node + NODE + 8, node + NODE + SOCKADDR);
        arena.put(node + 24, places.get(index + 1).copied().unwrap_or(0));
    }
    places[0]
}

/// Breaks a few of a list's pointers: they lead outside, to each other, or back.
fn tangle(arena: &mut Arena, random: &mut Rng) {
    for _ in 0..random.usize(1..4) {
        let node = LIST + random.u32(..NODES) * STRIDE;
        let field = node + [12, 24, NODE + 8][random.usize(..3)];
        let lead = if random.bool() { pointer(random) } else { LIST + random.u32(..NODES) * STRIDE };
        arena.put(field, lead);
    }
}

/// What a list is before it is filled, as far as so many nodes go.
#[derive(Default)]
struct Walk {
    /// Pointers and lengths of what may be written.
    writes: Vec<(u32, u32)>,
    /// Where the pointers are.
    reads: Vec<(u32, u32)>,
    /// Each node that is whole, with its address.
    nodes: Vec<(u32, u32)>,
    bad: Option<Bad>,
}

impl Walk {
    fn new(arena: &Arena, first: u32, addresses: &[IpAddr]) -> Self {
        let mut walk = Self::default();
        let mut node = first;
        for address in addresses {
            match walk.step(arena, node, if address.is_ipv4() { 14 } else { ADDRESS }) {
                Ok(0) => break,
                Ok(next) => node = next,
                Err(bad) => {
                    walk.bad = Some(bad);
                    break;
                }
            }
        }
        walk
    }

    /// Goes over one node; where the next one is.
    fn step(&mut self, arena: &Arena, node: u32, bytes: u32) -> Result<u32, Bad> {
        let sockaddr = self.read(arena, node, 12)?;
        let data = self.read(arena, sockaddr, 8)?;
        self.writes.extend([(node, 5), (node + 8, 4), (sockaddr, 1), (sockaddr + 4, 4), (data, bytes)]);
        arena.before(data, bytes).ok_or(Bad::Outside)?;
        self.nodes.push((node, data));
        self.read(arena, node, 24)
    }

    fn read(&mut self, arena: &Arena, base: u32, offset: u32) -> Result<u32, Bad> {
        let at = base.checked_add(offset).ok_or(Bad::Outside)?;
        self.reads.push((at, 4));
        arena.word(at)
    }

    /// Whether nothing that is written is part of the list, so that it stays what it was.
    fn is_plain(&self) -> bool {
        !self.writes.iter().any(|write| self.reads.iter().any(|read| overlap(*write, *read)))
    }

    /// Whether no node shares memory with another.
    fn is_straight(&self) -> bool {
        let later = |at: usize| &self.writes[at + 1..];
        !self.writes.iter().enumerate().any(|(at, one)| later(at).iter().any(|other| overlap(*one, *other)))
    }
}

fn overlap(one: (u32, u32), other: (u32, u32)) -> bool {
    let end = |(at, length): (u32, u32)| u64::from(at) + u64::from(length);
    u64::from(one.0) < end(other) && u64::from(other.0) < end(one)
}

#[test]
fn a_list_is_filled_as_far_as_it_goes_and_nothing_beside_it() {
    let (mut filled, mut straight) = (0, 0);
    rounds::play(10_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let mut arena = Arena::new(&mut random);
        let first = lay_out(&mut arena, &mut random);
        if random.bool() {
            tangle(&mut arena, &mut random);
        }
        let addresses: Vec<IpAddr> = (0..random.usize(1..=LOOKUP_RESULTS)).map(|_| any_ip(&mut random)).collect();
        let (port, lower) = (random.u16(..), random.u8(..2));
        let hints = Hints { flags: 3, family: 0, kind: 2, protocol: 1, lower };
        let outcome = fill(&mut arena.memory(), first, &addresses, port, &hints).map_err(errno);
        let walk = Walk::new(&arena, first, &addresses);
        filled += u64::from(outcome.is_ok());
        if !walk.is_plain() {
            // It turned into another list meanwhile, which ends all the same.
            assert!(outcome.is_err() || outcome.is_ok_and(|count| count as usize <= addresses.len()));
            return;
        }
        assert!(arena.is_changed_only_in(&walk.writes));
        let count = u32::try_from(walk.nodes.len()).expect("it is short");
        assert_eq!(outcome, walk.bad.map_or(Ok(count), |bad| Err(errno_of(bad))));
        if walk.is_straight() && outcome.is_ok() {
            straight += 1;
            for ((node, data), address) in walk.nodes.iter().zip(&addresses) {
                assert_node(&arena, (*node, *data), *address, port, &hints);
            }
        }
    });
    assert!(filled > 0 && straight > 0, "{filled} lists were filled, {straight} were straight");
}

/// A node says what was found: family, lengths, port and address.
fn assert_node(arena: &Arena, (node, data): (u32, u32), address: IpAddr, port: u16, hints: &Hints) {
    let (family, length) = if address.is_ipv4() { (1 - hints.lower, 14) } else { (2 - hints.lower, 26) };
    assert_eq!(arena.after(node, 5), [3, 0, family, 2 - hints.lower, 1 - hints.lower]);
    assert_eq!(arena.after(node + 8, 4), [length + 2, 0, 0, 0]);
    let sockaddr = arena.word(node + 12).expect("it was filled");
    assert_eq!((arena.after(sockaddr, 1), arena.after(sockaddr + 4, 4)), (&[family][..], &[length, 0, 0, 0][..]));
    assert_eq!(arena.after(data, 2), port.to_be_bytes());
    match address {
        IpAddr::V4(ip) => assert_eq!(arena.after(data + 2, 12), [&ip.octets()[..], &[0; 8]].concat()),
        IpAddr::V6(ip) => assert_eq!(arena.after(data + 2, 24), [&[0; 4], &ip.octets()[..], &[0; 4]].concat()),
    }
}

/// The whole call, with every argument as hostile as it likes, for names that need no lookup. A failure
/// finds nothing, and nothing is found beyond what there is room for.
#[test]
fn no_lookup_breaks_the_host() {
    let (mut found, guest) = (0, &mut guest::tests::guest());
    rounds::play(10_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let mut arena = Arena::new(&mut random);
        let first = lay_out(&mut arena, &mut random);
        let [node, service, hints, result, count] = [16, 64, 96, 128, 160];
        for (at, text) in [(node, NAMES), (service, PORTS)] {
            let text = text[random.usize(..text.len())];
            arena.bytes[at as usize..][..text.len()].copy_from_slice(text);
        }
        arena.put(hints, random.u32(..8) | random.u32(..3) << 16 | random.u32(..3) << 24);
        arena.put(hints + 4, random.u32(..3));
        arena.put(result, first);
        let mut params = [node, 13, service, 4, hints, result, random.u32(..5), count];
        let hostile = random.u8(..4);
        if hostile & 1 != 0 {
            tangle(&mut arena, &mut random);
        }
        if hostile & 2 != 0 {
            params[random.usize(..8)] = if random.bool() { pointer(&mut random) } else { length(&mut random) };
        }
        guest.generation = [Generation::Since0_10, Generation::Before0_10][random.usize(..2)];
        let [node, node_len, service, service_len, hints, result, most, count] = params;
        let memory = &mut arena.memory();
        let outcome = {
            let call = get(guest, memory, node, node_len, service, service_len, hints, result, most, count);
            match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => outcome.map_err(errno),
                Poll::Pending => panic!("numbers need no lookup"),
            }
        };
        found += u64::from(outcome.is_ok());
        if let Ok(before) = arena.word(count) {
            let counted = u32::from_le_bytes(arena.after(count, 4).try_into().expect("four bytes"));
            match outcome {
                Ok(()) => assert!((1..=2).contains(&counted) && counted <= most, "{before} became {counted}"),
                // Who lays a list over the count finds something else there.
                Err(_) => assert!(counted == 0 || hostile != 0, "{before} became {counted}"),
            }
        }
    });
    assert!(found > 0, "nothing was ever found");
}

/// What is looked up, with what follows it in memory.
const NAMES: &[&[u8]] = &[
    b"127.0.0.1\0\0\0\0\0",
    b"2001:db8::9\0\0",
    b"\0\0\0\0",
    b"::1\0",
    b"name.invalid\0",
    b"\xff\xfe\0",
    b"1\x1b[2J\n\0",
];
const PORTS: &[&[u8]] = &[b"http", b"80\0\0", b"\0\0\0\0", b"-1\0\0", b"\xff\xff\xff\xff", b"9999"];
