//! A TCP socket as WASI has it: its life, and which call is allowed when. 0.2 and 0.3 have the same.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

use super::address::{is_local_tcp, is_remote_tcp, named};
use super::code::code;
use super::connection::Output;
use super::option::Options;
use crate::address::{Family, Transport};
use crate::busy::Pace;
use crate::descriptor::{Opened, Socket};
use crate::errno::Errno;
use crate::guest::Guest;
use crate::net::{Endpoint, Interest, Shutdown};

/// What the table has for a socket. Streams share it, and the last that lets go closes it.
#[derive(Clone)]
pub(super) struct Tcp(Arc<TcpSocket>);

impl Deref for Tcp {
    type Target = TcpSocket;

    fn deref(&self) -> &TcpSocket {
        &self.0
    }
}

pub(super) struct TcpSocket {
    /// Before its place in the guest's table, so that it is closed when that is free.
    pub(super) socket: Arc<Socket>,
    opened: Opened,
    pub(super) pace: Arc<Pace>,
    state: Mutex<State>,
    pub(super) output: Output,
}

struct State {
    life: Life,
    /// What 0.2 has started and not finished.
    started: Option<Step>,
    backlog: u32,
    /// The streams that 0.3 has given away, and those that 0.2 has ended: in, out.
    taken: [bool; 2],
}

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Life {
    /// Next: `Bound`, `Connecting`, and in 0.3 `Listening`.
    Unbound,
    /// Next: `Listening`, `Connecting`.
    Bound,
    /// The last stage.
    Listening,
    /// Next: `Connected`, `Closed`.
    Connecting,
    /// The last stage.
    Connected,
    /// It could not connect. The last stage.
    Closed(ErrorCode),
}

/// What 0.2 does in two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Bind,
    Listen,
    Connect,
}

/// One of a connection's two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// As Rust's standard library has it.
const BACKLOG: u32 = 128;

impl Tcp {
    pub(super) fn open(guest: &Guest, family: Family) -> Result<Self, ErrorCode> {
        let opened = guest.open(family, Transport::Tcp).map_err(code)?;
        Self::new(guest, opened, Life::Unbound)
    }

    fn new(guest: &Guest, opened: Opened, life: Life) -> Result<Self, ErrorCode> {
        let socket = opened.socket().map_err(code)?;
        socket.set_nonblocking(true);
        let state = State { life, started: None, backlog: BACKLOG, taken: [false; 2] };
        Ok(Self(Arc::new(TcpSocket {
            socket,
            opened,
            pace: guest.busy.pace(),
            state: Mutex::new(state),
            output: Output::default(),
        })))
    }

    /// The next connection, if there is one.
    pub(super) fn accept(&self, guest: &mut Guest) -> Result<Self, ErrorCode> {
        match self.life() {
            Life::Listening => {
                let opened = guest.try_accept(&self.socket).map_err(code)?;
                Self::new(guest, opened, Life::Connected)
            }
            life => Err(life.refusal()),
        }
    }
}

impl Life {
    /// Why something is not allowed that needs another stage.
    fn refusal(self) -> ErrorCode {
        match self {
            Self::Closed(code) => code,
            _ => ErrorCode::InvalidState,
        }
    }
}

impl TcpSocket {
    pub(super) fn bind(&self, guest: &mut Guest, address: SocketAddr) -> Result<(), ErrorCode> {
        self.must_be(|life| life == Life::Unbound)?;
        if !is_local_tcp(address, self.family()) {
            return Err(ErrorCode::InvalidArgument);
        }
        guest.bind(self.opened.fd(), address).map_err(code)?;
        self.lock().life = Life::Bound;
        Ok(())
    }

    /// On a free port, as 0.3 has it where a guest that was not bound listens.
    pub(super) fn bind_if_unbound(&self, guest: &mut Guest) -> Result<(), ErrorCode> {
        if self.life() == Life::Unbound { self.bind(guest, self.family().unspecified()) } else { Ok(()) }
    }

    pub(super) fn listen(&self, guest: &mut Guest) -> Result<(), ErrorCode> {
        self.must_be(|life| life == Life::Bound)?;
        let backlog = self.lock().backlog;
        guest.listen(self.opened.fd(), backlog).map_err(code)?;
        self.lock().life = Life::Listening;
        Ok(())
    }

