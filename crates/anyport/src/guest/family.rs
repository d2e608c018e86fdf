//! The processes of one guest: the first, and those that it and they have forked.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::process::Process;
use crate::errno::Errno;
use crate::net::waiters::Waiters;
use crate::spelling::option;

/// The number of the first process, as in a machine of its own: when it ends, all do.
pub(crate) const FIRST: u32 = 1;

/// Numbers of processes are below this one, as on Linux.
const PROCESSES_END: u32 = 1 << 22;

/// Ends of which nobody has asked yet, and more where a guest may have more processes: those before are forgotten.
const ENDS_KEPT: usize = 1024;

/// Failures of processes that the person is told of: a guest may have one for each client.
const FAILURES_TOLD: usize = 10;

/// As Linux has it, and WASIX.
pub(crate) const SIGKILL: u32 = 9;

/// Whether a process goes on that has no handler for a signal: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
pub(crate) fn is_ignored(signal: u32) -> bool {
    matches!(signal, 17 | 18 | 23 | 28)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With this code.
    Exited(u32),
    /// By this signal.
    Killed(u32),
}

/// A guest's processes.
pub(crate) struct Family {
    members: Mutex<Members>,
    /// Told when a process has ended.
    ended: Waiters,
    /// Threads and processes beside the first thread of the first process.
    tasks: AtomicUsize,
    most: usize,
    is_told: AtomicBool,
    /// Threads of processes that are over, which did not end.
    left: AtomicUsize,
    failures: AtomicUsize,
    /// What the guest called that is not supported.
    missed: Mutex<HashSet<&'static str>>,
}

#[derive(Default)]
struct Members {
    living: BTreeMap<u32, Living>,
    /// Those that have ended, and whose parents have not asked how.
    ended: VecDeque<(u32, Ended)>,
    last: u32,
    /// None is born any more.
    closed: bool,
}

struct Living {
    parent: u32,
    process: Weak<Process>,
    /// Takes how it is ended from outside; not the first.
    kill: Option<oneshot::Sender<Ending>>,
}

struct Ended {
    parent: u32,
    ending: Ending,
}

