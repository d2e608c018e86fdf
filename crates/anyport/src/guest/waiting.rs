//! The verbs of epoll sets, eventfds, pipes, and of descriptors that have several numbers.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Guest;
use crate::descriptor::{Descriptor, Opened};
use crate::epoll::{Epoll, Told};
use crate::errno::Errno;
use crate::event::Event;
use crate::net::Interest;
use crate::stdio::Stdio;

/// The port that programs of wasix-libc bind once to find out how a host tells its ports: no server is meant.
const PROBED_PORT: u16 = 10_275;

impl Guest {
    /// Binds a socket, or notes only that it would be: to the address that wasix-libc asks about.
    pub(crate) fn bind_or_note(&mut self, fd: u32, address: SocketAddr) -> Result<(), Errno> {
        let socket = self.descriptors.socket(fd)?;
        if address.port() == PROBED_PORT && address.ip().is_unspecified() && socket.note(address) {
            return Ok(());
        }
        self.bind(fd, address)?;
        // What was asked about before is not what it is bound to.
        socket.take_noted();
        Ok(())
    }

    /// Binds a socket for which that was noted: it is to be used after all.
    pub(crate) fn bind_noted(&mut self, fd: u32) -> Result<(), Errno> {
        match self.descriptors.socket(fd)?.take_noted() {
            Some(address) => self.bind(fd, address),
            None => Ok(()),
        }
    }

    /// Opens an eventfd.
    pub(crate) fn open_event(&mut self, event: Event) -> Result<Opened, Errno> {
        Opened::new(&self.descriptors, Descriptor::Event(Arc::new(event)))
    }

    /// Opens an epoll set.
    pub(crate) fn open_epoll(&mut self) -> Result<Opened, Errno> {
        Opened::new(&self.descriptors, Descriptor::Epoll(Arc::new(self.descriptors.new_set())))
    }

    /// Opens both ends of a pipe: the one to read from first.
    pub(crate) fn open_pipe(&mut self) -> Result<(Opened, Opened), Errno> {
        let (reads, writes) = Stdio::pipe()?;
        let open = |end| Opened::new(&self.descriptors, Descriptor::Stdio(Arc::new(end)));
        Ok((open(reads)?, open(writes)?))
    }

    /// Reads an eventfd; waits if it blocks.
    pub(crate) async fn read_event(&mut self, event: &Event) -> Result<u64, Errno> {
        loop {
            match event.read() {
                Err(Errno::Again) if !event.is_nonblocking() => {
                    self.waits(poll_fn(|context| event.poll_ready(context, Interest::Read).map(Ok))).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Writes to an eventfd; waits if it blocks.
    pub(crate) async fn write_event(&mut self, event: &Event, more: u64) -> Result<(), Errno> {
        loop {
            match event.write(more) {
                Err(Errno::Again) if !event.is_nonblocking() => {
                    self.waits(poll_fn(|context| event.poll_ready(context, Interest::Write).map(Ok))).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits for events of an epoll set, at most so many and so long.
    pub(crate) async fn epoll(&mut self, set: &Epoll, most: usize, timeout: Option<Duration>) -> Told {
        self.busy.turn();
        if self.pacing.is_owed_a_look() {
            tokio::task::yield_now().await;
        }
        let first = set.look(most);
        if !first.is_empty() {
            self.pacing.unasked_one();
            return first;
        }
        self.pacing.asked();
        match timeout {
            None => set.wait(most).await,
            Some(timeout) if timeout.is_zero() => {
                // Lets the poller look once: a guest may spin on a zero timeout.
                tokio::task::yield_now().await;
                set.look(most)
            }
            Some(timeout) => tokio::time::timeout(timeout, set.wait(most)).await.unwrap_or_default(),
        }
    }
}
