//! The guest's stdin, stdout and stderr: whatever the host process has there, a file, or something within this process.
//!
//! The descriptors may be shared with other processes (a shell's terminal), so they are not made
//! non-blocking: they are asked whether a read or a short write will block before each.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;
use rustix::io::Errno;
use smallvec::SmallVec;

use crate::net::news::both;
use crate::net::registered::Registered;
use crate::net::waiters::Uses;
use crate::net::{Interest, Ready};

/// `PIPE_BUF`: what a pipe that is ready takes without blocking.
const WRITE_BYTES: usize = 4096;

/// Where one of a guest's standard streams goes.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum StdioTarget {
    /// Reads end at once; writes are dropped.
    #[default]
    Null,
    /// The host process's own stream of the same number.
    Inherit,
    /// An open file, pipe, socket or terminal.
    Fd(OwnedFd),
}

/// Something within this process that a guest reads or writes as a standard stream.
pub(crate) trait Channel: fmt::Debug + Send + Sync {
    /// As [`Stdio::try_read`].
    fn try_read(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(Errno::BADF.into())
    }

    /// As [`Stdio::try_write`].
    fn try_write(&self, _buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(Errno::BADF.into())
    }

    /// Ready when reading, or writing, does not wait.
    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()>;
}

/// One standard stream.
#[derive(Debug)]
pub(crate) struct Stdio {
    /// What it is, where that is no descriptor.
    channel: Option<Box<dyn Channel>>,
    /// `None` is the null device.
    fd: Option<Arc<OwnedFd>>,
    file_type: FileType,
    terminal: bool,
    /// `None` inside: the poller does not take it (a regular file), so it is always ready.
    registered: OnceLock<Option<Registered>>,
    registering: Mutex<()>,
    /// Those who want to know when it was read, where nothing tells what comes, and when a write had to wait.
    uses: [Uses; 2],
    nonblocking: AtomicBool,
}

