//! What the end-to-end tests share: the built binary, its end within a deadline, small guests.
//!
//! Nothing sleeps for a fixed time and no port is fixed: a wait ends with what is waited for, or
//! fails at its deadline.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of this")]

pub mod client;
pub mod guests;
pub mod http;
pub mod process;
pub mod service;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use process::{Ended, Process};

/// For what takes as long as it takes: compiling, starting. Long, since machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// The cache of all tests, so that each guest is compiled once. Under `target`, and never the user's.
pub fn shared_cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("anyport-cache")
}

/// `anyport` with these words, in this folder, with an environment that is the same everywhere.
pub fn command_in<S: AsRef<OsStr>>(folder: &Path, words: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anyport"));
    command.args(words).current_dir(folder).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", "/nonexistent").env("ANYPORT_CACHE_DIR", shared_cache());
    command
}

/// Runs `anyport` in the root of the repository, to its end.
pub fn anyport<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Ended {
    Process::spawn(command_in(&root(), words)).end()
}

/// A folder of a test's own, with its guests.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for temporary files"))
    }

    /// A folder with this file in it.
    pub fn with(name: &str, bytes: impl AsRef<[u8]>) -> Self {
        Self::new().and(name, bytes)
    }

    /// Puts another file into it.
    pub fn and(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(self.path().join(name), bytes).expect("the folder is ours");
        self
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        command_in(self.path(), words)
    }

    pub fn spawn<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Process {
        Process::spawn(self.command(words))
    }

    /// Runs `anyport` here, to its end.
    pub fn anyport<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Ended {
        self.spawn(words).end()
    }
}

/// Compares with an inline snapshot, with what differs from run to run replaced.
#[macro_export]
macro_rules! snapshot {
    ($value:expr, @$expected:literal) => {
        insta::with_settings!({ filters => $crate::support::filters() }, {
            insta::assert_snapshot!($crate::support::folded(&$value.to_string()), @$expected);
        });
    };
}

/// The same text with long lines folded, so that a snapshot fits the window: `↵` stands at each fold.
pub fn folded(text: &str) -> String {
    const COLUMNS: usize = 100;
    let mut folded = String::new();
    for line in text.lines() {
        let mut column = 0;
        for word in line.split_inclusive(' ') {
            if column > 0 && column + word.trim_end().chars().count() > COLUMNS {
                folded.push_str("↵\n");
                column = 0;
            }
            folded.push_str(word);
            column += word.chars().count();
        }
        folded.push('\n');
    }
    folded
}

/// What differs from run to run, and what a snapshot has in its place.
pub fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"127\.0\.0\.1:\d{4,5}", "127.0.0.1:PORT"),
        (r"port \d{4,5}/tcp on", "port PORT/tcp on"),
        (r"\(process \d+\)", "(process PID)"),
        (r"/tmp/\.tmp\w+", "FOLDER"),
        (r"<\d+\.\d{6}>", "<TIME>"),
        (r"anyport \d+\.\d+\.\d+", "anyport VERSION"),
    ]
}

/// Says on stderr that a test could not be run here, and why; past the harness, which would keep it.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
