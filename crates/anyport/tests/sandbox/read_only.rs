//! A directory that is given for reading is not written to, by no hostcall and through no other name.

use std::fs;
use std::path::Path;

use super::files::{CREAT, EVERY_RIGHT, EXCL, RIGHTS, TRUNC, text, tree};
use crate::wat_support::{Puppet, Stage, errno};

/// A guest with a folder to read at 3, and one to write at 4.
fn guest(read: &Path, write: &Path) -> Puppet {
    Stage::preview1().read_only(read, "/read").directory(write, "/write").start()
}

/// Two folders, the first with something in it.
fn folders() -> (tempfile::TempDir, tempfile::TempDir) {
    let (read, write) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    fs::write(read.path().join("file"), "text").expect("it is ours");
    fs::create_dir(read.path().join("sub")).expect("it is ours");
    fs::write(read.path().join("sub/inner"), "inner").expect("it is ours");
    (read, write)
}

#[test]
fn it_can_be_read() {
    let (read, write) = folders();
    let mut guest = guest(read.path(), write.path());
    let fd = guest.open_path(3, "file", 0, 1 << 1).expect("it is there");
    assert_eq!(guest.read(fd, 8).as_deref(), Ok(&b"text"[..]));
    let out = guest.room(512);
    guest.must("fd_filestat_get", &[fd, out]);
    let size = guest.told(out + 504, "fd_readdir", &[3, out, 504, 0, out + 504]).expect("it can be listed");
    assert!(guest.peek(out, size).windows(4).any(|name| name == b"file"));
}

/// CVE-2026-47261: opening with TRUNC emptied files of a read-only directory.
#[test]
fn opening_changes_nothing() {
    let (read, write) = folders();
    let before = tree(read.path());
    let mut guest = guest(read.path(), write.path());
    let block = guest.next_block();
    for path in ["file", "./file", "sub/inner", "sub/../file", "new", "sub/new"] {
        for oflags in [TRUNC, CREAT | TRUNC, CREAT | EXCL, CREAT | EXCL | TRUNC, CREAT] {
            for rights in [0, 1 << 1, 1 << 6, RIGHTS, EVERY_RIGHT] {
                let opened = guest.open_path(3, path, oflags, rights);
                assert!(opened.is_err() || oflags == CREAT && !path.ends_with("new"), "{path} {oflags} {rights:#x}");
                if let Ok(fd) = opened {
                    assert!(guest.write(fd, b"x").is_err(), "{path} {oflags} {rights:#x}");
                    guest.close(fd);
                }
                guest.give_back(block);
            }
        }
    }
    assert_eq!(tree(read.path()), before);
}

#[test]
fn an_open_file_of_it_is_not_written() {
    let (read, write) = folders();
    let before = tree(read.path());
    let times = |path: &Path| fs::metadata(path).expect("it is there").modified().expect("Linux");
    let modified = times(&read.path().join("file"));
    let mut guest = guest(read.path(), write.path());
    let out = guest.put(b"overwritten");
    let vector = guest.vector(&[(out, 4)]);
    for rights in [0, 1 << 1, RIGHTS, EVERY_RIGHT] {
        for fdflags in [0, 1] {
            let [at, length] = text(&mut guest, "file");
            let size = guest.room(4);
            let opened = guest.told(size, "path_open", &[3, 1, at, length, 0, rights, rights, fdflags, size]);
            let Ok(fd) = opened else { continue };
            let calls: [(&str, &[u64]); 5] = [
                ("fd_write", &[fd, vector, 1, size]),
                ("fd_pwrite", &[fd, vector, 1, 0, size]),
                ("fd_filestat_set_size", &[fd, 0]),
                ("fd_filestat_set_times", &[fd, 0, 0, 1 << 1 | 1 << 3]),
                ("fd_allocate", &[fd, 0, 100]),
            ];
            for (name, params) in calls {
                assert_ne!(guest.call(name, params), errno::SUCCESS, "{name} {rights:#x}");
            }
            guest.close(fd);
        }
    }
    assert_eq!(tree(read.path()), before);
    assert_eq!(times(&read.path().join("file")), modified);
}

#[test]
fn its_entries_stay_as_they_are() {
    let (read, write) = folders();
    let before = tree(read.path());
    let mut guest = guest(read.path(), write.path());
    let [file, file_length] = text(&mut guest, "file");
    let [sub, sub_length] = text(&mut guest, "sub");
    let [inner, inner_length] = text(&mut guest, "sub/inner");
    let [new, new_length] = text(&mut guest, "new");
    let calls: [(&str, &[u64]); 9] = [
        ("path_create_directory", &[3, new, new_length]),
        ("path_remove_directory", &[3, sub, sub_length]),
        ("path_unlink_file", &[3, file, file_length]),
        ("path_unlink_file", &[3, inner, inner_length]),
        ("path_symlink", &[file, file_length, 3, new, new_length]),
        ("path_link", &[3, 0, file, file_length, 3, new, new_length]),
        ("path_rename", &[3, file, file_length, 3, new, new_length]),
        ("path_rename", &[3, inner, inner_length, 3, file, file_length]),
        ("path_filestat_set_times", &[3, 0, file, file_length, 0, 0, 1 << 1 | 1 << 3]),
    ];
    for (name, params) in calls {
        assert_ne!(guest.call(name, params), errno::SUCCESS, "{name}");
    }
    // A folder of it is as it is.
    let below = guest.open_path(3, "sub", 2, 1 << 13 | 1 << 14).expect("it is there");
    assert!(guest.open_path(below, "inner", TRUNC, RIGHTS).is_err());
    assert!(guest.open_path(below, "new", CREAT, RIGHTS).is_err());
    let [inner, inner_length] = text(&mut guest, "inner");
    assert_ne!(guest.call("path_unlink_file", &[below, inner, inner_length]), errno::SUCCESS);
    assert_eq!(tree(read.path()), before);
}

/// CVE-2026-58494: a hard link in a directory to write made files of one to read writable.
#[test]
fn nothing_of_it_is_moved_or_linked_to_where_it_could_be_written() {
    let (read, write) = folders();
    fs::write(write.path().join("own"), "own").expect("it is ours");
    let (before, before_write) = (tree(read.path()), tree(write.path()));
    let mut guest = guest(read.path(), write.path());
    let [file, file_length] = text(&mut guest, "file");
    let [own, own_length] = text(&mut guest, "own");
    let [new, new_length] = text(&mut guest, "new");
    let calls: [(&str, &[u64]); 5] = [
        ("path_link", &[3, 0, file, file_length, 4, new, new_length]),
        ("path_link", &[4, 0, own, own_length, 3, new, new_length]),
        ("path_rename", &[3, file, file_length, 4, new, new_length]),
        ("path_rename", &[4, own, own_length, 3, new, new_length]),
        ("path_rename", &[4, own, own_length, 3, file, file_length]),
    ];
    for (name, params) in calls {
        assert_ne!(guest.call(name, params), errno::SUCCESS, "{name} {params:?}");
    }
    assert_eq!((tree(read.path()), tree(write.path())), (before, before_write));
    // Within the other one, all of that goes.
    guest.must("path_link", &[4, 0, own, own_length, 4, new, new_length]);
    guest.must("path_unlink_file", &[4, own, own_length]);
    guest.must("path_rename", &[4, new, new_length, 4, own, own_length]);
}
