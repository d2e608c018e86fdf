//! A process at work: what it writes as it comes, its end within a deadline.

use std::fmt;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::PATIENCE;

/// A child process; killed if a test ends without it.
pub struct Process {
    child: Child,
    stdout: Stream,
    stderr: Stream,
    done: bool,
}

impl Process {
    /// Starts it, with an empty stdin unless the command says otherwise.
    pub fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start(command.stdin(Stdio::null()))
    }

    /// Starts it with a stdin that stays open until the test closes it.
    pub fn spawn_with_stdin(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start(command.stdin(Stdio::piped()))
    }

    /// Starts it with the streams that the command has.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let stdout = Stream::of(child.stdout.take());
        let stderr = Stream::of(child.stderr.take());
        Self { child, stdout, stderr, done: false }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process id")
    }

    /// Writes to its stdin.
    pub fn write(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().expect("stdin is a pipe").write_all(bytes).expect("it reads");
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// The first line on stderr that contains this.
    pub fn line(&mut self, wanted: &str) -> String {
        let line = self.stderr.wait(|text| text.lines().find(|line| line.contains(wanted)).map(str::to_owned));
        line.unwrap_or_else(|text| panic!("`{wanted}` did not come on stderr, but: {text}"))
    }

    /// Waits until stderr contains this so many times.
    pub fn lines(&mut self, wanted: &str, times: usize) {
        let found = self.stderr.wait(|text| (text.matches(wanted).count() >= times).then_some(()));
        found.unwrap_or_else(|text| panic!("`{wanted}` did not come {times} times on stderr, but: {text}"));
    }

    /// Waits until stdout contains this.
    pub fn output(&mut self, wanted: &str) {
        self.outputs(wanted, 1);
    }

    /// Waits until stdout contains this so many times.
    pub fn outputs(&mut self, wanted: &str, times: usize) {
        let found = self.stdout.wait(|text| (text.matches(wanted).count() >= times).then_some(()));
        found.unwrap_or_else(|text| {
            panic!("`{wanted}` did not come on stdout, but: {text}; stderr: {}", self.stderr.text())
        });
    }

    /// The address of the first published port, when it listens.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.line("listening on ");
        let address = line.split("listening on ").nth(1).and_then(|rest| rest.split(' ').next());
        // Of a service it is a URL.
        let address = address.map(|address| address.split_once("://").map_or(address, |(_, address)| address));
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in `{line}`"))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is there");
    }

    /// Waits for its end.
    pub fn end(self) -> Ended {
        self.end_within(PATIENCE)
    }

    /// Waits for its end, at most this long.
    pub fn end_within(mut self, most: Duration) -> Ended {
        let start = Instant::now();
        if !self.has_ended_within(most) {
            panic!("it did not end within {most:?}; stdout: {}; stderr: {}", self.stdout.text(), self.stderr.text());
        }
        let took = start.elapsed();
        let status = self.child.wait().expect("it was started");
        self.done = true;
        let ended = Ended { status, stdout: self.stdout.end(), stderr: self.stderr.end(), took };
        assert!(!ended.stderr.contains("panicked at"), "anyport panicked: {ended}");
        ended
    }

    /// Sends a signal and waits for the end, at most this long.
    pub fn end_by(self, signal: Signal, most: Duration) -> Ended {
        self.signal(signal);
        self.end_within(most)
    }

    fn has_ended_within(&self, most: Duration) -> bool {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty()).expect("a descriptor for the process");
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let most = Timespec { tv_sec: most.as_secs().cast_signed(), tv_nsec: most.subsec_nanos().into() };
        poll(&mut fds, Some(&most)).expect("a process can be waited for") > 0
    }

    /// Waits until every thread that runs this guest sleeps, or until one computes.
    pub fn wait_for_guest(&self, thread: &str, state: GuestState) {
        let start = Instant::now();
        while !self.guest_is(thread, state) {
            assert!(
                start.elapsed() < PATIENCE,
                "the guest's thread `{thread}` is not {state:?}; stderr: {}",
                self.stderr.text()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn guest_is(&self, thread: &str, state: GuestState) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id())) else { return false };
        threads.flatten().any(|entry| {
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { return false };
            // `pid (comm) state …`, where the fourteenth field is the time in user mode.
            let Some((front, rest)) = stat.rsplit_once(") ") else { return false };
            let fields: Vec<&str> = rest.split(' ').collect();
            let user_ticks: u64 = fields.get(11).and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
            front.ends_with(&format!("({thread}"))
                && match state {
                    GuestState::Waiting => fields[0] == "S",
                    // Ticks are 10 ms: it has computed for a while.
                    GuestState::Computing => fields[0] == "R" && user_ticks >= 2,
                }
        })
    }
}

/// What the thread of a guest does, as `/proc` tells it.
#[derive(Clone, Copy, Debug)]
pub enum GuestState {
    Waiting,
    Computing,
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a process ended, and what it wrote. Displays as a snapshot has it.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Ended {
    /// Its exit code; fails on a death by signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("killed by signal {:?}: {self}", self.status.signal()))
    }

    /// Its stdout, if it succeeded.
    pub fn data(&self) -> &str {
        assert_eq!(self.code(), 0, "{self}");
        &self.stdout
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status.signal() {
            Some(signal) => writeln!(f, "killed by signal {signal}")?,
            None => writeln!(f, "code {}", self.status.code().unwrap_or(-1))?,
        }
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "--- {name}\n{text}")?;
            }
        }
        Ok(())
    }
}

/// What has come on a stream so far, and the thread that reads it.
struct Stream {
    seen: Arc<(Mutex<Seen>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn of(source: Option<impl Read + Send + 'static>) -> Self {
        let seen = Arc::new((Mutex::new(Seen { ended: source.is_none(), ..Seen::default() }), Condvar::new()));
        let reader = source.map(|mut source| {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                loop {
                    let length = source.read(&mut buffer).unwrap_or(0);
                    let mut seen_now = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
                    seen_now.bytes.extend(&buffer[..length]);
                    seen_now.ended = length == 0;
                    seen.1.notify_all();
                    if length == 0 {
                        return;
                    }
                }
            })
        });
        Self { seen, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).bytes).into_owned()
    }

    /// Waits until `find` finds something in what has come, or fails with what has.
    fn wait<T>(&self, find: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let text = String::from_utf8_lossy(&seen.bytes);
            if let Some(found) = find(&text) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if seen.ended || left.is_zero() {
                return Err(text.into_owned());
            }
            seen = self.seen.1.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All of it: the process has ended.
    fn end(&mut self) -> String {
        let _ = self.reader.take().map(JoinHandle::join);
        self.text()
    }
}