    /// Begins to connect. Why it cannot is told at the end.
    pub(super) fn connect(&self, guest: &mut Guest, to: SocketAddr) -> Result<(), ErrorCode> {
        self.must_be(|life| matches!(life, Life::Unbound | Life::Bound))?;
        if !is_remote_tcp(to, self.family()) {
            return Err(ErrorCode::InvalidArgument);
        }
        self.lock().life = match guest.begin_connect(&self.socket, to) {
            Ok(()) | Err(Errno::InProgress) => Life::Connecting,
            Err(errno) => Life::Closed(code(errno)),
        };
        Ok(())
    }

    /// Ready when it has connected, or could not.
    pub(super) fn poll_connected(&self, context: &mut Context<'_>) -> Poll<Result<(), ErrorCode>> {
        if self.life() == Life::Connecting {
            let outcome = ready!(self.poll_outcome(context));
            self.lock().life = outcome.map_or_else(|errno| Life::Closed(code(errno)), |()| Life::Connected);
        }
        Poll::Ready(self.must_be(|life| life == Life::Connected))
    }

    fn poll_outcome(&self, context: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        let tcp = self.socket.tcp()?;
        while tcp.is_connecting() {
            // What is wrong with it, the next line says better.
            let _ = ready!(tcp.endpoint().poll_ready(context, Interest::Write));
            tcp.finish_connect()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Starts what a later call finishes.
    pub(super) fn start(&self, step: Step, begin: impl FnOnce() -> Result<(), ErrorCode>) -> Result<(), ErrorCode> {
        if self.lock().started.is_some() {
            return Err(ErrorCode::ConcurrencyConflict);
        }
        begin()?;
        self.lock().started = Some(step);
        Ok(())
    }

    /// Finishes what was started, unless it goes on.
    pub(super) fn finish(&self, step: Step, context: &mut Context<'_>) -> Result<(), ErrorCode> {
        if self.lock().started != Some(step) {
            return Err(ErrorCode::NotInProgress);
        }
        let outcome = match step {
            Step::Bind | Step::Listen => Ok(()),
            Step::Connect => match self.poll_connected(context) {
                Poll::Pending => return Err(ErrorCode::WouldBlock),
                Poll::Ready(outcome) => outcome,
            },
        };
        self.lock().started = None;
        outcome
    }

    /// Waits until the next call of the stage that it is in has an outcome.
    pub(super) async fn ready(&self) {
        self.pace.turn();
        match self.life() {
            Life::Connecting => drop(poll_fn(|context| self.poll_connected(context)).await),
            Life::Listening => self.arrival().await,
            Life::Unbound | Life::Bound | Life::Connected | Life::Closed(_) => {}
        }
    }

    /// Waits until a listener has a connection that the guest may have.
    pub(super) fn arrival(&self) -> impl Future<Output = ()> + Send + use<> {
        let endpoint = self.socket.endpoint();
        async move {
            // What is wrong with a listener, the next look at it says.
            let _ = poll_fn(|context| endpoint.poll_ready(context, Interest::Read)).await;
        }
    }

    /// Gives away one of the streams, which there is once.
    pub(super) fn take(&self, direction: Direction) -> Result<(), ErrorCode> {
        self.must_be(|life| life == Life::Connected)?;
        match std::mem::replace(&mut self.lock().taken[direction as usize], true) {
            false => Ok(()),
            true => Err(ErrorCode::InvalidState),
        }
    }

    /// Ends a direction; 0.2's streams look whether it was.
    pub(super) fn shut(&self, direction: Direction) -> Result<(), ErrorCode> {
        self.must_be(|life| life == Life::Connected)?;
        self.lock().taken[direction as usize] = true;
        Ok(())
    }

    /// Whether 0.2's stream of this direction was ended.
    pub(super) fn is_shut(&self, direction: Direction) -> bool {
        self.lock().taken[direction as usize]
    }

    /// Ends a direction on the host. The peer may have done so before.
    pub(super) fn end(&self, direction: Direction) {
        let how = match direction {
            Direction::In => Shutdown::Read,
            Direction::Out => Shutdown::Write,
        };
        let _ = self.endpoint().shutdown(how);
    }

    pub(super) fn endpoint(&self) -> Arc<Endpoint> {
        self.socket.endpoint()
    }

    pub(super) fn local_address(&self) -> Result<SocketAddr, ErrorCode> {
        self.must_be(|life| !matches!(life, Life::Unbound | Life::Connecting | Life::Closed(_)))?;
        self.socket.local_address().map(|address| named(address, self.family())).map_err(code)
    }

    pub(super) fn remote_address(&self) -> Result<SocketAddr, ErrorCode> {
        self.must_be(|life| life == Life::Connected)?;
        self.socket.peer_address().map(|address| named(address, self.family())).map_err(code)
    }

    pub(super) fn is_listening(&self) -> bool {
        self.life() == Life::Listening
    }

    pub(super) fn family(&self) -> Family {
        self.socket.family()
    }

    /// For the next listen; one that listens keeps what it has, as WIT allows.
    pub(super) fn set_backlog(&self, size: u64) -> Result<(), ErrorCode> {
        if size == 0 {
            return Err(ErrorCode::InvalidArgument);
        }
        self.must_be(|life| matches!(life, Life::Unbound | Life::Bound | Life::Listening))?;
        self.lock().backlog = u32::try_from(size).unwrap_or(u32::MAX);
        Ok(())
    }

    pub(super) fn options(&self) -> Result<Options<'_>, ErrorCode> {
        self.must_be(|life| !matches!(life, Life::Closed(_)))?;
        Ok(Options(&self.socket))
    }

    fn must_be(&self, allowed: impl FnOnce(Life) -> bool) -> Result<(), ErrorCode> {
        let life = self.life();
        if allowed(life) { Ok(()) } else { Err(life.refusal()) }
    }

    fn life(&self) -> Life {
        self.lock().life
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::guest::tests::guest;

    fn tcp(guest: &Guest) -> Tcp {
        Tcp::open(guest, Family::Inet4).expect("a socket")
    }

    fn free() -> SocketAddr {
        "127.0.0.1:0".parse().expect("an address")
    }

    fn finish(tcp: &Tcp, step: Step) -> Result<(), ErrorCode> {
        tcp.finish(step, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_an_unbound_socket_refuses() {
        let mut guest = guest();
        let tcp = tcp(&guest);
        assert_eq!(tcp.listen(&mut guest), Err(ErrorCode::InvalidState));
        assert_eq!(tcp.accept(&mut guest).err(), Some(ErrorCode::InvalidState));
        assert_eq!(tcp.local_address(), Err(ErrorCode::InvalidState));
        assert_eq!(tcp.take(Direction::In), Err(ErrorCode::InvalidState));
        assert_eq!(tcp.shut(Direction::Out), Err(ErrorCode::InvalidState));
    }

    #[test]
    fn one_step_after_the_other() {
        let mut guest = guest();
        let tcp = tcp(&guest);
        assert_eq!(finish(&tcp, Step::Bind), Err(ErrorCode::NotInProgress));
        assert_eq!(tcp.start(Step::Bind, || tcp.bind(&mut guest, free())), Ok(()));
        assert_eq!(tcp.start(Step::Listen, || tcp.listen(&mut guest)), Err(ErrorCode::ConcurrencyConflict));
        assert_eq!(finish(&tcp, Step::Connect), Err(ErrorCode::NotInProgress));
        assert_eq!(finish(&tcp, Step::Bind), Ok(()));
        assert_eq!(tcp.bind(&mut guest, free()), Err(ErrorCode::InvalidState));
        // No rule lets it listen, which leaves it bound.
        assert_eq!(tcp.listen(&mut guest), Err(ErrorCode::AccessDenied));
        assert!(tcp.local_address().is_ok_and(|address| address.port() > 0));
    }

    #[test]
    fn why_it_could_not_connect_is_told_from_then_on() {
        let mut guest = guest();
        let tcp = tcp(&guest);
        let to = "127.0.0.1:9".parse().expect("an address");
        assert_eq!(tcp.start(Step::Connect, || tcp.connect(&mut guest, to)), Ok(()));
        assert_eq!(finish(&tcp, Step::Connect), Err(ErrorCode::AccessDenied));
        assert_eq!(finish(&tcp, Step::Connect), Err(ErrorCode::NotInProgress));
        assert_eq!(tcp.connect(&mut guest, to), Err(ErrorCode::AccessDenied));
        assert_eq!(tcp.remote_address(), Err(ErrorCode::AccessDenied));
        assert_eq!(tcp.options().err(), Some(ErrorCode::AccessDenied));
    }

    #[test]
    fn a_socket_is_a_descriptor_until_the_last_of_it_is_dropped() {
        let guest = guest();
        let before = guest.descriptors.open();
        let tcp = tcp(&guest);
        let stream = tcp.clone();
        drop(tcp);
        assert_eq!(guest.descriptors.open(), before + 1);
        drop(stream);
        assert_eq!(guest.descriptors.open(), before);
    }
}
