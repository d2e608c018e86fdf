//! What a person is told: one sentence, a hint where the fix is known, an exit code.

use std::fmt;
use std::ops::RangeInclusive;

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

    /// An error of anyport itself or of its configuration: [`ErrorKind::Host`].
    pub fn host(message: impl Into<String>) -> Self {
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

/// A name that a guest or its module chose, without what would move a terminal's cursor, forge a
/// line, or turn or hide what stands beside it.
pub(crate) fn printable(name: &str) -> String {
    name.chars().map(|c| if is_obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether a text is shown as it is.
pub(crate) fn is_printable(text: &str) -> bool {
    !text.chars().any(is_obeyed)
}

/// The front of a text: a name may have 100,000 bytes.
pub(crate) fn brief(text: &str) -> String {
    match text.char_indices().nth(BRIEF_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether a terminal shows nothing for a character and does something instead: control characters;
/// those that have no width or turn the direction of writing, which make one name look like another
/// (<https://trojansource.codes>); tags.
fn is_obeyed(c: char) -> bool {
    const INVISIBLE: [RangeInclusive<char>; 8] = [
        '\u{ad}'..='\u{ad}',
        '\u{61c}'..='\u{61c}',
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{feff}'..='\u{feff}',
        '\u{fff9}'..='\u{fffb}',
        '\u{e0000}'..='\u{e0fff}',
    ];
    c.is_control() || INVISIBLE.iter().any(|range| range.contains(&c))
}

/// Twice what the longest names of toolchains have.
const BRIEF_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_neither_move_a_cursor_nor_turn_a_line() {
        assert_eq!(printable("sock_accept é 漢 🦀"), "sock_accept é 漢 🦀");
        for text in ["\x1b", "\n", "\0", "\u{9b}", "\u{202e}", "\u{2066}", "\u{2028}", "\u{feff}", "\u{e0041}"] {
            assert_eq!(printable(text), "\u{fffd}", "{text:?}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "é".repeat(200);
        assert_eq!(brief(&name), name);
        assert_eq!(brief(&"é".repeat(201)), name + "…");
    }
}
