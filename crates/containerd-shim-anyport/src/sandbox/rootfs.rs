//! The container's root: filled, closed where it must be, and made the root of the process.

use std::fs::canonicalize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, open, openat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{fchdir, pivot_root, umask};

use super::mounts::{self, Mounts, attach, change, clone_tree, is_device, spread};
use super::options::{NODEV, Options, READONLY, propagation};
use super::procfs::Procfs;
use super::root::{Missing, Root};
use super::sys::Attributes;
use super::{Result, devices, failed, namespaces, refused, sysctls};

/// Fills the container's root and makes it the root of the calling process, which has entered its
/// namespaces and is in its cgroup. Its current folder is the process's own then.
///
/// Relative paths of the specification are those of the bundle.
pub(crate) fn prepare_rootfs(spec: &Spec, bundle: &Path) -> Result<()> {
    // Files get the mode that is asked for; what the process gets is set at the end.
    umask(Mode::empty());
    namespaces::enter_cgroup_namespace(spec)?;
    let procfs = Procfs::open().map_err(|error| failed("cannot open a /proc of the container's processes", error))?;
    let linux = spec.linux().clone().unwrap_or_default();
    let own_propagation = own_propagation(&linux)?;
    let root = open_root(spec, bundle, own_propagation)?;

    let mount_label = linux.mount_label().as_deref().filter(|label| !label.is_empty() && has_selinux(&procfs));
    let mut mounts = Mounts::new(&root, bundle, mount_label, namespaces::has(spec, Kind::Cgroup));
    for mount in spec.mounts().iter().flatten() {
        mounts.add(mount)?;
    }
    devices::make(&root, spec)?;
    mounts.finish()?;

    set_names(spec)?;
    sysctls::set(spec, &procfs)?;
    for path in linux.readonly_paths().iter().flatten() {
        make_readonly(&root, Path::new(path))
            .map_err(|error| failed(format_args!("cannot make {path} read-only"), error))?;
    }
    mask(&root, linux.masked_paths().as_deref().unwrap_or_default())?;

    make_folder(spec, &root)?;
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        change(root.as_fd(), Attributes { set: READONLY, clear: 0 }, false)
            .map_err(|error| failed("cannot make the container's root read-only", error))?;
    }
    pivot(&root, own_propagation).map_err(|errno| failed("cannot make the container's root the root", errno))?;
    umask(Mode::from_raw_mode(0o022));
    namespaces::enter_folder(folder(spec))
}

/// Whether SELinux is there: then the file system that it is asked by is known.
pub(super) fn has_selinux(procfs: &Procfs) -> bool {
    procfs.read("filesystems").is_ok_and(|list| list.lines().any(|line| line.ends_with("\tselinuxfs")))
}

/// How the container's root spreads, where the specification says it.
fn own_propagation(linux: &Linux) -> Result<Option<MountPropagationFlags>> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("") => Ok(None),
        Some(word) => match propagation(word) {
            Some(flags) => Ok(Some(flags)),
            None => Err(refused(format!("`rootfsPropagation` is `{word}`, which is none of the known ways"))),
        },
    }
}

/// Mounts the container's root on itself, in a mount namespace from which nothing reaches the host.
fn open_root(spec: &Spec, bundle: &Path, own: Option<MountPropagationFlags>) -> Result<Root> {
    // What the host unmounts meanwhile goes here too. Only who asks for it shares what is mounted here.
    let host = own.unwrap_or(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
    mount_change("/", host).map_err(|errno| failed("cannot separate the container's mounts from the host's", errno))?;
    let path = match spec.root() {
        Some(root) => bundle.join(root.path()),
        None => return Err(refused("the container has no `root`")),
    };
    let opened = || -> std::io::Result<(Root, OwnedFd)> {
        let path = canonicalize(&path)?;
        unshare_parent(&path, host)?;
        let place = open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let tree = clone_tree(&path, true)?;
        attach(tree.as_fd(), place.as_fd())?;
        // An image may bring devices of its own, and a guest opens files without asking what they are. Where
        // nothing is mounted at /dev, the container's are in the root, too.
        if spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new("/dev")) {
            change(tree.as_fd(), Attributes { set: NODEV, clear: 0 }, false)?;
        }
        if own.is_none() {
            spread(tree.as_fd(), &[MountPropagationFlags::PRIVATE | MountPropagationFlags::REC])?;
        }
        Ok((Root::new(tree), place))
    };
    let (root, _) = opened()
        .map_err(|error| failed(format_args!("cannot use {} as the container's root", path.display()), error))?;
    Ok(root)
}

