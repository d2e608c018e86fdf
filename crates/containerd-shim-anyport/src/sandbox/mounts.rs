//! What is mounted inside of a container's root: volumes, `/proc`, `/sys`, `/dev` and the like.
//!
//! Whatever is asked for, `/proc` is only read: in `/proc/self/mem` a guest could write the memory of the
//! process that runs it, and so leave WebAssembly behind.
//!
//! A mount is made first and put in its place then, so that no path is looked up twice: the place
//! is a file that is held open ([`Root`]), and what is changed later is the mount that is held open.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, FileType, StatVfsMountFlags, fstat, fstatfs, fstatvfs, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, mount_remount, move_mount,
    open_tree,
};

use super::options::{NODEV, Options, READONLY};
use super::root::{Missing, Root, clean};
use super::sys::{self, Attributes};
use super::{Result, cgroups, failed, refused};

/// What all mounts of a container have to do with.
pub(super) struct Mounts<'a> {
    pub(super) root: &'a Root,
    /// What paths of sources are relative to.
    pub(super) bundle: &'a Path,
    /// SELinux's label of the container's files, where SELinux is.
    pub(super) label: Option<&'a str>,
    pub(super) has_cgroup_namespace: bool,
    /// Mounts that are written to until the container is complete.
    readonly_later: Vec<(OwnedFd, String)>,
}

impl<'a> Mounts<'a> {
    pub(super) fn new(root: &'a Root, bundle: &'a Path, label: Option<&'a str>, has_cgroup_namespace: bool) -> Self {
        Self { root, bundle, label, has_cgroup_namespace, readonly_later: Vec::new() }
    }

    /// Mounts one entry of a specification.
    pub(super) fn add(&mut self, mount: &Mount) -> Result<()> {
        let entry = Entry::new(mount, self.bundle)?;
        let kind = &entry.kind;
        let result = match kind.as_str() {
            _ if entry.options.bind => self.bind(&entry),
            "cgroup" | "cgroup2" => cgroups::mount(self, &entry),
            _ => self.make(&entry),
        };
        result.map_err(|fault| {
            let source = entry.source.as_deref().map_or_else(|| kind.clone(), |source| source.display().to_string());
            fault.of(format_args!("cannot mount {source} at {} (type {kind})", entry.destination.display()))
        })
    }

    /// What must be only read is so from now on.
    pub(super) fn finish(self) -> Result<()> {
        for (mount, name) in self.readonly_later {
            change(mount.as_fd(), Attributes { set: READONLY, clear: 0 }, false)
                .map_err(|error| failed(format_args!("cannot make {name} read-only"), error))?;
        }
        Ok(())
    }

    /// Shows a folder or file of the host.
    pub(super) fn bind(&mut self, entry: &Entry) -> std::result::Result<(), Fault> {
        let source = entry.source.as_deref().ok_or_else(|| Fault::said("it has no source"))?;
        let tree = clone_tree(source, entry.options.recursive)?;
        let is_folder = FileType::from_raw_mode(fstat(&tree)?.st_mode).is_dir();
        let missing = if is_folder { Missing::Folder } else { Missing::File };
        let place = self.place(entry, missing)?;
        self.refuse_proc(entry, place.as_fd(), Some(tree.as_fd()))?;
        if is_folder != FileType::from_raw_mode(fstat(&place)?.st_mode).is_dir() {
            let (one, other) = if is_folder { ("a folder", "a file") } else { ("a file", "a folder") };
            return Err(Fault::Said(format!("the source is {one} and the destination {other}")));
        }
        attach(tree.as_fd(), place.as_fd())?;
        change(tree.as_fd(), entry.options.attributes, false)?;
        change(tree.as_fd(), entry.options.recursive_attributes, true)?;
        if is_procfs(tree.as_fd())? {
            change(tree.as_fd(), Attributes { set: READONLY, clear: 0 }, false)?;
        }
        if is_folder && !entry.destination.starts_with("/dev") {
            // What is below it needs Linux 5.12 for that.
            let no_devices = Attributes { set: NODEV, clear: 0 };
            change(tree.as_fd(), no_devices, entry.options.recursive)
                .or_else(|_| change(tree.as_fd(), no_devices, false))?;
        }
        if entry.options.recursive {
            keep_procfs_read_only(tree.as_fd())?;
        }
        spread(tree.as_fd(), &entry.options.propagation)?;
        Ok(())
    }

