//! What the threads of one process share beside its descriptors: a directory to work in, signals, each other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::AbortHandle;
use tokio::sync::oneshot;

use super::Guest;
use super::family::{self, Family, Place};
use super::futexes::Futexes;
use super::signals::Signals;
use super::timers::Timers;
use crate::errno::Errno;
use crate::memory::Given;
use crate::net::waiters::Waiters;

/// The number that a guest has for its first thread, as wasi-libc has it.
pub(crate) const MAIN: u32 = 0x3fff_ffff;

/// Numbers of threads are below this one.
const THREADS_END: u32 = 0x1fff_ffff;

/// Starts a thread: its guest, its number, and the pointer that it is given.
pub(crate) type Start = Box<dyn Fn(Guest, Member, u32) -> Result<(), Errno> + Send + Sync>;

/// What the threads share.
pub(crate) struct Process {
    /// The number of this process.
    pub(crate) pid: u32,
    /// The others of its guest.
    pub(crate) family: Arc<Family>,
    pub(crate) futexes: Futexes,
    pub(super) timers: Timers,
    /// Absolute, without a slash at its end.
    directory: Mutex<String>,
    /// The export that is called with each signal.
    handler: Mutex<Option<String>>,
    /// Of the first thread.
    main: Arc<Signals>,
    crew: Mutex<Crew>,
    /// Told when a thread has ended.
    ended: Waiters,
    start: OnceLock<Start>,
    /// Ends the first thread from outside.
    abort: OnceLock<AbortHandle>,
    /// Of one that was forked.
    pub(crate) memory: OnceLock<Given>,
    /// Its threads are woken for as long as this is held.
    woken: Mutex<Option<oneshot::Receiver<()>>>,
    /// Set for the server when the guest says how it is told of signals.
    is_told: Arc<AtomicBool>,
}

/// The threads that live beside the first.
#[derive(Default)]
struct Crew {
    threads: HashMap<u32, Thread>,
    last: u32,
    /// The first has ended itself.
    first_left: bool,
    /// None is started any more.
    closed: bool,
    /// None is told of a signal now: libc names an export that is not there, for as long as it wants to hear of none.
    blocked: bool,
}

struct Thread {
    signals: Arc<Signals>,
    abort: Option<AbortHandle>,
}

/// A thread lives for as long as this is held.
pub(crate) struct Member {
    process: Arc<Process>,
    pub(crate) number: u32,
    pub(crate) signals: Arc<Signals>,
    _place: Place,
}

impl Process {
    /// The first of a guest with its first thread, and at most so many other threads and processes.
    pub(crate) fn first(most: usize, is_told: Arc<AtomicBool>) -> Arc<Self> {
        let process = Arc::new(Self::new(family::FIRST, Family::new(most), is_told));
        process.family.begin(&process);
        process
    }

    /// What another process begins with that this one forks: its first thread alone, and its directory and handler.
    pub(super) fn fork(&self, pid: u32) -> Self {
        let child = Self::new(pid, Arc::clone(&self.family), Arc::clone(&self.is_told));
        child.enter(self.directory());
        *lock(&child.handler) = self.handler();
        child.block_signals(lock(&self.crew).blocked);
        child
    }

    fn new(pid: u32, family: Arc<Family>, is_told: Arc<AtomicBool>) -> Self {
        Self {
            pid,
            family,
            futexes: Futexes::default(),
            timers: Timers::default(),
            directory: Mutex::new("/".to_owned()),
            handler: Mutex::default(),
            main: Arc::default(),
            crew: Mutex::default(),
            ended: Waiters::default(),
            start: OnceLock::new(),
            abort: OnceLock::new(),
            memory: OnceLock::new(),
            woken: Mutex::default(),
            is_told,
        }
    }

    /// Says how threads are started.
    pub(crate) fn can_start(&self, start: Start) {
        // Once for each guest.
        let _ = self.start.set(start);
    }

    pub(crate) fn main(&self) -> &Arc<Signals> {
        &self.main
    }

    /// A place for another thread.
    pub(super) fn join(self: &Arc<Self>) -> Result<Member, Errno> {
        let place = self.family.place()?;
        let mut crew = lock(&self.crew);
        if crew.closed {
            return Err(Errno::Again);
        }
        let number = loop {
            crew.last = if crew.last + 1 < THREADS_END { crew.last + 1 } else { 1 };
            if !crew.threads.contains_key(&crew.last) {
                break crew.last;
            }
        };
        let signals = Arc::<Signals>::default();
        signals.block(crew.blocked);
        crew.threads.insert(number, Thread { signals: Arc::clone(&signals), abort: None });
        Ok(Member { process: Arc::clone(self), number, signals, _place: place })
    }

