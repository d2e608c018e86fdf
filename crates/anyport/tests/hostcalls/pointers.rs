//! What a dialect answers to a pointer that is misaligned, or outside of memory.

use anyport::Outcome;

use crate::wat_support::{Puppet, Stage, errno};

/// Two pages of memory.
const END: u64 = 2 << 16;
const FAR: u64 = u32::MAX as u64 - 3;

/// Each row of WasmEdge's with one pointer replaced by this one.
fn wasmedge_calls(guest: &mut Puppet, bad: u64) -> Vec<(&'static str, Vec<u64>)> {
    let (out, address) = (guest.room(64), guest.address_of("127.0.0.1"));
    let (tcp, udp) = (guest.tcp(), guest.udp());
    let vector = guest.vector(&[(out, 4)]);
    let host = guest.put(b"::1");
    let calls: [(&str, &[u64]); 22] = [
        ("sock_open", &[1, 1, bad]),
        ("sock_open_v2", &[1, 1, bad]),
        ("sock_bind", &[tcp, bad, 0]),
        ("sock_bind_v2", &[tcp, bad, 0]),
        ("sock_connect", &[tcp, bad, 1]),
        ("sock_connect_v2", &[tcp, bad, 1]),
        ("sock_recv_v2", &[udp, bad, 1, 0, out, out]),
        ("sock_recv_from", &[udp, bad, 1, address, 0, out, out]),
        ("sock_recv_from", &[udp, vector, 1, bad, 0, out, out]),
        ("sock_recv_from", &[udp, bad, 1, address, 0, out, out, out]),
        ("sock_recv_from", &[udp, vector, 1, bad, 0, out, out, out]),
        ("sock_recv_from_v2", &[udp, vector, 1, bad, 0, out, out, out]),
        ("sock_send_v2", &[udp, bad, 1, 0, out]),
        ("sock_send_to", &[udp, bad, 1, address, 1, 0, out]),
        ("sock_send_to", &[udp, vector, 1, bad, 1, 0, out]),
        ("sock_send_to_v2", &[udp, vector, 1, bad, 1, 0, out]),
        ("sock_getsockopt", &[tcp, 0, 0, out, bad]),
        ("sock_getlocaladdr", &[tcp, bad, out, out]),
        ("sock_getlocaladdr", &[tcp, bad, out]),
        ("sock_getlocaladdr_v2", &[tcp, bad, out]),
        ("sock_getaddrinfo", &[host, 3, host, 0, out, out, 1, bad]),
        ("sock_getaddrinfo", &[host, 3, host, 0, bad, out, 1, out]),
    ];
    calls.iter().map(|(name, params)| (*name, params.to_vec())).collect()
}

#[test]
fn wasmedge_gives_an_errno_for_a_bad_pointer() {
    let mut guest = Stage::new().allow("127.0.0.1").start();
    let misaligned = guest.room(64) + 3;
    let bad = [(misaligned, errno::ADDRESS_NOT_AVAILABLE), (END, errno::FAULT), (FAR, errno::FAULT)];
    for (bad, wanted) in bad {
        for (name, params) in wasmedge_calls(&mut guest, bad) {
            assert_eq!(guest.call(name, &params), wanted, "{name} {params:?}");
        }
    }
    // Bytes need no alignment.
    let fd = guest.tcp();
    let address = guest.room(16);
    guest.poke(address + 9, &[127, 0, 0, 1]);
    let slot = guest.slot_at(address + 9, 4);
    guest.must("sock_bind", &[fd, slot.at, 0]);
    for bad in [END, FAR] {
        let slot = guest.slot_at(bad, 4);
        assert_eq!(guest.call("sock_connect", &[fd, slot.at, 1]), errno::FAULT);
        assert_eq!(guest.call("sock_setsockopt", &[fd, 0, 0, bad, 4]), errno::FAULT);
        assert_eq!(guest.call("sock_getsockopt", &[fd, 0, 0, bad, 4]), errno::FAULT);
    }
}

/// Calls a row of preview1's that must end the guest.
fn trap_of(name: &str, params: &[u64]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let mut guest = Stage::preview1().directory(folder.path(), "/").start();
    assert_eq!(guest.open_path(3, "file", 1, 1 << 1 | 1 << 6), Ok(4));
    match guest.ends(name, params) {
        Outcome::Trapped { reason, .. } => reason,
        other => panic!("{name} {params:?}: {other:?}"),
    }
}

#[test]
fn preview1_traps_on_a_bad_pointer() {
    for bad in [END, FAR, END - 1] {
        let calls: [(&str, &[u64]); 11] = [
            ("clock_time_get", &[0, 0, bad]),
            ("fd_fdstat_get", &[0, bad]),
            ("fd_filestat_get", &[1, bad]),
            ("fd_read", &[0, bad, 1, 2048]),
            ("fd_write", &[4, bad, 1, 2048]),
            ("fd_write", &[1, bad, 1, 2048]),
            ("poll_oneoff", &[bad, 2048, 1, 2048]),
            ("poll_oneoff", &[8192, bad, 1, 2048]),
            ("path_open", &[3, 0, bad, 4, 0, 0, 0, 0, 2048]),
            ("args_sizes_get", &[bad, 2048]),
            ("random_get", &[bad, 8]),
        ];
        for (name, params) in calls {
            let reason = trap_of(name, params);
            assert!(!reason.contains("anyport failed"), "{name}: {reason}");
        }
    }
    let misaligned = trap_of("clock_time_get", &[0, 0, 2050]);
    assert!(misaligned.contains("aligned"), "{misaligned}");
}
