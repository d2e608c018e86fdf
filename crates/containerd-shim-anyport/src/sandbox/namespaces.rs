//! The namespaces of a container: made, joined, and which process is in which.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use anyport::Error;
use oci_spec::runtime::{LinuxNamespaceType as Kind, LinuxTimeOffset, Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{chdir, getcwd};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::{Result, failed, refused, sys, sysctls};

/// The pid namespace that a container's process is started in, which only who starts it can choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    /// That of the caller.
    Host,
    /// One of its own, whose process 1 it is.
    New,
    /// One that exists, such as that of the pod's sandbox.
    Join(PathBuf),
}

/// Which pid namespace a container's process belongs to.
pub(crate) fn pid_namespace(spec: &Spec) -> PidNamespace {
    match namespace(spec, Kind::Pid) {
        None => PidNamespace::Host,
        Some(None) => PidNamespace::New,
        Some(Some(path)) => PidNamespace::Join(path.to_owned()),
    }
}

/// Starts a program in a pid namespace, with whatever starts it.
///
/// A process cannot change its own: what it chooses counts for its children, thread by thread. So a
/// thread of its own chooses, starts the program and ends; nothing changes for other threads.
///
/// The child must not ask for a signal at its parent's death (`PR_SET_PDEATHSIG`): the kernel means
/// the thread, which has ended when this returns. A child that is to end with the caller holds one
/// end of a socket and ends when that is closed.
pub(crate) fn spawn_in<T: Send + 'static>(
    namespace: &PidNamespace, spawn: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let target = match namespace {
        PidNamespace::Host => return spawn(),
        PidNamespace::New => None,
        PidNamespace::Join(path) => Some(File::open(path)?),
    };
    let spawner = thread::Builder::new().name("spawn".to_owned()).spawn(move || {
        match target {
            None => sys::unshare(UnshareFlags::NEWPID)?,
            Some(file) => move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::ProcessID))?,
        }
        spawn()
    })?;
    spawner.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts the process panicked")))
}

/// Puts the calling process, which has a single thread, into the namespaces of a specification.
///
/// The pid namespace is chosen by [`spawn_in`]. A new cgroup namespace is made by
/// [`prepare_rootfs`](super::prepare_rootfs): its root is the cgroup that the process is in by then.
/// In a new network namespace the loopback interface is up.
pub(crate) fn enter_namespaces(spec: &Spec) -> Result<()> {
    if namespace(spec, Kind::User).is_some() {
        return Err(refused("a user namespace is asked for (userns-remap), which anyport does not support")
            .with_hint("run the container with the host's users: `docker run --userns=host`"));
    }
    match namespace(spec, Kind::Mount) {
        Some(None) => {}
        Some(Some(_)) => {
            return Err(refused("the container asks to join a mount namespace, which anyport does not do"));
        }
        None => return Err(refused("the container asks for no mount namespace of its own, which it needs")),
    }
    // All are opened before any is entered: then the paths are the host's.
    let mut joined = Vec::new();
    for (kind, flag, link) in KINDS {
        if let Some(Some(path)) = namespace(spec, *kind) {
            let file = File::open(path)
                .map_err(|error| failed(format_args!("cannot open the {flag} namespace {}", path.display()), error))?;
            joined.push((flag, path, file, *link));
        }
    }
    let network = own_network()?;
    for (flag, path, file, link) in &joined {
        move_into_link_name_space(file.as_fd(), Some(*link))
            .map_err(|errno| failed(format_args!("cannot join the {flag} namespace {}", path.display()), errno))?;
    }
    sysctls::check(spec, namespace(spec, Kind::Network).flatten().is_some() && own_network()? == network)?;
    let is_new = |kind| namespace(spec, kind) == Some(None);
    for (kind, name, _) in KINDS.iter().filter(|(kind, ..)| *kind != Kind::Cgroup && is_new(*kind)) {
        sys::unshare(unshare_flag(*kind))
            .map_err(|errno| failed(format_args!("cannot make a {name} namespace"), errno))?;
    }
    if is_new(Kind::Network) {
        sys::bring_up_loopback().map_err(|error| failed("cannot bring up the loopback interface", error))?;
    }
    if is_new(Kind::Time) {
        let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
        enter_time_namespace(offsets.into_iter().flatten())?;
    }
    Ok(())
}

/// Makes the new cgroup namespace of a specification, once the process is in its cgroup.
pub(super) fn enter_cgroup_namespace(spec: &Spec) -> Result<()> {
    if namespace(spec, Kind::Cgroup) == Some(None) {
        sys::unshare(UnshareFlags::NEWCGROUP).map_err(|errno| failed("cannot make a cgroup namespace", errno))?;
    }
    Ok(())
}

