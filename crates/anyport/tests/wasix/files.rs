//! Files of WASIX: as a program uses them that its toolchain made of C, and as they go to a socket.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyport::server::Directory;
use anyport::{Artifact, Outcome, Runtime};

use crate::wat_support::{Stage, errno};

#[test]
fn a_program_uses_its_files_by_every_kind_of_path() {
    let outer = tempfile::tempdir().expect("a folder");
    let root = outer.path().join("root");
    fs::create_dir_all(root.join("kept")).expect("it is ours");
    fs::write(outer.path().join("secret"), "secret").expect("it is ours");
    symlink("..", root.join("out")).expect("it is ours");
    let runtime = Runtime::builder().build().expect("tests run where anyport does");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/wasix/files.wasm");
    let server = runtime.load(&Artifact::from_file(path).expect("it is committed")).expect("it can be loaded");
    let directory = Directory { host: root.clone(), guest: "/".to_owned(), read_only: false };
    let running = server.directory(directory).start().expect("it starts");
    assert_eq!(running.wait(), Outcome::Exited(0), "the line that does not hold");
    assert_eq!(fs::read(outer.path().join("secret")).expect("it is there"), b"secret");
    assert_eq!(fs::read_dir(&root).expect("it is there").count(), 2);
}

#[test]
fn a_file_goes_to_a_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    fs::write(folder.path().join("file"), &bytes).expect("it is ours");
    let mut guest = Stage::wasix().publish("0:8080").directory(folder.path(), "/").start();
    let file = guest.open_path(3, "/file", 0, 1 << 1 | 1 << 2 | 1 << 5).expect("it is there");
    let (socket, mut stream) = guest.connection_of_wasix();
    let (sent, at) = (guest.room(8), guest.room(8));
    let reads = std::thread::spawn(move || {
        let mut came = Vec::new();
        stream.read_to_end(&mut came).map(|_| came)
    });
    let mut wanted: Vec<u8> = Vec::new();
    // In one piece and in many, up to the end, and behind it.
    for (offset, count, length) in [(0, 10, 10), (5, 900_000, 900_000), (999_990, 1 << 40, 10), (2_000_000, 5, 0)] {
        guest.must("sock_send_file", &[socket, file, offset, count, sent]);
        assert_eq!(guest.number(sent, 8), length, "{offset}");
        // libc asks where it is to go on.
        guest.must("fd_tell", &[file, at]);
        assert_eq!(guest.number(at, 8), offset + length, "{offset}");
        let from = usize::try_from(offset).expect("small").min(bytes.len());
        wanted.extend(&bytes[from..from + usize::try_from(length).expect("small")]);
    }
    for (params, want) in [
        ([99, file, 0, 1, sent], errno::BAD_DESCRIPTOR),
        ([file, file, 0, 1, sent], errno::NOT_SOCKET),
        ([socket, 99, 0, 1, sent], errno::BAD_DESCRIPTOR),
        ([socket, socket, 0, 1, sent], errno::INVALID),
        ([socket, 3, 0, 1, sent], errno::BAD_DESCRIPTOR),
        ([socket, file, 0, 1, u64::from(u32::MAX - 8)], 21),
    ] {
        assert_eq!(guest.call("sock_send_file", &params), want, "{params:?}");
    }
    guest.close(socket);
    assert!(reads.join().expect("it does not panic").expect("it ends well") == wanted);
}

/// What the client does not take, waits in no memory of the host's.
#[test]
fn a_socket_that_does_not_block_takes_what_goes_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::File::create(folder.path().join("file")).and_then(|file| file.set_len(1 << 30)).expect("it is ours");
    let mut guest = Stage::wasix().publish("0:8080").directory(folder.path(), "/").start();
    let file = guest.open_path(3, "file", 0, 1 << 1 | 1 << 2 | 1 << 5).expect("it is there");
    let (socket, _stream) = guest.connection_of_wasix();
    guest.must("fd_fdstat_set_flags", &[socket, 4]);
    let (sent, at) = (guest.room(8), guest.room(8));
    guest.must("sock_send_file", &[socket, file, 0, 1 << 30, sent]);
    let first = guest.number(sent, 8);
    assert!(first > 0 && first < 1 << 30, "{first}");
    guest.must("fd_tell", &[file, at]);
    assert_eq!(guest.number(at, 8), first);
    loop {
        // The kernel may have made room.
        match guest.call("sock_send_file", &[socket, file, 0, 1 << 30, sent]) {
            errno::SUCCESS => {}
            other => break assert_eq!(other, errno::AGAIN),
        }
    }
}
