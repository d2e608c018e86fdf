//! The cgroup of a container: its limits, its figures, its end.

mod hierarchy;
mod metrics;
mod oom;
mod resources;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyport::Error;
use anyport::error::ErrorKind;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use oci_spec::runtime::LinuxResources;
use rustix::process::{Pid, Signal, kill_process};

use self::hierarchy::{Hierarchies, Mount};
pub(crate) use self::oom::OomEvents;

const PROCESSES: &str = "cgroup.procs";

/// The kernel freezes within milliseconds, except what waits for a disk or a network file system.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);

/// Processes that were killed are gone within milliseconds, with the same exception.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pauses between looks start here, and double up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The cgroup of one container, in whatever hierarchies this machine has. Nothing is removed on drop.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    hierarchies: Hierarchies,
    /// Below each hierarchy.
    relative: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup and sets its limits. Nothing is left of it where this fails.
    ///
    /// The path is `linux.cgroupsPath`, or empty for a place of our own.
    pub(crate) fn create(path: &Path, id: &str, resources: Option<&LinuxResources>) -> Result<Self, Error> {
        Self::open(path, id)?.made(resources)
    }

    /// The cgroup that [`Cgroup::create`] made, or of which nothing is left any more.
    pub(crate) fn open(path: &Path, id: &str) -> Result<Self, Error> {
        Ok(Self { hierarchies: Hierarchies::find()?, relative: hierarchy::relative(path, id)? })
    }

    fn made(self, resources: Option<&LinuxResources>) -> Result<Self, Error> {
        let present = self.pids();
        if !present.is_empty() {
            let message = format!("the cgroup `{}` holds processes {present:?}", self.relative.display());
            return Err(wrong(message).with_hint("remove the container that left them, and try again"));
        }
        let made = self.make().and_then(|()| match resources {
            Some(resources) => resources::apply(&self, resources, true),
            None => Ok(()),
        });
        if let Err(error) = made {
            if let Err(left) = self.remove() {
                tracing::warn!("{left}");
            }
            return Err(error);
        }
        Ok(self)
    }

    fn make(&self) -> Result<(), Error> {
        match &self.hierarchies {
            Hierarchies::V1(mounts) => {
                for mount in mounts {
                    if let Err(error) = make_v1(mount, &self.relative) {
                        if mount.is_named() {
                            tracing::debug!("{error}");
                        } else {
                            return Err(error);
                        }
                    }
                }
                Ok(())
            }
            Hierarchies::V2(point) => make_v2(point, &self.relative),
        }
    }

    /// Moves a process, with all its threads, into the cgroup. What it has allocated stays charged elsewhere.
    pub(crate) fn add(&self, pid: u32) -> Result<(), Error> {
        for (mount, folder) in self.folders() {
            let file = folder.join(PROCESSES);
            match write(&file, &pid.to_string()) {
                Err(error) if mount.is_some_and(Mount::is_named) => tracing::debug!("{}: {error}", file.display()),
                done => {
                    done.map_err(|error| failed(format!("cannot move process {pid} to `{}`", file.display()), &error))?
                }
            }
        }
        Ok(())
    }

    /// Sets other limits. What is not said stays as it is.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        resources::apply(self, resources, false)
    }

    /// Stops all processes where they are, and returns once they are stopped.
    pub(crate) fn freeze(&self) -> Result<(), Error> {
        self.set_frozen(true)
    }

    /// Lets all processes go on.
    pub(crate) fn thaw(&self) -> Result<(), Error> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), Error> {
        let (file, word, shown, told) = match (&self.hierarchies, frozen) {
            (Hierarchies::V1(_), true) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            (Hierarchies::V1(_), false) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
            (Hierarchies::V2(_), true) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            (Hierarchies::V2(_), false) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
        };
        let Some(folder) = self.controller("freezer") else {
            return Err(wrong("a container cannot be paused: the kernel's `freezer` cgroup is not mounted"));
        };
        let verb = if frozen { "freeze" } else { "thaw" };
        let unable = |error: &io::Error| failed(format!("cannot {verb} the cgroup `{}`", folder.display()), error);
        // A v1 group that is still freezing is asked again, since a process that was forked meanwhile
        // may have been missed.
        let done = within(FREEZE_TIMEOUT, || {
            write(&folder.join(file), word)?;
            Ok(fs::read_to_string(folder.join(shown))?.lines().any(|line| line.trim() == told))
        });
        match done {
            Ok(true) => Ok(()),
            Ok(false) => {
                // Half frozen is the worst of both.
                let _ = frozen.then(|| self.set_frozen(false));
                Err(wrong(format!("the processes of `{}` could not be stopped in time", folder.display())))
            }
            Err(error) => Err(unable(&error)),
        }
    }

    /// All processes in it and in what is nested in it, by their ids in our pid namespace.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids = BTreeSet::new();
        for (_, folder) in self.folders() {
            collect_pids(&folder, &mut pids);
        }
        // 0 is a process of a namespace that we do not see.
        pids.remove(&0);
        pids.into_iter().collect()
    }

    /// Its figures as containerd, Docker and Kubernetes read them.
    pub(crate) fn metrics(&self) -> Result<Any, Error> {
        metrics::read(self)
    }

    /// What tells of processes that the kernel killed for want of memory. Counts from now on.
    pub(crate) fn oom_events(&self) -> Result<OomEvents, Error> {
        OomEvents::new(self)
    }

    /// How many processes the kernel has killed for want of memory so far. The end of a process can be
    /// seen before [`OomEvents`] tells of it; this knows then already.
    pub(crate) fn oom_kills(&self) -> u64 {
        oom::kills(self).unwrap_or(0)
    }

    /// The bytes that its processes may use at most, if anything limits them: this cgroup or one around it.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        /// v1 says so where there is no limit, rounded down to a page.
        const UNLIMITED: u64 = i64::MAX as u64 - (64 << 10);
        let folder = self.controller("memory")?;
        let limit = match &self.hierarchies {
            Hierarchies::V1(_) => {
                let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
                metrics::flat(&stat).get("hierarchical_memory_limit").copied()?
            }
            Hierarchies::V2(point) => {
                let around = folder.ancestors().take_while(|folder| folder.starts_with(point));
                around.filter_map(|folder| metrics::number(&folder.join("memory.max"))).min()?
            }
        };
        (limit < UNLIMITED).then_some(limit)
    }

    /// Kills all processes. They are gone a moment later: [`Cgroup::remove`] waits for it.
    pub(crate) fn kill_all(&self) -> Result<(), Error> {
        if let Hierarchies::V2(point) = &self.hierarchies {
            match write(&point.join(&self.relative).join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                // Before Linux 5.14.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(format!("cannot kill `{}`", self.relative.display()), &error)),
            }
        }
        // A process that forks while the list is read is found by the next round, as long as it is slower
        // than we are; frozen it cannot fork at all, and v1 kills a frozen process once it is thawed.
        let frozen = self.freeze().is_ok();
        for _ in 0..10 {
            let pids = self.pids();
            let killed = pids.into_iter().filter(|pid| kill(*pid)).count();
            if killed == 0 || frozen {
                break;
            }
            thread::sleep(PAUSE);
        }
        if frozen { self.thaw() } else { Ok(()) }
    }

    /// Removes the cgroup and what is nested in it, once its processes have ended. A second time is well, too.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        // One that stays does not keep the others.
        let removed: Vec<_> = self.folders().into_iter().map(|(_, folder)| self.remove_folder(&folder)).collect();
        removed.into_iter().collect()
    }

    fn remove_folder(&self, folder: &Path) -> Result<(), Error> {
        let gone = within(REMOVE_TIMEOUT, || remove_tree(folder));
        let unable = |error: &io::Error| failed(format!("cannot remove the cgroup `{}`", folder.display()), error);
        if gone.map_err(|error| unable(&error))? {
            return Ok(());
        }
        let pids = self.pids();
        Err(wrong(format!("cannot remove the cgroup `{}`: processes {pids:?} are in it", folder.display())))
    }

    /// The folder with the files of a controller. v2 has all in one, with or without them.
    fn controller(&self, controller: &str) -> Option<PathBuf> {
        match &self.hierarchies {
            Hierarchies::V1(mounts) => {
                let mount = mounts.iter().find(|mount| mount.has(controller))?;
                Some(mount.point.join(&self.relative))
            }
            Hierarchies::V2(point) => Some(point.join(&self.relative)),
        }
    }

    fn folders(&self) -> Vec<(Option<&Mount>, PathBuf)> {
        match &self.hierarchies {
            Hierarchies::V1(mounts) => {
                mounts.iter().map(|mount| (Some(mount), mount.point.join(&self.relative))).collect()
            }
            Hierarchies::V2(point) => vec![(None, point.join(&self.relative))],
        }
    }
}

