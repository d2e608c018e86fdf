//! A client of HTTP/2 that sends what it likes: frames by hand.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::support::{Tested, within};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection that has begun.
pub(crate) struct Frames {
    pub(crate) reads: OwnedReadHalf,
    pub(crate) writes: OwnedWriteHalf,
}

impl Frames {
    /// Begins, with these settings.
    pub(crate) async fn begin(stream: TcpStream, settings: &[(u16, u32)]) -> Tested<Self> {
        let (reads, mut writes) = stream.into_split();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        hello.extend(frame(SETTINGS, 0, 0, &settings));
        within("beginning", writes.write_all(&hello)).await?;
        Ok(Self { reads, writes })
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Tested {
        within("sending frames", self.writes.write_all(bytes.as_ref())).await
    }

    /// The next frame; none at the end of the connection.
    pub(crate) async fn next(&mut self) -> Tested<Option<Frame>> {
        within("waiting for a frame", read(&mut self.reads)).await
    }

    /// The next frame of this kind, or the end.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Tested<Option<Frame>> {
        loop {
            match self.next().await? {
                Some(frame) if frame.kind != kind => {}
                found => return Ok(found),
            }
        }
    }

    /// The code of the GOAWAY that ends the connection; none if it ends without.
    pub(crate) async fn goodbye(&mut self) -> Tested<Option<u32>> {
        let goodbye = self.next_of(GOAWAY).await?;
        Ok(goodbye.map(|frame| u32::from_be_bytes(frame.payload[4..8].try_into().expect("four bytes"))))
    }
}

async fn read(reads: &mut OwnedReadHalf) -> io::Result<Option<Frame>> {
    let mut head = [0; 9];
    match reads.read_exact(&mut head).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            return Ok(None);
        }
        outcome => outcome?,
    };
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let mut payload = vec![0; usize::try_from(length).expect("24 bits")];
    match reads.read_exact(&mut payload).await {
        Err(_) => Ok(None),
        Ok(_) => Ok(Some(Frame { kind: head[3], flags: head[4], stream, payload })),
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is small").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header line, as a literal without any of HPACK's arts.
pub(crate) fn line(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        integer(&mut bytes, text.len());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// With a prefix of seven bits.
fn integer(bytes: &mut Vec<u8>, value: usize) {
    if let Ok(small @ 0..=126) = u8::try_from(value) {
        bytes.push(small);
        return;
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128 + 128).expect("a byte"));
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("less than 128"));
}

/// The header lines of a request.
pub(crate) fn request(method: &str, path: &str) -> Vec<u8> {
    let lines = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")];
    lines.iter().flat_map(|(name, value)| line(name, value)).collect()
}

/// A whole request without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", path))
}
