//! `sock_getaddrinfo`: name lookup into a list of nodes that the guest has laid out.

use crate::wat_support::{Answer, Puppet, Stage, errno};

const UNSPEC: u8 = 0;
const INET4: u8 = 1;
const INET6: u8 = 2;
const PASSIVE: u16 = 1;
const CANONNAME: u16 = 2;
const NUMERICHOST: u16 = 4;

/// The first node of a list of so many, each with an address of 26 bytes.
fn list(guest: &mut Puppet, nodes: usize) -> u64 {
    let mut next = 0;
    for _ in 0..nodes {
        let data = guest.put(&[0xee; 26]);
        // What guests declare.
        let address = guest.words(&[0, 14, data]);
        let name = guest.put(&[0xee; 30]);
        next = guest.words(&[0, 0, 0, address, name, 0, next]);
    }
    next
}

fn hints(guest: &mut Puppet, flags: u16, family: u8, kind: u8, protocol: u8) -> u64 {
    let [low, high] = flags.to_le_bytes();
    let mut bytes = vec![low, high, family, kind, protocol];
    bytes.resize(28, 0);
    guest.put(&bytes)
}

/// Looks a name up; the bytes of each address that was found.
fn lookup(guest: &mut Puppet, node: &str, service: &str, hints: u64, most: u64) -> Answer<Vec<Vec<u8>>> {
    let (host, port) = (guest.put(node.as_bytes()), guest.put(service.as_bytes()));
    let first = list(guest, usize::try_from(most).expect("it is small"));
    let (result, count) = (guest.words(&[first]), guest.words(&[0xeeee_eeee]));
    let (node, service) = (node.len() as u64, service.len() as u64);
    let found = guest.told(count, "sock_getaddrinfo", &[host, node, port, service, hints, result, most, count])?;
    let mut at = first;
    Ok((0..found)
        .map(|_| {
            let bytes = address_of(guest, at);
            at = guest.word(at + 24);
            bytes
        })
        .collect())
}

/// The address of a node, in the layout that its lengths say.
fn address_of(guest: &mut Puppet, node: u64) -> Vec<u8> {
    let address = guest.word(node + 12);
    let (family, data) = (guest.number(node + 2, 1), guest.word(address + 8));
    assert_eq!(guest.number(address, 1), family);
    let name = guest.word(node + 16);
    assert_eq!(guest.peek(name, 30), [0xee; 30], "the guest has passed no room for a name");
    match (guest.word(node + 8), guest.word(address + 4)) {
        (16, 14) => guest.peek(data, 6),
        (28, 26) => guest.peek(data, 26),
        other => panic!("lengths of no family: {other:?}"),
    }
}

/// The hints' fields of the node that a number was written to.
fn given_back(guest: &mut Puppet, host: &str, hints: u64) -> Vec<u8> {
    let (at, first) = (guest.put(host.as_bytes()), list(guest, 1));
    let (result, count) = (guest.words(&[first]), guest.room(4));
    guest.must("sock_getaddrinfo", &[at, host.len() as u64, 0, 0, hints, result, 1, count]);
    assert_eq!(guest.word(result), first);
    guest.peek(first, 5)
}

