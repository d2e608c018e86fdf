//! The access log: a line for each request, in the forms that tools read, written by a thread of its own.

use std::fmt::Write as _;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;

use crate::error::Error;

/// Where requests are written, and how. Parses `FORMAT`, or `FORMAT:FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessFormat,
    /// Lines are added to this file, and to a new one of this name when it is moved or removed, as `logrotate` does;
    /// without one they go to stderr.
    pub file: Option<PathBuf>,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessFormat {
    /// The common log format of NCSA httpd.
    Common,
    /// The same, with referrer and user agent: Apache's and nginx's `combined`.
    Combined,
    /// An object of JSON, with all there is.
    Json,
}

impl FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, file) = match text.split_once(':') {
            Some((_, "")) => return Err("there is no file behind the colon".to_owned()),
            Some((format, file)) => (format, Some(file.into())),
            None => (text, None),
        };
        let format = match format {
            "" | "json" => AccessFormat::Json,
            "common" => AccessFormat::Common,
            "combined" => AccessFormat::Combined,
            _ => return Err(format!("`{format}` is no format: use `json`, `common` or `combined`")),
        };
        Ok(Self { format, file })
    }
}

/// Lines that wait to be written: more are dropped, and counted, since no request waits for a disk.
const WAITING: usize = 8192;

/// How long the end of a server waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Text that a client chose is cut behind so many bytes.
const TEXT_BYTES: usize = 2048;

/// What is told of a request.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) peer: SocketAddr,
    /// None where what came was no request.
    pub(crate) request: Option<RequestLine>,
    pub(crate) host: Option<Vec<u8>>,
    pub(crate) referrer: Option<Vec<u8>>,
    pub(crate) agent: Option<Vec<u8>>,
    /// None where the client left before its answer.
    pub(crate) status: Option<u16>,
    /// Of the answer's body.
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
    pub(crate) id: String,
    pub(crate) is_secure: bool,
}

/// The first line of a request.
#[derive(Debug)]
pub(crate) struct RequestLine {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: &'static str,
}

/// The log of a server.
pub(crate) struct Log {
    format: AccessFormat,
    /// Taken at the end, so that the writer ends too.
    lines: Option<SyncSender<String>>,
    dropped: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
    finished: Mutex<Receiver<()>>,
}

impl Log {
    /// Opens the log, and starts its thread.
    pub(crate) fn open(log: &AccessLog) -> Result<Arc<Self>, Error> {
        let target: Box<dyn Write + Send> = match &log.file {
            None => Box::new(io::stderr()),
            Some(path) => Box::new(Appended::open(path).map_err(|error| {
                Error::host(format!("the access log `{}` cannot be opened: {error}", path.display())).with_hint(
                    "`--access-log=json:FILE` names a file that may be written, and without one it is stderr",
                )
            })?),
        };
        let (lines, waiting) = sync_channel(WAITING);
        let (finish, finished) = sync_channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let write = move || {
            write_all(&waiting, target, &counted);
            let _ = finish.send(());
        };
        let writer = std::thread::Builder::new()
            .name("anyport-log".to_owned())
            .spawn(write)
            .map_err(|error| Error::host(format!("the thread of the access log cannot be started: {error}")))?;
        let (writer, finished) = (Mutex::new(Some(writer)), Mutex::new(finished));
        Ok(Arc::new(Self { format: log.format, lines: Some(lines), dropped, writer, finished }))
    }

    /// Writes of a request, or counts it where too much waits to be written.
    pub(crate) fn write(&self, entry: &Entry) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = match self.format {
            AccessFormat::Common => entry.common(now),
            AccessFormat::Combined => entry.combined(now),
            AccessFormat::Json => entry.json(now),
        };
        if self.lines.as_ref().is_some_and(|lines| lines.try_send(line + "\n").is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines = None;
        let finished = self.finished.get_mut().unwrap_or_else(PoisonError::into_inner);
        // What it writes to may be stuck.
        if finished.recv_timeout(LAST_LINES).is_ok()
            && let Some(writer) = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take()
        {
            let _ = writer.join();
        }
    }
}

/// A file that grows. When its name is no longer its own, lines go to a new file of that name.
struct Appended {
    path: PathBuf,
    file: File,
    identity: Identity,
    /// No other could be opened, of which the person was told.
    is_stuck: bool,
}

/// What tells one file from another.
type Identity = (u64, u64);

