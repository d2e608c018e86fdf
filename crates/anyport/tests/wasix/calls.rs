//! What each call does that no other test is about.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyport::Outcome;

use super::machine::run;
use crate::wat_support::{Answer, Puppet, Stage, errno, refused_of_wasix};

const INET4: u64 = 1;
const STREAM: u64 = 1;
const DGRAM: u64 = 2;
const NONBLOCK: u64 = 0x4000;
const CLOEXEC: u64 = 0x2000;
/// Of `sock_set_opt_size`.
const RECV_BUF_SIZE: u64 = 15;
const TTL: u64 = 23;

/// An address as WASIX has it: the port in little-endian.
fn bytes_of(address: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(address) = address else { panic!("{address} is none of these tests") };
    let mut bytes = vec![1, 0];
    bytes.extend(address.port().to_le_bytes());
    bytes.extend(address.ip().octets());
    bytes
}

fn address(guest: &mut Puppet, address: SocketAddr) -> u64 {
    let room = guest.room(20);
    guest.poke(room, &bytes_of(address));
    room
}

fn open(guest: &mut Puppet, kind: u64) -> u64 {
    let out = guest.room(4);
    guest.told(out, "sock_open", &[INET4, kind, 0, out]).expect("it is opened")
}

fn connect(guest: &mut Puppet, fd: u64, to: SocketAddr) -> u64 {
    let to = address(guest, to);
    guest.call("sock_connect", &[fd, to])
}

fn status(guest: &mut Puppet, fd: u64) -> u64 {
    let out = guest.room(1);
    guest.must("sock_status", &[fd, out]);
    guest.number(out, 1)
}

#[test]
fn a_guest_connects_where_it_may_and_knows_its_peer() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let to = server.local_addr().expect("it is bound");
    let mut guest = Stage::wasix().allow(&to.to_string()).start();
    let fd = open(&mut guest, STREAM);
    assert_eq!(connect(&mut guest, fd, (Ipv4Addr::LOCALHOST, 9).into()), errno::ACCESS);
    let fd = open(&mut guest, STREAM);
    assert_eq!(connect(&mut guest, fd, to), errno::SUCCESS);
    assert_eq!(status(&mut guest, fd), 1);
    let (peer, local) = (guest.room(20), guest.room(20));
    guest.must("sock_addr_peer", &[fd, peer]);
    assert_eq!(guest.peek(peer, 8), bytes_of(to));
    let (_client, from) = server.accept().expect("it has connected");
    guest.must("sock_addr_local", &[fd, local]);
    assert_eq!(guest.peek(local, 8), bytes_of(from));
    assert_eq!(connect(&mut guest, fd, to), errno::IS_CONNECTED);
    drop(server);
    let fd = open(&mut guest, STREAM);
    assert_eq!(connect(&mut guest, fd, to), errno::CONNECTION_REFUSED);
}

/// As Linux and Wasmer have it: begun, not yet there, and there once it can be written to.
#[test]
fn one_that_does_not_block_is_connected_later() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let to = server.local_addr().expect("it is bound");
    let mut guest = Stage::wasix().allow(&to.to_string()).start();
    let fd = open(&mut guest, STREAM | NONBLOCK);
    assert!([errno::SUCCESS, errno::IN_PROGRESS].contains(&connect(&mut guest, fd, to)));
    let _client = server.accept().expect("it connects");
    while status(&mut guest, fd) == 0 {
        // Asking again is how one finds out.
        let told = connect(&mut guest, fd, to);
        assert!([errno::SUCCESS, errno::ALREADY, errno::IS_CONNECTED].contains(&told), "{told}");
    }
    assert_eq!(guest.call("sock_status", &[1, 0]), errno::NOT_SOCKET);
}

