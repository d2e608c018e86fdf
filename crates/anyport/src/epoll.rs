//! An epoll set: which descriptors a guest waits for, and which of them are worth a look.
//!
//! A wait costs what has changed, not what is in the set: each entry is woken by its own descriptor and puts itself
//! into a queue. What was told and may still be so is looked at again by the next wait.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Wake, Waker};

use crate::descriptor::{Descriptor, Socket};
use crate::errno::Errno;
use crate::event::Event;
use crate::net::waiters::Waiters;
use crate::stdio::Stdio;

/// What is waited for, and what came of it: the bits of WASIX.
pub(crate) const IN: u32 = 1;
pub(crate) const OUT: u32 = 2;
pub(crate) const RDHUP: u32 = 4;
pub(crate) const ERR: u32 = 16;
pub(crate) const HUP: u32 = 32;
pub(crate) const EDGE: u32 = 64;
pub(crate) const ONESHOT: u32 = 128;

/// Bytes that a guest gives with an entry, and gets back with its events.
pub(crate) type Data = [u8; 24];

#[derive(Debug, Default)]
pub(crate) struct Epoll {
    entries: Mutex<HashMap<u32, Arc<Entry>>>,
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: Mutex<VecDeque<Arc<Entry>>>,
    waiters: Waiters,
}

/// A descriptor in a set. It is no more when the last descriptor of its file is closed.
#[derive(Debug)]
pub(crate) struct Entry {
    target: Target,
    pub(crate) wanted: u32,
    pub(crate) data: Data,
    queue: Weak<Queue>,
    is_queued: AtomicBool,
    /// It was taken out of its set, or has had its one event.
    is_over: AtomicBool,
    /// What was told and has not ended since: reading, writing.
    pub(crate) told: [AtomicBool; 2],
    /// The writes of an event that were told.
    pub(crate) writes: AtomicU64,
}

#[derive(Debug)]
enum Target {
    Socket(Weak<Socket>),
    Stdio(Weak<Stdio>),
    Event(Weak<Event>),
}

impl Target {
    fn of(descriptor: &Descriptor) -> Result<Self, Errno> {
        match descriptor {
            Descriptor::Socket(socket) => Ok(Self::Socket(Arc::downgrade(socket))),
            Descriptor::Stdio(stdio) => Ok(Self::Stdio(Arc::downgrade(stdio))),
            Descriptor::Event(event) => Ok(Self::Event(Arc::downgrade(event))),
            // Files never block.
            Descriptor::Host(_) => Err(Errno::NotPermitted),
            Descriptor::Epoll(_) => Err(Errno::NotSupported),
        }
    }

    fn get(&self) -> Option<Descriptor> {
        match self {
            Self::Socket(socket) => socket.upgrade().map(Descriptor::Socket),
            Self::Stdio(stdio) => stdio.upgrade().map(Descriptor::Stdio),
            Self::Event(event) => event.upgrade().map(Descriptor::Event),
        }
    }

    fn is(&self, descriptor: &Descriptor) -> bool {
        match (self, descriptor) {
            (Self::Socket(one), Descriptor::Socket(other)) => std::ptr::eq(one.as_ptr(), Arc::as_ptr(other)),
            (Self::Stdio(one), Descriptor::Stdio(other)) => std::ptr::eq(one.as_ptr(), Arc::as_ptr(other)),
            (Self::Event(one), Descriptor::Event(other)) => std::ptr::eq(one.as_ptr(), Arc::as_ptr(other)),
            _ => false,
        }
    }
}

impl Epoll {
    /// Puts a descriptor into the set.
    pub(crate) fn add(&self, fd: u32, descriptor: &Descriptor, wanted: u32, data: Data) -> Result<(), Errno> {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get(&fd)
            && entry.target.is(descriptor)
        {
            return Err(Errno::Exists);
        }
        self.put(&mut entries, fd, Target::of(descriptor)?, wanted, data);
        Ok(())
    }

    /// Changes what is waited for; what is ready is told again.
    pub(crate) fn change(&self, fd: u32, descriptor: &Descriptor, wanted: u32, data: Data) -> Result<(), Errno> {
        let mut entries = lock(&self.entries);
        if !entries.get(&fd).is_some_and(|entry| entry.target.is(descriptor)) {
            return Err(Errno::NoEntry);
        }
        self.put(&mut entries, fd, Target::of(descriptor)?, wanted, data);
        Ok(())
    }

    pub(crate) fn remove(&self, fd: u32) -> Result<(), Errno> {
        let entry = lock(&self.entries).remove(&fd).ok_or(Errno::NoEntry)?;
        entry.is_over.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn put(&self, entries: &mut HashMap<u32, Arc<Entry>>, fd: u32, target: Target, wanted: u32, data: Data) {
        let entry = Arc::new(Entry {
            target,
            wanted,
            data,
            queue: Arc::downgrade(&self.queue),
            is_queued: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            told: Default::default(),
            writes: AtomicU64::new(0),
        });
        if let Some(before) = entries.insert(fd, Arc::clone(&entry)) {
            before.is_over.store(true, Ordering::Relaxed);
        }
        entry.wake();
    }

    /// Has the task woken when there is something to look at. Called before a look.
    pub(crate) fn wait(&self, context: &Context<'_>) {
        self.queue.waiters.add(context.waker());
    }

    /// Wakes the other threads that wait: what is told to one may be of use to another.
    pub(crate) fn wake_others(&self, context: &Context<'_>) {
        self.queue.waiters.wake_but(context.waker());
    }

    /// What there is to look at, each once.
    pub(crate) fn take(&self) -> VecDeque<Arc<Entry>> {
        let entries = std::mem::take(&mut *lock(&self.queue.entries));
        for entry in &entries {
            // Before the look: news from now on put it into the queue again.
            entry.is_queued.store(false, Ordering::SeqCst);
        }
        entries
    }

    /// Puts back what is to be looked at by the next wait, without waking anybody.
    pub(crate) fn put_back(&self, entries: impl IntoIterator<Item = Arc<Entry>>) {
        let mut queue = lock(&self.queue.entries);
        for entry in entries {
            if !entry.is_queued.swap(true, Ordering::SeqCst) {
                queue.push_back(entry);
            }
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // The entries may be held by what would wake them.
        lock(&self.queue.entries).clear();
    }
}

impl Entry {
    /// What it waits for, if that is still there.
    pub(crate) fn target(&self) -> Option<Descriptor> {
        if self.is_over.load(Ordering::Relaxed) { None } else { self.target.get() }
    }

    /// It has had its one event: a change of it begins again.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(queue) = self.queue.upgrade() else { return };
        if !self.is_over.load(Ordering::Relaxed) && !self.is_queued.swap(true, Ordering::SeqCst) {
            lock(&queue.entries).push_back(Arc::clone(self));
            queue.waiters.wake_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
