//! The operating system's sockets, registered with tokio's poller while they are open.
//!
//! Owns every socket syscall. Readiness is cached: a call that is known to fail with `EAGAIN` is
//! not made, and a short read says that the socket is empty (but for urgent data, which is not used),
//! so the next one is not made either.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, SocketAddrAny,
    SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Ready as Readiness;

use super::news::News;
use super::poller::Guard;
use super::registered::Registered;
use super::{
    Datagram, HOP_LIMIT, Interest, KEEP_ALIVE_COUNT, KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, OptionName, Ready,
    ReceiveFlags, Shutdown, SocketOption,
};
use crate::address::{Family, Transport};

#[derive(Debug)]
pub(crate) struct Endpoint {
    fd: Arc<OwnedFd>,
    /// Registered when it is first waited for. Not before: a TCP socket that is neither listening
    /// nor connecting reports a hang-up that tokio would never forget.
    registered: OnceLock<Box<Registered>>,
    /// The guest has shut down a direction: a hang-up may be news that the poller does not have yet.
    closing: AtomicBool,
    /// The last read or accept may have taken all there was: readable must be asked of the kernel.
    doubtful: AtomicBool,
    /// An `EAGAIN` was answered from the cache: the next call asks the kernel, so that a guest that
    /// retries without ever waiting still makes progress.
    again: [AtomicBool; 2],
    /// The same socket once more, for who waits for its end alone.
    end: OnceLock<Box<Self>>,
}

/// What a syscall says of the direction it used.
enum After {
    /// Nothing is left: the next call would be refused.
    Exhausted,
    /// There may be more.
    Unknown,
}

impl From<OwnedFd> for Endpoint {
    fn from(fd: OwnedFd) -> Self {
        Self {
            fd: Arc::new(fd),
            registered: OnceLock::new(),
            closing: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
            again: Default::default(),
            end: OnceLock::new(),
        }
    }
}

impl Endpoint {
    pub(super) fn open(family: Family, transport: Transport) -> io::Result<Self> {
        let family = match family {
            Family::Inet4 => AddressFamily::INET,
            Family::Inet6 => AddressFamily::INET6,
        };
        let kind = match transport {
            Transport::Tcp => SocketType::STREAM,
            Transport::Udp => SocketType::DGRAM,
        };
        let fd = rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        Ok(Self::from(fd))
    }

    pub(super) fn inherit(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let endpoint = Self::from(socket);
        endpoint.send_at_once()?;
        Ok(endpoint)
    }