#[test]
fn datagrams_come_with_their_sender_and_go_where_they_are_sent() {
    let mut guest = Stage::wasix().publish("0:5353/udp").start();
    let fd = open(&mut guest, DGRAM);
    let any = address(&mut guest, (Ipv4Addr::UNSPECIFIED, 5353).into());
    guest.must("sock_bind", &[fd, any]);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    client.connect(guest.address(0)).expect("it is bound");
    client.set_read_timeout(Some(super::machine::LONG)).expect("it is not zero");
    client.send(b"question").expect("the port is published");
    let (buffer, size, flags, from) = (guest.room(64), guest.room(4), guest.room(2), guest.room(20));
    let (whole, part) = (guest.vector(&[(buffer, 64)]), guest.vector(&[(buffer, 5)]));
    guest.must("sock_recv_from", &[fd, whole, 1, 0, size, flags, from]);
    assert_eq!((guest.word(size), guest.number(flags, 2)), (8, 0));
    assert_eq!(guest.peek(buffer, 8), b"question");
    assert_eq!(guest.peek(from, 8), bytes_of(client.local_addr().expect("it is bound")));
    assert_eq!(guest.told(size, "sock_send_to", &[fd, part, 1, 0, from, size]), Ok(5));
    let mut came = [0; 64];
    assert_eq!(client.recv(&mut came).ok().map(|length| &came[..length]), Some(&b"quest"[..]));
    // What has no room is cut, and told to be.
    client.send(b"question").expect("the port is published");
    guest.must("sock_recv_from", &[fd, part, 1, 0, size, flags, from]);
    assert_eq!((guest.word(size), guest.number(flags, 2)), (5, 1));
    let other = address(&mut guest, (Ipv4Addr::LOCALHOST, 9).into());
    assert_eq!(guest.call("sock_send_to", &[fd, part, 1, 0, other, size]), errno::ACCESS);
    assert_eq!(guest.call("sock_send_to", &[fd, part, 1, 2, from, size]), errno::INVALID);
}

/// On a stream the sender is its peer, and the address of who sends is not looked at.
#[test]
fn a_stream_is_received_from_its_peer() {
    let mut guest = Stage::wasix().publish("127.0.0.1:0:8080").start();
    let (fd, mut client) = guest.connection_of_wasix();
    std::io::Write::write_all(&mut client, b"hello").expect("it is connected");
    let (buffer, size, flags, from) = (guest.room(5), guest.room(4), guest.room(2), guest.room(20));
    let vector = guest.vector(&[(buffer, 5)]);
    assert_eq!(guest.told(size, "sock_recv_from", &[fd, vector, 1, 2, size, flags, from]), Ok(5));
    assert_eq!(guest.peek(from, 8), bytes_of(client.local_addr().expect("it is connected")));
    let other = address(&mut guest, (Ipv4Addr::LOCALHOST, 9).into());
    assert_eq!(guest.told(size, "sock_send_to", &[fd, vector, 1, 0, other, size]), Ok(5));
    let mut came = [0; 5];
    std::io::Read::read_exact(&mut client, &mut came).expect("it was sent");
    assert_eq!(&came, b"hello");
}

#[test]
fn sizes_are_kept_as_the_kernel_has_them() {
    let mut guest = Stage::wasix().start();
    let fd = open(&mut guest, STREAM);
    let out = guest.room(8);
    guest.must("sock_set_opt_size", &[fd, RECV_BUF_SIZE, 20_000]);
    guest.must("sock_get_opt_size", &[fd, RECV_BUF_SIZE, out]);
    assert!((20_000..=40_000).contains(&guest.number(out, 8)), "Linux doubles it");
    guest.must("sock_set_opt_size", &[fd, TTL, 7]);
    guest.must("sock_get_opt_size", &[fd, TTL, out]);
    assert_eq!(guest.number(out, 8), 7);
    assert_eq!(guest.call("sock_set_opt_size", &[fd, TTL, 256]), errno::INVALID);
    assert_eq!(guest.call("sock_set_opt_size", &[fd, 99, 1]), errno::NO_PROTOCOL_OPTION);
    assert_eq!(guest.call("sock_get_opt_size", &[1, TTL, out]), errno::NOT_SOCKET);
}

