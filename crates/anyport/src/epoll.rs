//! An epoll set: which descriptors a guest waits for, and which of them are worth a look.
//!
//! A wait costs what has changed, not what is in the set: each entry is woken by its own descriptor and puts itself
//! into a queue. What was told and may still be so is looked at again by the next wait.
//!
//! No news are lost between threads. Who puts an entry into the queue wakes one who waits, and whoever stops waiting
//! wakes the next while there is something in the queue.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use smallvec::SmallVec;

use crate::descriptor::{Descriptor, Socket};
use crate::errno::Errno;
use crate::event::Event;
use crate::net::waiters::Waiters;
use crate::net::{Interest, Ready};
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

/// What a set tells: events, and what the guest gave with the entry.
pub(crate) type Told = SmallVec<[(u32, Data); 8]>;

#[derive(Debug)]
pub(crate) struct Epoll {
    entries: Mutex<HashMap<u32, Arc<Entry>>>,
    queue: Arc<Queue>,
    rank: OnceLock<Rank>,
    room: Arc<Room>,
}

/// A set in a set is told from one that holds it: so there is no way round, and no deep one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    Holds,
    IsHeld,
}

/// How many entries the sets of a guest may have together.
#[derive(Debug)]
pub(crate) struct Room {
    taken: AtomicUsize,
    most: usize,
}

/// The place of one entry.
#[derive(Debug)]
struct Place(Arc<Room>);

#[derive(Debug, Default)]
struct Queue {
    entries: Mutex<VecDeque<Arc<Entry>>>,
    /// Counts what was put in because it was woken.
    news: AtomicU64,
    /// The threads that wait for events, each of which takes some.
    waiters: Waiters,
    /// Those who only want to know that there are some.
    watchers: Waiters,
}

/// A descriptor in a set. It is no more when the last descriptor of its file is closed.
#[derive(Debug)]
struct Entry {
    target: Target,
    queue: Weak<Queue>,
    /// Looked at with the queue locked. One that was taken out of its set counts as queued for ever.
    is_queued: AtomicBool,
    state: Mutex<State>,
    _place: Place,
}

#[derive(Clone, Debug)]
struct State {
    /// Nothing of one that has had its single event, or was taken out of its set.
    wanted: Option<u32>,
    data: Data,
    /// What was known when it was told that it is ready to read, or to write, or ended; and has been since.
    told: [Option<u64>; 3],
}

/// The place in [`State::told`] of the end of what can be read, after those of the two directions.
const END: usize = 2;

#[derive(Debug)]
enum Target {
    Socket(Weak<Socket>),
    Stdio(Weak<Stdio>),
    Event(Weak<Event>),
    Set(Weak<Epoll>),
}

/// A wait under way.
#[derive(Debug)]
pub(crate) struct Waiting<'e> {
    queue: &'e Queue,
    most: usize,
    waker: Option<Waker>,
}

impl Target {
    fn of(descriptor: &Descriptor) -> Result<Self, Errno> {
        match descriptor {
            Descriptor::Socket(socket) => Ok(Self::Socket(Arc::downgrade(socket))),
            Descriptor::Stdio(stdio) => Ok(Self::Stdio(Arc::downgrade(stdio))),
            Descriptor::Event(event) => Ok(Self::Event(Arc::downgrade(event))),
            Descriptor::Epoll(set) => Ok(Self::Set(Arc::downgrade(set))),
            // Files never block.
            Descriptor::Host(_) => Err(Errno::NotPermitted),
        }
    }

    fn get(&self) -> Option<Descriptor> {
        match self {
            Self::Socket(socket) => socket.upgrade().map(Descriptor::Socket),
            Self::Stdio(stdio) => stdio.upgrade().map(Descriptor::Stdio),
            Self::Event(event) => event.upgrade().map(Descriptor::Event),
            Self::Set(set) => set.upgrade().map(Descriptor::Epoll),
        }
    }

    fn is(&self, descriptor: &Descriptor) -> bool {
        match (self, descriptor) {
            (Self::Socket(one), Descriptor::Socket(other)) => std::ptr::eq(one.as_ptr(), Arc::as_ptr(other)),
            (Self::Stdio(one), Descriptor::Stdio(other)) => std::ptr::eq(one.as_ptr(), Arc::as_ptr(other)),
            (Self::Event(one), Descriptor::Event(other)) => std::ptr::eq(one.as_ptr(), Arc::as_ptr(other)),
            (Self::Set(one), Descriptor::Epoll(other)) => std::ptr::eq(one.as_ptr(), Arc::as_ptr(other)),
            _ => false,
        }
    }