/// The place of one thread or process among those that a guest may have.
pub(crate) struct Place(Arc<Family>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A process that was forked lives for as long as this is held.
pub(crate) struct Child {
    pub(crate) process: Arc<Process>,
    /// How it ended. One that never began is not known of.
    pub(crate) ending: Option<Ending>,
    place: Option<Place>,
}

impl Child {
    /// So many of its threads do not end. Its place stays taken: there are never more of them than there may be.
    pub(crate) fn leaves(&mut self, threads: usize) {
        self.process.family.left.fetch_add(threads, Ordering::Relaxed);
        std::mem::forget(self.place.take());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Before its parent is told, which may fork again at once.
        drop(self.place.take());
        self.process.is_over();
        self.process.family.end_of(self.process.pid, self.ending);
    }
}

impl Family {
    /// None yet, and so many threads and processes at most beside the first.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let members = Members { last: FIRST, ..Members::default() };
        let (ended, tasks, is_told, left, failures, missed) = Default::default();
        Arc::new(Self { members: Mutex::new(members), ended, tasks, most, is_told, left, failures, missed })
    }

    /// The first of them.
    pub(super) fn begin(&self, process: &Arc<Process>) {
        let first = Living { parent: 0, process: Arc::downgrade(process), kill: None };
        self.lock().living.insert(FIRST, first);
    }

    /// A place for another thread or process.
    pub(super) fn place(self: &Arc<Self>) -> Result<Place, Errno> {
        let more = |tasks| (tasks < self.most).then_some(tasks + 1);
        if self.tasks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
            return Ok(Place(Arc::clone(self)));
        }
        if !self.is_told.swap(true, Ordering::Relaxed) {
            let (most, more) = (self.most, option("limit", format!("threads={}", self.most.saturating_mul(2).max(1))));
            tracing::warn!(
                "the guest may not have more than {most} threads and processes; to allow more, add `{more}`"
            );
        }
        Err(Errno::Again)
    }

    /// Threads and processes beside the first thread of the first process.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    /// A process for a child of another, and what says that it is to end.
    pub(crate) fn bear(self: &Arc<Self>, parent: &Process) -> Result<(Child, oneshot::Receiver<Ending>), Errno> {
        let place = Some(self.place()?);
        let mut members = self.lock();
        if members.closed {
            return Err(Errno::Again);
        }
        let pid = loop {
            members.last = if members.last + 1 < PROCESSES_END { members.last + 1 } else { FIRST + 1 };
            let last = members.last;
            if !members.living.contains_key(&last) && !members.ended.iter().any(|(pid, _)| *pid == last) {
                break last;
            }
        };
        let process = Arc::new(parent.fork(pid));
        let (kill, killed) = oneshot::channel();
        let living = Living { parent: parent.pid, process: Arc::downgrade(&process), kill: Some(kill) };
        members.living.insert(pid, living);
        Ok((Child { process, ending: None, place }, killed))
    }

    /// Ends all but the first, and bears none any more; those that are not over yet.
    pub(crate) fn end(&self) -> Vec<Arc<Process>> {
        let children: Vec<_> = {
            let mut members = self.lock();
            members.closed = true;
            let children = members.living.iter_mut().filter(|(pid, _)| **pid != FIRST);
            let ended = children.filter_map(|(_, living)| {
                kill(living, SIGKILL);
                living.process.upgrade()
            });
            ended.collect()
        };
        // At once, whatever holds up those who are to hear of it.
        children.iter().for_each(|process| process.end());
        children
    }

    /// Processes beside the first.
    pub(crate) fn children(&self) -> usize {
        self.lock().living.keys().filter(|pid| **pid != FIRST).count()
    }

    /// Threads of processes that are over, which did not end.
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Ready when there is no process beside the first.
    pub(crate) fn poll_alone(&self, context: &mut Context<'_>) -> Poll<()> {
        let members = self.lock();
        if members.living.keys().all(|pid| *pid == FIRST) {
            return Poll::Ready(());
        }
        // With the lock held: who ends from now on wakes it.
        self.ended.add(context.waker());
        Poll::Pending
    }

    /// The process whose child one is that lives; 0 for the first.
    pub(crate) fn parent_of(&self, pid: u32) -> Option<u32> {
        self.lock().living.get(&pid).map(|living| living.parent)
    }

    /// Ready with a child of `parent` that has ended, and how: the one that is named, or any. Nobody asks for it again.
    pub(crate) fn poll_join(
        &self, context: &mut Context<'_>, parent: u32, child: Option<u32>,
    ) -> Poll<Result<(u32, Ending), Errno>> {
        let mut members = self.lock();
        let is_meant = |pid: u32, of: u32| of == parent && child.is_none_or(|child| child == pid);
        if let Some(at) = members.ended.iter().position(|(pid, ended)| is_meant(*pid, ended.parent)) {
            let (pid, ended) = members.ended.remove(at).expect("it was found there");
            return Poll::Ready(Ok((pid, ended.ending)));
        }
        if !members.living.iter().any(|(pid, living)| is_meant(*pid, living.parent)) {
            return Poll::Ready(Err(Errno::Child));
        }
        self.ended.add(context.waker());
        Poll::Pending
    }

    /// Raises a signal for a process, or does what comes of it where it has no handler.
    pub(crate) fn signal(&self, pid: u32, signal: u32) -> Result<(), Errno> {
        let process = {
            let members = self.lock();
            match members.living.get(&pid) {
                Some(living) => living.process.upgrade(),
                // One that has ended, and that nobody has asked for.
                None if members.ended.iter().any(|(ended, _)| *ended == pid) => None,
                None => return Err(Errno::NoProcess),
            }
        };
        match (signal, process) {
            (0, _) | (1..64, None) => Ok(()),
            (1..64, Some(process)) => {
                let is_raised = signal != SIGKILL && process.raise_for_any(signal);
                if !is_raised && !is_ignored(signal) {
                    // Another process cannot end the first, which is what Linux has for the first of a machine.
                    if self.lock().living.get_mut(&pid).is_some_and(|living| kill(living, signal)) {
                        process.end();
                    }
                }
                Ok(())
            }
            _ => Err(Errno::Invalid),
        }
    }

    /// The processes that live, without one and maybe without the first.
    pub(crate) fn others_than(&self, one: u32, with_first: bool) -> Vec<u32> {
        self.lock().living.keys().copied().filter(|pid| *pid != one && (with_first || *pid != FIRST)).collect()
    }

    /// Whether it is the first time that the guest misses something of this name.
    pub(crate) fn misses(&self, name: &'static str) -> bool {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).insert(name)
    }

    /// Whether the person is told of another process that failed; of the last one with the words that follow.
    pub(crate) fn tells_failure(&self) -> Option<&'static str> {
        match self.failures.fetch_add(1, Ordering::Relaxed) + 1 {
            ..FAILURES_TOLD => Some(""),
            FAILURES_TOLD => Some("; others that fail are not told of"),
            _ => None,
        }
    }

    /// A process has ended: who waits for that is woken, and its children are the first one's. No SIGCHLD is raised:
    /// the libc of WASIX, which alone knows whether there is a handler, traps where there is none or it is ignored.
    /// <https://github.com/wasix-org/wasix-libc/blob/main/libc-top-half/musl/src/signal/sigaction.c>
    fn end_of(&self, pid: u32, ending: Option<Ending>) {
        {
            let mut members = self.lock();
            let Some(Living { parent, .. }) = members.living.remove(&pid) else { return };
            members.living.values_mut().filter(|living| living.parent == pid).for_each(|living| living.parent = FIRST);
            let orphans = members.ended.iter_mut().filter(|(_, ended)| ended.parent == pid);
            orphans.for_each(|(_, ended)| ended.parent = FIRST);
            if let Some(ending) = ending {
                if members.ended.len() >= self.most.max(ENDS_KEPT) {
                    members.ended.pop_front();
                }
                members.ended.push_back((pid, Ended { parent, ending }));
            }
        }
        self.ended.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has a process end by a signal; false for the first, and for one that was told to end already.
fn kill(living: &mut Living, signal: u32) -> bool {
    // It may be about to end by itself.
    living.kill.take().is_some_and(|kill| kill.send(Ending::Killed(signal)).is_ok())
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn join(family: &Family, parent: u32, child: Option<u32>) -> Poll<Result<(u32, Ending), Errno>> {
        family.poll_join(&mut Context::from_waker(Waker::noop()), parent, child)
    }

    #[test]
    fn a_child_is_asked_for_once_by_its_parent() {
        let first = Process::first(3, Arc::default());
        let family = &first.family;
        assert_eq!(join(family, FIRST, None), Poll::Ready(Err(Errno::Child)));
        let (mut one, _) = family.bear(&first).expect("room");
        let (two, _) = family.bear(&one.process).expect("room");
        assert_eq!([one.process.pid, two.process.pid], [2, 3]);
        assert_eq!([family.parent_of(1), family.parent_of(3), family.parent_of(9)], [Some(0), Some(2), None]);
        assert_eq!([join(family, FIRST, None), join(family, 2, Some(3))], [Poll::Pending; 2]);
        assert_eq!(join(family, FIRST, Some(3)), Poll::Ready(Err(Errno::Child)));
        one.ending = Some(Ending::Exited(7));
        drop(one);
        assert_eq!(family.parent_of(3), Some(FIRST), "an orphan is the first one's");
        assert_eq!(join(family, FIRST, None), Poll::Ready(Ok((2, Ending::Exited(7)))));
        assert_eq!(join(family, FIRST, Some(2)), Poll::Ready(Err(Errno::Child)));
        assert_eq!(join(family, FIRST, None), Poll::Pending);
    }

    #[test]
    fn a_signal_ends_who_has_no_handler() {
        let first = Process::first(3, Arc::default());
        let family = &first.family;
        let (one, mut killed) = family.bear(&first).expect("room");
        assert_eq!([family.signal(2, 0), family.signal(2, 17)], [Ok(()); 2]);
        assert_eq!([family.signal(2, 64), family.signal(7, 0)], [Err(Errno::Invalid), Err(Errno::NoProcess)]);
        assert!(killed.try_recv().is_err());
        assert_eq!(family.signal(2, 15), Ok(()));
        assert_eq!(killed.try_recv(), Ok(Ending::Killed(15)));
        one.process.handle_signals("handler".to_owned());
        assert_eq!(family.signal(2, 10), Ok(()));
        assert_eq!(one.process.main().next(), Some(10));
    }

    #[test]
    fn threads_and_processes_have_one_limit() {
        let first = Process::first(2, Arc::default());
        let _thread = first.join().expect("room");
        let (child, _) = first.family.bear(&first).expect("room");
        assert_eq!(child.process.join().err(), Some(Errno::Again));
        assert!(first.family.bear(&child.process).is_err());
        drop(child);
        assert!(first.join().is_ok(), "one that is no more has no place");
        assert_eq!(join(&first.family, FIRST, None), Poll::Ready(Err(Errno::Child)), "it never began");
        let (mut child, _) = first.family.bear(&first).expect("room");
        child.leaves(1);
        drop(child);
        assert_eq!((first.join().err(), first.family.left()), (Some(Errno::Again), 1), "one that is left has");
        first.family.end();
        assert!(first.family.bear(&first).is_err(), "the guest is over");
    }
}
