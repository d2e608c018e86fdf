//! The guest's standard streams as components see them: 0.2's streams, and 0.3's by way of tokio's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi_io::async_trait;

use crate::net::Interest;
use crate::readiness;
use crate::stdio::Stdio;

/// What a guest may write before it has to ask again.
const PERMIT_BYTES: usize = 64 << 10;

/// The most bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// A guest's stdin.
pub(crate) fn input(stdio: Arc<Stdio>) -> impl StdinStream + 'static {
    Standard(stdio)
}

/// A guest's stdout or stderr.
pub(crate) fn output(stdio: Arc<Stdio>) -> impl StdoutStream + 'static {
    Standard(stdio)
}

struct Standard(Arc<Stdio>);

impl IsTerminal for Standard {
    fn is_terminal(&self) -> bool {
        self.0.is_terminal()
    }
}

impl StdinStream for Standard {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(Input(Arc::clone(&self.0)))
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(Input(Arc::clone(&self.0)))
    }
}

impl StdoutStream for Standard {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Output { stdio: Arc::clone(&self.0), unwritten: Bytes::new() })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Output { stdio: Arc::clone(&self.0), unwritten: Bytes::new() })
    }
}

/// As wasmtime-wasi has it: a reader that is gone closes the stream.
fn failed(error: io::Error) -> StreamError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => StreamError::Closed,
        _ => StreamError::LastOperationFailed(error.into()),
    }
}

fn would_block<T>(outcome: &io::Result<T>) -> bool {
    matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

struct Input(Arc<Stdio>);

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        // What is wrong the next read finds out.
        let _ = readiness::stdio_ready(&self.0, Interest::Read).await;
    }
}

#[async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let mut bytes = BytesMut::zeroed(size.min(READ_BYTES));
        if bytes.is_empty() {
            return Ok(Bytes::new());
        }
        match self.0.try_read(&mut bytes) {
            outcome if would_block(&outcome) => Ok(Bytes::new()),
            Ok(0) => Err(StreamError::Closed),
            Ok(length) => Ok(bytes.split_to(length).freeze()),
            Err(error) => Err(failed(error)),
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let outcome = self.0.try_read(buffer.initialize_unfilled());
            if would_block(&outcome) {
                ready!(self.0.poll_ready(context, Interest::Read))?;
            } else {
                return Poll::Ready(outcome.map(|length| buffer.advance(length)));
            }
        }
    }
}

struct Output {
    stdio: Arc<Stdio>,
    /// What a pipe did not take at once.
    unwritten: Bytes,
}

impl Output {
    /// Writes as much as goes without waiting; whether that was all.
    fn write_on(&mut self) -> StreamResult<bool> {
        while !self.unwritten.is_empty() {
            match self.stdio.try_write(&[IoSlice::new(&self.unwritten)]) {
                outcome if would_block(&outcome) => return Ok(false),
                outcome => self.unwritten.advance(outcome.map_err(failed)?),
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        // What is wrong the next call finds out.
        while matches!(self.write_on(), Ok(false)) {
            let _ = readiness::stdio_ready(&self.stdio, Interest::Write).await;
        }
    }
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > PERMIT_BYTES || !self.unwritten.is_empty() {
            return Err(StreamError::trap("more was written than was permitted"));
        }
        // At once: a guest that ends has written what it wrote.
        self.unwritten = bytes;
        self.write_on().map(drop)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.write_on().map(drop)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.write_on()? { PERMIT_BYTES } else { 0 })
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let outcome = self.stdio.try_write(&[IoSlice::new(bytes)]);
            if would_block(&outcome) {
                ready!(self.stdio.poll_ready(context, Interest::Write))?;
            } else {
                return Poll::Ready(outcome);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
