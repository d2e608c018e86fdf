//! One table of descriptors for files, standard streams and sockets.

use std::fs;
use std::io::{self, Read, Seek, Write};

use crate::wat_support::{
    Bytes, DGRAM, INET4, INET6, NONBLOCK, Puppet, STREAM, Stage, connect, errno, nodelay_of, read_all,
};

/// Rights that a read, a write and a look at a file take.
const READ_WRITE: u64 = 1 << 1 | 1 << 6;

/// What `fd_fdstat_get` tells: type, flags, rights, inherited rights.
fn fdstat(guest: &mut Puppet, fd: u64) -> (u64, u64, u64, u64) {
    let at = guest.room(24);
    guest.must("fd_fdstat_get", &[fd, at]);
    (guest.number(at, 1), guest.number(at + 2, 2), guest.number(at + 8, 8), guest.number(at + 16, 8))
}

/// What `fd_filestat_get` tells: type, size.
fn filestat(guest: &mut Puppet, fd: u64) -> (u64, u64) {
    let at = guest.put(&[0xee; 64]);
    guest.must("fd_filestat_get", &[fd, at]);
    (guest.number(at + 16, 1), guest.number(at + 32, 8))
}

/// Whether a number is open.
fn is_open(guest: &mut Puppet, fd: u64) -> bool {
    let at = guest.room(24);
    match guest.call("fd_fdstat_get", &[fd, at]) {
        errno::SUCCESS => true,
        errno => {
            assert_eq!(errno, errno::BAD_DESCRIPTOR);
            false
        }
    }
}

#[test]
fn the_lowest_free_number_is_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut guest = Stage::new().publish("0:80").directory(folder.path(), "/").start();
    assert_eq!([guest.tcp(), guest.udp(), guest.tcp()], [4, 5, 6]);
    let create = 1;
    assert_eq!(guest.open_path(3, "file", create, READ_WRITE), Ok(7));
    for fd in [5, 4, 7] {
        guest.close(fd);
        assert_eq!(guest.call("fd_close", &[fd]), errno::BAD_DESCRIPTOR);
    }
    assert_eq!(guest.open_path(3, "file", 0, READ_WRITE), Ok(4));
    assert_eq!([guest.udp(), guest.udp(), guest.udp()], [5, 7, 8]);
    // Standard streams and directories are closed like any other.
    for fd in [0, 3] {
        guest.close(fd);
        assert!(!is_open(&mut guest, fd));
    }
    assert_eq!([guest.tcp(), guest.tcp(), guest.tcp()], [0, 3, 9]);
    assert_eq!(guest.call("fd_close", &[10]), errno::BAD_DESCRIPTOR);
    assert_eq!(guest.call("fd_close", &[u32::MAX.into()]), errno::BAD_DESCRIPTOR);
}

#[test]
fn what_fails_to_open_leaves_no_descriptor() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    // The number cannot be told: WasmEdge's shapes give an errno, and the socket is closed again.
    let outside = u64::from(u32::MAX) - 3;
    assert_eq!(guest.call("sock_open", &[INET4, STREAM, outside]), errno::FAULT);
    let client = connect(guest.address(0));
    assert_eq!(guest.call("sock_accept", &[listener, outside]), errno::FAULT);
    assert_eq!(read_all(&client), b"");
    assert_eq!(guest.tcp(), listener + 1);
}

#[test]
fn a_listener_is_at_3_and_directories_are_found_behind_it() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), "text").expect("it is ours");
    let mut guest = Stage::preview1().listener().directory(folder.path(), "/data").start();
    let prestat = guest.room(8);
    // Not a directory, and not the end of them: guests look on until 8.
    guest.must("fd_prestat_get", &[3, prestat]);
    assert_ne!(guest.number(prestat, 1), 0);
    guest.must("fd_prestat_get", &[4, prestat]);
    assert_eq!((guest.number(prestat, 1), guest.number(prestat + 4, 4)), (0, 5));
    let name = guest.room(5);
    guest.must("fd_prestat_dir_name", &[4, name, 5]);
    assert_eq!(guest.peek(name, 5), b"/data");
    for fd in [0, 1, 2, 5, u64::from(u32::MAX)] {
        assert_eq!(guest.call("fd_prestat_get", &[fd, prestat]), errno::BAD_DESCRIPTOR, "{fd}");
    }
    for fd in [0, 3, 5] {
        assert_eq!(guest.call("fd_prestat_dir_name", &[fd, name, 5]), errno::BAD_DESCRIPTOR, "{fd}");
    }
    let file = guest.open_path(4, "file", 0, READ_WRITE).expect("it is there");
    assert_eq!((file, guest.read(file, 8).as_deref()), (5, Ok(&b"text"[..])));
    // The listener does not block, as wasmtime's `--tcplisten` had it.
    let out = guest.room(4);
    assert_eq!(guest.call("sock_accept", &[3, 0, out]), errno::AGAIN);
    assert_eq!(fdstat(&mut guest, 3).1, NONBLOCK);
    assert!(guest.address(0).port() > 0);
}

