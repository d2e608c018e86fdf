//! `poll_oneoff`, and WasmEdge's edge-triggered twin of it.

use std::fs;
use std::io::{self, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use Wait::{After, At, Read, Write as Writable};

use crate::wat_support::{
    Connected, Event, MONOTONIC, NONBLOCK, Puppet, REALTIME, Stage, Wait, connect, connected, errno, indices,
    past_deadline,
};

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
/// Further away than any test waits.
const LONG: u64 = 3600 * SECOND;

/// A rule for one address: guests here connect to themselves.
const LOOPBACK: &str = "127.0.0.1";

fn now(guest: &mut Puppet, clock: u64) -> u64 {
    let out = guest.room(8);
    guest.must("clock_time_get", &[clock, 1, out]);
    guest.number(out, 8)
}

/// Polls until all of these are ready at once.
fn wait_for_all(guest: &mut Puppet, waits: &[Wait]) {
    let began = Instant::now();
    while guest.look(waits).len() < waits.len() {
        assert!(!past_deadline(began), "{waits:?}");
    }
}

#[test]
fn clocks_absolute_and_relative() {
    let mut guest = Stage::preview1().start();
    for clock in [REALTIME, MONOTONIC] {
        let began = now(&mut guest, clock);
        assert_eq!(indices(&guest.poll(&[After(clock, 20 * MILLISECOND)])), [0]);
        let after = now(&mut guest, clock);
        assert!(after >= began + 20 * MILLISECOND, "clock {clock}: {began} to {after}");
        assert_eq!(indices(&guest.poll(&[At(clock, after + 20 * MILLISECOND)])), [0]);
        let last = now(&mut guest, clock);
        assert!(last >= after + 20 * MILLISECOND, "clock {clock}: {after} to {last}");
    }
}

#[test]
fn a_time_that_has_passed_is_reported_at_once() {
    let mut guest = Stage::preview1().start();
    for clock in [REALTIME, MONOTONIC] {
        let now = now(&mut guest, clock);
        for due in [After(clock, 0), At(clock, 0), At(clock, 1), At(clock, now), After(clock, 1)] {
            let began = Instant::now();
            let told = guest.poll(&[due, After(clock, LONG)]);
            assert_eq!(told, [Event { index: 0, errno: 0, kind: 0, bytes: 0, hangup: false }], "{due:?}");
            assert!(began.elapsed() < Duration::from_secs(5), "{due:?}");
        }
    }
}

#[test]
fn how_many_bytes_there_are_is_told_beside_a_clock_that_is_due() {
    let Connected { mut guest, fd, mut client, .. } = connected("0:80");
    client.write_all(b"hello").expect("the guest has room");
    wait_for_all(&mut guest, &[Read(fd)]);
    // As wasi-libc's FIONREAD asks.
    let told = guest.poll(&[Read(fd), After(MONOTONIC, 0)]);
    assert_eq!(told[0], Event { index: 0, errno: 0, kind: 1, bytes: 5, hangup: false });
    assert_eq!(guest.recv(fd, 2).as_deref(), Ok(&b"he"[..]));
    assert_eq!(guest.poll(&[Read(fd), After(MONOTONIC, 0)])[0].bytes, 3);
    // The end of a stream is readable, though it has no bytes.
    assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b"llo"[..]));
    drop(client);
    wait_for_all(&mut guest, &[Read(fd)]);
    assert_eq!(guest.poll(&[Read(fd), After(MONOTONIC, 0)])[0].bytes, 1);
}

#[test]
fn the_soonest_clock_is_told_alone_and_equal_ones_together() {
    let mut guest = Stage::preview1().start();
    let never =
        [After(MONOTONIC, u64::MAX), At(MONOTONIC, u64::MAX), After(REALTIME, u64::MAX), At(REALTIME, u64::MAX)];
    for _ in 0..3 {
        let soon = After(MONOTONIC, 5 * MILLISECOND);
        let waits = [&never[..], &[soon, soon, After(REALTIME, LONG)]].concat();
        assert_eq!(indices(&guest.poll(&waits)), [4, 5]);
    }
}

#[test]
fn a_clock_that_is_none_is_reported_beside_a_long_one() {
    let mut guest = Stage::preview1().start();
    for clock in [2, 3, 4, u64::from(u32::MAX)] {
        let told = guest.poll(&[After(MONOTONIC, LONG), After(clock, 0)]);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].index, told[0].errno, told[0].kind), (1, errno::INVALID, 0));
    }
}

