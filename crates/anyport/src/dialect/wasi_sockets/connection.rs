//! The two streams of a connection, as 0.2 has them.
//!
//! A guest may write 64 KiB at a time. What the socket does not take at once is sent by a task, and until that is
//! done the guest may write no more: so there is back-pressure, and a guest that waits for an answer meanwhile
//! does not wait for ever.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::Notify;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi_io::async_trait;

use super::tcp::{Direction, Tcp};
use crate::errno::Errno;
use crate::net::{Interest, ReceiveFlags};

/// The most bytes of one write, which a connection may hold.
const PERMIT_BYTES: usize = 64 << 10;

/// The most bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// What a connection still has to send.
#[derive(Default)]
pub(super) struct Output {
    stage: Mutex<Stage>,
    /// Told when the task has ended.
    sent: Notify,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// A task sends the rest, and then perhaps ends the stream.
    Sending {
        ends: bool,
    },
    /// The task has failed, which the guest is yet to be told.
    Failed(Errno),
    Closed,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().expect("no panic while held")
    }
}

impl Tcp {
    /// Ends both streams, or one of them: what was written before that is sent.
    pub(super) fn end_output(&self) {
        let mut stage = self.output.lock();
        *stage = match *stage {
            Stage::Sending { .. } => Stage::Sending { ends: true },
            Stage::Open => {
                self.end(Direction::Out);
                Stage::Closed
            }
            Stage::Failed(_) | Stage::Closed => Stage::Closed,
        };
    }

    /// Sends what goes at once; whether that was all.
    fn send_some(&self, bytes: &mut Bytes) -> Result<bool, Errno> {
        let endpoint = self.endpoint();
        while !bytes.is_empty() {
            match endpoint.send(&[IoSlice::new(bytes)], false) {
                Ok(sent) => {
                    bytes.advance(sent);
                    self.socket.traffic.sent();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.traffic.stuck();
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Sends the rest, however long that takes.
    async fn send_all(self, mut bytes: Bytes) {
        let endpoint = self.endpoint();
        let outcome = loop {
            match self.send_some(&mut bytes) {
                // What is wrong with it, the next attempt says.
                Ok(false) => drop(poll_fn(|context| endpoint.poll_ready(context, Interest::Write)).await),
                outcome => break outcome,
            }
        };
        let mut stage = self.output.lock();
        *stage = match (outcome, *stage) {
            (Err(errno), _) => Stage::Failed(errno),
            (Ok(_), Stage::Sending { ends: true }) => {
                self.end(Direction::Out);
                Stage::Closed
            }
            (Ok(_), Stage::Sending { .. }) => Stage::Open,
            (Ok(_), stage) => stage,
        };
        drop(stage);
        self.output.sent.notify_waiters();
    }
}

/// As wasmtime-wasi has it: a peer that is gone closes the stream.
fn failed(errno: Errno) -> StreamError {
    match errno {
        Errno::Pipe => StreamError::Closed,
        errno => StreamError::LastOperationFailed(errno.into()),
    }
}

/// What comes from the peer.
pub(super) struct Reader(pub(super) Tcp);

#[async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        self.0.pace.turn();
        if !self.0.is_shut(Direction::In) {
            let endpoint = self.0.endpoint();
            // What is wrong, the next read says.
            let _ = poll_fn(|context| endpoint.poll_ready(context, Interest::Read)).await;
        }
    }
}

#[async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let Self(tcp) = self;
        if tcp.is_shut(Direction::In) {
            return Err(StreamError::Closed);
        }
        tcp.pace.turn();
        let mut bytes = BytesMut::zeroed(size.min(READ_BYTES));
        if bytes.is_empty() {
            return Ok(Bytes::new());
        }
        match tcp.endpoint().receive(&mut [IoSliceMut::new(&mut bytes)], ReceiveFlags::default()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Bytes::new()),
            Ok(received) if received > 0 => {
                tcp.socket.traffic.received(received);
                Ok(bytes.split_to(received).freeze())
            }
            end => {
                let _ = tcp.shut(Direction::In);
                Err(end.map_or_else(|error| failed(error.into()), |_| StreamError::Closed))
            }
        }
    }
}

/// What goes to the peer.
pub(super) struct Writer {
    tcp: Tcp,
    /// What the guest may write, since it has asked.
    permit: usize,
}

impl Writer {
    pub(super) fn new(tcp: Tcp) -> Self {
        Self { tcp, permit: 0 }
    }
}

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        let Output { sent, .. } = &self.tcp.output;
        self.tcp.pace.turn();
        loop {
            let mut sent = pin!(sent.notified());
            sent.as_mut().enable();
            if !matches!(*self.tcp.output.lock(), Stage::Sending { .. }) {
                return;
            }
            sent.await;
        }
    }
}

#[async_trait]
impl OutputStream for Writer {
    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        self.flush()?;
        if bytes.len() > std::mem::take(&mut self.permit) {
            return Err(StreamError::trap("more was written than was permitted"));
        }
        self.tcp.pace.turn();
        match self.tcp.send_some(&mut bytes) {
            Ok(true) => {}
            Ok(false) => {
                *self.tcp.output.lock() = Stage::Sending { ends: false };
                tokio::spawn(self.tcp.clone().send_all(bytes));
            }
            Err(errno) => {
                *self.tcp.output.lock() = Stage::Closed;
                return Err(failed(errno));
            }
        }
        Ok(())
    }

    /// All is on its way already.
    fn flush(&mut self) -> StreamResult<()> {
        let mut stage = self.tcp.output.lock();
        match *stage {
            Stage::Open | Stage::Sending { ends: false } => Ok(()),
            Stage::Failed(errno) => {
                *stage = Stage::Closed;
                Err(failed(errno))
            }
            Stage::Sending { ends: true } | Stage::Closed => Err(StreamError::Closed),
        }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.flush()?;
        let sends = matches!(*self.tcp.output.lock(), Stage::Sending { .. });
        self.permit = if sends { 0 } else { PERMIT_BYTES };
        Ok(self.permit)
    }
}