impl Appended {
    fn open(path: &Path) -> io::Result<Self> {
        // Else a pipe would hold up the start until somebody reads it.
        let at_once = OFlags::NONBLOCK.bits().cast_signed();
        let opened = OpenOptions::new().create(true).append(true).custom_flags(at_once).open(path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(error) if error == Errno::NXIO.raw_os_error() => io::Error::other("it is a pipe that nobody reads"),
            _ => error,
        })?;
        rustix::io::ioctl_fionbio(&file, false)?;
        let identity = identity(&file.metadata()?);
        Ok(Self { path: path.to_owned(), file, identity, is_stuck: false })
    }

    fn is_moved(&self) -> bool {
        !fs::metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.identity)
    }
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_moved() {
            match Self::open(&self.path) {
                Ok(new) => *self = new,
                Err(error) if !std::mem::replace(&mut self.is_stuck, true) => tracing::warn!(
                    "the access log `{}` was moved, and none can be opened there: {error}; lines go to where it is now",
                    self.path.display()
                ),
                // Lines that are somewhere are better than none.
                Err(_) => {}
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Writes lines as they come, those that wait at once.
fn write_all(lines: &Receiver<String>, mut target: Box<dyn Write + Send>, dropped: &AtomicU64) {
    /// What is written with one call at most.
    const BATCH: usize = 64 << 10;
    let mut fails = false;
    while let Ok(mut batch) = lines.recv() {
        while batch.len() < BATCH
            && let Ok(line) = lines.try_recv()
        {
            batch.push_str(&line);
        }
        let written = target.write_all(batch.as_bytes());
        if let (Err(error), false) = (&written, fails) {
            tracing::warn!("the access log cannot be written: {error}");
        }
        fails = written.is_err();
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!("{lost} lines of the access log were dropped, since it could not be written fast enough");
        }
    }
}

impl Entry {
    /// The status, and 499 as nginx has it for a client that left.
    fn code(&self) -> u16 {
        self.status.unwrap_or(499)
    }

    fn common(&self, now: Duration) -> String {
        let line = self.request.as_ref().map_or_else(|| "-".to_owned(), RequestLine::shown);
        let (peer, time) = (self.peer.ip().to_canonical(), Time::of(now).common());
        format!("{peer} - - [{time}] \"{line}\" {} {}", self.code(), self.bytes)
    }

    fn combined(&self, now: Duration) -> String {
        let mut line = self.common(now);
        for text in [&self.referrer, &self.agent] {
            // Writing to a string cannot fail.
            let _ = match text {
                Some(text) => write!(line, " \"{}\"", escaped(text)),
                None => write!(line, " \"-\""),
            };
        }
        line
    }

    fn json(&self, now: Duration) -> String {
        #[derive(Serialize)]
        struct Line<'e> {
            time: String,
            id: &'e str,
            peer: String,
            method: Option<&'e str>,
            target: Option<String>,
            host: Option<String>,
            version: Option<&'e str>,
            scheme: &'e str,
            status: u16,
            bytes: u64,
            duration_ms: f64,
            referrer: Option<String>,
            user_agent: Option<String>,
        }
        let text = |text: &Option<Vec<u8>>| text.as_ref().map(|text| escaped(text));
        let request = self.request.as_ref();
        let line = Line {
            time: Time::of(now).rfc3339(),
            id: &self.id,
            peer: self.peer.to_string(),
            method: request.map(|line| line.method.as_str()),
            target: request.map(|line| escaped(line.target.as_bytes())),
            host: text(&self.host),
            version: request.map(|line| line.version),
            scheme: if self.is_secure { "https" } else { "http" },
            status: self.code(),
            bytes: self.bytes,
            duration_ms: self.took.as_micros() as f64 / 1000.0,
            referrer: text(&self.referrer),
            user_agent: text(&self.agent),
        };
        serde_json::to_string(&line).expect("a line is plain data")
    }
}

impl RequestLine {
    fn shown(&self) -> String {
        let Self { method, target, version } = self;
        format!("{} {} {version}", escaped(method.as_bytes()), escaped(target.as_bytes()))
    }
}

/// Bytes that a client chose, as text that neither ends a field nor moves a terminal's cursor: all but printable
/// ASCII as `\xNN`, as nginx does.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().min(TEXT_BYTES));
    for byte in bytes.iter().take(TEXT_BYTES) {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\x{byte:02X}");
            }
            plain => text.push(char::from(*plain)),
        }
    }
    if bytes.len() > TEXT_BYTES {
        text.push_str("...");
    }
    text
}

/// A moment of UTC.
struct Time {
    year: u64,
    month: u64,
    day: u64,
    second: u64,
    millis: u32,
}

