//! Files and directories by their paths: each hostcall once, with what it changes on the host.

use std::fs;
use std::path::Path;

use crate::wat_support::{Puppet, Stage, errno};

const RIGHTS: u64 = 1 << 1 | 1 << 6;
const CREAT: u64 = 1;
const DIRECTORY: u64 = 2;
/// `fstflags`: both times are given.
const TIMES: u64 = 1 | 1 << 2;

fn text(guest: &mut Puppet, text: &str) -> [u64; 2] {
    [guest.put(text.as_bytes()), text.len() as u64]
}

/// A guest of preview1 with this directory, and one of WASIX, which has the same functions.
fn each(test: fn(&Path, Puppet)) {
    for stage in [Stage::preview1(), Stage::wasix()] {
        let folder = tempfile::tempdir().expect("a folder");
        test(folder.path(), stage.directory(folder.path(), "/").start());
    }
}

/// The names in a directory, as `fd_readdir` lists them into a buffer of so many bytes at a time.
fn names(guest: &mut Puppet, fd: u64, room: u64) -> Vec<String> {
    let (buffer, used) = (guest.room(room), guest.room(4));
    let (mut cookie, mut names) = (0, Vec::new());
    loop {
        let used = guest.told(used, "fd_readdir", &[fd, buffer, room, cookie, used]).expect("it can be listed");
        let bytes = guest.peek(buffer, used);
        let mut rest = &bytes[..];
        while rest.len() >= 24 {
            let length = usize::try_from(u32::from_le_bytes(rest[16..20].try_into().expect("4 bytes"))).expect("small");
            let Some(name) = rest.get(24..24 + length) else { break };
            names.push(String::from_utf8(name.to_vec()).expect("it is text"));
            cookie = u64::from_le_bytes(rest[..8].try_into().expect("8 bytes"));
            rest = &rest[24 + length..];
        }
        if used < room {
            names.sort();
            return names;
        }
    }
}

#[test]
fn directories_are_made_listed_and_removed() {
    each(|folder, mut guest| {
        let [sub, sub_length] = text(&mut guest, "sub");
        guest.must("path_create_directory", &[3, sub, sub_length]);
        assert!(folder.join("sub").is_dir());
        assert_eq!(guest.call("path_create_directory", &[3, sub, sub_length]), errno::EXISTS);
        let below = guest.open_path(3, "sub", DIRECTORY, 1 << 14).expect("it is there");
        for name in ["one", "two", "a name of some length"] {
            let fd = guest.open_path(below, name, CREAT, RIGHTS).expect("it is created");
            guest.close(fd);
        }
        let all = [".", "..", "a name of some length", "one", "two"];
        for room in [48, 64, 4096] {
            assert_eq!(names(&mut guest, below, room), all, "{room}");
        }
        assert_eq!(guest.call("path_remove_directory", &[3, sub, sub_length]), 55, "it is not empty");
        fs::remove_dir_all(folder.join("sub")).expect("it is ours");
        fs::create_dir(folder.join("sub")).expect("it is ours");
        guest.must("path_remove_directory", &[3, sub, sub_length]);
        assert!(!folder.join("sub").exists());
    });
}

