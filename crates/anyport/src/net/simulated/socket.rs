//! What the network knows of one socket: the states, the bytes it holds, who waits for it.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::Waker;

use rustix::io::Errno;
use tokio::time::{Instant, Sleep};

use crate::address::{Family, Transport};
use crate::net::{
    HOP_LIMIT, Interest, KEEP_ALIVE_COUNT, KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, OptionName, Ready, SocketOption,
};

pub(super) type Id = u64;
pub(super) type Result<T> = std::result::Result<T, Errno>;

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) family: Family,
    pub(super) transport: Transport,
    pub(super) local: Option<SocketAddr>,
    pub(super) options: [SocketOption; 11],
    /// What `SO_ERROR` would give; the next call that moves bytes takes it as well.
    pub(super) error: Option<Errno>,
    pub(super) state: State,
    /// Who waits to read, and who to write.
    pub(super) waiters: [Vec<Waiter>; 2],
}

/// Where a socket is in its life.
#[derive(Debug)]
pub(super) enum State {
    /// A stream's, before all else. Next: `Listening`, `Waiting`, `Refused`.
    Idle,
    /// Takes connections. Next: `Idle`, by a shutdown.
    Listening(Backlog),
    /// On its way to a listener that has no room. Next: `Connected`, `Refused`, `Idle`.
    Waiting { listener: Id, to: SocketAddr },
    /// A connect has failed, or will at this instant. Next: `Idle`, by another connect.
    Refused { since: Instant },
    /// Moves bytes. Next: none, but `Idle` by a shutdown while it still connects.
    Connected(Stream),
    /// A datagram socket's, always.
    Datagrams(Datagrams),
}

#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) max: usize,
    pub(super) queue: VecDeque<Pending>,
    /// How many have been taken out of the queue.
    taken: u64,
    /// Connecting sockets that found no room.
    pub(super) waiting: VecDeque<Id>,
}

/// The accepted side of a connection that is made, or will be at an instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) at: Instant,
    pub(super) id: Id,
    pub(super) from: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) peer: Id,
    pub(super) peer_address: SocketAddr,
    /// Until then it is still connecting.
    pub(super) since: Instant,
    pub(super) inbox: Inbox,
    pub(super) shut_read: bool,
    pub(super) shut_write: bool,
    /// It was reset.
    pub(super) dead: bool,
    /// A connect has returned success: Linux lets one do so afterwards.
    pub(super) told: bool,
}

/// The bytes of one direction, held where they are read.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: VecDeque<u8>,
    /// How many of the bytes can be read.
    arrived: usize,
    /// In how many parts they have arrived, read or not.
    arrivals: u64,
    /// When the others arrive, and how many, in order.
    late: VecDeque<(Instant, usize)>,
    /// The peer sends no more than these.
    pub(super) finished: bool,
}

#[derive(Debug, Default)]
pub(super) struct Datagrams {
    pub(super) peer: Option<SocketAddr>,
    pub(super) queue: VecDeque<Packet>,
    /// How many have been taken out of the queue.
    pub(super) taken: u64,
    pub(super) shut_read: bool,
    pub(super) shut_write: bool,
}

