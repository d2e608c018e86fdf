//! A connection that was accepted, for whoever wants it as tokio's readers and writers.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::Permit;
use super::{Endpoint, Interest, ReceiveFlags, Shutdown};

/// Bytes of one read.
const SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    /// Where bytes are received. A reader's own buffer is not initialised, and to do that takes longer than to copy
    /// the few bytes of a request.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// A stream, counted for as long as it is there.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Dropped first: a peer that sees the end finds its place free.
    _permit: Option<Permit>,
    endpoint: Endpoint,
}

impl Stream {
    /// A connection that was accepted.
    pub(crate) fn new(endpoint: Endpoint, mut permit: Option<Permit>) -> Self {
        if let Some(permit) = &mut permit {
            permit.accept();
        }
        Self { _permit: permit, endpoint }
    }

    fn poll<T>(
        &self, context: &mut Context<'_>, interest: Interest, mut attempt: impl FnMut(&Endpoint) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match attempt(&self.endpoint) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = self.endpoint.poll_ready(context, interest);
                    if ready.is_pending() {
                        self.endpoint.rests(interest);
                    }
                    ready!(ready)?;
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let most = buffer.remaining().min(scratch.len());
            let received = ready!(self.poll(context, Interest::Read, |endpoint| {
                endpoint.receive(&mut [IoSliceMut::new(&mut scratch[..most])], ReceiveFlags::default())
            }))?;
            buffer.put_slice(&scratch[..received]);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(context, Interest::Write, |endpoint| endpoint.send(&[IoSlice::new(bytes)], false))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(context, Interest::Write, |endpoint| endpoint.send(buffers, false))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.endpoint.shutdown(Shutdown::Write) {
            // The peer has ended it already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome),
        }
    }
}
