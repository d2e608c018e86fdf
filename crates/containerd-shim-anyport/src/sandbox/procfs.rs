//! A view of processes that nobody can have put something else in place of.
//!
//! The `/proc` of an image may be a folder of its own files, and a container may have mounted over
//! its parts. This one is a file system that is mounted nowhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The processes of the pid namespace of the caller.
#[derive(Debug)]
pub(super) struct Procfs {
    root: OwnedFd,
}

impl Procfs {
    /// Needs the rights of the host's root.
    pub(super) fn open() -> io::Result<Self> {
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(Self { root: fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)? })
    }

    pub(super) fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let mut text = String::new();
        self.file(path.as_ref(), OFlags::RDONLY)?.read_to_string(&mut text)?;
        Ok(text)
    }

    pub(super) fn write(&self, path: impl AsRef<Path>, text: &str) -> io::Result<()> {
        self.file(path.as_ref(), OFlags::WRONLY)?.write_all(text.as_bytes())
    }

    /// A file of the calling thread, such as `attr/current`.
    pub(super) fn write_self(&self, name: &str, text: &str) -> io::Result<()> {
        self.write(format!("thread-self/{name}"), text)
    }

    fn file(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        Ok(openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?.into())
    }
}
