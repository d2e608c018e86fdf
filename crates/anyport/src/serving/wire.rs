//! What a client sends, before hyper makes something of it: what hyper keeps to itself of that.

/// What a client of HTTP/2 begins with.
/// <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection carries.
pub(super) enum Wire {
    /// So many bytes of the preface of HTTP/2, and nothing else yet.
    Unknown(usize),
    Http1(Head),
    Http2(Frames),
}

impl Wire {
    pub(super) fn new() -> Self {
        Self::Unknown(0)
    }

    /// Reads on. `is_new` says that a head begins here, if it is one of HTTP/1.1.
    pub(super) fn read(&mut self, bytes: &[u8], is_new: bool) {
        match self {
            Self::Unknown(had) => {
                let ours = bytes.len().min(PREFACE.len() - *had);
                if bytes[..ours] != PREFACE[*had..*had + ours] {
                    *self = Self::Http1(Head::default());
                    return self.read(bytes, is_new);
                }
                *had += ours;
                if *had == PREFACE.len() {
                    *self = Self::Http2(Frames::default());
                    self.read(&bytes[ours..], is_new);
                }
            }
            Self::Http1(head) => {
                if is_new {
                    *head = Head::default();
                }
                head.read(bytes);
            }
            Self::Http2(frames) => frames.read(bytes),
        }
    }
}

/// A head of HTTP/1.1: whether it says in two ways how long the body is. hyper leaves one of the two away.
/// <https://www.rfc-editor.org/rfc/rfc9112#section-6.1>
#[derive(Default)]
pub(super) struct Head {
    /// The begin of the line that is being read.
    line: [u8; CODING.len()],
    filled: usize,
    has_line: bool,
    has_length: bool,
    has_coding: bool,
    is_over: bool,
}

const LENGTH: &[u8] = b"content-length:";
const CODING: &[u8] = b"transfer-encoding:";

impl Head {
    fn read(&mut self, mut bytes: &[u8]) {
        while !self.is_over && !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let line = &bytes[..end.unwrap_or(bytes.len())];
            let taken = line.len().min(self.line.len() - self.filled);
            self.line[self.filled..self.filled + taken].copy_from_slice(&line[..taken]);
            self.filled += taken;
            let Some(end) = end else { return };
            self.end_line();
            bytes = &bytes[end + 1..];
        }
    }

    fn end_line(&mut self) {
        let line = &self.line[..self.filled];
        // Empty lines before the first are no end (RFC 9112, 2.2).
        let is_empty = matches!(line, [] | [b'\r']);
        self.is_over = is_empty && self.has_line;
        self.has_line |= !is_empty;
        let is = |name: &[u8]| line.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
        self.has_length |= is(LENGTH);
        self.has_coding |= is(CODING);
        self.filled = 0;
    }

    pub(super) fn is_ambiguous(&self) -> bool {
        self.has_length && self.has_coding
    }
}

/// The frames of HTTP/2: whether they end within a head, of which hyper says nothing.
/// <https://www.rfc-editor.org/rfc/rfc9113#section-4.1>
#[derive(Default)]
pub(super) struct Frames {
    /// The head of the frame that is being read.
    head: [u8; FRAME_HEAD],
    filled: usize,
    /// Bytes that are left of its payload.
    left: usize,
    /// The frame is one of a request's head, or trailers.
    is_head: bool,
    /// Such a frame has come, and others of that head follow.
    goes_on: bool,
}

const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

impl Frames {
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let payload = bytes.len().min(self.left);
            self.left -= payload;
            bytes = &bytes[payload..];
            let taken = bytes.len().min(FRAME_HEAD - self.filled);
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == FRAME_HEAD {
                self.begin();
            }
        }
    }

    fn begin(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.filled = 0;
        self.is_head = matches!(kind, HEADERS | CONTINUATION);
        self.goes_on = self.is_head && flags & END_HEADERS == 0;
    }

    /// Whether a head has begun, and is not complete.
    pub(super) fn is_within_head(&self) -> bool {
        self.goes_on || (self.is_head && self.left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes come.
    fn read(bytes: &[u8], check: impl Fn(&Wire)) {
        for size in [1, 2, 3, 7, bytes.len().max(1)] {
            let mut wire = Wire::new();
            for (place, part) in bytes.chunks(size).enumerate() {
                wire.read(part, place == 0);
            }
            check(&wire);
        }
    }

    #[test]
    fn a_head_with_two_lengths_is_ambiguous() {
        for (head, wanted) in [
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-ENCODING:chunked\r\nHost: a\r\ncontent-length:5\r\n\r\n", true),
            ("\r\n\r\nPRI / HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked\n\n", true),
            ("PRI * HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nX: Transfer-Encoding: chunked\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Lengths: 5\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n19\r\n\r\ncontent-length: 5\r\n\r\n", false),
        ] {
            read(head.as_bytes(), |wire| match wire {
                Wire::Http1(read) => assert_eq!(read.is_ambiguous(), wanted, "{head}"),
                _ => panic!("{head}"),
            });
        }
    }

    #[test]
    fn each_head_is_its_own() {
        let mut wire = Wire::new();
        wire.read(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", true);
        wire.read(b"hello", false);
        wire.read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", true);
        assert!(matches!(&wire, Wire::Http1(head) if !head.is_ambiguous()));
    }

    /// A frame with so many bytes of zeros behind its head.
    fn frame(kind: u8, flags: u8, length: u8, there: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEAD + there, 0);
        frame
    }

    #[test]
    fn heads_of_http_2_are_complete_or_not() {
        let (settings, data) = (frame(4, 0, 6, 6), frame(0, 1, 9, 4));
        for (frames, wanted) in [
            (vec![], false),
            (vec![settings.clone()], false),
            (vec![settings.clone(), frame(HEADERS, END_HEADERS, 20, 20)], false),
            (vec![frame(HEADERS, END_HEADERS, 20, 19)], true),
            (vec![frame(HEADERS, 0, 20, 20)], true),
            (vec![frame(HEADERS, 0, 0, 0)], true),
            (vec![frame(HEADERS, 0, 20, 20), frame(CONTINUATION, 0, 5, 5)], true),
            (vec![frame(HEADERS, 0, 20, 20), frame(CONTINUATION, END_HEADERS, 5, 4)], true),
            (vec![frame(HEADERS, 0, 20, 20), frame(CONTINUATION, END_HEADERS, 5, 5)], false),
            (vec![frame(HEADERS, END_HEADERS, 20, 20), data], false),
        ] {
            read(&[PREFACE, &frames.concat()].concat(), |wire| match wire {
                Wire::Http2(read) => assert_eq!(read.is_within_head(), wanted, "{frames:?}"),
                _ => panic!("{frames:?}"),
            });
        }
    }
}
