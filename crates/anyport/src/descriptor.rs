//! What a guest holds: one table of descriptors for files, standard streams and sockets alike.

mod table;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as Turn;

pub(crate) use self::table::{Descriptors, Opened};

use crate::address::Family;
use crate::epoll::Epoll;
use crate::errno::Errno;
use crate::event::Event;
use crate::net::news::both;
use crate::net::tcp::Tcp;
use crate::net::udp::Udp;
use crate::net::waiters::Uses;
use crate::net::{Endpoint, Interest, Ready};
use crate::sending::Habit;
use crate::stdio::Stdio;

/// One open descriptor. Cheap to clone: take it out of the table, then wait.
#[derive(Clone, Debug)]
pub(crate) enum Descriptor {
    /// A file or directory, by its number in wasmtime-wasi's own table.
    Host(u32),
    Stdio(Arc<Stdio>),
    Socket(Arc<Socket>),
    Event(Arc<Event>),
    Epoll(Arc<Epoll>),
}

impl Descriptor {
    /// Whether a direction is ready; else the task is woken when it is.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<Result<Ready, Errno>> {
        let polled = match self {
            // Files never block.
            Self::Host(_) => Poll::Ready(Ok(Ready::default())),
            Self::Stdio(stdio) => stdio.poll_ready(context, interest),
            Self::Event(event) => event.poll_ready(context, interest).map(|()| Ok(Ready::default())),
            Self::Epoll(set) => set.poll_ready(context, interest).map(|()| Ok(Ready::default())),
            Self::Socket(socket) => match &socket.kind {
                SocketKind::Tcp(tcp) => tcp.poll_ready(context, interest),
                SocketKind::Udp(udp) => udp.endpoint().poll_ready(context, interest),
            },
        };
        polled.map_err(Errno::from)
    }

    /// Ready when nothing comes to be read any more, read or not: of sockets.
    pub(crate) fn poll_ended(&self, context: &mut Context<'_>) -> Poll<Result<Ready, Errno>> {
        let Self::Socket(socket) = self else { return Poll::Pending };
        let polled = match &socket.kind {
            SocketKind::Tcp(tcp) => tcp.poll_ended(context),
            SocketKind::Udp(udp) => udp.endpoint().poll_ended(context),
        };
        polled.map_err(Errno::from)
    }

    /// What is known of a direction that is ready: another number is news to who is told of edges. Has a task woken
    /// when it is another. Called before the look whose outcome is told.
    pub(crate) fn watch(&self, waker: &Waker, interest: Interest) -> u64 {
        match self {
            Self::Host(_) => 0,
            Self::Stdio(stdio) => stdio.watch(waker, interest),
            Self::Socket(socket) => {
                let uses = socket.uses[interest as usize].watch(waker);
                let context = &mut Context::from_waker(waker);
                match &socket.kind {
                    _ if interest == Interest::Write => uses,
                    SocketKind::Tcp(tcp) => both(uses, tcp.arrivals(context)),
                    SocketKind::Udp(udp) => both(uses, udp.endpoint().arrivals(context)),
                }
            }
            // Whoever looks at these is woken by each change.
            Self::Event(event) => event.changes(interest),
            Self::Epoll(set) => set.news(),
        }
    }

    /// Whether the host may have another socket for it as soon as it is bound, of which the poller tells nothing to who
    /// waits for this one.
    pub(crate) fn is_provisional(&self) -> bool {
        matches!(self, Self::Socket(socket) if socket.udp().is_ok_and(|udp| !udp.is_bound()))
    }

    /// Forgets one who waits no longer.
    pub(crate) fn forget(&self, waker: &Waker) {
        match self {
            Self::Host(_) => {}
            Self::Stdio(stdio) => stdio.forget(waker),
            Self::Event(event) => event.forget(waker),
            Self::Epoll(set) => set.forget(waker),
            Self::Socket(socket) => {
                socket.uses.iter().for_each(|uses| uses.forget(waker));
                socket.endpoint().forget(waker);
            }
        }
    }
}

/// A socket with what only its guest knows of it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) kind: SocketKind,
    /// What the guest sees; on the host every socket is non-blocking.
    nonblocking: AtomicBool,
    /// Microseconds; 0 waits for ever, as `SO_RCVTIMEO` has it.
    receive_timeout: AtomicU64,
    send_timeout: AtomicU64,
    pub(crate) habit: Habit,
    /// The guest has shut down a direction.
    pub(crate) was_shut_down: AtomicBool,
    /// Accepted from a listener, for the rights that `WasmEdge` shows.
    pub(crate) accepted: bool,
    /// Accepted from a public port, and not from a listener that the guest has for itself.
    public: bool,
    /// Readiness that the guest was told of and has not used since: reading, writing.
    told: [AtomicBool; 2],
    pub(crate) traffic: Traffic,
    /// An address that it is to be bound to when it is used, and not before.
    noted: Mutex<Option<SocketAddr>>,
    /// Options that change nothing, a bit each.
    kept: AtomicU32,
    /// Those who want to know when it was read, and when a write had to wait.
    uses: [Uses; 2],
    /// Of the threads that block in an accept: one waits for a connection, the others for their turn.
    pub(crate) turn: Turn<()>,
}

