//! A directory is a wall: no path, link or trailing slash leads out of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::wat_support::{Puppet, Stage, errno, load};

/// All rights that there are.
pub(super) const EVERY_RIGHT: u64 = (1 << 30) - 1;
/// Reading and writing.
pub(super) const RIGHTS: u64 = 1 << 1 | 1 << 6;
/// `oflags`.
pub(super) const CREAT: u64 = 1;
pub(super) const DIRECTORY: u64 = 2;
pub(super) const EXCL: u64 = 4;
pub(super) const TRUNC: u64 = 8;

/// A folder that the guest has, within one that it has not.
struct Wall {
    outer: tempfile::TempDir,
    /// For a guest of WASIX, and not of preview1.
    is_wasix: bool,
}

/// The same for a guest of each dialect that has paths.
fn each(test: fn(&Wall)) {
    for is_wasix in [false, true] {
        test(&Wall::new(is_wasix));
    }
}

impl Wall {
    fn new(is_wasix: bool) -> Self {
        let outer = tempfile::tempdir().expect("a folder");
        let wall = Self { outer, is_wasix };
        let inside = wall.inside();
        fs::create_dir_all(inside.join("sub")).expect("it is ours");
        fs::create_dir(wall.outer.path().join("other")).expect("it is ours");
        fs::write(wall.secret(), "secret").expect("it is ours");
        fs::write(inside.join("file"), "file").expect("it is ours");
        fs::write(inside.join("sub/inner"), "inner").expect("it is ours");
        let secret = wall.secret();
        let absolute = secret.to_str().expect("it is text");
        for (name, target) in [
            ("out", "../secret.txt"),
            ("up", ".."),
            ("chain", "up/secret.txt"),
            ("absolute", absolute),
            ("etc", "/etc"),
            ("loop", "loop"),
            ("in", "sub/inner"),
        ] {
            symlink(target, inside.join(name)).expect("it is ours");
        }
        wall
    }

    fn inside(&self) -> PathBuf {
        self.outer.path().join("inside")
    }

    fn secret(&self) -> PathBuf {
        self.outer.path().join("secret.txt")
    }

    /// A guest that has the inner folder at descriptor 3, and another at 4.
    fn guest(&self) -> Puppet {
        let second = self.inside().join("sub");
        let stage = if self.is_wasix { Stage::wasix() } else { Stage::preview1() };
        stage.directory(&self.inside(), "/").directory(&second, "/sub").start()
    }

    /// Paths that lead to what is outside.
    fn escapes(&self) -> Vec<String> {
        let mut paths: Vec<String> = [
            "../secret.txt",
            "./../secret.txt",
            ".././secret.txt",
            "..//secret.txt",
            "sub/../../secret.txt",
            "sub/./.././../secret.txt",
            "out",
            "./out",
            "sub/../out",
            "up/secret.txt",
            "sub/../up/secret.txt",
            "up/inside/../secret.txt",
            "up/inside/file",
            "chain",
            "absolute",
            "etc/passwd",
            "/etc/passwd",
            "//etc/passwd",
            "/",
            "..",
            "../",
            "../..",
            "up",
            "up/",
            "etc",
            "etc/",
        ]
        .map(str::to_owned)
        .to_vec();
        paths.push(self.secret().to_str().expect("it is text").to_owned());
        paths.push(self.inside().join("file").to_str().expect("it is text").to_owned());
        // There it is the guest's own root.
        paths.retain(|path| !self.is_wasix || path != "/");
        paths
    }

    /// All that is outside, by path: the content of files, for folders nothing.
    fn outside(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut found = tree(self.outer.path());
        found.retain(|path, _| !path.starts_with(self.inside()));
        found
    }
}

/// What is below a folder, links not followed.
pub(super) fn tree(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("it is ours") {
        let path = entry.expect("it can be listed").path();
        let kind = fs::symlink_metadata(&path).expect("it is there").file_type();
        if kind.is_dir() {
            found.extend(tree(&path));
            found.insert(path, None);
        } else if kind.is_symlink() {
            found.insert(path.clone(), Some(path.read_link().expect("a link").into_os_string().into_encoded_bytes()));
        } else {
            found.insert(path.clone(), Some(fs::read(&path).expect("it is ours")));
        }
    }
    found
}

/// A string in the guest's memory: where, and how long.
pub(super) fn text(guest: &mut Puppet, text: &str) -> [u64; 2] {
    [guest.put(text.as_bytes()), text.len() as u64]
}