#[test]
fn published_ports_become_listeners_of_a_guest_that_cannot_listen() {
    let mut guest = Stage::preview1().publish("0:80").publish("0:81").start();
    for (listener, client) in [(3, connect(guest.address(0))), (4, connect(guest.address(1)))] {
        guest.set_flags(listener, 0);
        let out = guest.room(4);
        let fd = guest.told(out, "sock_accept", &[listener, 0, out]).expect("a client waits");
        assert_eq!(guest.send(fd, b"hello"), Ok(5));
        guest.close(fd);
        assert_eq!(read_all(&client), b"hello");
    }
}

#[test]
fn renumber_moves_any_kind_onto_any_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut guest = Stage::new().publish("0:80").directory(folder.path(), "/").start();
    let listener = guest.listen(80);
    let (first, second) = (connect(guest.address(0)), connect(guest.address(0)));
    let (a, b) = (guest.accept(listener), guest.accept(listener));
    let file = guest.open_path(3, "file", 1, READ_WRITE).expect("it is created");
    // A socket onto a socket: what was there is closed.
    guest.must("fd_renumber", &[b, a]);
    assert_eq!(read_all(&first), b"");
    assert_eq!(guest.send(a, b"moved"), Ok(5));
    assert!(!is_open(&mut guest, b));
    // A file onto a socket.
    guest.must("fd_renumber", &[file, a]);
    assert_eq!(read_all(&second), b"moved");
    assert_eq!(guest.write(a, b"in a file"), Ok(9));
    assert_eq!(fs::read(folder.path().join("file")).expect("it is there"), b"in a file");
    // A socket onto a file, and onto a standard stream.
    let socket = guest.udp();
    assert_eq!(socket, b);
    guest.must("fd_renumber", &[socket, a]);
    assert_eq!(filestat(&mut guest, a).0, 5);
    guest.must("fd_renumber", &[a, 0]);
    assert_eq!(filestat(&mut guest, 0).0, 5);
    assert_eq!(guest.udp(), a);
}

/// CVE-2025-53901: wasmtime's host panicked.
#[test]
fn renumber_of_what_was_never_open_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut guest = Stage::new().directory(folder.path(), "/").start();
    let socket = guest.tcp();
    let numbers = [0, 3, socket, 5, 100, 0x7fff_ffff, 0x8000_0000, u64::from(u32::MAX)];
    for from in numbers {
        for to in numbers {
            if from > socket || to > socket {
                assert_eq!(guest.call("fd_renumber", &[from, to]), errno::BAD_DESCRIPTOR, "{from} {to}");
            }
        }
        if from <= socket {
            guest.must("fd_renumber", &[from, from]);
            assert!(is_open(&mut guest, from));
        }
    }
}

#[test]
fn fdstat_of_every_kind() {
    const OPENED: u64 = 0xf_f800_004a;
    const ACCEPTED: u64 = 0xf_1800_004a;
    let folder = tempfile::tempdir().expect("a folder");
    let (stdin, _writer) = io::pipe().expect("a pipe");
    let stdout = fs::File::create(folder.path().join("out")).expect("it is ours");
    let mut guest = Stage::new().publish("0:80").directory(folder.path(), "/").stdin(stdin).stdout(stdout).start();
    let listener = guest.listen(80);
    let _client = connect(guest.address(0));
    let accepted = guest.accept(listener);
    let datagrams = guest.udp();
    assert_eq!(fdstat(&mut guest, listener), (6, 0, OPENED, OPENED));
    assert_eq!(fdstat(&mut guest, accepted), (6, 0, ACCEPTED, ACCEPTED));
    assert_eq!(fdstat(&mut guest, datagrams), (5, 0, OPENED, OPENED));
    // A pipe and a file: not a terminal, which is what type 2 says.
    assert_eq!(fdstat(&mut guest, 0).0, 0);
    assert_eq!(fdstat(&mut guest, 1).0, 4);
    assert_eq!(fdstat(&mut guest, 3).0, 3);
    let file = guest.open_path(3, "file", 1, READ_WRITE).expect("it is created");
    assert_eq!(fdstat(&mut guest, file).0, 4);
    for fd in [0, 1, listener, accepted, datagrams] {
        for flags in [NONBLOCK, 0] {
            guest.set_flags(fd, flags);
            assert_eq!(fdstat(&mut guest, fd).1, flags);
        }
        for flags in [1, 2, 8, 16, 32, u64::from(u32::MAX)] {
            assert_eq!(guest.call("fd_fdstat_set_flags", &[fd, flags]), errno::INVALID, "{flags}");
        }
    }
    let append = 1;
    guest.set_flags(file, append);
    assert_eq!(fdstat(&mut guest, file).1, append);
    assert_eq!(guest.call("fd_fdstat_set_flags", &[99, 0]), errno::BAD_DESCRIPTOR);
}

