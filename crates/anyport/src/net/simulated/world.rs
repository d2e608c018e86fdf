//! Everything there is on the network, and what each call does to it.
//!
//! The comments name what Linux does where it surprises; `net/ipv4/{af_inet,tcp,udp}.c` are the
//! specification.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IoSlice, IoSliceMut};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

use super::Faults;
use super::socket::{self, Backlog, Id, Packet, Pending, Result, Socket, State, Stream, Waiter};
use crate::address::{Family, Transport};
use crate::net::{Datagram, Interest, OptionName, SocketOption};

#[derive(Debug)]
pub(super) struct World {
    faults: Faults,
    rng: fastrand::Rng,
    pub(super) sockets: BTreeMap<Id, Socket>,
    /// Who has which port. Accepted sockets share their listener's, marked, for lookups to skip.
    ports: BTreeSet<(u16, bool, Id)>,
    id_last: Id,
    port_last: u16,
    /// When the current call was made.
    pub(super) now: Instant,
    /// To be woken when the lock is free: a waker may come back, even when it is only dropped.
    pub(super) woken: Vec<Waiter>,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let (sockets, ports, woken) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        let port_last = *PORTS_EPHEMERAL.end();
        Self { faults, rng, sockets, ports, id_last: 0, port_last, now: Instant::now(), woken }
    }

    pub(super) fn open(&mut self, family: Family, transport: Transport) -> Id {
        self.id_last += 1;
        self.sockets.insert(self.id_last, Socket::new(family, transport, self.faults.buffer_bytes));
        self.id_last
    }

    pub(super) fn socket(&mut self, id: Id) -> &mut Socket {
        self.sockets.get_mut(&id).expect("a socket is there until its endpoint is dropped")
    }

    pub(super) fn bind(&mut self, id: Id, address: SocketAddr) -> Result<()> {
        let socket = self.socket(id);
        match (socket.family, address) {
            (Family::Inet4, SocketAddr::V6(_)) => return Err(Errno::AFNOSUPPORT),
            (Family::Inet6, SocketAddr::V4(_)) => return Err(Errno::INVAL),
            _ if socket.local.is_some() => return Err(Errno::INVAL),
            _ => {}
        }
        let mut address = socket::canonical(address);
        if address.port() == 0 {
            address.set_port(self.free_port(id, address.ip())?);
        } else if self.in_use(id, address, true) {
            return Err(Errno::ADDRINUSE);
        }
        self.ports.insert((address.port(), false, id));
        self.socket(id).local = Some(address);
        Ok(())
    }

    pub(super) fn listen(&mut self, id: Id, max: usize) -> Result<()> {
        match &mut self.socket(id).state {
            State::Idle => {
                let local = self.bound(id)?;
                // Two sockets may be bound to one address with `SO_REUSEADDR`, but one listens.
                if self.in_use(id, local, true) {
                    return Err(Errno::ADDRINUSE);
                }
                self.socket(id).state = State::Listening(Backlog::new(max));
            }
            State::Listening(backlog) => {
                backlog.max = max;
                self.admit(id);
            }
            State::Datagrams(_) => return Err(Errno::OPNOTSUPP),
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    pub(super) fn disconnect(&mut self, id: Id) -> Result<()> {
        if let State::Datagrams(datagrams) = &mut self.socket(id).state {
            datagrams.peer = None;
        }
        Ok(())
    }

    pub(super) fn connect(&mut self, id: Id, to: SocketAddr) -> Result<()> {
        let now = self.now;
        let socket = self.socket(id);
        let connecting = socket.is_connecting(now);
        match &mut socket.state {
            State::Idle | State::Datagrams(_) => {}
            _ if connecting => return Err(Errno::ALREADY),
            State::Connected(stream) if !stream.told => {
                stream.told = true;
                return Ok(());
            }
            State::Connected(_) | State::Listening(_) => return Err(Errno::ISCONN),
            State::Refused { .. } | State::Waiting { .. } => {
                // The call after a failed connect fails as well, even if the error was taken.
                socket.state = State::Idle;
                return Err(socket.error.take().unwrap_or(Errno::CONNABORTED));
            }
        }
        let to = socket.destination(to)?;
        let mut from = self.bound(id)?;
        from.set_ip(socket::source(from.ip(), to.ip()));
        let socket = self.socket(id);
        socket.local = Some(from);
        if let State::Datagrams(datagrams) = &mut socket.state {
            datagrams.peer = Some(to);
            return Ok(());
        }
        let listener = self.find(Transport::Tcp, to, from);
        if let Some(listener) = listener.filter(|_| !self.strikes(self.faults.refuse)) {
            self.socket(id).state = State::Waiting { listener, to };
            if let State::Listening(backlog) = &mut self.socket(listener).state {
                backlog.waiting.push_back(id);
            }
            self.admit(listener);
        } else {
            let since = self.arrival();
            self.refuse(id, since);
        }
        Err(Errno::INPROGRESS)
    }

    pub(super) fn accept(&mut self, id: Id) -> Result<(Id, SocketAddr)> {
        let now = self.now;
        let socket = self.socket(id);
        let pending = match &mut socket.state {
            State::Listening(backlog) => backlog.next(now).ok_or(Errno::AGAIN)?,
            State::Datagrams(_) => return Err(Errno::OPNOTSUPP),
            _ => return Err(Errno::INVAL),
        };
        let peer = socket.name(pending.from);
        self.admit(id);
        Ok((pending.id, peer))
    }

    pub(super) fn receive(&mut self, id: Id, buffers: &mut [IoSliceMut<'_>], peek: bool) -> Result<usize> {
        let now = self.now;
        let wanted: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let mut count = self.stream(id).map_or(0, |stream| stream.inbox.arrived(now)).min(wanted);
        if count > 0 && !peek {
            if self.strikes(self.faults.reset) {
                self.cut(id);
            }
            count = self.part(count, self.faults.partial_receive);
        }
        let socket = self.socket(id);
        let connecting = socket.is_connecting(now);
        match &mut socket.state {
            _ if connecting => Err(Errno::AGAIN),
            State::Connected(stream) => {
                if stream.inbox.arrived(now) > 0 {
                    let (received, peer) = (stream.inbox.pull(buffers, count, peek), stream.peer);
                    self.wake(peer, Interest::Write);
                    return Ok(received);
                }
                let (ended, read_ended) = (stream.inbox.ended(now), stream.read_ended(now));
                // Who meets the end meets no error: Linux keeps that for the next send.
                if !ended {
                    socket.take_error()?;
                }
                if read_ended { Ok(0) } else { Err(Errno::AGAIN) }
            }
            State::Refused { .. } => socket.take_error().map(|()| 0),
            _ => Err(Errno::NOTCONN),
        }
    }

    pub(super) fn send(&mut self, id: Id, buffers: &[IoSlice<'_>]) -> Result<usize> {
        let offered: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let peer = self.sendable(id)?;
        let room = self.room(id);
        if offered == 0 {
            return Ok(0);
        }
        if room == 0 {
            return Err(Errno::AGAIN);
        }
        if self.strikes(self.faults.reset) {
            self.cut(id);
            self.sendable(id)?;
        }
        let count = self.part(offered.min(room), self.faults.partial_send);
        let at = self.arrival();
        match self.stream(peer) {
            Some(stream) if !(stream.shut_read && stream.shut_write) => {
                stream.inbox.push(buffers, count, at);
                self.wake(peer, Interest::Read);
            }
            // Nobody will read them: they are taken all the same, and answered with a reset.
            _ => {
                self.abort(peer);
                self.abort(id);
            }
        }
        Ok(count)
    }

    pub(super) fn unread(&mut self, id: Id) -> u64 {
        let now = self.now;
        let bytes = match &mut self.socket(id).state {
            State::Connected(stream) => stream.inbox.arrived(now),
            State::Datagrams(datagrams) => {
                datagrams.queue.iter().find(|packet| packet.at <= now).map_or(0, |packet| packet.bytes.len())
            }
            _ => 0,
        };
        bytes as u64
    }

    pub(super) fn receive_datagram(&mut self, id: Id, buffers: &mut [IoSliceMut<'_>], peek: bool) -> Result<Datagram> {
        let now = self.now;
        let socket = self.socket(id);
        socket.take_error()?;
        let State::Datagrams(datagrams) = &mut socket.state else { return Err(Errno::NOTCONN) };
        let index = datagrams.queue.iter().position(|packet| packet.at <= now).ok_or(Errno::AGAIN)?;
        let packet = &datagrams.queue[index];
        let (length, from) = (socket::scatter(buffers, [&packet.bytes, &[]]), packet.from);
        let truncated = length < packet.bytes.len();
        if !peek {
            datagrams.queue.remove(index);
            datagrams.taken += 1;
        }
        Ok(Datagram { length, truncated, from: socket.name(from) })
    }

    pub(super) fn send_datagram(&mut self, id: Id, buffers: &[IoSlice<'_>], to: Option<SocketAddr>) -> Result<usize> {
        let mut from = self.bound(id)?;
        let socket = self.socket(id);
        let State::Datagrams(datagrams) = &socket.state else { return Err(Errno::NOTCONN) };
        let (peer, shut_write) = (datagrams.peer, datagrams.shut_write);
        let bytes = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect::<Vec<u8>>();
        let length = bytes.len();
        if length > DATAGRAM_BYTES {
            return Err(Errno::MSGSIZE);
        }
        let to = to.map(|to| socket.destination(to)).transpose()?.or(peer).ok_or(Errno::DESTADDRREQ)?;
        if to.port() == 0 {
            return Err(Errno::INVAL);
        }
        if to.ip() == IpAddr::V4(Ipv4Addr::BROADCAST)
            && socket.option(OptionName::Broadcast) == SocketOption::Broadcast(false)
        {
            return Err(Errno::ACCESS);
        }
        socket.take_error()?;
        if shut_write {
            return Err(Errno::PIPE);
        }
        from.set_ip(socket::source(from.ip(), to.ip()));
        let receiver = self.find(Transport::Udp, to, from);
        let at = self.arrival();
        if let Some(receiver) = receiver {
            if let State::Datagrams(datagrams) = &mut self.socket(receiver).state
                && datagrams.queue.len() < DATAGRAMS_QUEUED
            {
                datagrams.queue.push_back(Packet { at, from, bytes });
                self.wake(receiver, Interest::Read);
            }
        } else if peer == Some(to) {
            // An unreachable port is reported, but only to a socket that is connected to it.
            self.socket(id).error = Some(Errno::CONNREFUSED);
            self.wake_both(id);
        }
        Ok(length)
    }

    pub(super) fn shutdown(&mut self, id: Id, read: bool, write: bool) -> Result<()> {
        let now = self.now;
        let socket = self.socket(id);
        let connecting = socket.is_connecting(now);
        let mut outcome = Ok(());
        match &mut socket.state {
            State::Listening(_) if !read => {}
            state @ State::Listening(_) => {
                if let State::Listening(backlog) = mem::replace(state, State::Idle) {
                    self.dismiss(backlog);
                }
            }
            state if connecting => {
                let left = mem::replace(state, State::Idle);
                socket.error = Some(Errno::CONNRESET);
                if let State::Connected(stream) = left {
                    self.abort(stream.peer);
                }
            }
            State::Connected(stream) if !stream.is_closed(now) => {
                stream.shut_read |= read;
                if write && !mem::replace(&mut stream.shut_write, true) {
                    let peer = stream.peer;
                    self.finish(peer);
                }
            }
            State::Datagrams(datagrams) => {
                datagrams.shut_read |= read;
                datagrams.shut_write |= write;
                outcome = datagrams.peer.map(|_| ()).ok_or(Errno::NOTCONN);
            }
            _ => outcome = Err(Errno::NOTCONN),
        }
        self.wake_both(id);
        outcome
    }

    pub(super) fn close(&mut self, id: Id) {
        self.wake_both(id);
        let Some(socket) = self.sockets.remove(&id) else { return };
        if let Some(local) = socket.local {
            self.ports.remove(&(local.port(), false, id));
            self.ports.remove(&(local.port(), true, id));
        }
        let abrupt = socket.option(OptionName::Linger) == SocketOption::Linger(Some(Duration::ZERO));
        match socket.state {
            State::Listening(backlog) => self.dismiss(backlog),
            // Unread bytes are lost, which the peer has to know: not an end, but a reset.
            State::Connected(stream) if abrupt || stream.inbox.len() > 0 || stream.since > self.now => {
                self.abort(stream.peer);
            }
            State::Connected(stream) if !stream.write_ended() => self.finish(stream.peer),
            _ => {}
        }
    }

    fn stream(&mut self, id: Id) -> Option<&mut Stream> {
        match &mut self.sockets.get_mut(&id)?.state {
            State::Connected(stream) => Some(stream),
            _ => None,
        }
    }

    /// The peer that a send would go to.
    fn sendable(&mut self, id: Id) -> Result<Id> {
        let now = self.now;
        let socket = self.socket(id);
        if socket.is_connecting(now) {
            return Err(Errno::AGAIN);
        }
        socket.take_error()?;
        match &socket.state {
            State::Connected(stream) if !stream.write_ended() => Ok(stream.peer),
            _ => Err(Errno::PIPE),
        }
    }

    /// Bytes that a stream's peer has room for; if it is gone, it has.
    pub(super) fn room(&mut self, id: Id) -> usize {
        let bytes = self.faults.buffer_bytes.max(1);
        let Some(peer) = self.stream(id).map(|stream| stream.peer) else { return bytes };
        self.stream(peer).map_or(bytes, |peer| bytes.saturating_sub(peer.inbox.len()))
    }

    /// Makes connections while the backlog has room: one more than asked for, as on Linux.
    fn admit(&mut self, listener: Id) {
        loop {
            let socket = self.socket(listener);
            let (family, options) = (socket.family, socket.options);
            let State::Listening(backlog) = &mut socket.state else { return };
            if backlog.queue.len() > backlog.max {
                return;
            }
            let Some(client) = backlog.waiting.pop_front() else { return };
            let to = match self.sockets.get(&client).map(|client| &client.state) {
                Some(State::Waiting { listener: awaited, to }) if *awaited == listener => *to,
                // It has given up.
                _ => continue,
            };
            let from = self.socket(client).local.expect("connecting has bound it");
            let at = self.arrival();
            let id = self.open(family, Transport::Tcp);
            self.ports.insert((to.port(), true, id));
            let accepted = self.socket(id);
            accepted.local = Some(to);
            accepted.options = options;
            accepted.state = State::Connected(Stream::new(client, from, at, true));
            self.socket(client).state = State::Connected(Stream::new(id, to, at, false));
            if let State::Listening(backlog) = &mut self.socket(listener).state {
                backlog.queue.push_back(Pending { at, id, from });
            }
            self.wake(listener, Interest::Read);
            self.wake_both(client);
        }
    }

    /// Nobody will accept these.
    fn dismiss(&mut self, backlog: Backlog) {
        for pending in backlog.queue {
            self.socket(pending.id).set_option(SocketOption::Linger(Some(Duration::ZERO)));
            self.close(pending.id);
        }
        for client in backlog.waiting {
            let now = self.now;
            self.refuse(client, now);
        }
    }

    fn refuse(&mut self, client: Id, since: Instant) {
        if let Some(socket) = self.sockets.get_mut(&client) {
            socket.state = State::Refused { since };
            socket.error = Some(Errno::CONNREFUSED);
            self.wake_both(client);
        }
    }

    /// The peer's end of the stream arrives.
    fn finish(&mut self, id: Id) {
        if let Some(stream) = self.stream(id) {
            stream.inbox.finished = true;
            self.wake_both(id);
        }
    }

    /// A reset arrives from the peer.
    fn abort(&mut self, id: Id) {
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let State::Connected(stream) = &mut socket.state else { return };
        if stream.since > now && !stream.told {
            return self.refuse(id, now);
        }
        if stream.is_closed(now) {
            return;
        }
        // Who has read the end already knows that nothing more comes; it is told only on sending.
        socket.error = Some(if stream.inbox.ended(now) { Errno::PIPE } else { Errno::CONNRESET });
        stream.dead = true;
        stream.inbox.hasten();
        self.wake_both(id);
    }

    /// The network fails: both sides are reset, and what was not there in full is lost.
    fn cut(&mut self, id: Id) {
        let now = self.now;
        let Some(peer) = self.stream(id).map(|stream| stream.peer) else { return };
        for side in [id, peer] {
            // After the end has arrived, losing bytes would not be noticed.
            if let Some(stream) = self.stream(side)
                && !stream.inbox.ended(now)
            {
                stream.inbox.lose();
            }
            self.abort(side);
        }
    }

    /// The socket's address, chosen now if it was not bound.
    fn bound(&mut self, id: Id) -> Result<SocketAddr> {
        let socket = self.socket(id);
        if socket.local.is_none() {
            let any = socket.family.unspecified();
            self.bind(id, any)?;
        }
        Ok(self.socket(id).local.expect("it is bound"))
    }

    fn free_port(&mut self, id: Id, ip: IpAddr) -> Result<u16> {
        for _ in PORTS_EPHEMERAL {
            let next = self.port_last.saturating_add(1);
            self.port_last = if PORTS_EPHEMERAL.contains(&next) { next } else { *PORTS_EPHEMERAL.start() };
            if !self.in_use(id, (ip, self.port_last).into(), false) {
                return Ok(self.port_last);
            }
        }
        Err(Errno::ADDRINUSE)
    }

    /// Whether another socket keeps this one from an address. With `reuse`, and with
    /// `SO_REUSEADDR` on both, only a listening one does.
    fn in_use(&self, id: Id, address: SocketAddr, reuse: bool) -> bool {
        let mine = &self.sockets[&id];
        let port = address.port();
        let holders = self.ports.range((port, false, Id::MIN)..=(port, true, Id::MAX));
        holders.filter(|(.., other)| *other != id).filter_map(|(.., other)| self.sockets.get(other)).any(|other| {
            let shared = reuse && mine.reuses() && other.reuses() && !matches!(other.state, State::Listening(_));
            let overlaps = other.local.is_some_and(|local| socket::overlap(local.ip(), address.ip()));
            other.transport == mine.transport && overlaps && !shared
        })
    }

    /// Who gets what is sent from one address to another.
    fn find(&self, transport: Transport, to: SocketAddr, from: SocketAddr) -> Option<Id> {
        let holders = self.ports.range((to.port(), false, Id::MIN)..=(to.port(), false, Id::MAX));
        let fits = holders.filter_map(|(.., id)| {
            let socket = self.sockets.get(id).filter(|socket| socket.transport == transport)?;
            Some((socket.fits(to, from)?, *id))
        });
        // Of two that fit as well, the later one.
        fits.max().map(|(_, id)| id)
    }

    fn strikes(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.f64() < probability
    }

    /// When what is sent now arrives.
    fn arrival(&mut self) -> Instant {
        if !self.strikes(self.faults.delay) {
            return self.now;
        }
        self.now + self.faults.delay_max.mul_f64(self.rng.f64())
    }

    /// All of it, or with this probability only a part, but never nothing.
    fn part(&mut self, count: usize, probability: f64) -> usize {
        if count > 1 && self.strikes(probability) { self.rng.usize(1..count) } else { count }
    }
}

/// Linux's default `ip_local_port_range`.
const PORTS_EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

/// The longest UDP datagram that IPv4 can carry.
const DATAGRAM_BYTES: usize = 65_507;

/// Datagrams that wait on one socket. Linux's default buffer holds about 250 small ones.
const DATAGRAMS_QUEUED: usize = 256;
