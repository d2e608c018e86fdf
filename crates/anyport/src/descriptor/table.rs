//! A guest's table of descriptors.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::{Descriptor, Socket};
use crate::epoll::{Epoll, Room};
use crate::errno::Errno;
use crate::limits::WATCHED_EACH;

/// The table of one process. Locked only while an entry is looked up or changed, never while anything waits.
#[derive(Debug)]
pub(crate) struct Descriptors {
    slots: Mutex<Slots>,
    shared: Arc<Shared>,
}

/// What the tables of all processes of a guest have in common.
#[derive(Debug)]
struct Shared {
    /// Descriptors that all of them may have together.
    most: usize,
    open: AtomicUsize,
    /// Files of wasmtime-wasi's that are open more than once: under how many other numbers. Locked after a table.
    again: Mutex<HashMap<u32, u32>>,
    tables: Mutex<Vec<Weak<Descriptors>>>,
    /// Of the entries of epoll sets.
    room: Arc<Room>,
}

#[derive(Debug)]
struct Slots {
    entries: Vec<Option<Descriptor>>,
    /// No free slot is below this one.
    lowest_free: usize,
    /// The numbers with `FD_CLOEXEC`. Nothing is executed here: who asks is told what was set.
    close_on_exec: BTreeSet<u32>,
    /// Its process is over.
    closed: bool,
    shared: Arc<Shared>,
}

impl Shared {
    fn is_full(&self) -> bool {
        self.open() >= self.most
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// There is one more, if there may be.
    fn opens(&self) -> Result<(), Errno> {
        let more = |open| (open < self.most).then_some(open + 1);
        let taken = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map(drop).map_err(|_| Errno::TooManyOpen)
    }

    fn closed(&self, count: usize) {
        self.open.fetch_sub(count, Ordering::Relaxed);
    }

    /// A descriptor has another number from now on.
    fn again(&self, descriptor: &Descriptor) {
        if let Descriptor::Host(number) = descriptor {
            *self.lock_again().entry(*number).or_default() += 1;
        }
    }

    fn lock_again(&self) -> MutexGuard<'_, HashMap<u32, u32>> {
        self.again.lock().expect("no panic while held")
    }

    /// The tables of all processes that live.
    fn tables(&self) -> Vec<Arc<Descriptors>> {
        self.lock_tables().iter().filter_map(Weak::upgrade).collect()
    }

    fn lock_tables(&self) -> MutexGuard<'_, Vec<Weak<Descriptors>>> {
        self.tables.lock().expect("no panic while held")
    }
}

impl Slots {
    fn must_be_open(&self, fd: u32) -> Result<(), Errno> {
        let is_open = matches!(self.entries.get(fd as usize), Some(Some(_)));
        is_open.then_some(()).ok_or(Errno::BadDescriptor)
    }

    /// The same once more, for another number.
    fn again(&mut self, fd: u32) -> Result<Descriptor, Errno> {
        let descriptor = self.entries.get(fd as usize).and_then(Clone::clone).ok_or(Errno::BadDescriptor)?;
        self.shared.again(&descriptor);
        Ok(descriptor)
    }

    /// What is to be closed of what was taken out: nothing of a file that has another number yet. Decided here,
    /// with the table locked: of two threads that close both numbers, one closes the file.
    fn last(&mut self, taken: Descriptor) -> Option<Descriptor> {
        let Descriptor::Host(number) = taken else { return Some(taken) };
        let mut again = self.shared.lock_again();
        let Some(others) = again.get_mut(&number) else { return Some(taken) };
        *others -= 1;
        if *others == 0 {
            again.remove(&number);
        }
        None
    }

    /// Opens a descriptor at the lowest free number from one on.
    fn insert(&mut self, descriptor: Descriptor, least: usize) -> Result<u32, Errno> {
        if self.closed {
            return Err(Errno::TooManyOpen);
        }
        let from = self.lowest_free.max(least);
        let free = self.entries.iter().skip(from).position(Option::is_none).map(|at| from + at);
        let at = free.unwrap_or_else(|| self.entries.len().max(from));
        let fd = u32::try_from(at).ok().filter(|_| at < self.shared.most).ok_or(Errno::TooManyOpen)?;
        self.shared.opens()?;
        self.put(fd, descriptor);
        if least <= self.lowest_free {
            self.lowest_free = at + 1;
        }
        Ok(fd)
    }

    /// Puts a descriptor that counts already at a number, and gives back what was there.
    fn put(&mut self, fd: u32, descriptor: Descriptor) -> Option<Descriptor> {
        self.close_on_exec.remove(&fd);
        let at = fd as usize;
        if at >= self.entries.len() {
            self.entries.resize(at + 1, None);
        }
        let replaced = self.entries[at].replace(descriptor);
        if replaced.is_some() {
            self.shared.closed(1);
        }
        if self.lowest_free == at {
            self.lowest_free += 1;
        }
        replaced
    }
}