/// What is mounted on a shared mount would appear on the host, and the kernel refuses to make such
/// a root the root.
fn unshare_parent(path: &Path, host: MountPropagationFlags) -> rustix::io::Result<()> {
    let kind = if host.contains(MountPropagationFlags::DOWNSTREAM) {
        MountPropagationFlags::DOWNSTREAM
    } else {
        MountPropagationFlags::PRIVATE
    };
    for above in path.ancestors() {
        match mount_change(above, kind) {
            // It is not what something is mounted on.
            Err(Errno::INVAL) => {}
            result => return result,
        }
    }
    Ok(())
}

fn set_names(spec: &Spec) -> Result<()> {
    let names = [("hostname", spec.hostname()), ("domainname", spec.domainname())];
    for (what, name) in names {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
        if !namespaces::has(spec, Kind::Uts) {
            return Err(namespaces::missing(&format!("`{what}`"), "uts"));
        }
        let result = if what == "hostname" {
            rustix::system::sethostname(name.as_bytes())
        } else {
            rustix::system::setdomainname(name.as_bytes())
        };
        result.map_err(|errno| failed(format_args!("cannot set the {what} `{name}`"), errno))?;
    }
    Ok(())
}

fn make_readonly(root: &Root, path: &Path) -> std::io::Result<()> {
    let Some(place) = present(root, path)? else { return Ok(()) };
    let tree = openat_tree(&place)?;
    attach(tree.as_fd(), place.as_fd())?;
    change(tree.as_fd(), Attributes { set: READONLY, clear: 0 }, false)
}

fn openat_tree(place: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(place, c"", flags)
}

/// Hides files behind `/dev/null`, and folders behind an empty one.
fn mask(root: &Root, paths: &[String]) -> Result<()> {
    let null = Path::new("/dev/null");
    if !paths.is_empty() && !is_device(null, 1, 3) {
        return Err(refused("the host's /dev/null is none, so that nothing can be masked by it"));
    }
    for path in paths {
        let hide = || -> std::result::Result<(), mounts::Fault> {
            let Some(place) = present(root, Path::new(path))? else { return Ok(()) };
            let cover = if FileType::from_raw_mode(fstat(&place)?.st_mode).is_dir() {
                let words = ["ro", "nosuid", "nodev", "noexec", "mode=755", "nr_inodes=2", "nr_blocks=1"];
                let words = words.map(str::to_owned);
                let options = Options::parse(&words).map_err(|error| mounts::Fault::said(&error.to_string()))?;
                mounts::make_file_system("tmpfs", "tmpfs", &options)?
            } else {
                clone_tree(null, false)?
            };
            Ok(attach(cover.as_fd(), place.as_fd())?)
        };
        hide().map_err(|fault| fault.of(format_args!("cannot mask {path}")))?;
    }
    Ok(())
}

/// What is at a path, if anything is.
fn present(root: &Root, path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    match root.find(path) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The folder that the process asks for is made if it is missing.
fn make_folder(spec: &Spec, root: &Root) -> Result<()> {
    let folder = folder(spec);
    match root.find_or_make(folder, Missing::Folder) {
        Ok(_) => Ok(()),
        Err(errno) => Err(failed(format_args!("cannot make the process's folder {}", folder.display()), errno)),
    }
}

fn folder(spec: &Spec) -> &Path {
    let folder = spec.process().as_ref().map(oci_spec::runtime::Process::cwd).map(PathBuf::as_path);
    folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("/"))
}

/// `pivot_root(".", ".")` puts the old root on top of the new one, from where it is taken away.
fn pivot(root: &Root, own: Option<MountPropagationFlags>) -> rustix::io::Result<()> {
    let old = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fchdir(root)?;
    pivot_root(".", ".")?;
    fchdir(&old)?;
    // So that the host keeps what is unmounted here.
    mount_change(".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    let is_open = |flags: &MountPropagationFlags| {
        flags.intersects(MountPropagationFlags::SHARED | MountPropagationFlags::UNBINDABLE)
    };
    match own.filter(is_open) {
        Some(flags) => mount_change("/", flags),
        None => Ok(()),
    }
}