#[test]
fn filestat_of_every_kind() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), "12345").expect("it is ours");
    let (stdin, _writer) = io::pipe().expect("a pipe");
    let mut guest = Stage::new().directory(folder.path(), "/").stdin(stdin).start();
    let (stream, datagrams) = (guest.tcp(), guest.open(INET6, DGRAM).expect("IPv6"));
    let file = guest.open_path(3, "file", 0, READ_WRITE).expect("it is there");
    let kinds = [0, 1, 3, stream, datagrams, file].map(|fd| filestat(&mut guest, fd));
    assert_eq!(kinds.map(|(kind, _)| kind), [0, 0, 3, 6, 5, 4]);
    assert_eq!(kinds[5].1, 5);
}

#[test]
fn sockets_are_read_and_written_as_files_are() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    let mut client = connect(guest.address(0));
    let fd = guest.accept(listener);
    assert_eq!(guest.write(fd, b"hello"), Ok(5));
    let mut received = [0; 5];
    client.read_exact(&mut received).expect("the guest has sent it");
    assert_eq!(&received, b"hello");
    client.write_all(b"hello world").expect("it is open");
    // Into several buffers, empty ones between them.
    let buffers = [guest.room(4), guest.room(4), guest.room(8)];
    let vector = guest.vector(&[(buffers[0], 4), (0, 0), (buffers[1], 2), (buffers[2], 8)]);
    let size = guest.room(4);
    let mut got = Bytes::new();
    while got.len() < 11 {
        let read = guest.told(size, "fd_read", &[fd, vector, 4, size]).expect("bytes have come");
        let all = [guest.peek(buffers[0], 4), guest.peek(buffers[1], 2), guest.peek(buffers[2], 8)].concat();
        got.extend(&all[..usize::try_from(read).expect("it is small")]);
    }
    assert_eq!(got, b"hello world");
    let empty = guest.vector(&[(0, 0), (0, 0)]);
    assert_eq!(guest.told(size, "fd_read", &[fd, empty, 2, size]), Ok(0));
    assert_eq!(guest.told(size, "fd_read", &[fd, empty, 0, size]), Ok(0));
    // From several.
    let parts = [guest.put(b"GET "), guest.put(b"/ HTTP")];
    let vector = guest.vector(&[(parts[0], 4), (0, 0), (parts[1], 6)]);
    assert_eq!(guest.told(size, "fd_write", &[fd, vector, 3, size]), Ok(10));
    guest.close(fd);
    assert_eq!(read_all(&client), b"GET / HTTP");
}

#[test]
fn what_only_files_can_do_is_refused_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut guest = Stage::new().directory(folder.path(), "/").start();
    let socket = guest.tcp();
    let (path, out) = (guest.put(b"x"), guest.room(64));
    let vector = guest.vector(&[(out, 8)]);
    for fd in [0, socket] {
        let calls: &[(&str, &[u64], u64)] = &[
            ("fd_seek", &[fd, 0, 0, out], errno::ILLEGAL_SEEK),
            ("fd_tell", &[fd, out], errno::ILLEGAL_SEEK),
            ("fd_pread", &[fd, vector, 1, 0, out], errno::ILLEGAL_SEEK),
            ("fd_pwrite", &[fd, vector, 1, 0, out], errno::ILLEGAL_SEEK),
            ("fd_advise", &[fd, 0, 0, 0], errno::ILLEGAL_SEEK),
            ("fd_allocate", &[fd, 0, 1], errno::ILLEGAL_SEEK),
            ("fd_sync", &[fd], errno::INVALID),
            ("fd_datasync", &[fd], errno::INVALID),
            ("fd_filestat_set_size", &[fd, 0], errno::INVALID),
            ("fd_filestat_set_times", &[fd, 0, 0, 0], errno::INVALID),
            ("fd_readdir", &[fd, out, 64, 0, out], errno::NOT_DIRECTORY),
            ("path_open", &[fd, 0, path, 1, 0, 0, 0, 0, out], errno::NOT_DIRECTORY),
            ("path_create_directory", &[fd, path, 1], errno::NOT_DIRECTORY),
            ("path_filestat_get", &[fd, 0, path, 1, out], errno::NOT_DIRECTORY),
            ("path_filestat_set_times", &[fd, 0, path, 1, 0, 0, 0], errno::NOT_DIRECTORY),
            ("path_link", &[3, 0, path, 1, fd, path, 1], errno::NOT_DIRECTORY),
            ("path_link", &[fd, 0, path, 1, 3, path, 1], errno::NOT_DIRECTORY),
            ("path_rename", &[3, path, 1, fd, path, 1], errno::NOT_DIRECTORY),
            ("path_symlink", &[path, 1, fd, path, 1], errno::NOT_DIRECTORY),
            ("path_readlink", &[fd, path, 1, out, 8, out], errno::NOT_DIRECTORY),
            ("path_remove_directory", &[fd, path, 1], errno::NOT_DIRECTORY),
            ("path_unlink_file", &[fd, path, 1], errno::NOT_DIRECTORY),
        ];
        for (name, params, wanted) in calls {
            assert_eq!(guest.call(name, params), *wanted, "{name} {params:?}");
        }
    }
}