impl Descriptors {
    /// An empty table for at most `most` descriptors.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let room = Room::new(most.saturating_mul(WATCHED_EACH));
        let (open, again, tables) = Default::default();
        let shared = Arc::new(Shared { most, open, again, tables, room });
        let (entries, close_on_exec) = Default::default();
        Self::with(Slots { entries, lowest_free: 0, close_on_exec, closed: false, shared })
    }

    fn with(slots: Slots) -> Arc<Self> {
        let shared = Arc::clone(&slots.shared);
        let table = Arc::new(Self { slots: Mutex::new(slots), shared });
        let mut tables = table.shared.lock_tables();
        tables.retain(|table| table.strong_count() > 0);
        tables.push(Arc::downgrade(&table));
        drop(tables);
        table
    }

    /// The same descriptors for a process that is forked: each is the same file, socket or event.
    pub(crate) fn fork(&self) -> Result<Arc<Self>, Errno> {
        let slots = self.lock();
        let count = slots.entries.iter().flatten().count();
        let room = |open: usize| open.checked_add(count).filter(|open| *open <= self.shared.most);
        let taken = self.shared.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        taken.map_err(|_| Errno::TooManyOpen)?;
        slots.entries.iter().flatten().for_each(|descriptor| self.shared.again(descriptor));
        let forked = Slots {
            entries: slots.entries.clone(),
            lowest_free: slots.lowest_free,
            close_on_exec: slots.close_on_exec.clone(),
            closed: false,
            shared: Arc::clone(&self.shared),
        };
        drop(slots);
        Ok(Self::with(forked))
    }

    /// An epoll set of descriptors of this table.
    pub(crate) fn new_set(&self) -> Epoll {
        Epoll::new(&self.shared.room)
    }

    /// How many all processes have open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open()
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
        self.lock().insert(descriptor, 0)
    }

    /// The connections of public ports that are open, of all processes; each once.
    pub(crate) fn public(&self) -> Vec<Arc<Socket>> {
        let tables = self.shared.tables();
        let mut all: Vec<Arc<Socket>> = Vec::new();
        for table in &tables {
            let slots = table.lock();
            all.extend(slots.entries.iter().flatten().filter_map(|descriptor| match descriptor {
                Descriptor::Socket(socket) if socket.public => Some(Arc::clone(socket)),
                _ => None,
            }));
        }
        if tables.len() > 1 {
            all.sort_by_key(Arc::as_ptr);
            all.dedup_by(|one, other| Arc::ptr_eq(one, other));
        }
        all
    }

    /// Whether [`Descriptors::insert`] would be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.shared.is_full()
    }

    /// Takes a descriptor out, and gives back what is to be closed of it.
    pub(crate) fn remove(&self, fd: u32) -> Result<Option<Descriptor>, Errno> {
        let mut slots = self.lock();
        let at = fd as usize;
        let descriptor = slots.entries.get_mut(at).and_then(Option::take).ok_or(Errno::BadDescriptor)?;
        slots.close_on_exec.remove(&fd);
        self.shared.closed(1);
        slots.lowest_free = slots.lowest_free.min(at);
        Ok(slots.last(descriptor))
    }

    /// Closes all, and opens none any more: the process is over, whatever holds up some of its threads. What it gives
    /// back are files that nobody else has open.
    pub(crate) fn close_all(&self) -> Vec<u32> {
        let taken: Vec<Descriptor> = {
            let mut slots = self.lock();
            slots.closed = true;
            let entries = std::mem::take(&mut slots.entries);
            self.shared.closed(entries.iter().flatten().count());
            entries.into_iter().flatten().filter_map(|taken| slots.last(taken)).collect()
        };
        let number = |descriptor| if let Descriptor::Host(number) = descriptor { Some(number) } else { None };
        taken.into_iter().filter_map(number).collect()
    }

    /// Moves `from` to `to`, which must be open too, and gives back what is to be closed of
    /// what was at `to`: preview1's `fd_renumber`. Onto itself it changes nothing.
    pub(crate) fn renumber(&self, from: u32, to: u32) -> Result<Option<Descriptor>, Errno> {
        let mut slots = self.lock();
        slots.must_be_open(from)?;
        slots.must_be_open(to)?;
        if from == to {
            return Ok(None);
        }
        slots.close_on_exec.retain(|fd| ![from, to].contains(fd));
        let moved = slots.entries[from as usize].take();
        let replaced = std::mem::replace(&mut slots.entries[to as usize], moved);
        self.shared.closed(1);
        slots.lowest_free = slots.lowest_free.min(from as usize);
        Ok(replaced.and_then(|replaced| slots.last(replaced)))
    }

    /// Opens `fd` once more, at the lowest free number that is not below `least`.
    pub(crate) fn duplicate(&self, fd: u32, least: u32) -> Result<u32, Errno> {
        let mut slots = self.lock();
        let descriptor = slots.again(fd)?;
        let opened = if least as usize >= self.shared.most {
            Err(Errno::Invalid)
        } else {
            slots.insert(descriptor.clone(), least as usize)
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
        if from == to || to as usize >= self.shared.most || self.shared.opens().is_err() {
            slots.last(descriptor);
            return if from == to { Ok(None) } else { Err(Errno::BadDescriptor) };
        }
        let replaced = slots.put(to, descriptor);
        Ok(replaced.and_then(|replaced| slots.last(replaced)))
    }

    /// Whether a descriptor would be closed where another program is executed: of its number, not of what it is.
    pub(crate) fn closes_on_exec(&self, fd: u32) -> Result<bool, Errno> {
        let slots = self.lock();
        slots.must_be_open(fd)?;
        Ok(slots.close_on_exec.contains(&fd))
    }

    /// Says so.
    pub(crate) fn close_on_exec(&self, fd: u32, closes: bool) -> Result<(), Errno> {
        let mut slots = self.lock();
        slots.must_be_open(fd)?;
        if closes {
            slots.close_on_exec.insert(fd);
        } else {
            slots.close_on_exec.remove(&fd);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().expect("no panic while held")
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // The other tables count what this one has. Its files are closed where its process ends; of one that was not
        // begun, its parent has them.
        self.close_all();
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