    /// Says how the first thread is ended from outside.
    pub(crate) fn can_end(&self, abort: AbortHandle) {
        // Once for each process. Who ends it from now on finds it.
        let abort = self.abort.get_or_init(|| abort);
        if lock(&self.crew).closed {
            abort.abort();
        }
    }

    /// Has its threads woken until it is over: by whoever waits for the other end.
    pub(crate) fn is_woken(&self, woken: oneshot::Receiver<()>) {
        *lock(&self.woken) = Some(woken);
    }

    pub(super) fn is_over(&self) {
        drop(lock(&self.woken).take());
    }

    /// Ends all threads, and starts none any more.
    pub(crate) fn end(&self) {
        let mut crew = lock(&self.crew);
        crew.closed = true;
        let threads = crew.threads.values().filter_map(|thread| thread.abort.as_ref());
        threads.chain(self.abort.get()).for_each(AbortHandle::abort);
    }

    /// How many threads there are beside the first.
    pub(crate) fn threads(&self) -> usize {
        lock(&self.crew).threads.len()
    }

    /// Ready when a thread has ended, or when all have where none is named.
    pub(crate) fn poll_ended(&self, context: &mut Context<'_>, number: Option<u32>) -> Poll<()> {
        let crew = lock(&self.crew);
        let lives = match number {
            Some(number) => crew.threads.contains_key(&number),
            None => !crew.threads.is_empty(),
        };
        if !lives {
            return Poll::Ready(());
        }
        // With the lock held: who ends from now on wakes it.
        self.ended.add(context.waker());
        Poll::Pending
    }

    /// Whether there is a thread of this number.
    pub(crate) fn lives(&self, number: u32) -> bool {
        let crew = lock(&self.crew);
        if number == MAIN { !crew.first_left } else { crew.threads.contains_key(&number) }
    }

    /// Raises a signal for a thread; false if there is no such thread or signal, or nobody is told of it.
    pub(crate) fn raise(&self, number: u32, signal: u32) -> bool {
        if lock(&self.handler).is_none() {
            return false;
        }
        let signals = if number == MAIN { Some(Arc::clone(&self.main)) } else { self.signals_of(number) };
        signals.is_some_and(|signals| signals.raise(signal))
    }

    /// Raises a signal for the process; false as above. As on Linux the first thread is told for as long as it
    /// lives, and then another.
    pub(crate) fn raise_for_any(&self, signal: u32) -> bool {
        lock(&self.handler).is_some() && self.pass(&lock(&self.crew), signal)
    }

    fn pass(&self, crew: &Crew, signal: u32) -> bool {
        let oldest = || crew.threads.iter().min_by_key(|(number, _)| **number).map(|(_, thread)| &thread.signals);
        let signals = if crew.first_left { oldest() } else { Some(&self.main) };
        signals.is_some_and(|signals| signals.raise_for_process(signal))
    }

    /// The first thread has ended itself, and others go on: with the signals that it was not told of, too.
    pub(crate) fn first_left(&self) {
        let mut crew = lock(&self.crew);
        crew.first_left = true;
        for signal in self.main.take_for_process() {
            self.pass(&crew, signal);
        }
    }

    fn signals_of(&self, number: u32) -> Option<Arc<Signals>> {
        lock(&self.crew).threads.get(&number).map(|thread| Arc::clone(&thread.signals))
    }

    /// The export that is called with signals from now on.
    pub(crate) fn handle_signals(&self, export: String) {
        *lock(&self.handler) = Some(export);
        self.is_told.store(true, Ordering::Release);
        self.block_signals(false);
    }

    /// Has signals wait for [`Process::handle_signals`].
    pub(crate) fn block_signals(&self, blocked: bool) {
        // With the lock held: of two threads the last one's word holds, and who joins meanwhile is as all others.
        let mut crew = lock(&self.crew);
        if std::mem::replace(&mut crew.blocked, blocked) != blocked {
            self.main.block(blocked);
            crew.threads.values().for_each(|thread| thread.signals.block(blocked));
        }
    }

    /// The export that is called with signals.
    pub(crate) fn handler(&self) -> Option<String> {
        lock(&self.handler).clone()
    }

    pub(crate) fn directory(&self) -> String {
        lock(&self.directory).clone()
    }