/// Puts the calling process, which has a single thread, into the container of another: what `docker exec`
/// needs. `namespaces` is the opened folder `/proc/PID/ns` of that one, since its number may be another's by
/// now. The pid namespace is chosen by [`spawn_in`] with `/proc/PID/ns/pid`.
///
/// Its root is the container's then, and its folder the one that the process asks for.
pub(crate) fn join(namespaces: &OwnedFd, process: &Process) -> Result<()> {
    join_all(namespaces).map_err(|errno| failed("cannot join the container's namespaces", errno))?;
    enter_folder(process.cwd())
}

fn join_all(namespaces: &OwnedFd) -> rustix::io::Result<()> {
    // The mount namespace is the last, as it changes what paths mean.
    let links = ["ipc", "uts", "net", "cgroup", "mnt"];
    let open = |link| rustix::fs::openat(namespaces, link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let targets = links.map(open);
    for target in targets {
        move_into_link_name_space(target?.as_fd(), None)?;
    }
    Ok(())
}

/// Whether a namespace is that of a specification's own making or joining, or the caller's.
pub(super) fn has(spec: &Spec, kind: Kind) -> bool {
    namespace(spec, kind).is_some()
}

/// Makes a folder the current one, and makes sure that it is one of the container's.
pub(super) fn enter_folder(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    if !path.is_absolute() {
        return Err(refused(format!("the process's folder {} does not begin with `/`", path.display())));
    }
    chdir(path).map_err(|errno| failed(format_args!("cannot enter the process's folder {}", path.display()), errno))?;
    // A path through a descriptor that is still open may lead out of the container (CVE-2024-21626);
    // the kernel says `(unreachable)` of such a folder.
    let current = getcwd(Vec::new()).map_err(|errno| failed("cannot tell the process's folder", errno))?;
    if current.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(refused(format!("the process's folder {} is outside of the container", path.display())))
    }
}

const KINDS: &[(Kind, &str, LinkNameSpaceType)] = &[
    (Kind::Ipc, "ipc", LinkNameSpaceType::InterProcessCommunication),
    (Kind::Uts, "uts", LinkNameSpaceType::HostNameAndNISDomainName),
    (Kind::Network, "network", LinkNameSpaceType::Network),
    (Kind::Cgroup, "cgroup", LinkNameSpaceType::ControlGroup),
    (Kind::Time, "time", LinkNameSpaceType::Time),
    (Kind::Mount, "mount", LinkNameSpaceType::Mount),
];

fn unshare_flag(kind: Kind) -> UnshareFlags {
    match kind {
        Kind::Mount => UnshareFlags::NEWNS,
        Kind::Cgroup => UnshareFlags::NEWCGROUP,
        Kind::Uts => UnshareFlags::NEWUTS,
        Kind::Ipc => UnshareFlags::NEWIPC,
        Kind::User => UnshareFlags::NEWUSER,
        Kind::Pid => UnshareFlags::NEWPID,
        Kind::Network => UnshareFlags::NEWNET,
        Kind::Time => UnshareFlags::NEWTIME,
    }
}

/// `None` if there is none of this kind, `Some(None)` if it is a new one.
fn namespace(spec: &Spec, kind: Kind) -> Option<Option<&Path>> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    let found = namespaces.iter().find(|namespace| namespace.typ() == kind)?;
    Some(found.path().as_deref().filter(|path| !path.as_os_str().is_empty()))
}

/// A new time namespace is that of children: its offsets are written, then it is entered.
fn enter_time_namespace<'a>(offsets: impl Iterator<Item = (&'a String, &'a LinuxTimeOffset)>) -> Result<()> {
    let lines: Vec<String> = offsets
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)))
        .collect();
    let enter = || {
        if !lines.is_empty() {
            std::fs::write("/proc/self/timens_offsets", lines.concat())?;
        }
        let namespace = File::open("/proc/self/ns/time_for_children")?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Time))?;
        Ok::<_, io::Error>(())
    };
    enter().map_err(|error| failed("cannot enter a new time namespace", error))
}

fn own_network() -> Result<PathBuf> {
    std::fs::read_link("/proc/thread-self/ns/net").map_err(|error| failed("cannot tell the network namespace", error))
}

/// An error of a namespace that is missing, with what would want it.
pub(super) fn missing(what: &str, kind: &str) -> Error {
    refused(format!("{what} is set, but the container has no {kind} namespace of its own: it would change the host"))
}