#[test]
fn nothing_to_wait_for_is_nothing_to_tell() {
    let mut guest = Stage::new().start();
    for name in ["poll_oneoff", "epoll_oneoff"] {
        assert_eq!(guest.poll_by(name, &[]), Ok(Vec::new()));
    }
    // Preview1 alone has it refused, and tokio is prepared for that.
    assert_eq!(Stage::preview1().start().poll_by("poll_oneoff", &[]), Err(errno::INVALID));
}

#[test]
fn a_subscription_of_no_type_is_refused() {
    let mut guest = Stage::new().start();
    let (subscription, event, told) = (guest.room(48), guest.room(32), guest.room(4));
    for kind in [3, 4, 255] {
        guest.poke(subscription + 8, &[kind]);
        assert_eq!(guest.call("poll_oneoff", &[subscription, event, 1, told]), errno::INVALID);
    }
}

#[test]
fn a_bad_descriptor_is_reported_at_once() {
    let Connected { mut guest, fd, mut client, .. } = connected("0:80");
    let bad = |index, kind| Event { index, errno: errno::BAD_DESCRIPTOR, kind, bytes: 0, hangup: false };
    let none = [99, u64::from(u32::MAX)];
    // WasmEdge waits for ever, or for the clock.
    assert_eq!(guest.poll(&[Read(none[0]), Writable(none[1])]), [bad(0, 1), bad(1, 2)]);
    assert_eq!(guest.poll(&[After(MONOTONIC, LONG), Read(none[1])]), [bad(1, 1)]);
    assert_eq!(guest.poll(&[Read(fd), Writable(none[0])]), [bad(1, 2)]);
    client.write_all(b"x").expect("it is open");
    wait_for_all(&mut guest, &[Read(fd)]);
    let told = guest.poll(&[Read(fd), Read(none[0]), After(MONOTONIC, LONG)]);
    assert_eq!(
        told.iter().map(|event| (event.index, event.errno)).collect::<Vec<_>>(),
        [(0, 0), (1, errno::BAD_DESCRIPTOR)]
    );
    guest.close(fd);
    assert_eq!(guest.poll(&[Read(fd), After(MONOTONIC, LONG)]), [bad(0, 1)]);
}

#[test]
fn duplicates_are_all_reported() {
    let Connected { mut guest, listener, fd, mut client } = connected("0:80");
    let waits = [Read(fd), Read(listener), Read(fd), Writable(fd), Writable(fd)];
    client.write_all(b"x").expect("it is open");
    wait_for_all(&mut guest, &[Read(fd)]);
    let told = guest.poll(&waits);
    // WasmEdge reports error 20 for the second of each.
    assert_eq!(indices(&told), [0, 2, 3, 4]);
    assert!(told.iter().all(|event| event.bytes > 0), "{told:?}");
}

#[test]
fn files_pipes_and_listeners_mixed() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), "text").expect("it is ours");
    let (stdin, mut writer) = io::pipe().expect("a pipe");
    let stdout = fs::File::create(folder.path().join("out")).expect("it is ours");
    let mut guest = Stage::new().publish("0:80").directory(folder.path(), "/").stdin(stdin).stdout(stdout).start();
    let listener = guest.listen(80);
    let file = guest.open_path(3, "file", 0, 2).expect("it is there");
    let waits = [Read(0), Read(listener), Read(file), Writable(file), Writable(1), After(MONOTONIC, LONG)];
    assert_eq!(indices(&guest.poll(&waits)), [2, 3, 4]);
    // Without files and clocks due, one of the others ends the wait.
    let waits = [Read(0), Read(listener), After(MONOTONIC, LONG)];
    let polling = guest.begin_poll("poll_oneoff", &waits);
    assert!(matches!(guest.finish_within(Duration::from_millis(30)), Ok(None)));
    writer.write_all(b"typed").expect("the guest has it");
    assert_eq!(indices(&guest.finish_poll(&polling).expect("it ends")), [0]);
    assert_eq!(guest.read(0, 16).as_deref(), Ok(&b"typed"[..]));
    let polling = guest.begin_poll("poll_oneoff", &waits);
    let _client = connect(guest.address(0));
    assert_eq!(indices(&guest.finish_poll(&polling).expect("it ends")), [1]);
    writer.write_all(b"more").expect("the guest has it");
    wait_for_all(&mut guest, &[Read(0), Read(listener), Read(file)]);
    assert_eq!(guest.read(0, 16).as_deref(), Ok(&b"more"[..]));
    // The end of the pipe is readable, and is the end.
    drop(writer);
    let polling = guest.begin_poll("poll_oneoff", &[Read(0)]);
    assert_eq!(indices(&guest.finish_poll(&polling).expect("it ends")), [0]);
    assert_eq!(guest.read(0, 16).as_deref(), Ok(&b""[..]));
}