#[test]
fn paths_inside_are_open() {
    each(|wall| {
        let mut guest = wall.guest();
        let block = guest.next_block();
        for (path, content) in [
            ("file", "file"),
            ("./file", "file"),
            ("sub/inner", "inner"),
            ("sub//inner", "inner"),
            ("sub/../file", "file"),
            ("in", "inner"),
            ("sub/../in", "inner"),
        ] {
            let fd = guest.open_path(3, path, 0, RIGHTS).unwrap_or_else(|errno| panic!("{path}: {errno}"));
            assert_eq!(guest.read(fd, 16).as_deref(), Ok(content.as_bytes()), "{path}");
            guest.close(fd);
            guest.give_back(block);
        }
        // The second directory's parent is the first, and still not reached through it.
        assert_eq!(guest.open_path(4, "../file", 0, RIGHTS), Err(errno::NOT_PERMITTED));
    });
}

#[test]
fn no_path_opens_what_is_outside() {
    each(|wall| {
        let before = wall.outside();
        let mut guest = wall.guest();
        let block = guest.next_block();
        for path in wall.escapes() {
            for oflags in [0, CREAT, TRUNC, CREAT | TRUNC, CREAT | EXCL, DIRECTORY] {
                for rights in [0, RIGHTS, EVERY_RIGHT] {
                    let opened = guest.open_path(3, &path, oflags, rights);
                    assert!(opened.is_err(), "{path} {oflags}");
                    let is_below = wall.is_wasix && path.starts_with('/') && opened == Err(errno::NO_ENTRY);
                    let expected = [
                        errno::NOT_PERMITTED,
                        errno::EXISTS,
                        errno::INVALID,
                        errno::IS_DIRECTORY,
                        errno::NOT_DIRECTORY,
                    ];
                    let errno = opened.expect_err("checked");
                    assert!(is_below || expected.contains(&errno), "{path} {oflags}: {errno}");
                    guest.give_back(block);
                }
            }
            // Without following the last link, there is a link and no file.
            let ([at, length], out) = (text(&mut guest, &path), guest.room(4));
            assert_ne!(
                guest.call("path_open", &[3, 0, at, length, 0, RIGHTS, RIGHTS, 0, out]),
                errno::SUCCESS,
                "{path}"
            );
            guest.give_back(block);
        }
        assert_eq!(wall.outside(), before);
    });
}

#[test]
fn no_path_tells_of_what_is_outside() {
    each(|wall| {
        let mut guest = wall.guest();
        let block = guest.next_block();
        for path in wall.escapes() {
            let [at, length] = text(&mut guest, &path);
            let (out, size) = (guest.room(64), guest.room(4));
            let stat = guest.call("path_filestat_get", &[3, 1, at, length, out]);
            let is_below = wall.is_wasix && path.starts_with('/') && stat == errno::NO_ENTRY;
            assert!(is_below || stat == errno::NOT_PERMITTED, "{path}: {stat}");
            assert_eq!(guest.peek(out, 64), [0; 64]);
            let link = guest.told(size, "path_readlink", &[3, at, length, out, 64, size]);
            let is_own_link = !path.starts_with(['.', '/']) && !path.trim_end_matches('/').contains('/');
            assert!(link.is_err() || is_own_link || path == "./out" || path == "sub/../out", "{path}: {link:?}");
            guest.give_back(block);
        }
    });
}

#[test]
fn nothing_outside_is_made_changed_or_removed() {
    each(|wall| {
        let before = wall.outside();
        let mut guest = wall.guest();
        let block = guest.next_block();
        let new = ["../new", "up/new", "etc/new", "/tmp/anyport-new", "sub/../../new", "up/other/new", "../other"];
        for path in wall.escapes().into_iter().chain(new.map(str::to_owned)) {
            let [at, length] = text(&mut guest, &path);
            let [file, file_length] = text(&mut guest, "file");
            // Links of the guest's own may be removed and replaced: they are inside.
            let own = ["out", "./out", "sub/../out", "up", "chain", "absolute", "etc"].contains(&path.as_str());
            let mut calls: Vec<(&str, Vec<u64>)> = vec![
                ("path_create_directory", vec![3, at, length]),
                ("path_remove_directory", vec![3, at, length]),
                ("path_symlink", vec![file, file_length, 3, at, length]),
                ("path_link", vec![3, 0, file, file_length, 3, at, length]),
                ("path_link", vec![3, 1, at, length, 3, file, file_length]),
                ("path_filestat_set_times", vec![3, 1, at, length, 0, 0, 1 << 1 | 1 << 3]),
            ];
            if !own {
                calls.push(("path_unlink_file", vec![3, at, length]));
                calls.push(("path_rename", vec![3, file, file_length, 3, at, length]));
                calls.push(("path_rename", vec![3, at, length, 3, file, file_length]));
            }
            for (name, params) in calls {
                assert_ne!(guest.call(name, &params), errno::SUCCESS, "{name} {path}");
            }
            guest.give_back(block);
        }
        assert_eq!(wall.outside(), before);
        assert_eq!(fs::read(wall.inside().join("file")).expect("it is there"), b"file");
    });
}

