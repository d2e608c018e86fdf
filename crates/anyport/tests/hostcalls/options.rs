//! `sock_getsockopt` and `sock_setsockopt`: every option, both ways to pass a length, and the timeouts
//! that the runtime keeps by itself.

use std::time::{Duration, Instant};

use crate::wat_support::{Connected, Stage, connected, errno, int};

const TYPE: u64 = 1;
const ERROR: u64 = 2;
const SNDBUF: u64 = 5;
const RCVBUF: u64 = 6;
const LINGER: u64 = 9;
const RCVTIMEO: u64 = 11;
const SNDTIMEO: u64 = 12;
const ACCEPTCONN: u64 = 13;
const BINDTODEVICE: u64 = 14;

/// Seconds and microseconds, 8 bytes each.
fn time(seconds: i64, micros: i64) -> Vec<u8> {
    [seconds.to_le_bytes(), micros.to_le_bytes()].concat()
}

#[test]
fn a_length_is_passed_by_pointer_or_by_value() {
    let mut guest = Stage::new().start();
    let fd = guest.tcp();
    let (value, length) = (guest.put(&[0xee; 8]), guest.words(&[8]));
    guest.must("sock_getsockopt", &[fd, 0, TYPE, value, length]);
    // Shrunk to the size that it has.
    assert_eq!((guest.word(length), guest.word(value), guest.word(value + 4)), (4, 2, 0xeeee_eeee));
    for by_value in [4, 8, 1023] {
        guest.poke(value, &[0xee; 8]);
        guest.must("sock_getsockopt", &[fd, 0, TYPE, value, by_value]);
        assert_eq!((guest.word(value), guest.word(value + 4)), (2, 0xeeee_eeee));
    }
    for too_short in [0, 1, 3] {
        assert_eq!(guest.call("sock_getsockopt", &[fd, 0, TYPE, value, too_short]), errno::INVALID);
        let length = guest.words(&[too_short]);
        assert_eq!(guest.call("sock_getsockopt", &[fd, 0, TYPE, value, length]), errno::INVALID);
        assert_eq!(guest.word(length), too_short);
    }
}

#[test]
fn every_option_is_told() {
    let Connected { mut guest, listener, fd, client: _client } = connected("0:80");
    let datagrams = guest.udp();
    assert_eq!(guest.option(fd, TYPE, 4), Ok(int(2)));
    assert_eq!(guest.option(datagrams, TYPE, 4), Ok(int(1)));
    assert_eq!(guest.option(fd, ERROR, 4), Ok(int(0)));
    assert_eq!([listener, fd, datagrams].map(|fd| guest.option(fd, ACCEPTCONN, 4)), [1, 0, 0].map(|on| Ok(int(on))));
    assert_eq!(guest.option(fd, LINGER, 16), Ok([int(0), int(0)].concat()));
    assert_eq!(guest.option(fd, RCVTIMEO, 16), Ok(time(0, 0)));
    assert_eq!(guest.option(fd, BINDTODEVICE, 16), Ok(Vec::new()));
    for name in 0..14 {
        let length = match name {
            LINGER => 8,
            RCVTIMEO | SNDTIMEO => 16,
            _ => 4,
        };
        assert_eq!(guest.option(fd, name, 32).expect("every option has a value").len(), length, "{name}");
        assert_eq!(guest.option(fd, name, 3), Err(errno::INVALID), "{name}");
    }
}

#[test]
fn switches_are_set_and_told() {
    const REUSEADDR: u64 = 0;
    const BROADCAST: u64 = 4;
    const KEEPALIVE: u64 = 7;
    const OOBINLINE: u64 = 8;
    let mut guest = Stage::new().start();
    let (stream, datagrams) = (guest.tcp(), guest.udp());
    for (fd, name) in [(stream, REUSEADDR), (datagrams, BROADCAST), (stream, KEEPALIVE), (stream, OOBINLINE)] {
        for (value, wanted) in [(1, 1), (0, 0), (-1, 1), (0, 0)] {
            assert_eq!(guest.set_option(fd, name, &int(value)), errno::SUCCESS, "{name}");
            assert_eq!(guest.option(fd, name, 4), Ok(int(wanted)), "{name}");
        }
        for length in [0, 3] {
            assert_eq!(guest.set_option(fd, name, &vec![1; length]), errno::INVALID, "{name} {length}");
        }
    }
}

#[test]
fn buffers_have_at_least_the_size_that_was_set() {
    let mut guest = Stage::new().publish("0:80").start();
    let fd = guest.tcp();
    let any = guest.address_of("0.0.0.0");
    for (name, bytes) in [(SNDBUF, 16_384), (RCVBUF, 32_768)] {
        assert_eq!(guest.set_option(fd, name, &int(bytes)), errno::SUCCESS);
        let told = guest.option(fd, name, 4).expect("it is an option");
        assert!(i32::from_le_bytes(told.try_into().expect("four bytes")) >= bytes);
        assert_eq!(guest.set_option(fd, name, &int(-1)), errno::INVALID);
    }
    // What was set before the port was taken over is kept.
    let before = [SNDBUF, RCVBUF, LINGER].map(|name| guest.option(fd, name, 16));
    guest.must("sock_bind", &[fd, any, 80]);
    assert_eq!([SNDBUF, RCVBUF, LINGER].map(|name| guest.option(fd, name, 16)), before);
}