    /// Mounts a file system.
    pub(super) fn make(&mut self, entry: &Entry) -> std::result::Result<(), Fault> {
        let is_in_image = self.root.find(&entry.destination).is_ok();
        let place = match entry.kind.as_str() {
            // What a link led to elsewhere would be taken for the real one by everybody.
            "proc" | "sysfs" => self.plain_folder(entry)?,
            _ => self.place(entry, Missing::Folder)?,
        };
        self.refuse_proc(entry, place.as_fd(), None)?;
        let mut options = entry.options.clone();
        // Where the image has a folder, its mode stays; else it is one like /tmp, for everybody.
        if entry.kind == "tmpfs" && is_in_image && options.value("mode").is_none() {
            let mode = fstat(&place)?.st_mode & 0o7777;
            options.values.push(("mode".to_owned(), format!("{mode:o}")));
        }
        if let Some(label) = self.label.filter(|_| !matches!(entry.kind.as_str(), "proc" | "sysfs" | "mqueue")) {
            options.values.push(("context".to_owned(), label.to_owned()));
        }
        let is_filled = entry.kind == "tmpfs" || entry.destination == Path::new("/dev");
        let later = entry.kind == "proc" || options.is_readonly() && is_filled;
        if later {
            options.attributes.set &= !READONLY;
            options.recursive_attributes.set &= !READONLY;
        }
        let source = entry.source.as_deref().and_then(Path::to_str).unwrap_or(&entry.kind);
        let mount = make_file_system(&entry.kind, source, &options)?;
        if options.copy_up {
            super::copy::contents(place.as_fd(), mount.as_fd())?;
        }
        attach(mount.as_fd(), place.as_fd())?;
        change(mount.as_fd(), options.recursive_attributes, true)?;
        spread(mount.as_fd(), &options.propagation)?;
        if later {
            self.readonly_later.push((mount, entry.destination.display().to_string()));
        }
        Ok(())
    }

    fn place(&self, entry: &Entry, missing: Missing) -> std::result::Result<OwnedFd, Fault> {
        let place = self.root.find_or_make(&entry.destination, missing).map_err(|errno| no_place(errno, missing))?;
        let (place_stat, root_stat) = (fstat(&place)?, fstat(self.root)?);
        if (place_stat.st_dev, place_stat.st_ino) == (root_stat.st_dev, root_stat.st_ino) {
            return Err(Fault::said("the destination is the container's root itself"));
        }
        Ok(place)
    }

    fn plain_folder(&self, entry: &Entry) -> std::result::Result<OwnedFd, Fault> {
        let place = match self.root.find_without_links(&entry.destination) {
            Err(Errno::NOENT) => self.place(entry, Missing::Folder)?,
            Err(Errno::LOOP) => return Err(Fault::said("the destination is a link in the image, not a folder")),
            result => result?,
        };
        if FileType::from_raw_mode(fstat(&place)?.st_mode).is_dir() {
            return Ok(place);
        }
        Err(Fault::said("the destination is not a folder in the image"))
    }

    /// Nothing may stand in for `/proc` and what is in it: programs of the container's own runtime
    /// believe it. Some files may be made up, since lxcfs does.
    fn refuse_proc(
        &self, entry: &Entry, place: BorrowedFd<'_>, tree: Option<BorrowedFd<'_>>,
    ) -> std::result::Result<(), Fault> {
        const MADE_UP: [&str; 10] = [
            "/proc/cpuinfo",
            "/proc/diskstats",
            "/proc/loadavg",
            "/proc/meminfo",
            "/proc/slabinfo",
            "/proc/stat",
            "/proc/swaps",
            "/proc/sys/crypto/fips_enabled",
            "/proc/sys/kernel/ns_last_pid",
            "/proc/uptime",
        ];
        let destination = entry.destination.as_path();
        let is_proc_itself = match tree {
            Some(tree) => is_procfs(tree)?,
            None => entry.kind == "proc",
        };
        if destination == Path::new("/proc") {
            return if is_proc_itself {
                Ok(())
            } else {
                Err(Fault::said("only a file system of type proc goes there"))
            };
        }
        if MADE_UP.iter().any(|path| destination == Path::new(path)) {
            return Ok(());
        }
        if destination.starts_with("/proc") || is_procfs(place)? {
            return Err(Fault::said("the destination is inside of /proc"));
        }
        Ok(())
    }
}

