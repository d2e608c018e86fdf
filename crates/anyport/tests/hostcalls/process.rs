//! What a guest knows of itself, and how it ends.

use anyport::Outcome;

use crate::wat_support::{Puppet, Stage, errno};

/// A list of strings as `args_get` and `environ_get` give it.
fn strings(guest: &mut Puppet, sizes: &str, get: &str) -> Vec<String> {
    let (count, bytes) = (guest.room(4), guest.room(4));
    guest.must(sizes, &[count, bytes]);
    let (count, bytes) = (guest.word(count), guest.word(bytes));
    let (pointers, buffer) = (guest.room(count * 4), guest.room(bytes));
    guest.must(get, &[pointers, buffer]);
    let all = guest.peek(buffer, bytes);
    let mut strings = Vec::new();
    for index in 0..count {
        let at = usize::try_from(guest.word(pointers + index * 4) - buffer).expect("it is in the buffer");
        let length = all[at..].iter().position(|byte| *byte == 0).expect("it ends with a NUL");
        strings.push(String::from_utf8(all[at..at + length].to_vec()).expect("it is text"));
    }
    strings
}

#[test]
fn a_guest_has_its_name_and_nothing_else() {
    let mut guest = Stage::preview1().start();
    assert_eq!(strings(&mut guest, "args_sizes_get", "args_get"), ["puppet"]);
    assert!(strings(&mut guest, "environ_sizes_get", "environ_get").is_empty());
    let mut guest = Stage::preview1().listener().listener().start();
    let environment = strings(&mut guest, "environ_sizes_get", "environ_get");
    assert_eq!(environment, ["LISTEN_FDS=2", "LISTEN_FDNAMES=listener:listener"]);
}

#[test]
fn clocks_go_forward() {
    let mut guest = Stage::preview1().start();
    let out = guest.room(8);
    for clock in [0, 1] {
        guest.must("clock_res_get", &[clock, out]);
        assert_ne!(guest.number(out, 8), 0);
        let mut last = 0;
        for precision in [0, 1, u64::MAX] {
            guest.must("clock_time_get", &[clock, precision, out]);
            let now = guest.number(out, 8);
            assert!(now > last, "clock {clock}: {last}, then {now}");
            last = now;
        }
    }
    // Wall time is since 1970.
    guest.must("clock_time_get", &[0, 0, out]);
    assert!(guest.number(out, 8) > 1_700_000_000 * 1_000_000_000);
    for clock in [2, 3, 4, u64::from(u32::MAX)] {
        assert_eq!(guest.call("clock_time_get", &[clock, 0, out]), errno::INVALID);
        assert_eq!(guest.call("clock_res_get", &[clock, out]), errno::INVALID);
    }
}

#[test]
fn randomness_is_random() {
    let mut guest = Stage::preview1().start();
    let at = guest.room(64);
    guest.must("random_get", &[at, 0]);
    assert_eq!(guest.peek(at, 64), [0; 64]);
    guest.must("random_get", &[at, 32]);
    let bytes = guest.peek(at, 64);
    assert_eq!(bytes[32..], [0; 32]);
    assert_ne!(bytes[..16], bytes[16..32]);
}

#[test]
fn a_guest_yields_and_may_not_raise_signals() {
    let mut guest = Stage::preview1().start();
    guest.must("sched_yield", &[]);
    for signal in [0, 9, 15, u64::from(u32::MAX)] {
        assert_eq!(guest.call("proc_raise", &[signal]), errno::NOT_SUPPORTED);
    }
}

#[test]
fn a_guest_exits_with_its_code() {
    for code in [0, 1, 134, u32::MAX] {
        let guest = Stage::preview1().start();
        assert_eq!(guest.ends("proc_exit", &[code.into()]), Outcome::Exited(code));
    }
}

#[test]
fn a_guest_is_stopped_whatever_it_does() {
    let mut computing = Stage::preview1().start();
    computing.spin();
    assert_eq!(computing.stop(), Outcome::Stopped);
    let mut waiting = Stage::new().publish("0:80").start();
    let (listener, out) = (waiting.listen(80), waiting.room(4));
    waiting.begin("sock_accept", &[listener, out]);
    assert_eq!(waiting.stop(), Outcome::Stopped);
    let mut polling = Stage::new().start();
    let fd = polling.udp();
    polling.begin_poll("poll_oneoff", &[crate::wat_support::Wait::Read(fd)]);
    assert_eq!(polling.stop(), Outcome::Stopped);
}