/// What passed over a connection last, for the time limits of connections. Written by the guest's
/// thread alone.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Counts what passed, above the two lowest bits, which say what was last.
    passed: AtomicU32,
    /// The count at the last look, and when it was new.
    looked: Mutex<Option<(u32, Instant)>>,
}

/// What passed over a connection last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    Nothing,
    /// The guest owes an answer.
    Received,
    Sent,
    /// The guest has more to send than its peer takes for now.
    Stuck,
}

impl Traffic {
    pub(crate) fn received(&self, bytes: usize) {
        // The end of the peer's bytes is no question.
        if bytes > 0 {
            self.pass(1);
        }
    }

    pub(crate) fn sent(&self) {
        self.pass(2);
    }

    /// Not all that the guest sends has gone. Nothing passes by that.
    pub(crate) fn stuck(&self) {
        self.passed.fetch_or(3, Ordering::Relaxed);
    }

    fn pass(&self, last: u32) {
        let passed = self.passed.load(Ordering::Relaxed);
        self.passed.store((passed & !3).wrapping_add(4) | last, Ordering::Relaxed);
    }

    /// What passed last, and for how long nothing has since, as far as looks tell.
    pub(crate) fn quiet(&self, now: Instant) -> (Last, Duration) {
        let passed = self.passed.load(Ordering::Relaxed);
        let mut looked = self.looked.lock().expect("no panic while held");
        let since = match *looked {
            Some((seen, since)) if seen >> 2 == passed >> 2 => since,
            _ => now,
        };
        *looked = Some((passed, since));
        let last = match passed & 3 {
            0 => Last::Nothing,
            1 => Last::Received,
            2 => Last::Sent,
            _ => Last::Stuck,
        };
        (last, now.saturating_duration_since(since))
    }
}

#[derive(Debug)]
pub(crate) enum SocketKind {
    Tcp(Tcp),
    Udp(Udp),
}

impl Socket {
    pub(crate) fn new(kind: SocketKind) -> Self {
        Self {
            kind,
            nonblocking: AtomicBool::new(false),
            receive_timeout: AtomicU64::new(0),
            send_timeout: AtomicU64::new(0),
            habit: Habit::default(),
            was_shut_down: AtomicBool::new(false),
            accepted: false,
            public: false,
            told: Default::default(),
            traffic: Traffic::default(),
            noted: Mutex::default(),
            kept: AtomicU32::new(0),
            uses: Default::default(),
            turn: Turn::default(),
        }
    }

    pub(crate) fn accepted(stream: Tcp, public: bool) -> Self {
        Self { accepted: true, public, ..Self::new(SocketKind::Tcp(stream)) }
    }

    pub(crate) fn tcp(&self) -> Result<&Tcp, Errno> {
        match &self.kind {
            SocketKind::Tcp(tcp) => Ok(tcp),
            SocketKind::Udp(_) => Err(Errno::NotSupported),
        }
    }

    pub(crate) fn udp(&self) -> Result<&Udp, Errno> {
        match &self.kind {
            SocketKind::Udp(udp) => Ok(udp),
            SocketKind::Tcp(_) => Err(Errno::NotSupported),
        }
    }

    pub(crate) fn family(&self) -> Family {
        match &self.kind {
            SocketKind::Tcp(tcp) => tcp.family,
            SocketKind::Udp(udp) => udp.family,
        }
    }

    /// What to receive from and send to: a TCP socket must have a peer.
    pub(crate) fn stream(&self) -> Result<Arc<Endpoint>, Errno> {
        match &self.kind {
            SocketKind::Tcp(tcp) => tcp.stream(),
            SocketKind::Udp(udp) => Ok(udp.endpoint()),
        }
    }

    /// The guest has tried this direction: when it is ready again, that is news.
    pub(crate) fn used(&self, interest: Interest) {
        self.told[usize::from(interest == Interest::Write)].store(false, Ordering::Relaxed);
    }

    /// The guest is told that this direction is ready.
    pub(crate) fn tell(&self, interest: Interest) {
        self.told[usize::from(interest == Interest::Write)].store(true, Ordering::Relaxed);
    }