#[test]
fn a_listener_polled_for_writing_neither_fires_nor_fails() {
    let mut guest = Stage::new().publish("0:80").listener().start();
    let own = guest.listen(80);
    for listener in [3, own] {
        for name in ["poll_oneoff", "epoll_oneoff"] {
            let told = guest.poll_by(name, &[Writable(listener), After(MONOTONIC, 5 * MILLISECOND)]);
            assert_eq!(indices(&told.expect("it waits")), [1]);
            let both = [Read(listener), Writable(listener), After(MONOTONIC, 5 * MILLISECOND)];
            assert_eq!(indices(&guest.poll_by(name, &both).expect("it waits")), [2]);
        }
    }
}

#[test]
fn a_thousand_subscriptions() {
    let Connected { mut guest, fd, mut client, .. } = connected("0:80");
    let sockets: Vec<u64> = (0..250).map(|_| guest.udp()).collect();
    let mut waits: Vec<Wait> = sockets.iter().cycle().take(998).map(|socket| Read(*socket)).collect();
    waits.extend([Read(fd), After(MONOTONIC, LONG)]);
    let polling = guest.begin_poll("poll_oneoff", &waits);
    client.write_all(b"x").expect("it is open");
    assert_eq!(indices(&guest.finish_poll(&polling).expect("it ends")), [998]);
    let waits: Vec<Wait> = sockets.iter().cycle().take(1000).map(|socket| Writable(*socket)).collect();
    assert_eq!(indices(&guest.poll(&waits)), (0..1000).collect::<Vec<_>>());
}

#[test]
fn half_close_is_readable_and_no_hang_up() {
    let Connected { mut guest, fd, client, .. } = connected("0:80");
    client.shutdown(Shutdown::Write).expect("it is open");
    let polling = guest.begin_poll("poll_oneoff", &[Read(fd)]);
    let told = guest.finish_poll(&polling).expect("it ends");
    assert_eq!(indices(&told), [0]);
    assert!(!told[0].hangup);
    assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b""[..]));
    // It stays readable, and can be written to.
    let told = guest.poll(&[Read(fd), Writable(fd)]);
    assert_eq!(indices(&told), [0, 1]);
    assert!(told.iter().all(|event| !event.hangup), "{told:?}");
    // The guest closes its half too: both are closed.
    guest.must("sock_shutdown", &[fd, 2]);
    let told = guest.poll(&[Read(fd), Writable(fd)]);
    assert_eq!(indices(&told), [0, 1]);
    assert!(told.iter().all(|event| event.hangup), "{told:?}");
}

#[test]
fn a_reset_is_a_hang_up() {
    let Connected { mut guest, fd, client, .. } = connected("0:80");
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("it is a socket");
    drop(client);
    let polling = guest.begin_poll("poll_oneoff", &[Read(fd)]);
    let told = guest.finish_poll(&polling).expect("it ends");
    // The event has no error: mio would end the server on one.
    assert_eq!(indices(&told), [0]);
    assert!(told[0].hangup);
    assert_eq!(guest.recv(fd, 8), Err(errno::CONNECTION_RESET));
}

#[test]
fn a_connect_that_fails_is_writable_without_an_error() {
    let mut guest = Stage::new().allow(LOOPBACK).start();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = unused.local_addr().expect("it is bound").port();
    drop(unused);
    let (fd, to) = (guest.tcp(), guest.address_of(LOOPBACK));
    guest.set_flags(fd, NONBLOCK);
    match guest.call("sock_connect", &[fd, to, port.into()]) {
        errno::IN_PROGRESS => {
            assert_eq!(indices(&guest.poll(&[Writable(fd)])), [0]);
            assert_eq!(guest.option(fd, 2, 4), Ok(vec![14, 0, 0, 0]));
        }
        // Linux knows at once on loopback, at times.
        other => assert_eq!(other, errno::CONNECTION_REFUSED),
    }
}