    pub(super) fn from_stream(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self::from(socket))
    }

    pub(super) fn bind_unix(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self::from(fd))
    }

    /// Guests that write head and body apart would wait 40 ms for the peer's delayed acknowledgement.
    fn send_at_once(&self) -> io::Result<()> {
        match sockopt::set_tcp_nodelay(&self.fd, true) {
            // A Unix socket never waits.
            Err(Errno::OPNOTSUPP) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    pub(super) fn renewed(&self) -> io::Result<Self> {
        Ok(Self::from(rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?))
    }

    pub(super) fn bind(&self, address: SocketAddr) -> io::Result<()> {
        if address.is_ipv6() && address.ip().is_unspecified() {
            // `[::]` is every address of both versions, as Linux has it by default, whatever the machine says. Not
            // where IPv6 is all there is, which is no error.
            let _ = sockopt::set_ipv6_v6only(&self.fd, false);
        }
        Ok(rustix::net::bind(&self.fd, &address)?)
    }

    pub(super) fn listen(&self, backlog: u32) -> io::Result<()> {
        // Accepted sockets inherit it from the listener, which saves a syscall for each.
        self.send_at_once()?;
        Ok(rustix::net::listen(&self.fd, i32::try_from(backlog).unwrap_or(i32::MAX))?)
    }

    pub(super) fn connect(&self, to: SocketAddr) -> io::Result<()> {
        // Not a stream: UDP sockets have no such option.
        let _ = sockopt::set_tcp_nodelay(&self.fd, true);
        Ok(rustix::net::connect(&self.fd, &to)?)
    }

    pub(super) fn disconnect(&self) -> io::Result<()> {
        Ok(rustix::net::connect_unspec(&self.fd)?)
    }

    pub(super) fn take_error(&self) -> io::Result<()> {
        Ok(sockopt::socket_error(&self.fd)??)
    }

    pub(super) fn accept(&self) -> io::Result<(Self, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, peer) = self.attempt(Interest::Read, |fd| {
            loop {
                match rustix::net::acceptfrom_with(fd, flags) {
                    // The trouble of one connection, not the listener's: accept(2) says to go on.
                    Err(error) if OF_ONE_CONNECTION.contains(&error) => {}
                    accepted => return Ok((accepted?, After::Unknown)),
                }
            }
        })?;
        let peer = peer.map_or(Ok(LOCAL_PEER), ip_address)?;
        Ok((Self::from(fd), peer))
    }

    pub(super) fn receive(&self, buffers: &mut [IoSliceMut<'_>], flags: ReceiveFlags) -> io::Result<usize> {
        let wanted: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        self.attempt(Interest::Read, |fd| {
            let received = match &mut *buffers {
                [one] => rustix::net::recv(fd, &mut **one, receive_flags(flags))?.0,
                many => {
                    let mut control = RecvAncillaryBuffer::default();
                    rustix::net::recvmsg(fd, many, &mut control, receive_flags(flags))?.bytes
                }
            };
            let short = received > 0 && received < wanted && !flags.peek;
            Ok((received, if short { After::Exhausted } else { After::Unknown }))
        })
    }

    pub(super) fn receive_from(&self, buffer: &mut [u8], flags: ReceiveFlags) -> io::Result<Datagram> {
        self.attempt(Interest::Read, |fd| {
            let mut control = RecvAncillaryBuffer::default();
            let mut buffers = [IoSliceMut::new(buffer)];
            let message = rustix::net::recvmsg(fd, &mut buffers, &mut control, receive_flags(flags))?;
            let from = message.address.and_then(|from| SocketAddr::try_from(from).ok());
            let datagram = Datagram {
                length: message.bytes,
                truncated: message.flags.contains(ReturnFlags::TRUNC),
                from: from.unwrap_or_else(|| Family::Inet4.unspecified()),
            };
            Ok((datagram, After::Unknown))
        })
    }

    pub(super) fn unread(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(&self.fd)?)
    }

    pub(super) fn send(&self, buffers: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        let offered: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        self.attempt(Interest::Write, |fd| {
            let sent = match buffers {
                [one] => rustix::net::send(fd, one, flags)?,
                many => rustix::net::sendmsg(fd, many, &mut SendAncillaryBuffer::default(), flags)?,
            };
            Ok((sent, if sent < offered { After::Exhausted } else { After::Unknown }))
        })
    }

    pub(super) fn push(&self) {
        // Setting the option, even to what it is, sends what waits (tcp(7), TCP_NODELAY). A socket
        // that refuses it has nothing left to send to.
        let _ = sockopt::set_tcp_nodelay(&self.fd, true);
    }

    pub(super) fn send_to(&self, buffer: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.attempt(Interest::Write, |fd| {
            Ok((rustix::net::sendto(fd, buffer, SendFlags::NOSIGNAL, &to)?, After::Unknown))
        })
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        self.closing.store(true, Ordering::Relaxed);
        Ok(rustix::net::shutdown(&self.fd, how)?)
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        ip_address(rustix::net::getsockname(&self.fd)?)
    }

    pub(super) fn peer_address(&self) -> io::Result<SocketAddr> {
        ip_address(rustix::net::getpeername(&self.fd)?.ok_or(Errno::NOTCONN)?)
    }

    pub(super) fn set_option(&self, option: SocketOption) -> io::Result<()> {
        let fd = &self.fd;
        match option {
            SocketOption::ReuseAddress(on) => sockopt::set_socket_reuseaddr(fd, on)?,
            SocketOption::Broadcast(on) => sockopt::set_socket_broadcast(fd, on)?,
            SocketOption::SendBuffer(bytes) => sockopt::set_socket_send_buffer_size(fd, bytes)?,
            SocketOption::ReceiveBuffer(bytes) => sockopt::set_socket_recv_buffer_size(fd, bytes)?,
            SocketOption::KeepAlive(on) => sockopt::set_socket_keepalive(fd, on)?,
            SocketOption::OobInline(on) => sockopt::set_socket_oobinline(fd, on)?,
            SocketOption::Linger(time) => sockopt::set_socket_linger(fd, time)?,
            SocketOption::KeepAliveIdle(time) => if_internet((), sockopt::set_tcp_keepidle(fd, time))?,
            SocketOption::KeepAliveInterval(time) => if_internet((), sockopt::set_tcp_keepintvl(fd, time))?,
            SocketOption::KeepAliveCount(count) => if_internet((), sockopt::set_tcp_keepcnt(fd, count))?,
            SocketOption::HopLimit(hops) => match sockopt::socket_domain(fd)? {
                AddressFamily::INET6 => sockopt::set_ipv6_unicast_hops(fd, Some(hops))?,
                AddressFamily::INET => sockopt::set_ip_ttl(fd, hops.into())?,
                _ => {}
            },
        }
        Ok(())
    }

    pub(super) fn option(&self, name: OptionName) -> io::Result<SocketOption> {
        let fd = &self.fd;
        Ok(match name {
            OptionName::ReuseAddress => SocketOption::ReuseAddress(sockopt::socket_reuseaddr(fd)?),
            OptionName::Broadcast => SocketOption::Broadcast(sockopt::socket_broadcast(fd)?),
            OptionName::SendBuffer => SocketOption::SendBuffer(sockopt::socket_send_buffer_size(fd)?),
            OptionName::ReceiveBuffer => SocketOption::ReceiveBuffer(sockopt::socket_recv_buffer_size(fd)?),
            OptionName::KeepAlive => SocketOption::KeepAlive(sockopt::socket_keepalive(fd)?),
            OptionName::OobInline => SocketOption::OobInline(sockopt::socket_oobinline(fd)?),
            OptionName::Linger => SocketOption::Linger(sockopt::socket_linger(fd)?),
            OptionName::KeepAliveIdle => {
                SocketOption::KeepAliveIdle(if_internet(KEEP_ALIVE_IDLE, sockopt::tcp_keepidle(fd))?)
            }
            OptionName::KeepAliveInterval => {
                SocketOption::KeepAliveInterval(if_internet(KEEP_ALIVE_INTERVAL, sockopt::tcp_keepintvl(fd))?)
            }
            OptionName::KeepAliveCount => {
                SocketOption::KeepAliveCount(if_internet(KEEP_ALIVE_COUNT, sockopt::tcp_keepcnt(fd))?)
            }
            OptionName::HopLimit => SocketOption::HopLimit(match sockopt::socket_domain(fd)? {
                AddressFamily::INET6 => sockopt::ipv6_unicast_hops(fd)?,
                AddressFamily::INET => u8::try_from(sockopt::ip_ttl(fd)?).unwrap_or(u8::MAX),
                _ => HOP_LIMIT,
            }),
        })
    }

    pub(super) fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<io::Result<Ready>> {
        loop {
            let registered = self.registered()?;
            let arrivals = registered.news.arrivals();
            let mut guard = ready!(registered.poll_unread(context, interest))?;
            let seen = guard.as_ref().map_or(Readiness::EMPTY, Guard::ready);
            let suspect = seen.is_read_closed() || seen.is_write_closed() || self.closing.load(Ordering::Relaxed);
            let ready = Ready { hangup: suspect && self.hung_up(), ended: seen.is_read_closed() };
            if interest == Interest::Write || !self.doubtful.load(Ordering::Relaxed) || ready.hangup {
                return Poll::Ready(Ok(ready));
            }
            self.doubtful.store(false, Ordering::Relaxed);
            if self.is_readable()? {
                return Poll::Ready(Ok(ready));
            }
            registered.news.drained(arrivals);
            if let Some(guard) = guard.as_mut() {
                // Clears only what was seen: news that came meanwhile makes the next turn ready.
                guard.clear_ready();
            }
        }
    }

    /// As [`super::Endpoint::arrivals`].
    pub(super) fn arrivals(&self, context: &mut Context<'_>) -> u64 {
        // One that cannot be registered is told of by the look that follows.
        self.registered().map_or(0, |registered| registered.arrivals(context))
    }

    /// Uses up what the poller knows of the direction: for a socket that is [`Endpoint::renewed`], and used for
    /// nothing else.
    pub(super) fn poll_hangup(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.registered()?.poll(context, Interest::Write))?;
            if self.hung_up() {
                return Poll::Ready(Ok(()));
            }
            guard.clear_ready();
        }
    }

    /// As [`super::Endpoint::poll_ended`]. What the poller knows is used up, so it is that of a socket of its own.
    pub(super) fn poll_ended(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        let end = match self.end.get() {
            Some(end) => end,
            None => {
                let renewed = Box::new(self.renewed()?);
                self.end.get_or_init(|| renewed)
            }
        };
        loop {
            let mut guard = ready!(end.registered()?.poll(context, Interest::Read))?;
            if guard.ready().is_read_closed() {
                return Poll::Ready(Ok(Ready { hangup: self.hung_up(), ended: true }));
            }
            guard.clear_ready();
        }
    }

    /// As [`super::Endpoint::rests`].
    pub(super) fn rests(&self, interest: Interest) {
        self.again[usize::from(interest == Interest::Write)].store(false, Ordering::Relaxed);
    }

    /// As [`super::Endpoint::forget`].
    pub(super) fn forget(&self, waker: &Waker) {
        if let Some(registered) = self.registered.get() {
            registered.forget(waker);
        }
        if let Some(end) = self.end.get() {
            end.forget(waker);
        }
    }

    /// Makes the syscall if the direction is not known to refuse it, and learns from the outcome.
    fn attempt<R>(
        &self, interest: Interest, mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<(R, After)>,
    ) -> io::Result<R> {
        let again = &self.again[usize::from(interest == Interest::Write)];
        // A socket that nobody has waited for is not registered: connections that are answered at
        // once never are.
        let registered = self.registered.get();
        let news = registered.filter(|_| interest == Interest::Read).map(|registered| &registered.news);
        let arrivals = news.map_or(0, News::arrivals);
        let is_unread = news.is_some_and(News::is_unread);
        let mut guard = match registered {
            None => None,
            Some(registered) => match registered.look(interest) {
                Poll::Ready(guard) => Some(guard?),
                Poll::Pending if is_unread || again.swap(true, Ordering::Relaxed) => None,
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            },
        };
        let exhausted = |guard: Option<&mut Guard<'_>>| {
            news.inspect(|news| news.drained(arrivals));
            guard.map(Guard::clear_ready);
        };
        loop {
            match call(self.fd.as_fd()) {
                Ok((value, after)) => {
                    again.store(false, Ordering::Relaxed);
                    match after {
                        After::Exhausted if guard.is_some() || is_unread => exhausted(guard.as_mut()),
                        // Even if nothing is left, the poller may be about to tell of what was there.
                        // Registered by now: another thread may have begun to wait meanwhile.
                        _ if interest == Interest::Read && self.registered.get().is_some() => {
                            self.doubtful.store(true, Ordering::Relaxed);
                        }
                        _ => {}
                    }
                    return Ok(value);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    exhausted(guard.as_mut());
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn registered(&self) -> io::Result<&Registered> {
        loop {
            if let Some(registered) = self.registered.get() {
                return Ok(registered);
            }
            match Registered::new(&self.fd) {
                Ok(registered) => return Ok(self.registered.get_or_init(|| Box::new(registered))),
                // Another thread does so at this moment.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
    }

    fn is_readable(&self) -> io::Result<bool> {
        Ok(self.poll_now(PollFlags::IN)?.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
    }

    fn hung_up(&self) -> bool {
        self.poll_now(PollFlags::empty()).is_ok_and(|flags| flags.contains(PollFlags::HUP))
    }

    fn poll_now(&self, flags: PollFlags) -> rustix::io::Result<PollFlags> {
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), flags)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&now)))?;
        Ok(fds[0].revents())
    }
}