#[test]
fn linger_is_two_numbers() {
    let Connected { mut guest, fd, client, .. } = connected("0:80");
    for (on, seconds) in [(1, 5), (0, 0), (1, 0)] {
        let value = [int(on), int(seconds)].concat();
        assert_eq!(guest.set_option(fd, LINGER, &value), errno::SUCCESS);
        assert_eq!(guest.option(fd, LINGER, 8), Ok(value));
    }
    for (value, wanted) in [(int(1), errno::INVALID), ([int(1), int(-1)].concat(), errno::INVALID)] {
        assert_eq!(guest.set_option(fd, LINGER, &value), wanted);
    }
    // Its effect: closed with no time to linger, a connection is reset.
    guest.close(fd);
    let mut byte = [0];
    let closed = std::io::Read::read(&mut &client, &mut byte).expect_err("it is reset");
    assert_eq!(closed.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_receive_timeout_is_kept() {
    let Connected { mut guest, listener, fd, client: _client } = connected("0:80");
    let datagrams = guest.udp();
    let out = guest.room(4);
    for fd in [fd, listener, datagrams] {
        assert_eq!(guest.set_option(fd, RCVTIMEO, &time(0, 50_000)), errno::SUCCESS);
        assert_eq!(guest.option(fd, RCVTIMEO, 16), Ok(time(0, 50_000)));
    }
    let (vector, slot) = (guest.vector(&[(out, 4)]), guest.slot(4));
    let calls: [(&str, &[u64]); 4] = [
        ("sock_recv", &[fd, vector, 1, 0, out, out]),
        ("fd_read", &[fd, vector, 1, out]),
        ("sock_accept", &[listener, out]),
        ("sock_recv_from", &[datagrams, vector, 1, slot.at, 0, out, out, out]),
    ];
    for (name, params) in calls {
        let began = Instant::now();
        assert_eq!(guest.call(name, params), errno::AGAIN, "{name}");
        assert!(began.elapsed() >= Duration::from_millis(50), "{name}: {:?}", began.elapsed());
    }
    // Nothing is for ever again.
    assert_eq!(guest.set_option(fd, RCVTIMEO, &time(0, 0)), errno::SUCCESS);
    guest.begin("sock_recv", &[fd, vector, 1, 0, out, out]);
    assert!(matches!(guest.finish_within(Duration::from_millis(100)), Ok(None)));
}

#[test]
fn a_send_timeout_is_kept() {
    let Connected { mut guest, fd, client: _client, .. } = connected("0:80");
    assert_eq!(guest.set_option(fd, SNDTIMEO, &time(0, 50_000)), errno::SUCCESS);
    assert_eq!(guest.option(fd, SNDTIMEO, 16), Ok(time(0, 50_000)));
    // The client reads nothing: what fits is sent, and then the timeout passes.
    let bytes = vec![b'x'; 100_000];
    let began = Instant::now();
    let mut sent = 0;
    let ended = loop {
        match guest.send(fd, &bytes) {
            Ok(more) => sent += more,
            Err(errno) => break errno,
        }
        assert!(began.elapsed() < crate::wat_support::DEADLINE, "{sent} bytes are sent");
    };
    assert_eq!(ended, errno::AGAIN);
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[test]
fn times_that_are_none_are_refused() {
    let mut guest = Stage::new().start();
    let fd = guest.tcp();
    for name in [RCVTIMEO, SNDTIMEO] {
        for value in [time(-1, 0), time(0, -1), time(0, 1_000_000), time(i64::MIN, 0)] {
            assert_eq!(guest.set_option(fd, name, &value), errno::DOMAIN);
        }
        for length in [0, 4, 8, 15, 17] {
            assert_eq!(guest.set_option(fd, name, &vec![0; length]), errno::INVALID, "{length}");
        }
        assert_eq!(guest.option(fd, name, 16), Ok(time(0, 0)));
        // Longer than anyone waits, and than some clocks count.
        assert_eq!(guest.set_option(fd, name, &time(i64::MAX, 999_999)), errno::SUCCESS);
    }
}

#[test]
fn what_cannot_be_set_says_so() {
    let mut guest = Stage::new().start();
    let fd = guest.tcp();
    assert_eq!(guest.set_option(fd, TYPE, &int(1)), errno::NO_PROTOCOL_OPTION);
    assert_eq!(guest.set_option(fd, ACCEPTCONN, &int(1)), errno::NO_PROTOCOL_OPTION);
    assert_eq!(guest.set_option(fd, ERROR, &int(1)), errno::NO_PROTOCOL_OPTION);
    // A network interface is the host's.
    assert_eq!(guest.set_option(fd, BINDTODEVICE, b"lo"), errno::ACCESS);
    let value = guest.put(&[1; 16]);
    for (level, name) in [(0, 15), (0, 100), (0, u64::from(u32::MAX)), (1, 0), (6, 1), (u64::from(u32::MAX), 0)] {
        assert_eq!(guest.call("sock_setsockopt", &[fd, level, name, value, 4]), errno::INVALID, "{level} {name}");
        assert_eq!(guest.call("sock_getsockopt", &[fd, level, name, value, 16]), errno::INVALID, "{level} {name}");
    }
    for (fd, wanted) in [(99, errno::BAD_DESCRIPTOR), (0, errno::NOT_SOCKET)] {
        assert_eq!(guest.call("sock_setsockopt", &[fd, 0, 0, value, 4]), wanted);
        assert_eq!(guest.call("sock_getsockopt", &[fd, 0, 0, value, 16]), wanted);
    }
}
