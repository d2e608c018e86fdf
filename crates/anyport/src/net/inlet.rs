//! A guest's listener for a public port: connections come from a queue that the front feeds, or
//! straight from the host's listener.
//!
//! Looks like any other endpoint to the guest, whatever is public: a port, a Unix socket, or nothing
//! but the program that embeds it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Sleep;

use super::port::Port;
use super::queue::Arrival;
use super::waiters::Shared;
use super::{
    Endpoint, HOP_LIMIT, Interest, KEEP_ALIVE_COUNT, KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, OptionName, Ready,
    SocketOption,
};

/// How long accepting rests after an error such as `EMFILE`: long enough for connections to end,
/// short enough not to be felt.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listener of one worker's guest.
#[derive(Debug)]
pub(crate) struct Inlet {
    port: Arc<Port>,
    worker: usize,
    /// The only worker takes connections from the host's listener by itself: no thread in between.
    direct: Option<Arc<Endpoint>>,
    /// After an error that only time cures.
    pause: Mutex<Option<Pin<Box<Sleep>>>>,
    resting: Box<Shared>,
    /// The guest has looked for connections.
    served: AtomicBool,
}

impl Inlet {
    pub(super) fn new(port: Arc<Port>, worker: usize, direct: Option<Arc<Endpoint>>) -> Self {
        Self { port, worker, direct, pause: Mutex::default(), resting: Box::default(), served: AtomicBool::new(false) }
    }

    pub(super) fn listen(&self, backlog: u32) -> io::Result<()> {
        self.port.listen(self.worker, backlog)?;
        self.serve();
        Ok(())
    }

    /// A guest that was handed its listener serves it from its first look at it on.
    fn serve(&self) {
        if !self.served.swap(true, Ordering::Relaxed) {
            self.port.tell();
        }
    }

    pub(super) fn accept(&self) -> io::Result<Arrival> {
        self.serve();
        let queue = self.port.queue(self.worker);
        if let Some(arrival) = queue.pop() {
            return Ok(arrival);
        }
        let Some(direct) = &self.direct else { return Err(io::ErrorKind::WouldBlock.into()) };
        // First: who closes the port then sees either that, or what is accepted.
        let permit = queue.permit();
        if self.port.is_closed() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match Arrival::accept(direct, permit) {
            // Meanwhile it was, which is nothing that the guest has to know.
            Err(_) if self.port.is_closed() => Err(io::ErrorKind::WouldBlock.into()),
            outcome => outcome.map_err(|error| self.rest(error)),
        }
    }

    pub(super) fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<io::Result<Ready>> {
        if interest == Interest::Write {
            return Poll::Pending;
        }
        self.serve();
        let queue = self.port.queue(self.worker);
        // A guest that holds as many as it may is told of the next when one has ended.
        ready!(queue.poll_room(context));
        if queue.poll_waiting(context).is_ready() {
            return Poll::Ready(Ok(Ready::default()));
        }
        let Some(direct) = &self.direct else { return Poll::Pending };
        ready!(self.poll_rested(context));
        let ready = ready!(direct.poll_ready(context, interest));
        // A public port that was closed to drain is no hang-up: the guest has connections to serve.
        if self.port.is_closed() { Poll::Pending } else { Poll::Ready(ready) }
    }

    /// As [`Endpoint::forget`].
    pub(super) fn forget(&self, waker: &Waker) {
        self.port.queue(self.worker).forget(waker);
        self.resting.forget(waker);
        if let Some(direct) = &self.direct {
            direct.forget(waker);
        }
    }

    pub(super) fn local_address(&self) -> SocketAddr {
        self.port.address().unwrap_or_else(|| (Ipv4Addr::LOCALHOST, self.port.publish.guest_port.unwrap_or(0)).into())
    }

    pub(super) fn set_option(&self, option: SocketOption) -> io::Result<()> {
        self.port.host().map_or(Ok(()), |host| host.set_option(option))
    }

    pub(super) fn option(&self, name: OptionName) -> io::Result<SocketOption> {
        self.port.host().map_or_else(|| Ok(default_option(name)), |host| host.option(name))
    }

    /// An error that is the machine's and not the guest's is told to the person; the guest waits.
    fn rest(&self, error: io::Error) -> io::Error {
        if is_lasting(&error) {
            return error;
        }
        tell_of_pause(&error);
        *self.pause.lock().expect("no panic while held") = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
        io::ErrorKind::WouldBlock.into()
    }

    fn poll_rested(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut pause = self.pause.lock().expect("no panic while held");
        if let Some(sleep) = pause.as_mut() {
            ready!(self.resting.poll(context, |context| sleep.as_mut().poll(context)));
            *pause = None;
        }
        Poll::Ready(())
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.port.leave(self.worker);
    }
}

/// What a listener without a socket on the host says: servers read back what they have set, and copy it.
fn default_option(name: OptionName) -> SocketOption {
    match name {
        OptionName::ReuseAddress => SocketOption::ReuseAddress(true),
        OptionName::Broadcast => SocketOption::Broadcast(false),
        OptionName::SendBuffer => SocketOption::SendBuffer(BUFFER_BYTES),
        OptionName::ReceiveBuffer => SocketOption::ReceiveBuffer(BUFFER_BYTES),
        OptionName::KeepAlive => SocketOption::KeepAlive(false),
        OptionName::OobInline => SocketOption::OobInline(false),
        OptionName::Linger => SocketOption::Linger(None),
        OptionName::KeepAliveIdle => SocketOption::KeepAliveIdle(KEEP_ALIVE_IDLE),
        OptionName::KeepAliveInterval => SocketOption::KeepAliveInterval(KEEP_ALIVE_INTERVAL),
        OptionName::KeepAliveCount => SocketOption::KeepAliveCount(KEEP_ALIVE_COUNT),
        OptionName::HopLimit => SocketOption::HopLimit(HOP_LIMIT),
    }
}

/// The buffers of Linux's Unix sockets, which such connections are (`net.core.wmem_default`).
const BUFFER_BYTES: usize = 212_992;

/// Whether an error of accept(2) is not one that time cures: descriptors run out, firewalls refuse.
pub(crate) fn is_lasting(error: &io::Error) -> bool {
    let lasting = [Errno::AGAIN, Errno::INVAL, Errno::BADF, Errno::NOTSOCK, Errno::OPNOTSUPP];
    error.kind() == io::ErrorKind::WouldBlock
        || lasting.iter().any(|lasting| error.raw_os_error() == Some(lasting.raw_os_error()))
}

/// Once for the process: the machine's trouble is that of all its ports.
pub(crate) fn tell_of_pause(error: &io::Error) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        let is_own = error.raw_os_error() == Some(Errno::MFILE.raw_os_error());
        let hint = if is_own { "; raise `ulimit -n`" } else { "" };
        tracing::warn!("connections have to wait, since none can be accepted for now: {error}{hint}");
    }
}