    /// A path from the root, whichever directory it was relative to.
    pub(crate) fn absolute(&self, path: &str) -> String {
        let base = if path.starts_with('/') { String::new() } else { self.directory() };
        let mut parts: Vec<&str> = Vec::new();
        for part in base.split('/').chain(path.split('/')) {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }

    pub(crate) fn enter(&self, directory: String) {
        *lock(&self.directory) = directory;
    }
}

impl Member {
    /// All threads and processes of its guest.
    pub(crate) fn family(&self) -> &Family {
        &self.process.family
    }

    /// Says how the thread is ended from outside.
    pub(crate) fn can_end(&self, abort: AbortHandle) {
        let mut crew = lock(&self.process.crew);
        if crew.closed {
            // Its guest has ended meanwhile.
            abort.abort();
        }
        if let Some(thread) = crew.threads.get_mut(&self.number) {
            thread.abort = Some(abort);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        {
            let mut crew = lock(&self.process.crew);
            crew.threads.remove(&self.number);
            for signal in self.signals.take_for_process() {
                self.process.pass(&crew, signal);
            }
        }
        self.process.ended.wake_all();
    }
}

impl Guest {
    /// What its threads share; an errno for a guest that is of no dialect with threads.
    pub(crate) fn process(&self) -> Result<&Arc<Process>, Errno> {
        self.process.as_ref().ok_or(Errno::NoSystemCall)
    }

    /// The same guest with the memory that it is given.
    pub(crate) fn with_memory(self, memory: Given) -> Self {
        Self { memory, ..self }
    }

    /// Whether names that preview1 and WASIX share have the meaning of WASIX.
    pub(crate) fn is_wasix(&self) -> bool {
        self.is_wasix
    }

    /// Whether it is the first time that the guest calls something of this name that is not supported.
    pub(crate) fn misses(&self, name: &'static str) -> bool {
        self.process.as_ref().is_some_and(|process| process.family.misses(name))
    }

    /// The signals of this thread, if it can have any.
    pub(crate) fn signals(&self) -> Option<Arc<Signals>> {
        self.signals.clone()
    }

    /// Whether a signal is to be told at the end of a hostcall. Not while one is being told.
    pub(crate) fn is_signalled(&self) -> bool {
        self.handling.is_none() && self.signals.as_ref().is_some_and(|signals| signals.is_any())
    }

    /// Starts a thread; its number.
    pub(crate) fn start_thread(&mut self, pointer: u32) -> Result<u32, Errno> {
        let process = Arc::clone(self.process()?);
        let start = process.start.get().ok_or(Errno::NotSupported)?;
        let member = process.join()?;
        let number = member.number;
        start(self.sibling(&member)?, member, pointer)?;
        Ok(number)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_a_number_while_it_lives() {
        let process = Process::first(2, Arc::default());
        let [one, two] = [process.join(), process.join()].map(|joined| joined.expect("room for two"));
        assert_eq!([one.number, two.number], [1, 2]);
        assert_eq!(process.join().err(), Some(Errno::Again));
        drop(one);
        let three = process.join().expect("room again");
        assert_eq!((three.number, process.threads()), (3, 2), "a number is not used again at once");
        process.end();
        drop(two);
        assert_eq!(process.join().err(), Some(Errno::Again));
        assert!(process.lives(3) && process.lives(MAIN) && !process.lives(2));
    }

    #[test]
    fn a_signal_for_the_process_reaches_a_thread_that_lives() {
        let process = Process::first(2, Arc::default());
        let [one, two] = [process.join(), process.join()].map(|joined| joined.expect("room for two"));
        assert!(!process.raise_for_any(15), "nobody would be told");
        process.handle_signals("handler".to_owned());
        assert!(process.raise_for_any(15));
        assert!(process.main().is_any() && !one.signals.is_any());
        process.first_left();
        assert!(!process.lives(MAIN));
        assert!(one.signals.is_any() && !two.signals.is_any());
        drop(one);
        assert_eq!(two.signals.next(), Some(15));
        drop(two);
        assert!(!process.raise_for_any(15), "nobody is there");
    }

    #[test]
    fn a_path_is_from_the_directory() {
        let process = Process::first(0, Arc::default());
        process.enter("/srv/app".to_owned());
        for (path, want) in [
            ("", "/srv/app"),
            ("a/./b", "/srv/app/a/b"),
            ("../x", "/srv/x"),
            ("../../../..", "/"),
            ("/etc//hosts", "/etc/hosts"),
        ] {
            assert_eq!(process.absolute(path), want);
        }
    }
}