impl Stdio {
    /// The stream for the guest's descriptor `number` (0 to 2).
    ///
    /// # Errors
    /// The host process has no such stream, or no descriptor is left for it.
    pub(crate) fn new(target: &StdioTarget, number: u32) -> io::Result<Self> {
        let fd = match target {
            StdioTarget::Null => None,
            StdioTarget::Fd(fd) => Some(fd.try_clone()?),
            StdioTarget::Inherit => Some(match number {
                0 => rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?,
                1 => rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?,
                _ => rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?,
            }),
        };
        let file_type = match &fd {
            Some(fd) => FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode),
            None => FileType::Unknown,
        };
        let terminal = fd.as_ref().is_some_and(rustix::termios::isatty);
        Ok(Self { fd: fd.map(Arc::new), file_type, terminal, ..Self::null() })
    }

    /// A stream within this process.
    pub(crate) fn within(channel: impl Channel + 'static) -> Self {
        Self { channel: Some(Box::new(channel)), ..Self::null() }
    }

    /// Both ends of a pipe: the one to read from first.
    ///
    /// # Errors
    /// No descriptor is left for it.
    pub(crate) fn pipe() -> io::Result<(Self, Self)> {
        let (reads, writes) = io::pipe()?;
        let end = |fd: OwnedFd| Self { fd: Some(Arc::new(fd)), file_type: FileType::Fifo, ..Self::null() };
        Ok((end(reads.into()), end(writes.into())))
    }

    fn null() -> Self {
        Self {
            channel: None,
            fd: None,
            file_type: FileType::Unknown,
            terminal: false,
            registered: OnceLock::new(),
            registering: Mutex::default(),
            uses: Default::default(),
            nonblocking: AtomicBool::new(false),
        }
    }

    /// The preview1 file type. Only a terminal is a character device: wasi-libc's `isatty` asks
    /// for nothing else, and `/dev/null` is none.
    pub(crate) fn file_type(&self) -> u8 {
        match self.file_type {
            _ if self.terminal => 2,
            FileType::RegularFile => 4,
            FileType::Socket => 6,
            _ => 0,
        }
    }

    /// Whether a person may sit there.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Reads without waiting; [`io::ErrorKind::WouldBlock`] says wait.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = self.read_now(buffer);
        self.uses[Interest::Read as usize].touch();
        outcome
    }

    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(channel) = &self.channel {
            return channel.try_read(buffer);
        }
        let Some(fd) = &self.fd else { return Ok(0) };
        if !self.is_ready_now(Interest::Read)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer))?)
    }

    /// Writes as much as goes without waiting; [`io::ErrorKind::WouldBlock`] says wait. What goes, goes in one
    /// piece: the guests of other workers write there too, and libc hands over a line in two buffers.
    pub(crate) fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let outcome = self.write_now(buffers);
        if !outcome.as_ref().is_ok_and(|written| *written == buffers.iter().map(|buffer| buffer.len()).sum::<usize>()) {
            self.uses[Interest::Write as usize].touch();
        }
        outcome
    }

    fn write_now(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Some(channel) = &self.channel {
            return channel.try_write(buffers);
        }
        let Some(fd) = &self.fd else { return Ok(buffers.iter().map(|buffer| buffer.len()).sum()) };
        if self.file_type == FileType::RegularFile {
            return Ok(rustix::io::retry_on_intr(|| rustix::io::writev(fd, buffers))?);
        }
        if !self.is_ready_now(Interest::Write)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut left = WRITE_BYTES;
        let parts = buffers.iter().map(|buffer| {
            let part = &buffer[..buffer.len().min(left)];
            left -= part.len();
            IoSlice::new(part)
        });
        let parts: SmallVec<[IoSlice<'_>; 8]> = parts.take_while(|part| !part.is_empty()).collect();
        Ok(rustix::io::retry_on_intr(|| rustix::io::writev(fd, &parts))?)
    }

    /// As [`crate::net::Endpoint::poll_ready`].
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<io::Result<Ready>> {
        if let Some(channel) = &self.channel {
            return channel.poll_ready(context).map(|()| Ok(Ready::default()));
        }
        let Some(registered) = self.registered()? else { return Poll::Ready(Ok(Ready::default())) };
        loop {
            let arrivals = registered.news.arrivals();
            // Taken before the kernel is asked: news that come in between are not cleared.
            let guard = ready!(registered.poll_unread(context, interest))?;
            if self.is_ready_now(interest)? {
                return Poll::Ready(Ok(Ready::default()));
            }
            if interest == Interest::Read {
                registered.news.drained(arrivals);
            }
            let Some(mut guard) = guard else { continue };
            let closed = guard.ready().is_read_closed() || guard.ready().is_write_closed();
            guard.clear_ready();
            if closed {
                // A FIFO whose last writer left and that another has opened: tokio does not forget
                // the first, so all there is to do is to look again.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// As [`crate::descriptor::Descriptor::watch`].
    pub(crate) fn watch(&self, waker: &Waker, interest: Interest) -> u64 {
        let uses = &self.uses[interest as usize];
        match self.registered() {
            Ok(Some(registered)) if interest == Interest::Read => {
                let arrivals = registered.arrivals(&mut Context::from_waker(waker));
                // A FIFO may get another writer, of which the poller tells nothing.
                both(if registered.news.has_ended() { uses.watch(waker) } else { 0 }, arrivals)
            }
            _ => uses.watch(waker),
        }
    }

    /// Forgets one who waits no longer.
    pub(crate) fn forget(&self, waker: &Waker) {
        if let Some(Some(registered)) = self.registered.get() {
            registered.forget(waker);
        }
        self.uses.iter().for_each(|uses| uses.forget(waker));
    }

    fn registered(&self) -> io::Result<Option<&Registered>> {
        if let Some(registered) = self.registered.get() {
            return Ok(registered.as_ref());
        }
        let Some(fd) = &self.fd else { return Ok(None) };
        // The poller refuses a descriptor that another thread has registered meanwhile.
        let _one = self.registering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registered) = self.registered.get() {
            return Ok(registered.as_ref());
        }
        let registered = match Registered::new(fd) {
            Ok(registered) => Some(registered),
            // epoll refuses regular files and some devices: they never block.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        Ok(self.registered.get_or_init(|| registered).as_ref())
    }

    fn is_ready_now(&self, interest: Interest) -> io::Result<bool> {
        let Some(fd) = &self.fd else { return Ok(true) };
        let wanted = match interest {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
        };
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), wanted)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&now)))?;
        Ok(!fds[0].revents().is_empty())
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Relaxed)
    }
}