/// A link that a guest makes leads no further than one that it finds.
#[test]
fn links_that_a_guest_makes_lead_nowhere() {
    each(|wall| {
        let mut guest = wall.guest();
        let block = guest.next_block();
        let secret = wall.secret();
        let targets =
            ["../secret.txt", "up/secret.txt", "out", "/etc/passwd", secret.to_str().expect("it is text"), "..", "/"];
        for (index, target) in targets.iter().enumerate() {
            let name = format!("made{index}");
            let ([to, to_length], [at, length]) = (text(&mut guest, target), text(&mut guest, &name));
            guest.call("path_symlink", &[to, to_length, 3, at, length]);
            for path in [name.clone(), format!("{name}/"), format!("{name}/secret.txt"), format!("{name}/etc/passwd")] {
                assert!(guest.open_path(3, &path, 0, RIGHTS).is_err(), "{path} to {target}");
            }
            guest.give_back(block);
        }
        // A link that is linked, moved into the folder below, or moved to the other directory.
        let ([out, out_length], [new, new_length]) = (text(&mut guest, "out"), text(&mut guest, "hard"));
        guest.call("path_link", &[3, 0, out, out_length, 3, new, new_length]);
        assert!(guest.open_path(3, "hard", 0, RIGHTS).is_err());
        let ([up, up_length], [new, new_length]) = (text(&mut guest, "up"), text(&mut guest, "moved"));
        guest.must("path_rename", &[3, up, up_length, 4, new, new_length]);
        assert!(guest.open_path(4, "moved/file", 0, RIGHTS).is_err());
        assert_eq!(guest.open_path(4, "moved/../file", 0, RIGHTS), Err(errno::NOT_PERMITTED));
    });
}

/// GHSA-vqjp-4c8c-hfgg: a slash at the end followed a link that had been checked as one.
#[test]
fn trailing_slashes_follow_no_link_and_make_no_directory_of_a_file() {
    each(|wall| {
        let before = wall.outside();
        let mut guest = wall.guest();
        let block = guest.next_block();
        for path in ["file/", "file//", "file/.", "out/", "out/.", "chain/", "in/", "absolute/"] {
            for oflags in [0, CREAT, TRUNC, CREAT | TRUNC] {
                assert!(guest.open_path(3, path, oflags, RIGHTS).is_err(), "{path} {oflags}");
            }
            let ([at, length], [new, new_length]) = (text(&mut guest, path), text(&mut guest, "new"));
            let out = guest.room(64);
            // wasmtime looks at `file/` as at `file`: it is inside all the same.
            let is_inside = path.starts_with("file") || path.starts_with("in");
            assert!(is_inside || guest.call("path_filestat_get", &[3, 1, at, length, out]) != errno::SUCCESS, "{path}");
            let calls: [(&str, &[u64]); 3] = [
                ("path_unlink_file", &[3, at, length]),
                ("path_link", &[3, 0, at, length, 3, new, new_length]),
                ("path_rename", &[3, at, length, 3, new, new_length]),
            ];
            for (name, params) in calls {
                assert_ne!(guest.call(name, params), errno::SUCCESS, "{name} {path}");
            }
            guest.give_back(block);
        }
        for path in ["up/", "up//", "up/.", "etc/", "etc/./"] {
            let ([at, length], out) = (text(&mut guest, path), guest.room(64));
            assert_eq!(guest.call("path_filestat_get", &[3, 1, at, length, out]), errno::NOT_PERMITTED, "{path}");
            // Not followed, it is the guest's own link, of type 7.
            let own = guest.call("path_filestat_get", &[3, 0, at, length, out]);
            assert!(own != errno::SUCCESS || guest.number(out + 16, 1) == 7, "{path}");
            assert_ne!(guest.call("path_remove_directory", &[3, at, length]), errno::SUCCESS, "{path}");
            assert!(guest.open_path(3, path, DIRECTORY, 0).is_err(), "{path}");
            guest.give_back(block);
        }
        assert!(guest.open_path(3, "sub/", DIRECTORY, 0).is_ok());
        assert_eq!(wall.outside(), before);
    });
}