    fn is_gone(&self) -> bool {
        let holders = match self {
            Self::Socket(socket) => socket.strong_count(),
            Self::Stdio(stdio) => stdio.strong_count(),
            Self::Event(event) => event.strong_count(),
            Self::Set(set) => set.strong_count(),
        };
        holders == 0
    }
}

impl Room {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), most })
    }

    fn take(self: &Arc<Self>) -> Result<Place, Errno> {
        let more = |taken| (taken < self.most).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map(|_| Place(Arc::clone(self))).map_err(|_| Errno::NoSpace)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Epoll {
    /// An empty set, one of those that share the room for entries.
    pub(crate) fn new(room: &Arc<Room>) -> Self {
        let (entries, queue) = (Mutex::default(), Arc::default());
        Self { entries, queue, rank: OnceLock::new(), room: Arc::clone(room) }
    }

    /// Puts a descriptor into the set.
    pub(crate) fn add(&self, fd: u32, descriptor: &Descriptor, wanted: u32, data: Data) -> Result<(), Errno> {
        let mut entries = lock(&self.entries);
        if entries.get(&fd).is_some_and(|entry| entry.target.is(descriptor)) {
            return Err(Errno::Exists);
        }
        let target = Target::of(descriptor)?;
        if let Descriptor::Epoll(set) = descriptor {
            self.hold(set)?;
        }
        if entries.len() == entries.capacity() {
            // Before there are more: those go whose descriptors were closed without a word to the set.
            entries.retain(|_, entry| !entry.target.is_gone());
        }
        let entry = Arc::new(Entry {
            target,
            queue: Arc::downgrade(&self.queue),
            is_queued: AtomicBool::new(false),
            state: Mutex::new(State { wanted: Some(wanted), data, told: [None; 3] }),
            _place: self.room.take()?,
        });
        if let Some(before) = entries.insert(fd, Arc::clone(&entry)) {
            self.let_go(&before);
        }
        entry.wake();
        Ok(())
    }

    /// Whether another set may be in this one.
    fn hold(&self, other: &Self) -> Result<(), Errno> {
        if std::ptr::eq(self, other) {
            return Err(Errno::Invalid);
        }
        let may = *self.rank.get_or_init(|| Rank::Holds) == Rank::Holds
            && *other.rank.get_or_init(|| Rank::IsHeld) == Rank::IsHeld;
        if may { Ok(()) } else { Err(Errno::Loop) }
    }

    /// Changes what is waited for; what is ready is told again.
    pub(crate) fn change(&self, fd: u32, descriptor: &Descriptor, wanted: u32, data: Data) -> Result<(), Errno> {
        let entries = lock(&self.entries);
        let entry = entries.get(&fd).filter(|entry| entry.target.is(descriptor)).ok_or(Errno::NoEntry)?;
        *lock(&entry.state) = State { wanted: Some(wanted), data, told: [None; 3] };
        entry.wake_by_ref();
        Ok(())
    }

    pub(crate) fn remove(&self, fd: u32, descriptor: &Descriptor) -> Result<(), Errno> {
        let mut entries = lock(&self.entries);
        let entry = entries.get(&fd).filter(|entry| entry.target.is(descriptor)).ok_or(Errno::NoEntry)?;
        self.let_go(entry);
        entries.remove(&fd);
        Ok(())
    }

    /// Nothing is told of an entry any more, and nothing that could wake it keeps it.
    fn let_go(&self, entry: &Arc<Entry>) {
        lock(&entry.state).wanted = None;
        self.queue.expel(entry);
        if let Some(descriptor) = entry.target.get() {
            descriptor.forget(&entry.waker());
        }
    }

    /// What there is to tell now, at most so much.
    pub(crate) fn look(&self, most: usize) -> Told {
        let told = self.queue.look(most);
        self.queue.hand_on();
        told
    }

    /// Waits until there is something to tell.
    pub(crate) fn wait(&self, most: usize) -> Waiting<'_> {
        Waiting { queue: &self.queue, most, waker: None }
    }

    /// Whether a wait would tell something; else the task is woken when it may. Nothing is told by that.
    pub(crate) fn poll_ready(&self, context: &Context<'_>, interest: Interest) -> Poll<()> {
        if interest == Interest::Write {
            return Poll::Pending;
        }
        self.queue.watchers.add(context.waker());
        for _ in 0..self.queue.len() {
            let Some(entry) = self.queue.pop() else { break };
            if entry.is_ready() {
                self.queue.push(&entry);
                self.queue.hand_on();
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// How often there was something new to look at.
    pub(crate) fn news(&self) -> u64 {
        self.queue.news.load(Ordering::Relaxed)
    }

    /// Forgets one who waits no longer to know that there is something.
    pub(crate) fn forget(&self, waker: &Waker) {
        self.queue.watchers.forget(waker);
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        for entry in lock(&self.entries).values() {
            self.let_go(entry);
        }
    }
}

impl Queue {
    fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Puts an entry in, once; false if it is there.
    fn push(&self, entry: &Arc<Entry>) -> bool {
        let mut entries = lock(&self.entries);
        let is_new = !entry.is_queued.swap(true, Ordering::Relaxed);
        if is_new {
            entries.push_back(Arc::clone(entry));
        }
        is_new
    }

    /// Takes one out to look at it: news from then on put it in again.
    fn pop(&self) -> Option<Arc<Entry>> {
        let mut entries = lock(&self.entries);
        let entry = entries.pop_front()?;
        entry.is_queued.store(false, Ordering::Relaxed);
        Some(entry)
    }

    /// Takes one out that is never put in again.
    fn expel(&self, entry: &Arc<Entry>) {
        let mut entries = lock(&self.entries);
        if entry.is_queued.swap(true, Ordering::Relaxed) {
            entries.retain(|other| !Arc::ptr_eq(other, entry));
        }
    }

    /// Looks at what is in it, each once.
    fn look(&self, most: usize) -> Told {
        let mut told = Told::new();
        for _ in 0..self.len() {
            if told.len() == most {
                break;
            }
            let Some(entry) = self.pop() else { break };
            let Some((events, data, may_repeat)) = entry.look() else { continue };
            told.push((events, data));
            if may_repeat {
                self.push(&entry);
            }
        }
        told
    }

    /// Wakes another who waits, while there is something to look at.
    fn hand_on(&self) {
        if self.len() > 0 {
            self.waiters.wake_one();
        }
    }
}

impl Entry {
    /// What there is to tell of it, and whether the next wait may tell it again.
    fn look(self: &Arc<Self>) -> Option<(u32, Data, bool)> {
        // Held for all of the look: a single event is told to one thread.
        let mut state = lock(&self.state);
        let wanted = state.wanted?;
        let descriptor = self.target.get()?;
        let events = state.look(&descriptor, &self.waker(), wanted);
        if events == 0 {
            return None;
        }
        if wanted & ONESHOT != 0 {
            // A change of it begins again.
            state.wanted = None;
        }
        Some((events, state.data, wanted & (EDGE | ONESHOT) == 0))
    }

    /// Whether there is something to tell of it, which stays as it is then.
    fn is_ready(self: &Arc<Self>) -> bool {
        let mut state = lock(&self.state);
        let (Some(wanted), Some(descriptor)) = (state.wanted, self.target.get()) else { return false };
        let mut seen = state.clone();
        let is_ready = seen.look(&descriptor, &self.waker(), wanted) != 0;
        if !is_ready {
            *state = seen;
        }
        is_ready
    }

    fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(queue) = self.queue.upgrade() else { return };
        if queue.push(self) {
            queue.news.fetch_add(1, Ordering::Relaxed);
            queue.waiters.wake_one();
            queue.watchers.wake_all();
        }
    }
}

impl State {
    /// The events of a descriptor; the waker is told when there may be others.
    fn look(&mut self, descriptor: &Descriptor, waker: &Waker, wanted: u32) -> u32 {
        let context = &mut Context::from_waker(waker);
        let is_edge = wanted & EDGE != 0;
        let mut events = 0;
        for (interest, direction) in [(Interest::Read, IN), (Interest::Write, OUT)] {
            if wanted & direction != 0 {
                // Before the look: what is used, or becomes another, from now on is looked at again.
                let watched =
                    if is_edge || descriptor.is_provisional() { descriptor.watch(waker, interest) } else { 0 };
                let known = if is_edge { watched } else { 0 };
                let polled = descriptor.poll_ready(context, interest);
                events |= self.tell(interest as usize, known, polled, direction, wanted);
            }
        }
        // That bytes have come says nothing of their end, and keeps who waits for bytes from waiting for it.
        let waits_for_end = wanted & RDHUP != 0 || wanted & OUT == 0;
        if wanted & IN == 0 && waits_for_end {
            let polled = descriptor.poll_ended(context);
            events |= self.tell(END, 0, polled, 0, wanted);
        }
        events
    }

    /// What of that is told: all of it for a level, what is news for an edge.
    fn tell(&mut self, at: usize, known: u64, polled: Poll<Result<Ready, Errno>>, direction: u32, wanted: u32) -> u32 {
        let Poll::Ready(outcome) = polled else {
            self.told[at] = None;
            return 0;
        };
        let was_told = self.told[at].replace(known) == Some(known);
        if was_told && wanted & EDGE != 0 { 0 } else { events_of(outcome, direction, wanted) }
    }
}

fn events_of(outcome: Result<Ready, Errno>, direction: u32, wanted: u32) -> u32 {
    let Ok(ready) = outcome else { return ERR | HUP | (wanted & (IN | OUT)) };
    let ended = if ready.ended { RDHUP } else { 0 };
    let hangup = if ready.hangup { HUP } else { 0 };
    (direction | ended) & wanted | hangup
}

impl Future for Waiting<'_> {
    type Output = Told;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Told> {
        // Before the look: what is put in from now on wakes it.
        self.queue.waiters.add(context.waker());
        self.waker = Some(context.waker().clone());
        let told = self.queue.look(self.most);
        if told.is_empty() { Poll::Pending } else { Poll::Ready(told) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waker) = &self.waker {
            // It may have been the one to be woken, just as it gave up.
            self.queue.waiters.forget(waker);
            self.queue.hand_on();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn a_single_event_is_told_to_one_of_two_threads() {
        let event = Arc::new(Event::new(1, false, true));
        let (set, descriptor) = (Epoll::new(&Room::new(1)), Descriptor::Event(Arc::clone(&event)));
        set.add(3, &descriptor, IN | ONESHOT, [0; 24]).expect("there is room");
        let rounds = Barrier::new(2);
        for round in 0..200 {
            let look = || {
                rounds.wait();
                // News put it into the queue while the other looks.
                event.write(1).expect("it is far from its most");
                set.look(1).len()
            };
            let told: usize =
                thread::scope(|threads| [threads.spawn(look), threads.spawn(look)].map(|other| other.join()))
                    .into_iter()
                    .map(|told| told.expect("it does not panic"))
                    .sum();
            assert_eq!(told + set.look(1).len(), 1, "{round}");
            set.change(3, &descriptor, IN | ONESHOT, [0; 24]).expect("it is there");
        }
    }

    #[test]
    fn who_stops_waiting_leaves_its_wake_up_to_another() {
        let event = Arc::new(Event::new(0, false, true));
        let set = Epoll::new(&Room::new(1));
        set.add(3, &Descriptor::Event(Arc::clone(&event)), IN, [0; 24]).expect("there is room");
        let counts: [Arc<Count>; 2] = Default::default();
        let wakers = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        let mut waits = wakers.each_ref().map(|waker| {
            let mut waiting = Box::pin(set.wait(1));
            assert!(waiting.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
            Some(waiting)
        });
        event.write(1).expect("it is far from its most");
        let woken = usize::from(counts[0].0.load(Ordering::Relaxed) == 0);
        waits[woken] = None;
        assert_eq!(counts.map(|count| count.0.load(Ordering::Relaxed)), [1, 1]);
    }

    /// The poller remembers the end for ever, and tells nothing more.
    #[tokio::test]
    async fn a_fifo_tells_of_its_next_writer() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("it is ours");
        // For both, or who opens it would wait for the other.
        let reads = std::fs::File::options().read(true).write(true).open(&path).expect("it is there");
        let only_reads = std::fs::File::open(&path).expect("it is there");
        let mut writes = std::fs::File::options().write(true).open(&path).expect("it is there");
        drop(reads);
        let stdio = Arc::new(Stdio::new(&crate::stdio::StdioTarget::Fd(only_reads.into()), 0).expect("it is open"));
        let set = Epoll::new(&Room::new(1));
        set.add(0, &Descriptor::Stdio(Arc::clone(&stdio)), IN | EDGE, [0; 24]).expect("there is room");
        for _ in 0..3 {
            std::io::Write::write_all(&mut writes, b"x").expect("it is read");
            drop(writes);
            let told = tokio::time::timeout(std::time::Duration::from_secs(10), set.wait(1)).await;
            assert_eq!(told.expect("it is told").len(), 1);
            let mut bytes = [0; 8];
            assert_eq!(stdio.try_read(&mut bytes).expect("it is there"), 1);
            assert_eq!(stdio.try_read(&mut bytes).expect("that is the end"), 0);
            writes = std::fs::File::options().write(true).open(&path).expect("it is there");
        }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