/// A mount of a specification, understood.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: String,
    pub(super) source: Option<PathBuf>,
    /// From the container's root, without `..`.
    pub(super) destination: PathBuf,
    pub(super) options: Options,
}

impl Entry {
    fn new(mount: &Mount, bundle: &Path) -> Result<Self> {
        let destination = clean(mount.destination());
        let is_mapped = |mappings: &Option<Vec<_>>| mappings.as_ref().is_some_and(|mappings| !mappings.is_empty());
        if is_mapped(mount.uid_mappings()) || is_mapped(mount.gid_mappings()) {
            let wanted = format!("the mount at {} maps users, which anyport does not support", destination.display());
            return Err(refused(wanted));
        }
        let mut options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
        let kind = mount.typ().clone().unwrap_or_default();
        options.bind |= kind == "bind" || kind == "rbind";
        options.recursive |= kind == "rbind";
        let kind = if options.bind { "bind".to_owned() } else { kind };
        if kind.is_empty() {
            return Err(refused(format!("the mount at {} has no type", destination.display())));
        }
        let source = match mount.source() {
            Some(source) if options.bind => Some(bundle.join(source)),
            source => source.clone().filter(|source| !source.as_os_str().is_empty()),
        };
        Ok(Self { kind, source, destination, options })
    }
}

/// Why a mount is not there.
pub(super) enum Fault {
    /// The kernel's word.
    Os(io::Error),
    /// Ours.
    Said(String),
}

impl Fault {
    pub(super) fn said(message: &str) -> Self {
        Self::Said(message.to_owned())
    }

    /// As an error of what was to be done.
    pub(super) fn of(self, what: impl Display) -> anyport::Error {
        match self {
            Self::Os(error) => failed(what, error),
            Self::Said(message) => refused(format!("{what}: {message}")),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Os(errno.into())
    }
}

/// A copy of a folder or file of the host, and with `recursive` of what is mounted below, that is
/// mounted nowhere yet.
pub(super) fn clone_tree(source: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let recursive = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    open_tree(CWD, source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive)
}

/// A new file system that is mounted nowhere yet.
pub(super) fn make_file_system(kind: &str, source: &str, options: &Options) -> std::result::Result<OwnedFd, Fault> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
        Errno::NODEV => Fault::said("the kernel knows no such type"),
        errno => errno.into(),
    })?;
    let configure = || {
        fsconfig_set_string(&context, "source", source)?;
        for word in &options.words {
            fsconfig_set_flag(&context, word.as_str())?;
        }
        for (name, value) in &options.values {
            fsconfig_set_string(&context, name.as_str(), value.trim_matches('"'))?;
        }
        fsconfig_create(&context)
    };
    configure().map_err(|errno| explained(&context, errno))?;
    let attributes = u32::try_from(options.attributes.set).unwrap_or_default();
    let attributes = MountAttrFlags::from_bits_retain(attributes);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Mounts on a file or folder that is held open.
pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
}

/// A folder of the host may have its `/proc` below it, through which the guest would write its own runtime.
fn keep_procfs_read_only(tree: BorrowedFd<'_>) -> io::Result<()> {
    let above = std::fs::read_link(path_of(tree))?;
    for line in std::fs::read_to_string("/proc/thread-self/mountinfo")?.lines() {
        let Some(point) = procfs_point(line) else { continue };
        if point != above && point.starts_with(&above) {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
            let mount = rustix::fs::open(&point, flags, rustix::fs::Mode::empty())?;
            change(mount.as_fd(), Attributes { set: READONLY, clear: 0 }, false)?;
        }
    }
    Ok(())
}

