//! Where the standard streams of a container or an exec go: named pipes, files, a logging program, a
//! terminal. What containerd names is `CreateTaskRequest`'s `stdin`, `stdout`, `stderr`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use anyport::Error;

/// What containerd wants of the streams of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    pub(crate) terminal: bool,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What a child is started with.
#[derive(Debug)]
pub(crate) struct ChildStreams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What the shim keeps of them while the process lives.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Keeps the pipe of stdin open until containerd closes it: without it a reader that is there before
    /// the client would find the end at once.
    stdin: Option<File>,
    terminal: Option<OwnedFd>,
    logger: Option<Logger>,
    /// Keep what was written to the pipes until containerd has opened them, which may be after the process
    /// has ended. They are no writers, so they do not hold up the end.
    readers: Vec<OwnedFd>,
}

/// A logging program of nerdctl or another client, `binary://PATH?ARG`.
#[derive(Debug)]
struct Logger {
    child: Child,
}

impl Streams {
    /// Opens them.
    ///
    /// # Errors
    /// One of them is of no kind that we know, or cannot be opened.
    pub(crate) fn open(&self, id: &str, namespace: &str) -> Result<(ChildStreams, Held), Error> {
        if self.terminal {
            return self.open_terminal();
        }
        let mut held = Held::default();
        let stdin = match self.stdin.as_str() {
            "" => nowhere()?,
            path => {
                let (stdin, writer) = input(path)?;
                held.stdin = Some(writer);
                stdin
            }
        };
        if let Some(program) = self.stdout.strip_prefix("binary://") {
            let (logger, stdout, stderr) = Logger::start(program, id, namespace)?;
            held.logger = Some(logger);
            return Ok((ChildStreams { stdin, stdout, stderr }, held));
        }
        let streams = ChildStreams { stdin, stdout: sink(&self.stdout)?, stderr: sink(&self.stderr)? };
        held.readers.extend([&self.stdout, &self.stderr].into_iter().filter_map(|path| reader(path)));
        Ok((streams, held))
    }

    /// Another way to where errors go; nowhere if that is a program or a terminal.
    pub(crate) fn errors(&self) -> Result<OwnedFd, Error> {
        if self.terminal || self.stdout.starts_with("binary://") { nowhere() } else { sink(&self.stderr) }
    }

    /// A terminal of this machine, whose other end is copied to and from the pipes.
    fn open_terminal(&self) -> Result<(ChildStreams, Held), Error> {
        let failed = |error: rustix::io::Errno| Error::host(format!("no terminal can be had: {error}"));
        let ours =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(failed)?;
        rustix::pty::grantpt(&ours).and_then(|()| rustix::pty::unlockpt(&ours)).map_err(failed)?;
        let name = rustix::pty::ptsname(&ours, Vec::new()).map_err(failed)?;
        let theirs =
            rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, 0.into()).map_err(failed)?;
        let copy = || theirs.try_clone().map_err(|error| Error::host(format!("no terminal can be had: {error}")));
        let streams = ChildStreams { stdin: copy()?, stdout: copy()?, stderr: copy()? };
        let mut held = Held::default();
        if !self.stdin.is_empty() {
            let (stdin, writer) = input(&self.stdin)?;
            held.stdin = Some(writer);
            copy_all(stdin.into(), File::from(copy_of(&ours)?));
        }
        if !self.stdout.is_empty() {
            copy_all(File::from(copy_of(&ours)?), sink(&self.stdout)?.into());
        }
        held.readers.extend(reader(&self.stdout));
        held.terminal = Some(ours);
        Ok((streams, held))
    }
}

impl Held {
    /// The process has ended: its readers find the end, once they have read what there is.
    pub(crate) fn process_ended(&mut self) {
        *self = Self { readers: std::mem::take(&mut self.readers), ..Self::default() };
    }

    /// No more input will come.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The client's window has another size.
    pub(crate) fn resize(&self, width: u32, height: u32) -> io::Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        let size = Winsize { ws_row: cells(height), ws_col: cells(width), ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(terminal, size)?)
    }
}

impl Drop for Logger {
    /// It ends when it has read all that was written; that is waited for elsewhere, so that it is no zombie.
    fn drop(&mut self) {
        let pid = self.child.id();
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            tokio::task::spawn_blocking(move || {
                if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                }
            });
        }
    }
}

impl Logger {
    /// Starts the program with the streams as descriptors 3 and 4, and waits until it says that it is
    /// ready by closing 5: containerd's `runtime/v2/README.md`, "Logging".
    fn start(program: &str, id: &str, namespace: &str) -> Result<(Self, OwnedFd, OwnedFd), Error> {
        let (path, query) = program.split_once('?').unwrap_or((program, ""));
        let failed =
            |error: &io::Error| Error::host(format!("the logging program `{path}` cannot be started: {error}"));
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(&error.into()));
        let ((stdout, to_stdout), (stderr, to_stderr), (ready, to_ready)) = (pipe()?, pipe()?, pipe()?);
        // A shell moves them there: a child is given no descriptor but the first three without `unsafe`.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4<&2 5>&1 </dev/null >/dev/null 2>/dev/null", path])
            .args(query.split('&').filter(|word| !word.is_empty()).flat_map(|word| {
                let (name, value) = word.split_once('=').unwrap_or((word, ""));
                [name.to_owned(), value.to_owned()].into_iter().filter(|word| !word.is_empty())
            }))
            .env("CONTAINER_ID", id)
            .env("CONTAINER_NAMESPACE", namespace)
            .stdin(Stdio::from(stdout))
            .stderr(Stdio::from(stderr))
            .stdout(Stdio::from(to_ready))
            .spawn()
            .map_err(|error| failed(&error))?;
        // Ready, or ended.
        let timeout = Timespec { tv_sec: READY_TIMEOUT_S, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&timeout));
        if !matches!(ready, Ok(1..)) {
            let _ = child.kill();
            return Err(Error::host(format!(
                "the logging program `{path}` did not get ready within {READY_TIMEOUT_S} s"
            )));
        }
        Ok((Self { child }, to_stdout, to_stderr))
    }
}

