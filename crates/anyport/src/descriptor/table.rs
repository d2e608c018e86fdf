//! A guest's table of descriptors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Descriptor, Socket};
use crate::epoll::{Epoll, Room};
use crate::errno::Errno;
use crate::limits::WATCHED_EACH;

/// The table. Locked only while an entry is looked up or changed, never while anything waits.
#[derive(Debug)]
pub(crate) struct Descriptors {
    slots: Mutex<Slots>,
    most: usize,
    /// Of the entries of epoll sets.
    room: Arc<Room>,
}

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Option<Descriptor>>,
    open: usize,
    /// No free slot is below this one.
    lowest_free: usize,
    /// Files of wasmtime-wasi's that are open more than once: under how many other numbers.
    again: HashMap<u32, u32>,
    /// Its guest is over.
    closed: bool,
}

impl Slots {
    /// The same once more, for another number.
    fn again(&mut self, fd: u32) -> Result<Descriptor, Errno> {
        let descriptor = self.entries.get(fd as usize).and_then(Clone::clone).ok_or(Errno::BadDescriptor)?;
        if let Descriptor::Host(number) = descriptor {
            *self.again.entry(number).or_default() += 1;
        }
        Ok(descriptor)
    }

    /// What is to be closed of what was taken out: nothing of a file that has another number yet. Decided here,
    /// with the table locked: of two threads that close both numbers, one closes the file.
    fn last(&mut self, taken: Descriptor) -> Option<Descriptor> {
        let Descriptor::Host(number) = taken else { return Some(taken) };
        let Some(others) = self.again.get_mut(&number) else { return Some(taken) };
        *others -= 1;
        if *others == 0 {
            self.again.remove(&number);
        }
        None
    }

    /// Opens a descriptor at the lowest free number from one on.
    fn insert(&mut self, descriptor: Descriptor, least: usize, most: usize) -> Result<u32, Errno> {
        if self.open >= most || self.closed {
            return Err(Errno::TooManyOpen);
        }
        let from = self.lowest_free.max(least);
        let free = self.entries.iter().skip(from).position(Option::is_none).map(|at| from + at);
        let at = free.unwrap_or_else(|| self.entries.len().max(from));
        let fd = u32::try_from(at).ok().filter(|_| at < most).ok_or(Errno::TooManyOpen)?;
        self.put(at, descriptor);
        if least <= self.lowest_free {
            self.lowest_free = at + 1;
        }
        Ok(fd)
    }

    /// Opens a descriptor at a number, and gives back what was there.
    fn put(&mut self, at: usize, descriptor: Descriptor) -> Option<Descriptor> {
        if at >= self.entries.len() {
            self.entries.resize(at + 1, None);
        }
        let replaced = self.entries[at].replace(descriptor);
        if replaced.is_none() {
            self.open += 1;
        }
        if self.lowest_free == at {
            self.lowest_free += 1;
        }
        replaced
    }
}

impl Descriptors {
    /// An empty table for at most `most` descriptors.
    pub(crate) fn new(most: usize) -> Self {
        Self { slots: Mutex::default(), most, room: Room::new(most.saturating_mul(WATCHED_EACH)) }
    }

    /// An epoll set of descriptors of this table.
    pub(crate) fn new_set(&self) -> Epoll {
        Epoll::new(&self.room)
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.lock().open
    }

    pub(crate) fn get(&self, fd: u32) -> Result<Descriptor, Errno> {
        self.lock().entries.get(fd as usize).and_then(Clone::clone).ok_or(Errno::BadDescriptor)
    }

    pub(crate) fn socket(&self, fd: u32) -> Result<Arc<Socket>, Errno> {
        match self.lock().entries.get(fd as usize) {
            Some(Some(Descriptor::Socket(socket))) => Ok(Arc::clone(socket)),
            Some(Some(_)) => Err(Errno::NotSocket),
            _ => Err(Errno::BadDescriptor),
        }
    }

    /// Opens `descriptor` at the lowest free number, as POSIX has it: guests hard-code 3.
    pub(crate) fn insert(&self, descriptor: Descriptor) -> Result<u32, Errno> {
        self.lock().insert(descriptor, 0, self.most)
    }

