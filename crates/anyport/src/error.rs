//! What a person is told: one sentence, a hint where the fix is known, an exit code.

use std::fmt;

/// Something that the person asked for could not be done.
///
/// Displays as one sentence; [`Error::hint`] says what to type, where that is known.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

/// The kinds of [`Error`], each with its process exit code.
///
/// The codes are those of `env`, `nohup` and `docker run`, so that they do not collide with the
/// codes that guests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// anyport itself or its configuration failed: exit code 125.
    Host,
    /// The artifact cannot be run (not wasm, unsupported, missing imports): exit code 126.
    NotRunnable,
    /// The artifact was not found: exit code 127.
    NotFound,
}

impl Error {
    /// An error of this kind with its sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(crate) fn host(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Host, message)
    }

    pub(crate) fn not_runnable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotRunnable, message)
    }

    /// The same error with a hint: what to type, or where to look.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to type or do about it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl ErrorKind {
    /// The process exit code for an error of this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Host => 125,
            Self::NotRunnable => 126,
            Self::NotFound => 127,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// A name that a guest or its module chose, without what would move a terminal's cursor or forge a
/// line.
pub(crate) fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