    /// Whether the guest was told of this direction and has not tried it since.
    pub(crate) fn was_told(&self, interest: Interest) -> bool {
        self.told[usize::from(interest == Interest::Write)].load(Ordering::Relaxed)
    }

    /// Notes an address for a TCP socket that was not bound; false for another.
    pub(crate) fn note(&self, address: SocketAddr) -> bool {
        let is_fresh = self.tcp().is_ok_and(Tcp::is_fresh);
        if is_fresh {
            *self.lock_noted() = Some(address);
        }
        is_fresh
    }

    /// The address that was noted.
    pub(crate) fn noted(&self) -> Option<SocketAddr> {
        *self.lock_noted()
    }

    pub(crate) fn take_noted(&self) -> Option<SocketAddr> {
        self.lock_noted().take()
    }

    fn lock_noted(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.noted.lock().expect("no panic while held")
    }

    /// Keeps an option, of a number below 32, for who asks for it.
    pub(crate) fn keep_flag(&self, option: u32, on: bool) {
        if on {
            self.kept.fetch_or(1 << option, Ordering::Relaxed);
        } else {
            self.kept.fetch_and(!(1 << option), Ordering::Relaxed);
        }
    }

    pub(crate) fn has_flag(&self, option: u32) -> bool {
        self.kept.load(Ordering::Relaxed) & (1 << option) != 0
    }

    /// The guest has accepted, or could not write all: what the kernel made of that is known.
    pub(crate) fn touched(&self, interest: Interest) {
        self.uses[interest as usize].touch();
    }

    /// It listens, connects, or is shut down from now on: both directions may be ready in another way.
    pub(crate) fn changed(&self) {
        self.uses.iter().for_each(Uses::touch);
    }

