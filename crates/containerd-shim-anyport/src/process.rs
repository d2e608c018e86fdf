//! A process of a container as containerd knows it: its life, its end, who waits for it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::process::Child;
use tokio::sync::watch;

use crate::stdio::{Held, Streams};

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Created,
    Running,
    Paused,
    Stopped(End),
}

/// How and when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Its exit code; 128 and the signal's number if one ended it.
    pub(crate) code: u32,
    pub(crate) at: SystemTime,
}

/// A process, whatever becomes of its number.
#[derive(Debug)]
struct Handle {
    pid: u32,
    pidfd: OwnedFd,
    /// The folder of its namespaces in `/proc`.
    namespaces: OwnedFd,
}

/// A process of a container: the first one, or one of `docker exec`.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) streams: Streams,
    pub(crate) held: Mutex<Held>,
    /// Nothing before it is started.
    handle: OnceLock<Handle>,
    life: watch::Sender<Life>,
}

impl Process {
    /// One that is not there yet.
    pub(crate) fn new(streams: Streams) -> Self {
        Self { streams, held: Mutex::default(), handle: OnceLock::new(), life: watch::Sender::new(Life::Created) }
    }

    /// It is there now, and not waited for yet.
    pub(crate) fn is(&self, pid: u32) -> io::Result<()> {
        let process = pid_of(pid).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let namespaces = rustix::fs::open(format!("/proc/{pid}/ns"), flags, Mode::empty())?;
        let _ = self.handle.set(Handle { pid, pidfd, namespaces });
        Ok(())
    }

    /// The folder of its namespaces.
    ///
    /// # Errors
    /// It is not there yet.
    pub(crate) fn namespaces(&self) -> io::Result<OwnedFd> {
        self.handle.get().ok_or(io::ErrorKind::NotFound)?.namespaces.try_clone()
    }

    /// Its number; 0 before it is started.
    pub(crate) fn pid(&self) -> u32 {
        self.handle.get().map_or(0, |handle| handle.pid)
    }

    pub(crate) fn life(&self) -> Life {
        *self.life.borrow()
    }

    /// Goes on to another point of its life; what has ended stays so.
    pub(crate) fn enter(&self, next: Life) {
        self.life.send_if_modified(|life| {
            let goes_on = !matches!(life, Life::Stopped(_));
            if goes_on {
                *life = next;
            }
            goes_on
        });
        if matches!(next, Life::Stopped(_)) {
            self.held.lock().expect("no panic while held").process_ended();
        }
    }

    /// Waits for its end.
    pub(crate) async fn end(&self) -> End {
        let mut life = self.life.subscribe();
        loop {
            if let Life::Stopped(end) = *life.borrow_and_update() {
                return end;
            }
            if life.changed().await.is_err() {
                return End { code: 255, at: SystemTime::now() };
            }
        }
    }

    /// Sends a signal. One that is not started yet has no handlers, and ends.
    ///
    /// # Errors
    /// It has ended, or never was.
    pub(crate) fn signal(&self, number: u32) -> io::Result<()> {
        let signal = meant(number).ok_or_else(|| io::Error::other(format!("there is no signal {number}")))?;
        let ends = matches!(signal, Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP | Signal::KILL);
        let signal = match self.life() {
            Life::Stopped(_) => return Err(io::ErrorKind::NotFound.into()),
            Life::Created if ends => Signal::KILL,
            _ => signal,
        };
        let process = self.handle.get().ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::process::pidfd_send_signal(&process.pidfd, signal)?)
    }
}

/// The signal that a number means here. Images name some for their end that a guest cannot know, as nginx and
/// systemd have them: what is for programs to choose ends it as SIGTERM does.
fn meant(number: u32) -> Option<Signal> {
    match i32::try_from(number).ok()? {
        34..=64 => Some(Signal::TERM),
        number => Signal::from_named_raw(number).map(|signal| match signal {
            Signal::USR1 | Signal::USR2 => Signal::TERM,
            other => other,
        }),
    }
}

/// The number of a process for rustix.
pub(crate) fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Waits for the end of a child.
pub(crate) async fn ended(mut child: Child) -> End {
    let code = match child.wait().await {
        Ok(status) => code_of(status),
        Err(error) => {
            tracing::warn!("the end of a process is not known: {error}");
            255
        }
    };
    End { code, at: SystemTime::now() }
}

fn code_of(status: ExitStatus) -> u32 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u32::try_from(code).ok()).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::process::Command;

    #[tokio::test]
    async fn ends_are_codes() {
        for (line, want) in [("exit 7", 7), ("kill -9 $$", 137)] {
            let child = Command::new("/bin/sh").args(["-c", line]).spawn().expect("a shell");
            assert_eq!(ended(child).await.code, want, "{line}");
        }
    }

    #[tokio::test]
    async fn what_has_ended_takes_no_signal() {
        let process = Process::new(Streams::default());
        assert_eq!(process.signal(15).expect_err("not there").kind(), io::ErrorKind::NotFound);
        let end = End { code: 3, at: SystemTime::now() };
        process.enter(Life::Stopped(end));
        process.enter(Life::Running);
        assert_eq!(process.end().await, end);
        assert_eq!(process.signal(9).expect_err("ended").kind(), io::ErrorKind::NotFound);
    }
}