fn resolve(guest: &mut Puppet, name: &str, most: u64) -> Answer<Vec<Vec<u8>>> {
    let (node, found, out) = (guest.put(name.as_bytes()), guest.room(18 * most), guest.room(4));
    let count = guest.told(out, "resolve", &[node, name.len() as u64, 0, found, most, out])?;
    Ok((0..count).map(|index| guest.peek(found + 18 * index, 18)).collect())
}

#[test]
fn a_name_is_looked_up_where_that_is_allowed() {
    let mut guest = Stage::wasix().start();
    assert_eq!(resolve(&mut guest, "localhost", 4), Err(errno::ACCESS));
    let mut number = vec![1, 0, 192, 0, 2, 7];
    number.resize(18, 0);
    assert_eq!(resolve(&mut guest, "192.0.2.7", 4), Ok(vec![number]));
    assert_eq!(resolve(&mut guest, &"x".repeat(5000), 1), Err(37), "the name is too long");
    let mut guest = Stage::wasix().allow("localhost:80").start();
    let found = resolve(&mut guest, "localhost", 4).expect("every system has it");
    assert!(found.iter().any(|address| address[..6] == [1, 0, 127, 0, 0, 1]), "{found:?}");
    assert_eq!(resolve(&mut guest, "localhost", 0), Ok(Vec::new()));
    assert_eq!(resolve(&mut guest, "other.invalid", 1), Err(errno::ACCESS));
}

#[test]
fn close_on_exec_is_of_a_number_and_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), "text").expect("it is ours");
    let mut guest = Stage::wasix().directory(folder.path(), "/").start();
    let out = guest.room(4);
    let flags = |guest: &mut Puppet, fd| {
        let out = guest.room(4);
        guest.told(out, "fd_fdflags_get", &[fd, out])
    };
    let fd = guest.told(out, "fd_event", &[0, 0, out]).expect("it is opened");
    assert_eq!(flags(&mut guest, fd), Ok(0));
    guest.must("fd_fdflags_set", &[fd, 1]);
    assert_eq!(flags(&mut guest, fd), Ok(1));
    // Of a second number it is another: dup(2), F_DUPFD, F_DUPFD_CLOEXEC, dup2(2).
    let second = guest.told(out, "fd_dup", &[fd, out]).expect("there is room");
    assert_eq!(flags(&mut guest, second), Ok(0));
    let third = guest.told(out, "fd_dup2", &[second, 0, 1, out]).expect("there is room");
    assert_eq!(flags(&mut guest, third), Ok(1));
    guest.must("fd_renumber", &[second, third]);
    assert_eq!(flags(&mut guest, third), Ok(0));
    guest.must("fd_fdflags_set", &[fd, 0]);
    assert_eq!(flags(&mut guest, fd), Ok(0));
    // Nothing of it is left for who has the number next.
    guest.must("fd_fdflags_set", &[fd, 1]);
    guest.close(fd);
    assert_eq!(flags(&mut guest, fd), Err(errno::BAD_DESCRIPTOR));
    assert_eq!(guest.call("fd_fdflags_set", &[fd, 1]), errno::BAD_DESCRIPTOR);
    assert_eq!(guest.told(out, "fd_event", &[0, 0, out]), Ok(fd));
    assert_eq!(flags(&mut guest, fd), Ok(0));
    let socket = open(&mut guest, STREAM | CLOEXEC);
    assert_eq!(flags(&mut guest, socket), Ok(1));
    let path = guest.put(b"/file");
    for (flag, rights) in [(1, 1 << 1), (0, 1 << 1)] {
        let file = guest.told(out, "path_open2", &[3, 1, path, 5, 0, rights, rights, 0, flag, out]);
        let file = file.expect("it is there");
        assert_eq!((flags(&mut guest, file), guest.read(file, 9)), (Ok(flag), Ok(b"text".to_vec())));
    }
    assert_eq!(guest.call("path_open2", &[3, 1, path, 4, 0, 2, 2, 0, 1, out]), errno::NO_ENTRY);
}