#[derive(Debug)]
pub(super) struct Packet {
    pub(super) at: Instant,
    pub(super) from: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) waker: Waker,
    /// On the waiting task's own runtime: no other is sure to be running.
    pub(super) alarm: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(family: Family, transport: Transport, buffer_bytes: usize) -> Self {
        let state = match transport {
            Transport::Tcp => State::Idle,
            Transport::Udp => State::Datagrams(Datagrams::default()),
        };
        let options = [
            SocketOption::ReuseAddress(false),
            SocketOption::Broadcast(false),
            SocketOption::SendBuffer(buffer_bytes),
            SocketOption::ReceiveBuffer(buffer_bytes),
            SocketOption::KeepAlive(false),
            SocketOption::OobInline(false),
            SocketOption::Linger(None),
            SocketOption::KeepAliveIdle(KEEP_ALIVE_IDLE),
            SocketOption::KeepAliveInterval(KEEP_ALIVE_INTERVAL),
            SocketOption::KeepAliveCount(KEEP_ALIVE_COUNT),
            SocketOption::HopLimit(HOP_LIMIT),
        ];
        Self { family, transport, local: None, options, error: None, state, waiters: Default::default() }
    }

    pub(super) fn option(&self, name: OptionName) -> SocketOption {
        let named = |option: &&SocketOption| name_of(option) == name;
        *self.options.iter().find(named).expect("there is one of each name")
    }

    pub(super) fn set_option(&mut self, option: SocketOption) {
        let same = |known: &&mut SocketOption| name_of(known) == name_of(&option);
        *self.options.iter_mut().find(same).expect("there is one of each name") = option;
    }

    pub(super) fn reuses(&self) -> bool {
        self.option(OptionName::ReuseAddress) == SocketOption::ReuseAddress(true)
    }

    pub(super) fn is_connecting(&self, now: Instant) -> bool {
        match &self.state {
            State::Waiting { .. } => true,
            State::Refused { since } | State::Connected(Stream { since, .. }) => *since > now,
            State::Idle | State::Listening(_) | State::Datagrams(_) => false,
        }
    }

    pub(super) fn take_error(&mut self) -> Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// An address as a socket of this family names it.
    pub(super) fn name(&self, address: SocketAddr) -> SocketAddr {
        match (self.family, address) {
            (Family::Inet6, SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            _ => address,
        }
    }

    /// Where a connect or a datagram to this address goes; unspecified means this host.
    pub(super) fn destination(&self, to: SocketAddr) -> Result<SocketAddr> {
        match (self.family, self.transport, to) {
            (Family::Inet4, _, SocketAddr::V6(_)) => return Err(Errno::AFNOSUPPORT),
            (Family::Inet6, Transport::Tcp, SocketAddr::V4(_)) => return Err(Errno::INVAL),
            _ => {}
        }
        let to = canonical(to);
        match self.local.map(|local| local.ip()) {
            Some(local) if local.is_ipv4() != to.is_ipv4() && !local.is_unspecified() => Err(Errno::NETUNREACH),
            _ if to.ip().is_unspecified() => Ok((localhost(to.ip()), to.port()).into()),
            _ => Ok(to),
        }
    }

    /// How well this socket fits what goes from one address to another, if at all: the most
    /// specific one gets it.
    pub(super) fn fits(&self, to: SocketAddr, from: SocketAddr) -> Option<u8> {
        let local = self.local.filter(|local| local.port() == to.port() && covers(local.ip(), to.ip()))?;
        let specific = match local.ip() {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => 0,
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => 1,
            _ => 2,
        };
        match &self.state {
            State::Listening(_) => Some(specific),
            State::Datagrams(Datagrams { peer: None, .. }) => Some(specific),
            State::Datagrams(Datagrams { peer, .. }) if *peer == Some(from) => Some(specific + 3),
            _ => None,
        }
    }

    /// How often something has come to be read, and when the next will that is on its way.
    pub(super) fn arrivals(&mut self, now: Instant) -> (u64, Option<Instant>) {
        match &mut self.state {
            State::Connected(stream) => {
                stream.inbox.arrived(now);
                let ended = u64::from(stream.read_ended(now));
                (stream.inbox.arrivals + ended, stream.inbox.late.front().map(|(at, _)| *at))
            }
            State::Listening(backlog) => {
                let (here, next) = count(backlog.queue.iter().map(|pending| pending.at), now);
                (backlog.taken + here, next)
            }
            State::Datagrams(datagrams) => {
                let (here, next) = count(datagrams.queue.iter().map(|packet| packet.at), now);
                (datagrams.taken + here, next)
            }
            State::Idle | State::Waiting { .. } | State::Refused { .. } => (0, None),
        }
    }

    /// Whether the next call in this direction will not be refused with `WouldBlock`; if it will,
    /// the error says when to look again although nothing happened. `room` is the peer's.
    pub(super) fn readiness(
        &mut self, interest: Interest, room: usize, now: Instant,
    ) -> std::result::Result<Ready, Option<Instant>> {
        let read = interest == Interest::Read;
        let (is_ready, hangup, again) = match &mut self.state {
            State::Waiting { .. } => return Err(None),
            State::Refused { since } | State::Connected(Stream { since, .. }) if *since > now => {
                return Err(Some(*since));
            }
            State::Idle | State::Refused { .. } => (true, true, None),
            State::Listening(backlog) => {
                let next = backlog.queue.iter().map(|pending| pending.at).min().filter(|_| read);
                (next.is_some_and(|at| at <= now), false, next)
            }
            State::Connected(stream) => {
                let readable = stream.inbox.arrived(now) > 0 || stream.read_ended(now);
                let writable = room > 0 || stream.write_ended();
                let hangup = stream.read_ended(now) && stream.write_ended();
                (
                    if read { readable } else { writable },
                    hangup,
                    stream.inbox.late.front().map(|(at, _)| *at).filter(|_| read),
                )
            }
            State::Datagrams(datagrams) => {
                let next = datagrams.queue.iter().map(|packet| packet.at).min();
                let readable = datagrams.shut_read || next.is_some_and(|at| at <= now);
                (readable || !read, datagrams.shut_read && datagrams.shut_write, next)
            }
        };
        let ended = hangup || matches!(&self.state, State::Connected(stream) if stream.read_ended(now));
        if is_ready || hangup || self.error.is_some() { Ok(Ready { hangup, ended }) } else { Err(again) }
    }
}

/// How many of a queue have come by now, and when the next will.
fn count(instants: impl Iterator<Item = Instant> + Clone, now: Instant) -> (u64, Option<Instant>) {
    (instants.clone().filter(|at| *at <= now).count() as u64, instants.filter(|at| *at > now).min())
}

impl Backlog {
    pub(super) fn new(max: usize) -> Self {
        Self { max, queue: VecDeque::new(), taken: 0, waiting: VecDeque::new() }
    }

    pub(super) fn next(&mut self, now: Instant) -> Option<Pending> {
        let index = self.queue.iter().position(|pending| pending.at <= now)?;
        self.taken += 1;
        self.queue.remove(index)
    }
}