/// What an option of TCP is on a socket that may be a Unix socket, which has none of them: as if it had.
fn if_internet<T>(otherwise: T, outcome: rustix::io::Result<T>) -> rustix::io::Result<T> {
    match outcome {
        Err(Errno::OPNOTSUPP) => Ok(otherwise),
        outcome => outcome,
    }
}

/// Whether nobody listens at a Unix socket. It does not wait for those who do.
pub(super) fn is_refused(path: &Path) -> bool {
    let connect = || {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)
    };
    connect() == Err(Errno::CONNREFUSED)
}

/// What a guest is told of a peer on a Unix socket: somebody on this machine.
pub(super) const LOCAL_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn ip_address(address: SocketAddrAny) -> io::Result<SocketAddr> {
    if address.address_family() == AddressFamily::UNIX {
        return Ok(LOCAL_PEER);
    }
    Ok(SocketAddr::try_from(address)?)
}

/// Errors that accept(2) passes on from the connection that it takes.
const OF_ONE_CONNECTION: &[Errno] = &[
    Errno::CONNABORTED,
    Errno::PROTO,
    Errno::NETDOWN,
    Errno::NOPROTOOPT,
    Errno::HOSTDOWN,
    Errno::NONET,
    Errno::HOSTUNREACH,
    Errno::NETUNREACH,
];

fn receive_flags(flags: ReceiveFlags) -> RecvFlags {
    if flags.peek { RecvFlags::PEEK } else { RecvFlags::empty() }
}