#[test]
fn odd_paths_are_errors() {
    each(|wall| {
        let mut guest = wall.guest();
        let block = guest.next_block();
        let long = "x/".repeat(3000);
        for path in ["", "\0", "file\0", "file\0/../../secret.txt", "..\\secret.txt", "C:\\", "\\\\?\\x", "loop", &long]
        {
            assert!(guest.open_path(3, path, 0, RIGHTS).is_err(), "{path:?}");
            guest.give_back(block);
        }
        // Not UTF-8.
        let (at, out) = (guest.put(&[0xff, 0xfe]), guest.room(4));
        assert_eq!(guest.call("path_open", &[3, 1, at, 2, 0, 0, 0, 0, out]), 25);
    });
}

/// CVE-2024-51745: elsewhere these are devices, whatever the folder.
#[test]
fn names_of_windows_devices_are_names() {
    each(|wall| {
        let mut guest = wall.guest();
        let block = guest.next_block();
        for name in ["CON", "NUL", "nul.txt", "COM1", "COM¹", "LPT²", "AUX", "PRN", "CONIN$", "file:stream", "NUL "] {
            assert_eq!(guest.open_path(3, name, 0, RIGHTS), Err(errno::NO_ENTRY), "{name}");
            let fd = guest.open_path(3, name, CREAT, RIGHTS).unwrap_or_else(|errno| panic!("{name}: {errno}"));
            assert_eq!(guest.write(fd, b"text"), Ok(4));
            assert_eq!(fs::read(wall.inside().join(name)).expect("it is a file"), b"text", "{name}");
            guest.close(fd);
            guest.give_back(block);
        }
    });
}

#[test]
fn nothing_was_given_and_nothing_is_there() {
    let mut guest = Stage::new().start();
    let out = guest.room(64);
    for fd in 3..8 {
        assert_eq!(guest.call("fd_prestat_get", &[fd, out]), errno::BAD_DESCRIPTOR);
        assert_eq!(guest.open_path(fd, "etc/passwd", 0, RIGHTS), Err(errno::BAD_DESCRIPTOR));
        assert_eq!(guest.call("fd_readdir", &[fd, out, 64, 0, out]), errno::BAD_DESCRIPTOR);
    }
    guest.must("environ_sizes_get", &[out, out + 4]);
    assert_eq!((guest.word(out), guest.word(out + 4)), (0, 0));
    // Its streams go nowhere.
    assert_eq!(guest.read(0, 8).as_deref(), Ok(&b""[..]));
    assert_eq!(guest.write(1, b"text"), Ok(4));
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let server = load("(module (func (export \"_start\")))").unwrap_or_else(|error| panic!("{error}"));
    let nowhere = "/nowhere/at/all".into();
    let directory = anyport::server::Directory { host: nowhere, guest: "/".to_owned(), read_only: true };
    let Err(error) = server.directory(directory).start() else { panic!("it starts") };
    assert!(error.to_string().contains("`/nowhere/at/all`"), "{error}");
}

/// Programs of WASIX pass paths from the root as they are; they lead below the directory that is named so alone.
#[test]
fn a_path_from_the_root_is_below_the_directory_of_that_name() {
    let wall = Wall::new(true);
    let mut guest = wall.guest();
    for path in ["/file", "//file", "///sub/../file", "/./file"] {
        let fd = guest.open_path(3, path, 0, RIGHTS).unwrap_or_else(|errno| panic!("{path}: {errno}"));
        assert_eq!(guest.read(fd, 16).as_deref(), Ok(&b"file"[..]), "{path}");
        guest.close(fd);
    }
    assert_eq!(guest.open_path(4, "/inner", 0, RIGHTS), Err(errno::NOT_PERMITTED), "it is named otherwise");
    let below = guest.open_path(3, "sub", DIRECTORY, 0).expect("it is there");
    assert_eq!(guest.open_path(below, "/inner", 0, RIGHTS), Err(errno::NOT_PERMITTED), "it has no name");
    let root = guest.open_path(3, "/", DIRECTORY, 0).expect("it is there");
    assert!(guest.open_path(root, "sub/inner", 0, RIGHTS).is_ok());
    let ([at, length], stat) = (text(&mut guest, "//"), guest.room(64));
    guest.must("path_filestat_get", &[3, 1, at, length, stat]);
    assert_eq!(guest.number(stat + 16, 1), 3, "a directory");
    assert_eq!(guest.call("path_create_directory", &[3, at, length]), errno::EXISTS);
    assert_ne!(guest.call("path_remove_directory", &[3, at, length]), errno::SUCCESS);
    assert_ne!(guest.call("path_unlink_file", &[3, at, length]), errno::SUCCESS);
}