    /// The connections of public ports that are open.
    pub(crate) fn public(&self) -> Vec<Arc<Socket>> {
        let slots = self.lock();
        let public = slots.entries.iter().flatten().filter_map(|descriptor| match descriptor {
            Descriptor::Socket(socket) if socket.public => Some(Arc::clone(socket)),
            _ => None,
        });
        public.collect()
    }

    /// Whether [`Descriptors::insert`] would be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().open >= self.most
    }

    /// Takes a descriptor out, and gives back what is to be closed of it.
    pub(crate) fn remove(&self, fd: u32) -> Result<Option<Descriptor>, Errno> {
        let mut slots = self.lock();
        let at = fd as usize;
        let descriptor = slots.entries.get_mut(at).and_then(Option::take).ok_or(Errno::BadDescriptor)?;
        slots.open -= 1;
        slots.lowest_free = slots.lowest_free.min(at);
        Ok(slots.last(descriptor))
    }

    /// Closes all, and opens none any more: the guest is over, whatever holds up some of its threads.
    pub(crate) fn close_all(&self) {
        let entries = {
            let mut slots = self.lock();
            slots.closed = true;
            slots.open = 0;
            std::mem::take(&mut slots.entries)
        };
        drop(entries);
    }

    /// Moves `from` to `to`, which must be open too, and gives back what is to be closed of
    /// what was at `to`: preview1's `fd_renumber`. Onto itself it changes nothing.
    pub(crate) fn renumber(&self, from: u32, to: u32) -> Result<Option<Descriptor>, Errno> {
        let mut slots = self.lock();
        let is_open = |fd: u32| matches!(slots.entries.get(fd as usize), Some(Some(_)));
        if !is_open(from) || !is_open(to) {
            return Err(Errno::BadDescriptor);
        }
        if from == to {
            return Ok(None);
        }
        let moved = slots.entries[from as usize].take();
        let replaced = std::mem::replace(&mut slots.entries[to as usize], moved);
        slots.open -= 1;
        slots.lowest_free = slots.lowest_free.min(from as usize);
        Ok(replaced.and_then(|replaced| slots.last(replaced)))
    }

    /// Opens `fd` once more, at the lowest free number that is not below `least`.
    pub(crate) fn duplicate(&self, fd: u32, least: u32) -> Result<u32, Errno> {
        let mut slots = self.lock();
        let descriptor = slots.again(fd)?;
        let opened = if least as usize >= self.most {
            Err(Errno::Invalid)
        } else {
            slots.insert(descriptor.clone(), least as usize, self.most)
        };
        if opened.is_err() {
            // It is open as often as before.
            slots.last(descriptor);
        }
        opened
    }

    /// Opens `from` once more as `to`, and gives back what is to be closed of what was there: dup2(2). Onto itself it
    /// changes nothing.
    pub(crate) fn duplicate_to(&self, from: u32, to: u32) -> Result<Option<Descriptor>, Errno> {
        let mut slots = self.lock();
        let descriptor = slots.again(from)?;
        if from == to || to as usize >= self.most || slots.open >= self.most {
            slots.last(descriptor);
            return if from == to { Ok(None) } else { Err(Errno::BadDescriptor) };
        }
        let replaced = slots.put(to as usize, descriptor);
        Ok(replaced.and_then(|replaced| slots.last(replaced)))
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().expect("no panic while held")
    }
}

/// A descriptor that the guest does not know of yet, or never will by its number: closed again unless it is kept.
#[must_use]
pub(crate) struct Opened {
    descriptors: Arc<Descriptors>,
    fd: u32,
    kept: bool,
}

impl Opened {
    pub(crate) fn new(descriptors: &Arc<Descriptors>, descriptor: Descriptor) -> Result<Self, Errno> {
        let fd = descriptors.insert(descriptor)?;
        Ok(Self { descriptors: Arc::clone(descriptors), fd, kept: false })
    }

    pub(crate) fn fd(&self) -> u32 {
        self.fd
    }

    pub(crate) fn socket(&self) -> Result<Arc<Socket>, Errno> {
        self.descriptors.socket(self.fd)
    }

    /// The guest has been told the number.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.descriptors.remove(self.fd);
        }
    }
}
