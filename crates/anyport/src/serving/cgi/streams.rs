//! A program's standard streams: the request's body, the answer, lines of the log.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::Body;

use super::super::RequestId;
use super::super::upload::Upload;
use crate::journal::{Journal, Level};
use crate::limits::LOG_CHARS;
use crate::stdio::Channel;

/// Bytes of an answer that wait for their client, before the program that writes them does: as a pipe of Linux has
/// room for.
const PIPE_BYTES: usize = 64 << 10;

/// Its stdin: the body of the request, of which no more is taken from the client than the program reads.
pub(super) struct Question(Mutex<Asked>);

struct Asked {
    body: Upload,
    /// What has come of it and is not read.
    bytes: Bytes,
    end: Option<End>,
}

/// How a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    Broken,
}

impl Question {
    pub(super) fn new(body: Upload) -> Self {
        Self(Mutex::new(Asked { body, bytes: Bytes::new(), end: None }))
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}

impl Channel for Question {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut asked = self.0.lock().expect("no panic while held");
        if !asked.bytes.is_empty() || buffer.is_empty() {
            let length = asked.bytes.len().min(buffer.len());
            asked.bytes.split_to(length).copy_to_slice(&mut buffer[..length]);
            return Ok(length);
        }
        match asked.end {
            Some(End::Whole) => Ok(0),
            // What it was, the client is told.
            Some(End::Broken) => Err(rustix::io::Errno::IO.into()),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut asked = self.0.lock().expect("no panic while held");
        while asked.bytes.is_empty() && asked.end.is_none() {
            match ready!(Pin::new(&mut asked.body).poll_frame(context)) {
                // Trailers are nothing that CGI has a word for.
                Some(Ok(frame)) => asked.bytes = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => asked.end = Some(End::Broken),
                None => asked.end = Some(End::Whole),
            }
        }
        Poll::Ready(())
    }
}

/// What a program has written and its client has not taken.
#[derive(Debug, Default)]
pub(super) struct Pipe(Mutex<Written>);

#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    end: Option<End>,
    /// Nobody takes any more: what is written is lost, as it is where a client asks for the head alone.
    is_left: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().expect("no panic while held")
    }

    /// Takes what there is; an end where there will be nothing more.
    pub(super) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        let mut written = self.lock();
        if !written.bytes.is_empty() {
            let bytes = std::mem::take(&mut written.bytes);
            if let Some(writer) = written.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(bytes.into()));
        }
        if let Some(end) = written.end {
            return Poll::Ready(Err(end));
        }
        written.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// How many bytes will still come, if that is known.
    pub(super) fn rest(&self) -> Option<usize> {
        let written = self.lock();
        (written.end == Some(End::Whole)).then_some(written.bytes.len())
    }

    /// Nobody takes any more.
    pub(super) fn leave(&self) {
        let mut written = self.lock();
        written.is_left = true;
        written.bytes = Vec::new();
        if let Some(writer) = written.writer.take() {
            writer.wake();
        }
    }

    /// Nothing more is written; the first end counts.
    fn end(&self, end: End) {
        let mut written = self.lock();
        written.end.get_or_insert(end);
        if let Some(reader) = written.reader.take() {
            reader.wake();
        }
    }
}

/// A program's stdout.
#[derive(Debug)]
pub(super) struct Writer(pub(super) Arc<Pipe>);

impl Channel for Writer {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = self.0.lock();
        if written.is_left {
            return Ok(buffers.iter().map(|buffer| buffer.len()).sum());
        }
        let mut room = PIPE_BYTES.saturating_sub(written.bytes.len());
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = room;
        for buffer in buffers {
            let part = &buffer[..buffer.len().min(room)];
            written.bytes.extend_from_slice(part);
            room -= part.len();
        }
        if let Some(reader) = written.reader.take() {
            reader.wake();
        }
        Ok(before - room)
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut written = self.0.lock();
        if written.is_left || written.bytes.len() < PIPE_BYTES {
            return Poll::Ready(());
        }
        written.writer = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Ends a pipe when its program has: broken, unless it says otherwise before.
pub(super) struct Closing(pub(super) Arc<Pipe>);

impl Closing {
    pub(super) fn whole(self) {
        self.0.end(End::Whole);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.end(End::Broken);
    }
}

/// A program's stderr: each line is one of the log, with the id of its request.
pub(super) struct Lines {
    journal: Arc<Journal>,
    context: String,
    line: Mutex<Vec<u8>>,
}

/// What is held of a line that has not ended: one that is longer is told in parts.
const LINE_BYTES: usize = LOG_CHARS;

impl Lines {
    pub(super) fn new(journal: &Arc<Journal>, id: RequestId) -> Self {
        Self { journal: Arc::clone(journal), context: format!("request {id}"), line: Mutex::default() }
    }

    fn tell(&self, line: &[u8]) {
        self.journal.write(Level::Warn, "", &self.context, &String::from_utf8_lossy(line));
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

impl Channel for Lines {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut line = self.line.lock().expect("no panic while held");
        for buffer in buffers {
            for part in buffer.split_inclusive(|byte| *byte == b'\n') {
                for piece in part.chunks(LINE_BYTES) {
                    line.extend_from_slice(piece);
                    if line.ends_with(b"\n") || line.len() >= LINE_BYTES {
                        self.tell(&line);
                        line.clear();
                    }
                }
            }
        }
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let line = std::mem::take(&mut *self.line.lock().expect("no panic while held"));
        if !line.is_empty() {
            self.tell(&line);
        }
    }
}
