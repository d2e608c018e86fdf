//! The lines that guests log by `wasi:logging`, in the log of this process: bounded in length and rate.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::printable;
use crate::limits::{LOG_CHARS, LOG_LINES};

/// The target of these lines in the log's filter: `--log warn,guest=info`.
const TARGET: &str = "guest";

/// How much a line matters, as `wasi:logging` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

impl Level {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "trace" => Some(Self::Trace),
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" => Some(Self::Warn),
            "error" => Some(Self::Error),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }

    fn is_shown(self) -> bool {
        match self {
            Self::Trace => tracing::enabled!(target: TARGET, tracing::Level::TRACE),
            Self::Debug => tracing::enabled!(target: TARGET, tracing::Level::DEBUG),
            Self::Info => tracing::enabled!(target: TARGET, tracing::Level::INFO),
            Self::Warn => tracing::enabled!(target: TARGET, tracing::Level::WARN),
            Self::Error | Self::Critical => tracing::enabled!(target: TARGET, tracing::Level::ERROR),
        }
    }
}

/// The lines of all guests of a server.
#[derive(Debug)]
pub(crate) struct Journal(Mutex<Second>);

/// One second, and what was logged in it.
#[derive(Debug)]
struct Second {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self(Mutex::new(Second { since: Instant::now(), lines: 0, left_out: 0 }))
    }
}

impl Journal {
    /// Writes a line, with what tells its guest from others in front.
    pub(crate) fn write(&self, level: Level, label: &str, context: &str, message: &str) {
        if !level.is_shown() || !self.has_room(Instant::now()) {
            return;
        }
        let line = line(label, context, message);
        match level {
            Level::Trace => tracing::trace!(target: TARGET, "{line}"),
            Level::Debug => tracing::debug!(target: TARGET, "{line}"),
            Level::Info => tracing::info!(target: TARGET, "{line}"),
            Level::Warn => tracing::warn!(target: TARGET, "{line}"),
            Level::Error => tracing::error!(target: TARGET, "{line}"),
            Level::Critical => tracing::error!(target: TARGET, "critical: {line}"),
        }
    }

    /// Counts a line; false if there are too many in this second. Tells how many the last second was short of.
    fn has_room(&self, now: Instant) -> bool {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(second.since) >= Duration::from_secs(1) {
            if second.left_out > 0 {
                tracing::warn!("{} lines of the guest's log were left out: it logs too fast", second.left_out);
            }
            *second = Second { since: now, lines: 0, left_out: 0 };
        }
        if second.lines == LOG_LINES {
            second.left_out += 1;
            return false;
        }
        second.lines += 1;
        true
    }
}

/// A line as it is shown. What ends the guest's line is no part of it; what is within it may not end ours.
fn line(label: &str, context: &str, message: &str) -> String {
    let message = cut(message.trim_end_matches(['\r', '\n']));
    match context {
        "" => format!("{label}guest: {message}"),
        context => format!("{label}guest, {}: {message}", cut(context)),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LOG_CHARS) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_no_page() {
        assert_eq!(line("", "", "it runs\n"), "guest: it runs");
        assert_eq!(line("[1] ", "db", "a\nerror: forged"), "[1] guest, db: a\u{fffd}error: forged");
        assert_eq!(line("", "\x1b[2J", "é"), "guest, \u{fffd}[2J: é");
        let long = "é".repeat(LOG_CHARS + 1);
        assert_eq!(line("", "", &long).chars().count(), "guest: ".len() + LOG_CHARS + 1);
    }

    #[test]
    fn a_second_has_room_for_so_many() {
        let journal = Journal::default();
        let now = Instant::now();
        assert!((0..LOG_LINES).all(|_| journal.has_room(now)));
        assert!(!journal.has_room(now));
        assert!(journal.has_room(now + Duration::from_secs(1)));
    }
}
