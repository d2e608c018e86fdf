//! Who is told that the kernel killed a process of the container for want of memory.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyport::Error;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

use super::hierarchy::Hierarchies;
use super::{Cgroup, failed, metrics, write};

/// v1 tells when memory runs out, and kills after that: so long at most, then nothing was killed here.
const KILL_LAG: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How often an empty v2 group is looked at: nobody tells that it is removed.
const LOOK_WHETHER_GONE: Duration = Duration::from_millis(100);

/// How often one with processes is: the kernel tells of a file once in 10 ms, and what it had still to tell is
/// lost with the group.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);

/// Kills from when this was made. Needs a runtime of tokio with I/O and time.
#[derive(Debug)]
pub(crate) struct OomEvents {
    /// Nothing where memory is not controlled. It is no pipe, but read like one.
    watch: Option<Receiver>,
    /// The file with the count.
    file: PathBuf,
    /// v2's file that tells, and is watched for, whether the group is empty.
    populated: Option<PathBuf>,
    told: u64,
    lag: Duration,
    /// Until when something may still follow what was told.
    looks_until: Option<Instant>,
}

impl OomEvents {
    pub(super) fn new(cgroup: &Cgroup) -> Result<Self, Error> {
        let Some(file) = file(cgroup).filter(|file| file.exists()) else {
            let file = PathBuf::new();
            return Ok(Self { watch: None, file, populated: None, told: 0, lag: Duration::ZERO, looks_until: None });
        };
        let (watch, lag, populated) = match &cgroup.hierarchies {
            Hierarchies::V1(_) => (watch_v1(&file), KILL_LAG, None),
            Hierarchies::V2(_) => {
                let populated = file.with_file_name("cgroup.events");
                (watch_v2(&file, &populated), Duration::ZERO, Some(populated))
            }
        };
        let watch = watch.and_then(Receiver::from_owned_fd_unchecked);
        let unable = |error: &io::Error| failed(format!("cannot watch `{}`", file.display()), error);
        let watch = Some(watch.map_err(|error| unable(&error))?);
        let told = kills(cgroup).unwrap_or(0);
        Ok(Self { watch, file, populated, told, lag, looks_until: None })
    }

    /// How many processes were killed since the last answer; `None` once the cgroup is removed, and where
    /// memory is not controlled. It can be
    /// dropped while it waits, and nothing is lost.
    pub(crate) async fn next(&mut self) -> Option<u64> {
        let watch = self.watch.as_ref()?;
        loop {
            let until = match self.looks_until {
                Some(until) => until,
                None => {
                    let pause = match &self.populated {
                        None => Duration::MAX,
                        Some(populated) if is_empty(populated) => LOOK_WHETHER_GONE,
                        Some(_) => LOOK_ANYWAY,
                    };
                    // The end of this time is a reason to look, too.
                    if let Ok(told) = tokio::time::timeout(pause, drain(watch)).await {
                        told.ok()?;
                    }
                    *self.looks_until.insert(Instant::now() + self.lag)
                }
            };
            let killed = count(&fs::read_to_string(&self.file).ok()?)?;
            if killed > self.told {
                let new = killed - self.told;
                (self.told, self.looks_until) = (killed, None);
                return Some(new);
            }
            if Instant::now() >= until {
                self.looks_until = None;
            } else {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// Whether a v2 group has no processes, or is gone. It is told of when this changes.
fn is_empty(populated: &Path) -> bool {
    fs::read_to_string(populated).map_or(true, |text| text.lines().any(|line| line == "populated 0"))
}

/// Waits until something is told. Whatever it is, it is only a reason to look at the count.
async fn drain(watch: &Receiver) -> io::Result<()> {
    watch.readable().await?;
    let mut events = [0; 4096];
    while watch.try_read(&mut events).is_ok_and(|read| read > 0) {}
    Ok(())
}

/// How many were killed since the cgroup was made.
pub(super) fn kills(cgroup: &Cgroup) -> Option<u64> {
    count(&fs::read_to_string(file(cgroup)?).ok()?)
}

fn file(cgroup: &Cgroup) -> Option<PathBuf> {
    let name = match &cgroup.hierarchies {
        Hierarchies::V1(_) => "memory.oom_control",
        Hierarchies::V2(_) => "memory.events",
    };
    Some(cgroup.controller("memory")?.join(name))
}

/// Both versions have a line of this name, v1 since Linux 4.13.
fn count(text: &str) -> Option<u64> {
    metrics::flat(text).get("oom_kill").copied()
}

/// An eventfd that the kernel adds to: `memory.rst` of its cgroup-v1 documents, "OOM Control".
fn watch_v1(file: &Path) -> io::Result<OwnedFd> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = fs::File::open(file)?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    write(&file.with_file_name("cgroup.event_control"), &line)?;
    Ok(event)
}

/// The kernel says that the file was modified whenever one of its counts has changed.
fn watch_v2(file: &Path, populated: &Path) -> io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&watch, file, events)?;
    // Nobody tells that a file of the kernel's is gone, but the cgroup tells that it is empty.
    let _ = inotify::add_watch(&watch, populated, inotify::WatchFlags::MODIFY);
    Ok(watch)
}