#[test]
fn files_are_linked_moved_and_removed() {
    each(|folder, mut guest| {
        fs::write(folder.join("file"), "text").expect("it is ours");
        let [file, file_length] = text(&mut guest, "file");
        let [link, link_length] = text(&mut guest, "link");
        let [soft, soft_length] = text(&mut guest, "soft");
        let host = |name: &str| folder.join(name);
        guest.must("path_link", &[3, 0, file, file_length, 3, link, link_length]);
        assert_eq!(fs::read(host("link")).expect("it is there"), b"text");
        guest.must("path_symlink", &[file, file_length, 3, soft, soft_length]);
        assert_eq!(host("soft").read_link().expect("a link").as_os_str(), "file");
        let (buffer, used) = (guest.room(16), guest.room(4));
        for (room, wanted) in [(16, "file"), (4, "file"), (2, "fi")] {
            let read = guest.told(used, "path_readlink", &[3, soft, soft_length, buffer, room, used]);
            assert_eq!(read, Ok(wanted.len() as u64));
            assert_eq!(guest.peek(buffer, wanted.len() as u64), wanted.as_bytes());
        }
        // A link is of type 7, what it leads to of type 4.
        let stat = guest.room(64);
        for (follow, kind) in [(0, 7), (1, 4)] {
            guest.must("path_filestat_get", &[3, follow, soft, soft_length, stat]);
            assert_eq!(guest.number(stat + 16, 1), kind);
        }
        assert_eq!((guest.number(stat + 24, 8), guest.number(stat + 32, 8)), (2, 4), "links, size");
        guest.must("path_rename", &[3, link, link_length, 3, file, file_length]);
        guest.must("path_rename", &[3, file, file_length, 3, link, link_length]);
        for name in [[file, file_length], [link, link_length], [soft, soft_length]] {
            let [at, length] = name;
            let gone = guest.call("path_unlink_file", &[3, at, length]);
            assert!([errno::SUCCESS, errno::NO_ENTRY].contains(&gone), "{gone}");
        }
        assert_eq!(fs::read_dir(folder).expect("it is ours").count(), 0);
    });
}

#[test]
fn times_and_sizes_are_set() {
    each(|folder, mut guest| {
        let host = folder.join("file");
        fs::write(&host, "text").expect("it is ours");
        let [file, file_length] = text(&mut guest, "file");
        let fd = guest.open_path(3, "file", 0, RIGHTS).expect("it is there");
        let stat = guest.room(64);
        let second = 1_000_000_000;
        for (seconds, by_path) in [(1_000, true), (2_000, false)] {
            let (accessed, modified) = (seconds * second, (seconds + 1) * second);
            if by_path {
                guest.must("path_filestat_set_times", &[3, 1, file, file_length, accessed, modified, TIMES]);
            } else {
                guest.must("fd_filestat_set_times", &[fd, accessed, modified, TIMES]);
            }
            guest.must("fd_filestat_get", &[fd, stat]);
            assert_eq!((guest.number(stat + 40, 8), guest.number(stat + 48, 8)), (accessed, modified));
        }
        for size in [0, 100, 7] {
            guest.must("fd_filestat_set_size", &[fd, size]);
            assert_eq!(fs::metadata(&host).expect("it is there").len(), size);
        }
        // What wasmtime does not do, it says.
        assert_eq!(guest.call("fd_allocate", &[fd, 0, 100]), errno::NOT_SUPPORTED);
        assert_eq!(guest.call("fd_fdstat_set_rights", &[fd, 0, 0]), errno::NOT_SUPPORTED);
    });
}

#[test]
fn flags_that_there_are_not_are_an_error_and_no_trap() {
    each(|_, mut guest| {
        let fd = guest.open_path(3, "file", CREAT, RIGHTS).expect("it is created");
        let ([file, length], out) = (text(&mut guest, "file"), guest.room(64));
        let calls: [(&str, &[u64]); 9] = [
            ("path_open", &[3, 2, file, length, 0, 0, 0, 0, out]),
            ("path_open", &[3, 0, file, length, 1 << 4, 0, 0, 0, out]),
            ("path_open", &[3, 0, file, length, 1 << 16, 0, 0, 0, out]),
            ("path_open", &[3, 0, file, length, 0, u64::MAX, 0, 0, out]),
            ("path_open", &[3, 0, file, length, 0, 0, 1 << 30, 0, out]),
            ("path_open", &[3, 0, file, length, 0, 0, 0, 1 << 5, out]),
            ("path_filestat_get", &[3, u32::MAX.into(), file, length, out]),
            ("fd_advise", &[fd, 0, 0, 6]),
            ("fd_seek", &[fd, 0, 3, out]),
        ];
        for (name, params) in calls {
            assert_eq!(guest.call(name, params), errno::INVALID, "{name} {params:?}");
        }
    });
}