#[test]
fn files_are_read_and_written_at_their_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stdout = fs::File::create_new(folder.path().join("out")).expect("it is ours");
    let mut guest = Stage::preview1()
        .directory(folder.path(), "/")
        .stdout(stdout.try_clone().expect("a test may open descriptors"))
        .start();
    let rights = READ_WRITE | 1 << 2 | 1 << 5;
    let fd = guest.open_path(3, "file", 1, rights).expect("it is created");
    let (out, buffer) = (guest.room(8), guest.put(b"0123456789"));
    assert_eq!(guest.write(fd, b"abcdefgh"), Ok(8));
    assert_eq!(guest.told(out, "fd_tell", &[fd, out]), Ok(8));
    assert_eq!(guest.told(out, "fd_seek", &[fd, 0u64.wrapping_sub(6), 2, out]), Ok(2));
    assert_eq!(guest.read(fd, 3).as_deref(), Ok(&b"cde"[..]));
    let vector = guest.vector(&[(buffer, 2)]);
    assert_eq!(guest.told(out, "fd_pwrite", &[fd, vector, 1, 6, out]), Ok(2));
    assert_eq!(guest.told(out, "fd_pread", &[fd, vector, 1, 0, out]), Ok(2));
    assert_eq!(guest.peek(buffer, 2), b"ab");
    guest.must("fd_sync", &[fd]);
    guest.must("fd_datasync", &[fd]);
    guest.must("fd_advise", &[fd, 0, 8, 0]);
    assert_eq!(fs::read(folder.path().join("file")).expect("it is there"), b"abcdef01");
    guest.must("fd_filestat_set_size", &[fd, 3]);
    assert_eq!(fs::read(folder.path().join("file")).expect("it is there"), b"abc");
    // Standard output is the file that it was given.
    assert_eq!(guest.write(1, b"printed"), Ok(7));
    stdout.rewind().expect("it is a file");
    let mut printed = String::new();
    stdout.read_to_string(&mut printed).expect("it is text");
    assert_eq!(printed, "printed");
}

#[test]
fn standard_input_blocks_unless_it_is_told_not_to() {
    let (stdin, mut writer) = io::pipe().expect("a pipe");
    let mut guest = Stage::preview1().stdin(stdin).start();
    guest.set_flags(0, NONBLOCK);
    assert_eq!(guest.read(0, 8), Err(errno::AGAIN));
    guest.set_flags(0, 0);
    let (buffer, size) = (guest.room(8), guest.room(4));
    let vector = guest.vector(&[(buffer, 8)]);
    guest.begin("fd_read", &[0, vector, 1, size]);
    writer.write_all(b"typed").expect("the guest has it");
    assert_eq!(guest.finish(), errno::SUCCESS);
    assert_eq!((guest.word(size), guest.peek(buffer, 5)), (5, b"typed".to_vec()));
    drop(writer);
    assert_eq!(guest.read(0, 8).as_deref(), Ok(&b""[..]));
}

/// Guests write head and body apart, and cannot set the option themselves.
#[test]
fn accepted_and_connected_sockets_send_at_once() {
    let mut guest = Stage::new().publish("0:80").listener().allow("127.0.0.1").start();
    let published = guest.listen(80);
    let (handed_at, published_at) = (guest.address(0), guest.address(1));
    for (listener, at) in [(3, handed_at), (published, published_at)] {
        guest.set_flags(listener, 0);
        let client = connect(at);
        guest.accept(listener);
        assert_eq!(nodelay_of(client.local_addr().expect("it is connected")), Some(true));
    }
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = server.local_addr().expect("it is bound");
    guest.connect("127.0.0.1", at.port()).expect("it listens");
    assert_eq!(nodelay_of(at), Some(true));
}
