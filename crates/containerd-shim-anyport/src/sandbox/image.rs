//! The image, mounted on the host as containerd says: the layers of an overlay, or a folder.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::fchdir;
use rustix::thread::UnshareFlags;

use super::mounts::{attach, change, clone_tree, path_of, spread};
use super::options::Options;
use super::root::{Missing, Root};
use super::{Result, failed, sys};

/// The kernel takes a page of options, with the zero at the end.
const OPTIONS_BYTES_MAX: usize = 4095;

/// A mount that containerd gives with a new task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RootfsMount {
    /// `overlay`, `bind`, `erofs` …
    pub(crate) kind: String,
    pub(crate) source: String,
    /// Where below the container's root; mostly nothing.
    pub(crate) target: String,
    pub(crate) options: Vec<String>,
}

/// Mounts an image in the mount namespace of the caller, who may have other threads.
///
/// Where one of the mounts fails, none stays.
pub(crate) fn mount_rootfs(mounts: &[RootfsMount], at: &Path) -> Result<()> {
    for image in mounts {
        let mounted = mount_one(image, at).map_err(|error| {
            let RootfsMount { kind, source, .. } = image;
            failed(format_args!("cannot mount the image {source} at {} (type {kind})", at.display()), error)
        });
        if let Err(error) = mounted {
            // The first error is the one to tell.
            let _ = unmount_rootfs(at);
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts whatever is mounted at a path, also where it is still used. Nothing there is fine.
pub(crate) fn unmount_rootfs(at: &Path) -> Result<()> {
    loop {
        match unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // It is not mounted, or not there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed(format_args!("cannot unmount {}", at.display()), errno)),
        }
    }
}

fn mount_one(image: &RootfsMount, at: &Path) -> io::Result<()> {
    let place = open(at, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let place = if image.target.is_empty() {
        place
    } else {
        Root::new(place).find_or_make(Path::new(&image.target), Missing::Folder)?
    };
    // `X-…` is for containerd's own eyes.
    let words: Vec<String> = image.options.iter().filter(|word| !word.starts_with("X-")).cloned().collect();
    if let Some(word) = words.iter().find(|word| is_mapping(word)) {
        return Err(io::Error::other(format!("the option `{word}` maps users, which anyport does not support")));
    }
    let options = Options::parse(&words).map_err(io::Error::other)?;
    if options.bind || image.kind == "bind" {
        let tree = clone_tree(Path::new(&image.source), options.recursive)?;
        attach(tree.as_fd(), place.as_fd())?;
        change(tree.as_fd(), options.attributes, false)?;
        change(tree.as_fd(), options.recursive_attributes, true)?;
        return Ok(spread(tree.as_fd(), &options.propagation)?);
    }
    mount_file_system(image, &words, place)
}

fn is_mapping(word: &str) -> bool {
    word.starts_with("uidmap=") || word.starts_with("gidmap=")
}

fn mount_file_system(image: &RootfsMount, words: &[String], place: OwnedFd) -> io::Result<()> {
    let (flags, data) = divided(words);
    let kind = CString::new(image.kind.as_str())?;
    let source = CString::new(image.source.as_str())?;
    if data.join(",").len() <= OPTIONS_BYTES_MAX {
        let data = CString::new(data.join(","))?;
        return Ok(mount(&source, path_of(place.as_fd()), &kind, flags, Some(data.as_c_str()))?);
    }
    let (folder, data) = shortened(&data).ok_or(Errno::TOOBIG)?;
    let data = CString::new(data)?;
    mount_from(&folder, move || mount(&source, path_of(place.as_fd()), &kind, flags, Some::<&CStr>(&data)))
}

/// Calls from a folder, which paths that do not begin with `/` are relative to. A thread of its own
/// enters the folder, and no other thread does.
fn mount_from(folder: &Path, call: impl FnOnce() -> rustix::io::Result<()> + Send + 'static) -> io::Result<()> {
    let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mounter = thread::Builder::new().name("mount".to_owned()).spawn(move || {
        sys::unshare(UnshareFlags::FS)?;
        fchdir(&folder)?;
        call()
    })?;
    let result = mounter.join().map_err(|_| io::Error::other("the thread that mounts panicked"))?;
    Ok(result?)
}

/// The kernel's flags, and what the file system is told.
fn divided(words: &[String]) -> (MountFlags, Vec<&str>) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for word in words {
        let (set, clear) = match word.as_str() {
            "" | "defaults" | "loud" => (MountFlags::empty(), MountFlags::empty()),
            "ro" => (MountFlags::RDONLY, MountFlags::empty()),
            "rw" => (MountFlags::empty(), MountFlags::RDONLY),
            "nosuid" => (MountFlags::NOSUID, MountFlags::empty()),
            "suid" => (MountFlags::empty(), MountFlags::NOSUID),
            "nodev" => (MountFlags::NODEV, MountFlags::empty()),
            "dev" => (MountFlags::empty(), MountFlags::NODEV),
            "noexec" => (MountFlags::NOEXEC, MountFlags::empty()),
            "exec" => (MountFlags::empty(), MountFlags::NOEXEC),
            "sync" => (MountFlags::SYNCHRONOUS, MountFlags::empty()),
            "async" => (MountFlags::empty(), MountFlags::SYNCHRONOUS),
            "dirsync" => (MountFlags::DIRSYNC, MountFlags::empty()),
            "noatime" => (MountFlags::NOATIME, MountFlags::empty()),
            "nodiratime" => (MountFlags::NODIRATIME, MountFlags::empty()),
            "relatime" => (MountFlags::RELATIME, MountFlags::empty()),
            "strictatime" => (MountFlags::STRICTATIME, MountFlags::empty()),
            word => {
                data.push(word);
                continue;
            }
        };
        flags = (flags - clear) | set;
    }
    (flags, data)
}

/// The options with the layers of an overlay named from the folder that all of them are in.
fn shortened(data: &[&str]) -> Option<(PathBuf, String)> {
    let layers = data.iter().find_map(|word| word.strip_prefix("lowerdir="))?;
    let layers: Vec<&Path> = layers.split(':').map(Path::new).collect();
    let folder = layers.first()?.ancestors().skip(1).find(|folder| {
        layers.iter().all(|layer| layer.is_absolute() && layer != folder && layer.starts_with(folder))
    })?;
    let below = layers.iter().map(|layer| layer.strip_prefix(folder).ok()?.to_str());
    let below: Option<Vec<&str>> = below.collect();
    let layers = format!("lowerdir={}", below?.join(":"));
    let words = data.iter().map(|word| if word.starts_with("lowerdir=") { layers.as_str() } else { word });
    let data = words.collect::<Vec<_>>().join(",");
    (data.len() <= OPTIONS_BYTES_MAX).then(|| (folder.to_owned(), data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_layers_are_named_shortly() {
        let layer = |number: usize| format!("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/{number}/fs");
        let layers: Vec<String> = (0..200).map(layer).collect();
        let lower = format!("lowerdir={}", layers.join(":"));
        let (folder, data) = shortened(&["index=off", &lower, "upperdir=/u"]).unwrap();
        assert_eq!(folder, Path::new("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"));
        assert!(data.starts_with("index=off,lowerdir=0/fs:1/fs:2/fs:"), "{data}");
        assert!(data.ends_with(":199/fs,upperdir=/u"), "{data}");
    }

    #[test]
    fn layers_that_have_nothing_in_common_stay() {
        assert_eq!(shortened(&["lowerdir=a:b"]), None);
        assert_eq!(shortened(&["upperdir=/a"]), None);
        let (folder, data) = shortened(&["lowerdir=/a/x:/b"]).unwrap();
        assert_eq!((folder.as_path(), data.as_str()), (Path::new("/"), "lowerdir=a/x:b"));
    }
}
