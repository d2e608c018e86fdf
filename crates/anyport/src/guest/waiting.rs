//! The verbs of epoll sets, eventfds, pipes, and of descriptors that have several numbers.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use super::Guest;
use crate::descriptor::{Descriptor, Opened};
use crate::epoll::{Data, EDGE, ERR, Entry, Epoll, HUP, IN, ONESHOT, OUT, RDHUP};
use crate::errno::Errno;
use crate::event::Event;
use crate::net::{Interest, Ready};
use crate::stdio::Stdio;

/// What an epoll set tells: events, and what the guest gave with the entry.
pub(crate) type Told = (u32, Data);

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
        Opened::new(&self.descriptors, Descriptor::Epoll(Arc::default()))
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
    pub(crate) async fn epoll(&mut self, epoll: &Epoll, most: usize, timeout: Option<Duration>) -> Vec<Told> {
        self.busy.turn();
        if self.pacing.is_owed_a_look() {
            tokio::task::yield_now().await;
        }
        let first = poll_fn(|context| Poll::Ready(self.look_at_set(context, epoll, most))).await;
        if !first.is_empty() {
            self.pacing.unasked_one();
            return first;
        }
        self.pacing.asked();
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            // Lets the poller look once: a guest may spin on a zero timeout.
            tokio::task::yield_now().await;
            return poll_fn(|context| Poll::Ready(self.look_at_set(context, epoll, most))).await;
        }
        let told = poll_fn(|context| {
            let told = self.look_at_set(context, epoll, most);
            if told.is_empty() { Poll::Pending } else { Poll::Ready(told) }
        });
        match timeout {
            None => told.await,
            Some(timeout) => tokio::time::timeout(timeout, told).await.unwrap_or_default(),
        }
    }

    /// Looks at what may have changed.
    fn look_at_set(&mut self, context: &mut Context<'_>, epoll: &Epoll, most: usize) -> Vec<Told> {
        epoll.wait(context);
        let mut told = Vec::new();
        let mut again = Vec::new();
        for entry in epoll.take() {
            if told.len() == most {
                again.push(entry);
                continue;
            }
            let events = self.look_at(&entry);
            if events == 0 {
                continue;
            }
            told.push((events, entry.data));
            if entry.wanted & ONESHOT != 0 {
                entry.end();
            } else if entry.wanted & EDGE == 0 {
                again.push(entry);
            }
        }
        if !again.is_empty() {
            epoll.put_back(again);
            epoll.wake_others(context);
        }
        told
    }

    /// The events of an entry, whose waker is told when there are others.
    fn look_at(&mut self, entry: &Arc<Entry>) -> u32 {
        let Some(descriptor) = entry.target() else { return 0 };
        let waker = entry.waker();
        let mut context = Context::from_waker(&waker);
        let mut events = 0;
        for (interest, bits) in [(Interest::Read, IN | RDHUP), (Interest::Write, OUT)] {
            if entry.wanted & bits == 0 {
                continue;
            }
            let told = &entry.told[usize::from(interest == Interest::Write)];
            let source = self.source(&descriptor, interest);
            match source.poll(&mut context, interest) {
                Poll::Pending => told.store(false, Ordering::Relaxed),
                Poll::Ready(outcome) => {
                    if entry.wanted & EDGE == 0 || is_edge(entry, &descriptor, interest, told) {
                        events |= events_of(outcome, interest, entry.wanted);
                    }
                    if entry.wanted & EDGE != 0
                        && let Descriptor::Socket(socket) = &descriptor
                    {
                        // What the guest does with it is when there may be another edge.
                        socket.watch_use(&waker);
                    }
                }
            }
        }
        events
    }
}

/// Whether a direction that is ready is news to who is told of edges.
fn is_edge(entry: &Entry, descriptor: &Descriptor, interest: Interest, told: &AtomicBool) -> bool {
    let was_told = told.swap(true, Ordering::Relaxed);
    match descriptor {
        Descriptor::Event(event) => {
            let writes = event.writes();
            entry.writes.swap(writes, Ordering::Relaxed) != writes || !was_told
        }
        Descriptor::Socket(socket) => {
            // What is left of what the guest has begun to read.
            let is_left = interest == Interest::Read && !socket.was_told(interest);
            socket.tell(interest);
            !was_told || is_left
        }
        _ => !was_told,
    }
}

fn events_of(outcome: Result<Ready, Errno>, interest: Interest, wanted: u32) -> u32 {
    let Ok(ready) = outcome else { return ERR | HUP | (wanted & (IN | OUT)) };
    let direction = if interest == Interest::Read { IN } else { OUT };
    let ended = if ready.ended { RDHUP } else { 0 };
    let hangup = if ready.hangup { HUP } else { 0 };
    (direction | ended) & wanted | hangup
}