impl Time {
    /// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>, for days since 1970.
    fn of(since_1970: Duration) -> Self {
        let days = since_1970.as_secs() / 86_400 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // From March on, so that the leap day is the last.
        let march = (5 * of_year + 2) / 153;
        let month = if march < 10 { march + 3 } else { march - 9 };
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: of_year - (153 * march + 2) / 5 + 1,
            second: since_1970.as_secs() % 86_400,
            millis: since_1970.subsec_millis(),
        }
    }

    fn clock(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.second / 3600, self.second / 60 % 60, self.second % 60)
    }

    fn common(&self) -> String {
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let month = usize::try_from(self.month - 1).ok().and_then(|month| MONTHS.get(month)).unwrap_or(&"Jan");
        format!("{:02}/{month}/{}:{} +0000", self.day, self.year, self.clock())
    }

    fn rfc3339(&self) -> String {
        format!("{}-{:02}-{:02}T{}.{:03}Z", self.year, self.month, self.day, self.clock(), self.millis)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::fs::{FileType, Mode};

    use super::*;

    fn entry() -> Entry {
        Entry {
            peer: "[::ffff:192.0.2.7]:4711".parse().expect("an address"),
            request: Some(RequestLine {
                method: "GET".to_owned(),
                target: "/a?b=\"c\"\n127.0.0.1 - - forged".to_owned(),
                version: "HTTP/1.1",
            }),
            host: Some(b"example.com".to_vec()),
            referrer: None,
            agent: Some("curl\u{1b}[2J \u{e9}\\".as_bytes().to_vec()),
            status: Some(200),
            bytes: 12,
            took: Duration::from_micros(1500),
            id: "00ff".to_owned(),
            is_secure: true,
        }
    }

    #[test]
    fn lines_have_the_forms_that_tools_read_and_cannot_be_forged() {
        let now = Duration::from_millis(1_709_210_096_007);
        let request = r#""GET /a?b=\x22c\x22\x0A127.0.0.1 - - forged HTTP/1.1""#;
        let common = format!("192.0.2.7 - - [29/Feb/2024:12:34:56 +0000] {request} 200 12");
        assert_eq!(entry().common(now), common);
        assert_eq!(entry().combined(now), format!(r#"{common} "-" "curl\x1B[2J \xC3\xA9\x5C""#));
        let line: serde_json::Value = serde_json::from_str(&entry().json(now)).expect("it is JSON");
        assert_eq!(line["time"], "2024-02-29T12:34:56.007Z");
        assert_eq!(line["target"], r"/a?b=\x22c\x22\x0A127.0.0.1 - - forged");
        assert_eq!((&line["duration_ms"], &line["scheme"]), (&1.5.into(), &"https".into()));
        assert_eq!(Entry { status: None, ..entry() }.code(), 499);
        let none = Entry { request: None, status: Some(400), bytes: 0, ..entry() };
        assert_eq!(none.common(now), r#"192.0.2.7 - - [29/Feb/2024:12:34:56 +0000] "-" 400 0"#);
        let line: serde_json::Value = serde_json::from_str(&none.json(now)).expect("it is JSON");
        assert_eq!((&line["method"], &line["target"], &line["version"]), (&().into(), &().into(), &().into()));
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("it is made");
        let refused = Appended::open(&pipe).map(drop).expect_err("nobody reads it");
        assert_eq!(refused.to_string(), "it is a pipe that nobody reads");
        let reader = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&pipe);
        let mut target = Appended::open(&pipe).expect("somebody does");
        target.write_all(b"one\n").expect("it is open");
        let mut read = [0; 4];
        reader.expect("it is a pipe").read_exact(&mut read).expect("it was written");
        assert_eq!(&read, b"one\n");
    }

    #[test]
    fn a_file_that_is_moved_or_removed_is_opened_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let [file, moved] = ["log", "log.1"].map(|name| folder.path().join(name));
        let mut target = Appended::open(&file).expect("it is made");
        target.write_all(b"one\n").expect("it is open");
        fs::rename(&file, &moved).expect("it is there");
        target.write_all(b"two\n").expect("it is made anew");
        let read = |path| fs::read_to_string(path).expect("it is there");
        assert_eq!((read(&moved), read(&file)), ("one\n".to_owned(), "two\n".to_owned()));
        fs::remove_file(&file).expect("it is there");
        target.write_all(b"three\n").expect("it is made anew");
        assert_eq!(read(&file), "three\n");
        // As `copytruncate` does.
        fs::write(&file, "").expect("it is there");
        target.write_all(b"four\n").expect("it is open");
        assert_eq!(read(&file), "four\n");
        fs::remove_dir_all(folder.path()).expect("it is there");
        target.write_all(b"five\n").expect("where it was");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, day) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Time::of(Duration::from_secs(seconds)).rfc3339(), day);
        }
    }

    #[test]
    fn what_a_client_chose_is_cut() {
        assert_eq!(escaped(&[b'a'; TEXT_BYTES + 1]), "a".repeat(TEXT_BYTES) + "...");
    }

    #[test]
    fn formats_are_told_by_name() {
        let log = |text: &str| text.parse::<AccessLog>().map(|log| (log.format, log.file));
        assert_eq!(log("json"), Ok((AccessFormat::Json, None)));
        assert_eq!(log(""), Ok((AccessFormat::Json, None)));
        assert_eq!(log("common:/var/log/a:b"), Ok((AccessFormat::Common, Some("/var/log/a:b".into()))));
        assert!(log("xml").is_err() && log("json:").is_err());
    }
}