#[test]
fn a_guest_is_a_process_with_a_thread_and_a_terminal() {
    let mut guest = Stage::wasix().start();
    let out = guest.room(24);
    assert_eq!(guest.told(out, "proc_id", &[out]), Ok(1));
    assert_eq!(guest.told(out, "proc_parent", &[1, out]), Ok(0));
    assert_eq!(guest.call("proc_parent", &[7, out]), 71, "there is no such process");
    assert_eq!(guest.told(out, "thread_id", &[out]), Ok(0x3fff_ffff), "of the first, as wasi-libc has it");
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    assert_eq!(guest.told(out, "thread_parallelism", &[out]), Ok(cores));
    assert_eq!(guest.told(out, "proc_signals_sizes_get", &[out]), Ok(0));
    guest.must("proc_signals_get", &[out]);
    guest.must("tty_get", &[out]);
    // Columns, lines, no pixels; none of the three is a terminal.
    assert_eq!((guest.word(out), guest.word(out + 4)), (80, 25));
    assert_eq!(guest.peek(out + 8, 11), [0; 11]);
    guest.must("tty_set", &[out]);
    for name in ["proc_id", "thread_id", "thread_parallelism", "tty_get", "tty_set"] {
        assert_eq!(guest.call(name, &[0xffff_fff0]), errno::FAULT, "{name}");
    }
    // It has no memory that threads could share.
    assert_eq!(guest.call("thread_spawn_v2", &[0, out]), errno::NOT_SUPPORTED);
}

/// The three ways to start a thread: of WASIX's first years, of today, and of wasi-threads.
#[test]
fn a_thread_is_started_by_each_name() {
    for name in ["thread_spawn", "thread_spawn_v2"] {
        let outcome = run(&format!(
            "(func (export \"wasi_thread_start\") (param $number i32) (param $pointer i32)
               (call $is (i32.const 1) (call $thread_id (i32.const 128)) (i32.const 0))
               (call $is (i32.const 2) (i32.load (i32.const 128)) (local.get $number))
               (i32.store (i32.const 64) (local.get $pointer))
               (drop (call $futex_wake (i32.const 64) (i32.const 80))))
             (func (export \"_start\")
               (call $is (i32.const 3) (call ${name} (i32.const 7) (i32.const 72)) (i32.const 0))
               (drop (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88)))
               (call $is (i32.const 4) (i32.load (i32.const 64)) (i32.const 7))
               (call $is (i32.const 5) (call $thread_join (i32.load (i32.const 72))) (i32.const 0))
               ;; What points nowhere starts nothing.
               (call $is (i32.const 6) (call ${name} (i32.const 7) (i32.const -2)) (i32.const 21)))"
        ));
        assert_eq!(outcome, Outcome::Exited(0), "{name}");
    }
}

/// Other programs, code that is loaded later, networks of its own: each call of each.
#[test]
fn what_is_not_supported_gives_its_errno() {
    let rows = refused_of_wasix();
    let named = |name: &str| rows.iter().any(|row| row.name == name);
    assert!(["proc_exec", "proc_spawn2", "dlopen", "port_bridge"].into_iter().all(named));
    let (told, ended): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.gives_errno());
    let mut guest = Stage::importing(told.clone()).start();
    for (number, row) in told.iter().enumerate() {
        guest.begin_row(number, &vec![0; row.wide().count()]);
        assert_eq!(guest.finish(), errno::NOT_SUPPORTED, "{}", row.name);
    }
    for row in ended {
        let (name, params) = (row.name.clone(), vec![0; row.wide().count()]);
        let mut guest = Stage::importing(vec![row]).start();
        guest.begin_row(0, &params);
        let outcome = guest.outcome();
        let Outcome::Trapped { reason, .. } = &outcome else { panic!("{name}: {outcome:?}") };
        assert!(reason.contains(&format!("`{name}`, which is not supported")), "{reason}");
    }
}
