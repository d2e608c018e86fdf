//! The devices of a container, and the links in its `/dev`.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mknodat, openat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::mounts::{attach, clone_tree};
use super::root::{Root, clean};
use super::{Result, failed, refused};

/// What every container has, with the numbers that they have everywhere.
const EVERYWHERE: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
];

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// A device to be made.
struct Device {
    path: PathBuf,
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    owner: (u32, u32),
}

/// Fills `/dev`, unless it is a folder of the host.
pub(super) fn make(root: &Root, spec: &Spec) -> Result<()> {
    if is_of_host(spec) {
        return Ok(());
    }
    let wanted = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    for device in wanted {
        let Some(device) = Device::new(device)? else { continue };
        make_device(root, &device)?;
    }
    for (path, major, minor) in EVERYWHERE {
        let device =
            Device { path: path.into(), kind: FileType::CharacterDevice, major, minor, mode: 0o666, owner: (0, 0) };
        make_device(root, &device)?;
    }
    let ptmx = Path::new("/dev/ptmx");
    remove(root, ptmx).map_err(|errno| failed("cannot replace /dev/ptmx", errno))?;
    for (target, path) in LINKS.into_iter().chain([("pts/ptmx", "/dev/ptmx")]) {
        link(root, target, Path::new(path)).map_err(|errno| failed(format_args!("cannot link {path}"), errno))?;
    }
    Ok(())
}

fn is_of_host(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| {
        let is_bind = mount.options().iter().flatten().any(|word| word == "bind" || word == "rbind");
        clean(mount.destination()) == Path::new("/dev") && (is_bind || mount.typ().as_deref() == Some("bind"))
    })
}

impl Device {
    /// `None` for what is only a rule of the cgroup, and for what is made otherwise.
    fn new(device: &LinuxDevice) -> Result<Option<Self>> {
        let path = clean(device.path());
        if path == Path::new("/") || path == Path::new("/dev/ptmx") {
            return Ok(None);
        }
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                return Err(refused(format!("the device {} is of no kind that can be made", path.display())));
            }
        };
        let number = |number: i64| {
            let wrong = || refused(format!("the device {} has the number {number}", path.display()));
            u32::try_from(number).map_err(|_| wrong())
        };
        let (major, minor) = (number(device.major())?, number(device.minor())?);
        let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        Ok(Some(Self { path, kind, major, minor, mode, owner }))
    }
}

fn make_device(root: &Root, device: &Device) -> Result<()> {
    let result = match make_node(root, device) {
        // A container in a container: it may use what its host has made.
        Err(Errno::PERM) => bind_node(root, device),
        result => result,
    };
    result.map_err(|errno| failed(format_args!("cannot make the device {}", device.path.display()), errno))
}

fn make_node(root: &Root, device: &Device) -> rustix::io::Result<()> {
    let (folder, name) = root.folder_of(&device.path)?;
    let number = makedev(device.major, device.minor);
    match mknodat(&folder, name, device.kind, Mode::from_raw_mode(device.mode), number) {
        Err(Errno::EXIST) => return Ok(()),
        result => result?,
    }
    let (uid, gid) = device.owner;
    chownat(&folder, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
}

fn bind_node(root: &Root, device: &Device) -> rustix::io::Result<()> {
    let tree = clone_tree(&device.path, false)?;
    let (folder, name) = root.folder_of(&device.path)?;
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let place = openat(&folder, name, flags, Mode::empty())?;
    attach(std::os::fd::AsFd::as_fd(&tree), std::os::fd::AsFd::as_fd(&place))
}

fn remove(root: &Root, path: &Path) -> rustix::io::Result<()> {
    let (folder, name) = root.folder_of(path)?;
    match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn link(root: &Root, target: &str, path: &Path) -> rustix::io::Result<()> {
    let (folder, name) = root.folder_of(path)?;
    match symlinkat(target, folder, name) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}
