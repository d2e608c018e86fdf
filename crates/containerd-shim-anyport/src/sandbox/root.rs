//! Paths inside of a container's root, whose links may lead nowhere else.
//!
//! An image is hostile: `/etc` may be a link to `/`, `/proc` one to `../../..`. Every path is
//! resolved by the kernel (`openat2` with `RESOLVE_IN_ROOT`) as if the root were the machine's, and
//! what is missing is made one name at a time, in a folder that is held open.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// The kernel gives up when somebody renames folders meanwhile, and says to try again.
const TRIES: usize = 64;

/// What is made where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Folder,
    File,
}

/// The root of a container's files.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
}

impl Root {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Names a file, for use with the `*at` calls. What is mounted on it is what is named.
    pub(super) fn find(&self, path: &Path) -> Result<OwnedFd> {
        self.resolve(path, ResolveFlags::empty())
    }

    /// The same, unless some part of the path is a link.
    pub(super) fn find_without_links(&self, path: &Path) -> Result<OwnedFd> {
        self.resolve(path, ResolveFlags::NO_SYMLINKS)
    }

    /// Names a file, which is made if there is none, with the folders above it.
    pub(super) fn find_or_make(&self, path: &Path, missing: Missing) -> Result<OwnedFd> {
        let mut pending: VecDeque<OsString> = names(path).into();
        // `folder` is what `found` resolves to.
        let mut folder = self.find(Path::new("/"))?;
        let mut found = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            let path = found.join(&name);
            match self.find(&path) {
                Ok(fd) => (folder, found) = (fd, path),
                // Above what does not exist is nothing.
                Err(Errno::NOENT) if name == ".." => return Err(Errno::NOENT),
                Err(Errno::NOENT) => {
                    let kind = if pending.is_empty() { missing } else { Missing::Folder };
                    match make(folder.as_fd(), &name, kind) {
                        Ok(fd) => (folder, found) = (fd, path),
                        Err(Errno::EXIST) => {
                            links += 1;
                            if links > LINKS_MAX {
                                return Err(Errno::LOOP);
                            }
                            match fs::readlinkat(&folder, &name, Vec::new()) {
                                // A link to what does not exist yet.
                                Ok(target) => {
                                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                                    if target.is_absolute() {
                                        found = PathBuf::from("/");
                                        folder = self.find(&found)?;
                                    }
                                    for name in names_of_link(&target).into_iter().rev() {
                                        pending.push_front(name);
                                    }
                                }
                                // Somebody made it just now.
                                Err(Errno::INVAL | Errno::NOENT) => pending.push_front(name),
                                Err(errno) => return Err(errno),
                            }
                        }
                        Err(errno) => return Err(errno),
                    }
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(folder)
    }

    /// The folder of a path, which is made if there is none, and the last name.
    pub(super) fn folder_of<'path>(&self, path: &'path Path) -> Result<(OwnedFd, &'path OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let folder = path.parent().ok_or(Errno::INVAL)?;
        Ok((self.find_or_make(folder, Missing::Folder)?, name))
    }

    fn resolve(&self, path: &Path, more: ResolveFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..TRIES {
            result = fs::openat2(&self.fd, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A path as the specification means it: from the root, without `.` and `..`.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    clean.extend(names(path));
    clean
}

fn names(path: &Path) -> Vec<OsString> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::ParentDir => {
                names.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    names
}

/// In a link `..` is said of where the names before it lead to.
fn names_of_link(target: &Path) -> Vec<OsString> {
    let names = target.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    names.collect()
}

fn make(folder: BorrowedFd<'_>, name: &OsStr, missing: Missing) -> Result<OwnedFd> {
    match missing {
        Missing::Folder => fs::mkdirat(folder, name, Mode::from_raw_mode(0o755))?,
        Missing::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            fs::openat(folder, name, flags, Mode::from_raw_mode(0o644))?;
        }
    }
    fs::openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