#[test]
fn numbers_need_no_lookup_and_no_rule() {
    let mut guest = Stage::new().start();
    let any = hints(&mut guest, 0, UNSPEC, 0, 0);
    assert_eq!(lookup(&mut guest, "192.0.2.7", "8080", any, 2), Ok(vec![vec![0x1f, 0x90, 192, 0, 2, 7]]));
    // Port, flow information, address from 6, scope.
    let six = [&[0, 80, 0, 0, 0, 0, 0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[9], &[0; 4]].concat();
    assert_eq!(six.len(), 26);
    assert_eq!(lookup(&mut guest, "2001:db8::9", "http", any, 2), Ok(vec![six]));
    let numeric = hints(&mut guest, NUMERICHOST, UNSPEC, 0, 0);
    assert_eq!(lookup(&mut guest, "127.0.0.1", "", numeric, 1), Ok(vec![vec![0, 0, 127, 0, 0, 1]]));
    assert_eq!(lookup(&mut guest, "localhost", "http", numeric, 1), Err(errno::LOOKUP_NO_NAME));
}

#[test]
fn strings_end_at_their_nul() {
    let mut guest = Stage::new().start();
    let any = hints(&mut guest, 0, UNSPEC, 0, 0);
    let wanted = Ok(vec![vec![0, 80, 127, 0, 0, 1]]);
    assert_eq!(lookup(&mut guest, "127.0.0.1\0", "http\0", any, 1), wanted);
    assert_eq!(lookup(&mut guest, "127.0.0.1\0rubbish", "80\0\0", any, 1), wanted);
}

/// Containers have no `/etc/services`, and the crates ask for "http" whatever they want.
#[test]
fn services_need_no_file() {
    let mut guest = Stage::new().start();
    let any = hints(&mut guest, 0, UNSPEC, 0, 0);
    for (service, port) in [("http", [0, 80]), ("https", [1, 187]), ("65535", [255, 255]), ("gopher", [0, 0])] {
        let found = lookup(&mut guest, "127.0.0.1", service, any, 1).expect("a number");
        assert_eq!(found[0][..2], port, "{service}");
    }
}

#[test]
fn hints_are_given_back_with_what_was_found() {
    let mut guest = Stage::new().start();
    let four = hints(&mut guest, CANONNAME, INET4, 2, 1);
    assert_eq!(given_back(&mut guest, "127.0.0.1", four), [2, 0, 1, 2, 1]);
    // The family is the one that was found.
    let any = hints(&mut guest, 0, UNSPEC, 1, 2);
    assert_eq!(given_back(&mut guest, "127.0.0.1", any), [0, 0, 1, 1, 2]);
    assert_eq!(given_back(&mut guest, "::1", any), [0, 0, 2, 1, 2]);
}

#[test]
fn no_name_is_this_host() {
    let mut guest = Stage::new().start();
    let (any, passive) = (hints(&mut guest, 0, INET4, 0, 0), hints(&mut guest, PASSIVE, INET4, 0, 0));
    assert_eq!(lookup(&mut guest, "", "80", any, 4), Ok(vec![vec![0, 80, 127, 0, 0, 1]]));
    assert_eq!(lookup(&mut guest, "", "80", passive, 4), Ok(vec![vec![0, 80, 0, 0, 0, 0]]));
    let both = hints(&mut guest, PASSIVE, UNSPEC, 0, 0);
    assert_eq!(lookup(&mut guest, "", "80", both, 4).expect("both families").len(), 2);
    // Only as many as there is room for: by the number, and by the list.
    assert_eq!(lookup(&mut guest, "", "80", both, 1).expect("one").len(), 1);
    let (service, first) = (guest.put(b"80"), list(&mut guest, 1));
    let (result, count) = (guest.words(&[first]), guest.room(4));
    assert_eq!(guest.told(count, "sock_getaddrinfo", &[0, 0, service, 2, both, result, 9, count]), Ok(1));
}

#[test]
fn a_name_is_looked_up_where_a_rule_allows_it() {
    let mut guest = Stage::new().allow("localhost:80").start();
    let four = hints(&mut guest, 0, INET4, 2, 1);
    let found = lookup(&mut guest, "localhost", "http", four, 8).expect("every host has it");
    assert!(found.contains(&vec![0, 80, 127, 0, 0, 1]), "{found:?}");
    assert_eq!(lookup(&mut guest, "other.invalid", "http", four, 8), Err(errno::ACCESS));
    let mut guest = Stage::new().allow("any").start();
    let any = hints(&mut guest, 0, UNSPEC, 0, 0);
    assert_eq!(lookup(&mut guest, "nothing.invalid", "http", any, 8), Err(errno::LOOKUP_NO_NAME));
    assert_eq!(lookup(&mut guest, "not a name", "http", any, 8), Err(errno::LOOKUP_NO_NAME));
}

#[test]
fn errors_have_the_numbers_of_wasmedge() {
    let mut guest = Stage::new().start();
    let any = hints(&mut guest, 0, UNSPEC, 0, 0);
    assert_eq!(lookup(&mut guest, "", "", any, 1), Err(errno::LOOKUP_NO_NAME));
    assert_eq!(lookup(&mut guest, "\0", "\0", any, 1), Err(errno::LOOKUP_NO_NAME));
    assert_eq!(lookup(&mut guest, "127.0.0.1", "80", any, 0), Err(errno::LOOKUP_MEMORY));
    assert_eq!(lookup(&mut guest, &"x".repeat(1025), "80", any, 1), Err(errno::LOOKUP_FAIL));
    for (flags, family, kind, protocol, wanted) in [
        (0x80, UNSPEC, 0, 0, errno::LOOKUP_BAD_FLAGS),
        (0xffff, UNSPEC, 0, 0, errno::LOOKUP_BAD_FLAGS),
        (0, 3, 0, 0, errno::LOOKUP_FAMILY),
        (0, 255, 0, 0, errno::LOOKUP_FAMILY),
        (0, UNSPEC, 3, 0, errno::NO_SYSTEM_CALL),
        (0, UNSPEC, 0, 3, errno::NO_SYSTEM_CALL),
        (0, INET6, 0, 0, errno::LOOKUP_FAMILY_MISMATCH),
    ] {
        let hints = hints(&mut guest, flags, family, kind, protocol);
        let told = lookup(&mut guest, "127.0.0.1", "80", hints, 1);
        assert_eq!(told, Err(wanted), "{flags} {family} {kind} {protocol}");
    }
    let four = hints(&mut guest, 0, INET4, 0, 0);
    assert_eq!(lookup(&mut guest, "::1", "80", four, 1), Err(errno::LOOKUP_FAMILY_MISMATCH));
    // A failure finds nothing: guests look at the count.
    let (host, count) = (guest.put(b"::1"), guest.words(&[7]));
    assert_eq!(guest.call("sock_getaddrinfo", &[host, 3, 0, 0, four, count, 1, count]), errno::LOOKUP_FAMILY_MISMATCH);
    assert_eq!(guest.word(count), 0);
}

#[test]
fn the_enums_before_0_10_are_one_less() {
    let mut guest = Stage::legacy().start();
    guest.open(0, 1).expect("IPv4, stream");
    let four = hints(&mut guest, 0, 0, 1, 0);
    assert_eq!(lookup(&mut guest, "127.0.0.1", "80", four, 1), Ok(vec![vec![0, 80, 127, 0, 0, 1]]));
    assert_eq!(lookup(&mut guest, "::1", "80", four, 1), Err(errno::LOOKUP_FAMILY_MISMATCH));
    let six = hints(&mut guest, 0, 1, 1, 0);
    assert_eq!(lookup(&mut guest, "127.0.0.1", "80", six, 1), Err(errno::LOOKUP_FAMILY_MISMATCH));
    assert_eq!(given_back(&mut guest, "127.0.0.1", four), [0, 0, 0, 1, 0]);
    assert_eq!(given_back(&mut guest, "::1", six), [0, 0, 1, 1, 0]);
}

#[test]
fn a_list_that_is_broken_is_an_error() {
    let mut guest = Stage::new().start();
    let any = hints(&mut guest, 0, UNSPEC, 0, 0);
    let (host, count) = (guest.put(b"127.0.0.1"), guest.room(4));
    let far = u64::from(u32::MAX) - 3;
    let node = |guest: &mut Puppet, address: u64| guest.words(&[0, 0, 0, address, 0, 0, 0]);
    let (no_data, misaligned) = (guest.words(&[0, 14, far]), guest.room(32) + 2);
    let nodes = [far, misaligned, node(&mut guest, far), node(&mut guest, no_data), node(&mut guest, misaligned)];
    let wanted = [errno::FAULT, errno::ADDRESS_NOT_AVAILABLE, errno::FAULT, errno::FAULT, errno::ADDRESS_NOT_AVAILABLE];
    for (first, wanted) in nodes.into_iter().zip(wanted) {
        let result = guest.words(&[first]);
        let told = guest.call("sock_getaddrinfo", &[host, 9, 0, 0, any, result, 1, count]);
        assert_eq!((told, guest.word(count)), (wanted, 0), "{first}");
    }
    // A list that is a ring ends where there is no more to write.
    let first = list(&mut guest, 1);
    let itself: Vec<u8> = first.to_le_bytes()[..4].to_vec();
    guest.poke(first + 24, &itself);
    let result = guest.words(&[first]);
    assert_eq!(guest.told(count, "sock_getaddrinfo", &[0, 0, host, 3, any, result, u32::MAX.into(), count]), Ok(2));
}