    pub(crate) fn endpoint(&self) -> Arc<Endpoint> {
        match &self.kind {
            SocketKind::Tcp(tcp) => tcp.endpoint(),
            SocketKind::Udp(udp) => udp.endpoint(),
        }
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, Errno> {
        match &self.kind {
            SocketKind::Tcp(tcp) => tcp.local_address(),
            SocketKind::Udp(udp) => udp.local_address(),
        }
    }

    pub(crate) fn peer_address(&self) -> Result<SocketAddr, Errno> {
        match &self.kind {
            SocketKind::Tcp(tcp) => tcp.peer_address(),
            SocketKind::Udp(udp) => udp.peer_address(),
        }
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Relaxed)
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    pub(crate) fn receive_timeout(&self) -> Option<Duration> {
        timeout(&self.receive_timeout)
    }

    pub(crate) fn send_timeout(&self) -> Option<Duration> {
        timeout(&self.send_timeout)
    }

    pub(crate) fn set_receive_timeout(&self, timeout: Option<Duration>) {
        self.receive_timeout.store(micros(timeout), Ordering::Relaxed);
    }

    pub(crate) fn set_send_timeout(&self, timeout: Option<Duration>) {
        self.send_timeout.store(micros(timeout), Ordering::Relaxed);
    }
}

fn timeout(micros: &AtomicU64) -> Option<Duration> {
    match micros.load(Ordering::Relaxed) {
        0 => None,
        micros => Some(Duration::from_micros(micros)),
    }
}

fn micros(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |timeout| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(descriptor: Result<Descriptor, Errno>) -> Result<u32, Errno> {
        match descriptor? {
            Descriptor::Host(number) => Ok(number),
            other => panic!("not a file: {other:?}"),
        }
    }

    #[test]
    fn what_a_guest_has_with_itself_is_not_public() {
        let table = Descriptors::new(4);
        for public in [true, false] {
            let tcp = Tcp::open(&crate::net::Network::Os, Family::Inet4).expect("a socket");
            table.insert(Descriptor::Socket(Arc::new(Socket::accepted(tcp, public)))).expect("room");
        }
        assert_eq!(table.public().len(), 1);
    }

    #[test]
    fn a_connection_is_quiet_from_when_something_passed_last() {
        let traffic = Traffic::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(traffic.quiet(at(0)), (Last::Nothing, Duration::ZERO));
        assert_eq!(traffic.quiet(at(3)), (Last::Nothing, Duration::from_secs(3)));
        traffic.received(7);
        assert_eq!(traffic.quiet(at(4)), (Last::Received, Duration::ZERO));
        traffic.received(0);
        assert_eq!(traffic.quiet(at(6)), (Last::Received, Duration::from_secs(2)));
        traffic.sent();
        assert_eq!(traffic.quiet(at(7)), (Last::Sent, Duration::ZERO));
        traffic.stuck();
        assert_eq!(traffic.quiet(at(9)), (Last::Stuck, Duration::from_secs(2)));
        traffic.sent();
        assert_eq!(traffic.quiet(at(10)), (Last::Sent, Duration::ZERO));
    }

    #[test]
    fn the_lowest_free_number_is_given() {
        let table = Descriptors::new(4);
        for number in 0..4 {
            assert_eq!(table.insert(Descriptor::Host(number)), Ok(number));
        }
        assert_eq!(table.insert(Descriptor::Host(9)), Err(Errno::TooManyOpen));
        for fd in [2, 1] {
            assert!(matches!(table.remove(fd), Ok(Some(Descriptor::Host(number))) if number == fd));
            assert!(matches!(table.remove(fd), Err(Errno::BadDescriptor)));
        }
        assert_eq!(table.insert(Descriptor::Host(5)), Ok(1));
        assert_eq!(table.insert(Descriptor::Host(6)), Ok(2));
        assert!(table.is_full());
    }

    #[test]
    fn renumber_moves_and_closes() {
        let table = Descriptors::new(8);
        for number in 0..4 {
            table.insert(Descriptor::Host(number)).expect("room");
        }
        assert_eq!(host(table.renumber(3, 1).map(|replaced| replaced.expect("was open"))), Ok(1));
        assert_eq!(host(table.get(1)), Ok(3));
        assert_eq!(host(table.get(3)), Err(Errno::BadDescriptor));
        assert!(matches!(table.renumber(1, 1), Ok(None)));
        // CVE-2025-53901: a number that was never open must be an errno, not a panic.
        for (from, to) in [(0, 100), (100, 0), (u32::MAX, 0), (3, 3)] {
            assert!(matches!(table.renumber(from, to), Err(Errno::BadDescriptor)));
        }
        assert_eq!(table.insert(Descriptor::Host(7)), Ok(3));
    }

    #[test]
    fn a_file_of_two_numbers_is_closed_with_the_last() {
        let table = Descriptors::new(4);
        table.insert(Descriptor::Host(7)).expect("room");
        assert_eq!([table.duplicate(0, 2), table.duplicate(0, 9)], [Ok(2), Err(Errno::Invalid)]);
        assert!(matches!(table.duplicate_to(2, 1), Ok(None)));
        assert!(matches!([table.remove(0), table.remove(1)], [Ok(None), Ok(None)]));
        assert!(matches!(table.remove(2), Ok(Some(Descriptor::Host(7)))));
    }

    #[test]
    fn a_file_of_two_processes_is_closed_by_the_last() {
        let table = Descriptors::new(5);
        for number in [7, 8] {
            table.insert(Descriptor::Host(number)).expect("room");
        }
        let child = table.fork().expect("room for both again");
        assert_eq!((table.open(), child.open(), table.fork().err()), (4, 4, Some(Errno::TooManyOpen)));
        assert!(matches!([table.remove(0), child.remove(0)], [Ok(None), Ok(Some(Descriptor::Host(7)))]));
        assert_eq!([table.insert(Descriptor::Host(9)), child.insert(Descriptor::Host(10))], [Ok(0), Ok(0)]);
        assert_eq!(child.close_all(), [10]);
        assert_eq!((child.insert(Descriptor::Host(11)), table.open()), (Err(Errno::TooManyOpen), 2));
        assert_eq!(table.close_all(), [9, 8]);
    }

    #[test]
    fn a_connection_of_two_processes_is_one() {
        let table = Descriptors::new(8);
        let tcp = || Tcp::open(&crate::net::Network::Os, Family::Inet4).expect("a socket");
        table.insert(Descriptor::Socket(Arc::new(Socket::accepted(tcp(), true)))).expect("room");
        let child = table.fork().expect("room");
        child.insert(Descriptor::Socket(Arc::new(Socket::accepted(tcp(), true)))).expect("room");
        assert_eq!([table.public().len(), child.public().len()], [2, 2]);
        drop(child);
        assert_eq!(table.public().len(), 1);
    }

    #[test]
    fn a_guest_that_is_over_opens_nothing() {
        let table = Descriptors::new(4);
        table.insert(Descriptor::Host(7)).expect("room");
        assert_eq!(table.close_all(), [7]);
        assert_eq!((table.open(), table.insert(Descriptor::Host(8))), (0, Err(Errno::TooManyOpen)));
    }

    #[test]
    fn what_the_guest_was_not_told_is_closed() {
        let table = Descriptors::new(1);
        drop(Opened::new(&table, Descriptor::Host(0)));
        Opened::new(&table, Descriptor::Host(1)).expect("room again").keep();
        assert!(table.is_full());
    }
}