/// Makes the folders one by one: a `cpuset` without CPUs and memory nodes takes no process, and a new one
/// has none.
fn make_v1(mount: &Mount, relative: &Path) -> Result<(), Error> {
    let mut folder = mount.point.clone();
    for part in relative.components() {
        let parent = folder.clone();
        folder.push(part);
        make_folder(&folder)?;
        if mount.has("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(&parent, &folder, file)
                    .map_err(|error| failed(format!("cannot set `{}`", folder.join(file).display()), &error))?;
            }
        }
    }
    Ok(())
}

fn inherit(parent: &Path, child: &Path, file: &str) -> io::Result<()> {
    if !fs::read_to_string(child.join(file))?.trim().is_empty() {
        return Ok(());
    }
    write(&child.join(file), fs::read_to_string(parent.join(file))?.trim())
}

/// Makes the folders, each with all controllers for the next. What cannot be had is missed, if at all,
/// when a limit is set: a controller may be in use by v1, and one with processes in the folder is refused.
fn make_v2(point: &Path, relative: &Path) -> Result<(), Error> {
    let mut folder = point.to_owned();
    for part in relative.components() {
        let offered = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
        for controller in offered.split_whitespace() {
            if let Err(error) = write(&folder.join("cgroup.subtree_control"), &format!("+{controller}")) {
                tracing::debug!("no controller `{controller}` below `{}`: {error}", folder.display());
            }
        }
        folder.push(part);
        make_folder(&folder)?;
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let error = failed(format!("cannot make the cgroup `{}`", folder.display()), &error);
            Err(error.with_hint("containers need root, and a cgroup file system that is not mounted read-only"))
        }
        _ => Ok(()),
    }
}

fn collect_pids(folder: &Path, pids: &mut BTreeSet<u32>) {
    let listed = fs::read_to_string(folder.join(PROCESSES)).unwrap_or_default();
    pids.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
    for child in children(folder) {
        collect_pids(&child, pids);
    }
}

/// Whether nothing is left of the folder: false while processes are in it.
fn remove_tree(folder: &Path) -> io::Result<bool> {
    for child in children(folder) {
        if !remove_tree(&child)? {
            return Ok(false);
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        // A group may have been made in it, or a process ended in it, just now.
        Err(error) if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// Whether there was such a process.
fn kill(pid: u32) -> bool {
    if pid == std::process::id() {
        return false;
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// Asks until the answer is yes, or no for so long.
fn within(timeout: Duration, mut ask: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    let mut pause = PAUSE;
    loop {
        if ask()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Writes to a file of the kernel's: in one call, and never making one.
fn write(file: &Path, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    // In a folder that is no cgroup's, a link would lead elsewhere.
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = fs::OpenOptions::new().write(true).custom_flags(flags).open(file)?;
    file.write_all(value.as_bytes())
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Host, message)
}

fn failed(what: impl std::fmt::Display, error: &io::Error) -> Error {
    wrong(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests;