/// Where a line of `mountinfo` says that a procfs is.
fn procfs_point(line: &str) -> Option<PathBuf> {
    let (mount, file_system) = line.split_once(" - ")?;
    if !file_system.starts_with("proc ") {
        return None;
    }
    let escaped = mount.split(' ').nth(4)?;
    // As proc(5) has it: white space and backslashes in octal.
    let point = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    Some(point.iter().fold(escaped.to_owned(), |path, (octal, plain)| path.replace(octal, plain)).into())
}

/// Changes the attributes of a mount that is in its place.
pub(super) fn change(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    if attributes == Attributes::default() {
        return Ok(());
    }
    match sys::mount_setattr(mount, attributes, recursive) {
        // Before Linux 5.12, or a filter of system calls that does not know it.
        Err(error) if !recursive && is_unknown_call(&error) => remount(mount, attributes),
        result => result,
    }
}

/// Says how a mount and, if asked, what is below it spread.
pub(super) fn spread(mount: BorrowedFd<'_>, propagation: &[MountPropagationFlags]) -> rustix::io::Result<()> {
    propagation.iter().try_for_each(|flags| mount_change(path_of(mount), *flags))
}

/// The path of what is held open, before the root is changed.
pub(super) fn path_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn is_unknown_call(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOSYS.raw_os_error())
}

/// All attributes are said anew, those that are to stay included.
fn remount(mount: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    const SAME: [(StatVfsMountFlags, MountAttrFlags); 5] = [
        (StatVfsMountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (StatVfsMountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (StatVfsMountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (StatVfsMountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (StatVfsMountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ];
    const MEANT: [(MountAttrFlags, MountFlags); 8] = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
        (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
        (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
        (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ];
    let now = fstatvfs(mount)?.f_flag;
    let mut set = 0;
    for (_, attribute) in SAME.iter().filter(|(flag, _)| now.contains(*flag)) {
        set |= u64::from(attribute.bits());
    }
    if now.contains(StatVfsMountFlags::NOATIME) {
        set |= u64::from(MountAttrFlags::MOUNT_ATTR_NOATIME.bits());
    }
    set = (set & !attributes.clear) | attributes.set;
    let mut flags = MountFlags::BIND;
    for (_, flag) in MEANT.iter().filter(|(attribute, _)| set & u64::from(attribute.bits()) != 0) {
        flags |= *flag;
    }
    Ok(mount_remount(path_of(mount), flags, c"")?)
}

fn is_procfs(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(fstatfs(fd)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

fn no_place(errno: Errno, missing: Missing) -> Fault {
    let kind = if missing == Missing::File { "file" } else { "folder" };
    match errno {
        Errno::ROFS => Fault::Said(format!(
            "the image has no such {kind}, and its file system is read-only, so that it cannot be made"
        )),
        Errno::LOOP => Fault::said("the destination is a circle of links in the image"),
        Errno::NOTDIR => Fault::said("a part of the destination is no folder in the image"),
        errno => errno.into(),
    }
}

/// The file system's own words, where it has any.
fn explained(context: &OwnedFd, errno: Errno) -> Fault {
    let mut lines = Vec::new();
    if let Ok(context) = context.try_clone() {
        let mut context = File::from(context);
        let mut line = [0; 1024];
        // Each read gives one line, and `ENODATA` ends them.
        while let Ok(length @ 1..) = context.read(&mut line) {
            let text = String::from_utf8_lossy(&line[..length]).trim().to_owned();
            // `e proc: what is wrong`.
            lines.push(text.get(2..).unwrap_or(&text).to_owned());
        }
    }
    if lines.is_empty() {
        return errno.into();
    }
    Fault::Said(format!("{} ({})", io::Error::from(errno), lines.join("; ")))
}

/// Whether a path of the host is a character device of this number.
pub(super) fn is_device(path: &Path, major: u32, minor: u32) -> bool {
    statat(CWD, path, AtFlags::empty()).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == rustix::fs::makedev(major, minor)
    })
}