impl Stream {
    pub(super) fn new(peer: Id, peer_address: SocketAddr, since: Instant, told: bool) -> Self {
        let inbox = Inbox::default();
        Self { peer, peer_address, since, inbox, shut_read: false, shut_write: false, dead: false, told }
    }

    pub(super) fn read_ended(&self, now: Instant) -> bool {
        self.shut_read || self.dead || self.inbox.ended(now)
    }

    pub(super) fn write_ended(&self) -> bool {
        self.shut_write || self.dead
    }

    /// Whether Linux would have it in `TCP_CLOSE`; having shut down to read does not count.
    pub(super) fn is_closed(&self, now: Instant) -> bool {
        self.dead || self.shut_write && self.inbox.ended(now)
    }
}

impl Inbox {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes can be read.
    pub(super) fn arrived(&mut self, now: Instant) -> usize {
        while let Some((_, count)) = self.late.pop_front_if(|(at, _)| *at <= now) {
            self.arrived += count;
            self.arrivals += 1;
        }
        self.arrived
    }

    /// Whether the end has arrived: it comes after all bytes.
    pub(super) fn ended(&self, now: Instant) -> bool {
        self.finished && self.late.back().is_none_or(|(at, _)| *at <= now)
    }

    /// Takes this many bytes, which arrive at an instant, but not before earlier ones.
    pub(super) fn push(&mut self, buffers: &[IoSlice<'_>], count: usize, at: Instant) {
        let mut left = count;
        for buffer in buffers {
            let taken = buffer.len().min(left);
            self.bytes.extend(&buffer[..taken]);
            left -= taken;
        }
        let at = self.late.back().map_or(at, |(last, _)| at.max(*last));
        self.late.push_back((at, count));
    }

    /// Gives up to this many bytes that have arrived.
    pub(super) fn pull(&mut self, buffers: &mut [IoSliceMut<'_>], count: usize, peek: bool) -> usize {
        let (front, back) = self.bytes.as_slices();
        let front = &front[..front.len().min(count)];
        let back = &back[..back.len().min(count - front.len())];
        let filled = scatter(buffers, [front, back]);
        if !peek {
            self.bytes.drain(..filled);
            self.arrived -= filled;
        }
        filled
    }

    /// All bytes are lost.
    pub(super) fn lose(&mut self) {
        *self = Self { arrivals: self.arrivals, ..Self::default() };
    }

    /// A reset has arrived: so has what was sent before it.
    pub(super) fn hasten(&mut self) {
        self.arrivals += self.late.len() as u64;
        self.late.clear();
        self.arrived = self.bytes.len();
    }
}

/// Copies into the buffers, in order, what fits, and says how much that was.
pub(super) fn scatter(buffers: &mut [IoSliceMut<'_>], mut parts: [&[u8]; 2]) -> usize {
    let mut filled = 0;
    for buffer in buffers {
        let mut room = &mut **buffer;
        for part in &mut parts {
            let (copied, rest) = part.split_at(part.len().min(room.len()));
            let (target, free) = room.split_at_mut(copied.len());
            target.copy_from_slice(copied);
            filled += copied.len();
            (*part, room) = (rest, free);
        }
    }
    filled
}

/// IPv4 within IPv6 is IPv4, so that the two families meet.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    (address.ip().to_canonical(), address.port()).into()
}

/// Whether a socket with one local address gets what is for the other: `[::]` takes IPv4 as well.
fn covers(local: IpAddr, other: IpAddr) -> bool {
    local == other || local.is_unspecified() && (local.is_ipv6() || other.is_ipv4())
}

pub(super) fn overlap(one: IpAddr, other: IpAddr) -> bool {
    covers(one, other) || covers(other, one)
}

/// The address that a socket which is bound to any speaks from: the destination's own, as on a
/// host that has both.
pub(super) fn source(local: IpAddr, to: IpAddr) -> IpAddr {
    match local {
        _ if !local.is_unspecified() => local,
        _ if to.is_loopback() => localhost(to),
        _ => to,
    }
}

fn localhost(family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

pub(super) fn name_of(option: &SocketOption) -> OptionName {
    match option {
        SocketOption::ReuseAddress(_) => OptionName::ReuseAddress,
        SocketOption::Broadcast(_) => OptionName::Broadcast,
        SocketOption::SendBuffer(_) => OptionName::SendBuffer,
        SocketOption::ReceiveBuffer(_) => OptionName::ReceiveBuffer,
        SocketOption::KeepAlive(_) => OptionName::KeepAlive,
        SocketOption::OobInline(_) => OptionName::OobInline,
        SocketOption::Linger(_) => OptionName::Linger,
        SocketOption::KeepAliveIdle(_) => OptionName::KeepAliveIdle,
        SocketOption::KeepAliveInterval(_) => OptionName::KeepAliveInterval,
        SocketOption::KeepAliveCount(_) => OptionName::KeepAliveCount,
        SocketOption::HopLimit(_) => OptionName::HopLimit,
    }
}