/// Copies from one to the other until the first has ended, on a thread of its own: terminals are few.
fn copy_all(mut from: File, mut to: File) {
    std::thread::spawn(move || {
        // A terminal that nobody has open any more fails to be read; that is its end.
        let _ = io::copy(&mut from, &mut to);
    });
}

/// Where input comes from, and what keeps it open.
fn input(path: &str) -> Result<(OwnedFd, File), Error> {
    let stdin = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let writer = open(path, OFlags::WRONLY | OFlags::NONBLOCK)?.into();
    Ok((blocking(stdin).map_err(|error| unusable(path, &error))?, writer))
}

/// How long a logging program may take to get ready.
const READY_TIMEOUT_S: i64 = 10;

/// Where output goes.
fn sink(path: &str) -> Result<OwnedFd, Error> {
    match path.split_once("://") {
        None if path.is_empty() => nowhere(),
        // Both ways: neither the opening waits for a reader, nor is the writer ended when it goes.
        None => blocking(open(path, OFlags::RDWR | OFlags::NONBLOCK)?).map_err(|error| unusable(path, &error)),
        Some(("file", path)) => {
            let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path);
            file.map(OwnedFd::from).map_err(|error| unusable(path, &error))
        }
        Some(("fifo", path)) => sink(path),
        Some((scheme, _)) => Err(Error::host(format!("logs to `{scheme}://` are not supported"))
            .with_hint("name a pipe, `file://PATH` or `binary://PATH`")),
    }
}

/// A reader of a named pipe; nothing for other streams.
fn reader(path: &str) -> Option<OwnedFd> {
    let path = path.strip_prefix("fifo://").unwrap_or(path);
    if path.is_empty() || path.contains("://") { None } else { open(path, OFlags::RDONLY | OFlags::NONBLOCK).ok() }
}

fn nowhere() -> Result<OwnedFd, Error> {
    open("/dev/null", OFlags::RDWR)
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Error> {
    let path = path.as_ref();
    rustix::fs::open(path, flags | OFlags::CLOEXEC, 0.into())
        .map_err(|error| unusable(&path.display().to_string(), &error.into()))
}

fn blocking(file: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&file, false)?;
    Ok(file)
}

fn copy_of(terminal: &OwnedFd) -> Result<OwnedFd, Error> {
    terminal.try_clone().map_err(|error| Error::host(format!("no terminal can be had: {error}")))
}

fn unusable(path: &str, error: &io::Error) -> Error {
    Error::host(format!("the stream `{path}` cannot be opened: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_file_takes_output_behind_what_it_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let streams = Streams { stdout: format!("file://{}", path.display()), ..Streams::default() };
        for text in ["one\n", "two\n"] {
            let (child, _held) = streams.open("id", "test").expect("opened");
            File::from(child.stdout).write_all(text.as_bytes()).expect("room");
        }
        assert_eq!(std::fs::read_to_string(path).expect("there"), "one\ntwo\n");
    }

    #[tokio::test]
    async fn a_logging_program_reads_both_streams() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("logger");
        let text = "#!/bin/sh
exec 5>&-
echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $1 $2\" > \"$2\"
cat <&3 >> \"$2\"
cat <&4 >> \"$2\"
";
        std::fs::write(&program, text).expect("room");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("ours");
        let log = folder.path().join("log");
        let stdout = format!("binary://{}?--to={}", program.display(), log.display());
        let (child, held) = Streams { stdout, ..Streams::default() }.open("c1", "moby").expect("started");
        File::from(child.stdout).write_all(b"out\n").expect("read");
        File::from(child.stderr).write_all(b"err\n").expect("read");
        let mut logger = held.logger.expect("a logger");
        logger.child.wait().expect("ended");
        let want = format!("c1 moby --to {}\nout\nerr\n", log.display());
        assert_eq!(std::fs::read_to_string(log).expect("written"), want);
    }

    #[test]
    fn other_schemes_are_refused_in_words() {
        let streams = Streams { stdout: "npipe://x".to_owned(), ..Streams::default() };
        let error = streams.open("id", "test").expect_err("unknown");
        assert_eq!(error.to_string(), "logs to `npipe://` are not supported");
    }

    #[test]
    fn output_is_there_for_a_reader_that_comes_late() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("stdout");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).expect("a pipe");
        let streams = Streams { stdout: path.display().to_string(), ..Streams::default() };
        let (child, mut held) = streams.open("id", "test").expect("opened");
        File::from(child.stdout).write_all(b"text").expect("room");
        held.process_ended();
        let mut late = File::from(open(&path, OFlags::RDONLY | OFlags::NONBLOCK).expect("there"));
        let mut text = String::new();
        late.read_to_string(&mut text).expect("ended");
        assert_eq!(text, "text");
    }

    #[test]
    fn input_ends_when_it_is_closed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("stdin");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).expect("a pipe");
        let streams = Streams { stdin: path.display().to_string(), ..Streams::default() };
        let (child, mut held) = streams.open("id", "test").expect("opened");
        let mut client = OpenOptions::new().write(true).open(&path).expect("opened");
        client.write_all(b"text").expect("room");
        drop(client);
        held.close_stdin();
        let mut text = String::new();
        File::from(child.stdin).read_to_string(&mut text).expect("ended");
        assert_eq!(text, "text");
    }
}