#[test]
fn a_connect_that_succeeds_is_writable() {
    let mut guest = Stage::new().publish("0:80").allow(LOOPBACK).start();
    let listener = guest.listen(80);
    let port = guest.address(0).port();
    let (fd, to) = (guest.tcp(), guest.address_of(LOOPBACK));
    guest.set_flags(fd, NONBLOCK);
    let began = guest.call("sock_connect", &[fd, to, port.into()]);
    assert!([errno::SUCCESS, errno::IN_PROGRESS].contains(&began), "{began}");
    assert_eq!(indices(&guest.poll(&[Writable(fd)])), [0]);
    assert_eq!(guest.option(fd, 2, 4), Ok(vec![0; 4]));
    let again = guest.call("sock_connect", &[fd, to, port.into()]);
    assert!([errno::SUCCESS, errno::IS_CONNECTED].contains(&again), "{again}");
    let accepted = guest.accept(listener);
    assert_eq!(guest.send(fd, b"hello"), Ok(5));
    assert_eq!(guest.recv(accepted, 8).as_deref(), Ok(&b"hello"[..]));
}

/// What `epoll_oneoff` tells at once.
fn edges(guest: &mut Puppet, waits: &[Wait]) -> Vec<usize> {
    let waits: Vec<Wait> = waits.iter().copied().chain([After(MONOTONIC, 0)]).collect();
    let told = guest.poll_by("epoll_oneoff", &waits).expect("it does not fail");
    indices(&told).into_iter().filter(|index| *index + 1 < waits.len()).collect()
}

#[test]
fn an_edge_is_told_once_until_the_socket_is_used() {
    let Connected { mut guest, fd, mut client, .. } = connected("0:80");
    guest.set_flags(fd, NONBLOCK);
    client.write_all(b"one").expect("it is open");
    wait_for_all(&mut guest, &[Read(fd)]);
    assert_eq!(guest.recv(fd, 1).as_deref(), Ok(&b"o"[..]));
    assert_eq!(edges(&mut guest, &[Read(fd)]), [0]);
    assert!(edges(&mut guest, &[Read(fd)]).is_empty());
    assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b"ne"[..]));
    assert_eq!(guest.recv(fd, 8), Err(errno::AGAIN));
    client.write_all(b"two").expect("it is open");
    let polling = guest.begin_poll("epoll_oneoff", &[Read(fd)]);
    assert_eq!(indices(&guest.finish_poll(&polling).expect("it ends")), [0]);
    assert!(edges(&mut guest, &[Read(fd)]).is_empty());
    // Writing has its own.
    assert_eq!(edges(&mut guest, &[Read(fd), Writable(fd)]), [1]);
    assert!(edges(&mut guest, &[Read(fd), Writable(fd)]).is_empty());
    assert_eq!(guest.send(fd, b"x"), Ok(1));
    assert_eq!(edges(&mut guest, &[Read(fd), Writable(fd)]), [1]);
}

#[test]
fn every_connection_is_an_edge_of_its_listener() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    guest.set_flags(listener, NONBLOCK);
    let out = guest.room(4);
    for _ in 0..3 {
        let _client = connect(guest.address(0));
        let polling = guest.begin_poll("epoll_oneoff", &[Read(listener)]);
        assert_eq!(indices(&guest.finish_poll(&polling).expect("it ends")), [0]);
        let fd = guest.told(out, "sock_accept", &[listener, out]).expect("a connection waits");
        assert_eq!(guest.call("sock_accept", &[listener, out]), errno::AGAIN);
        guest.close(fd);
    }
}

#[test]
fn a_second_descriptor_of_the_same_number_starts_anew() {
    let Connected { mut guest, listener, fd, mut client } = connected("0:80");
    client.write_all(b"x").expect("it is open");
    wait_for_all(&mut guest, &[Read(fd)]);
    guest.close(fd);
    let mut other = connect(guest.address(0));
    assert_eq!(guest.accept(listener), fd);
    assert!(edges(&mut guest, &[Read(fd)]).is_empty());
    other.write_all(b"y").expect("it is open");
    let polling = guest.begin_poll("epoll_oneoff", &[Read(fd)]);
    assert_eq!(indices(&guest.finish_poll(&polling).expect("it ends")), [0]);
    assert_eq!(guest.recv(fd, 1).as_deref(), Ok(&b"y"[..]));
}
