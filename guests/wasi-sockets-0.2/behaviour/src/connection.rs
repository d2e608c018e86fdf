//! One client: what it has sent, what it is yet to be sent, and what it has told the server to do.

use std::process;

use wasip2::io::poll::Pollable;
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::network::IpAddressFamily;
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

use crate::{CONNRESET, IO, PIPE, Seen, Server, add, number};

/// A longer line ends the connection.
const LINE_MAX: usize = 64 << 10;
/// Read, or made, at a time.
const CHUNK: usize = 64 << 10;
const OUTPUT_MAX: usize = 256 << 10;
/// Rounds of answering and sending before others get their turn.
const TURN_MAX: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Commands,
    Sink,
    Source,
    WaitingForEnd,
    HalfClosed,
}

/// Bytes in the order in which they came.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    head: usize,
}

impl Buffer {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    fn consume(&mut self, length: usize) {
        self.head += length;
        if self.head == self.bytes.len() {
            // An idle connection holds no memory: there may be thousands.
            *self = Self::default();
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.head > self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }
}

/// In the order in which they must be dropped.
pub struct Connection {
    pub readable: Pollable,
    pub writable: Pollable,
    input: InputStream,
    output: OutputStream,
    socket: TcpSocket,
    phase: Phase,
    received: Buffer,
    unsent: Buffer,
    /// Of the sink or source under way.
    size: u64,
    done: u64,
    hash: u32,
    /// All that came has been used, but for half a line.
    dry: bool,
    /// The client's stream is at its end.
    ended: bool,
    /// Ours is.
    shut: bool,
    pub closed: bool,
}

impl Connection {
    pub fn new(seen: &Seen, socket: TcpSocket, input: InputStream, output: OutputStream) -> Self {
        add(&seen.accepted, 1);
        seen.open.set(seen.open.get() + 1);
        Self {
            readable: input.subscribe(),
            writable: output.subscribe(),
            input,
            output,
            socket,
            phase: Phase::Commands,
            received: Buffer::default(),
            unsent: Buffer::default(),
            size: 0,
            done: 0,
            hash: 0,
            dry: true,
            ended: false,
            shut: false,
            closed: false,
        }
    }

    pub fn wants_input(&self) -> bool {
        self.dry && !self.ended
    }

    pub fn wants_room(&self) -> bool {
        !self.dry || !self.unsent.unread().is_empty()
    }

    fn close(&mut self, seen: &Seen) {
        self.closed = true;
        seen.open.set(seen.open.get() - 1);
    }

    fn failed(&mut self, seen: &Seen, error: &StreamError) {
        seen.failed(match error {
            StreamError::Closed => PIPE,
            StreamError::LastOperationFailed(error) if error.to_debug_string().contains("connreset") => CONNRESET,
            StreamError::LastOperationFailed(_) => IO,
        });
        self.close(seen);
    }

    pub fn receive_and_serve(&mut self, server: &mut Server) {
        if self.closed {
            return;
        }
        match self.input.read(CHUNK as u64) {
            Ok(bytes) => self.received.append(&bytes),
            Err(StreamError::Closed) => self.ended = true,
            Err(error) => return self.failed(&server.seen, &error),
        }
        self.serve(server);
    }

    /// Sends what there is to send; true when nothing is left.
    fn flush(&mut self, seen: &Seen) -> bool {
        while !self.unsent.unread().is_empty() {
            let room = match self.output.check_write() {
                Ok(0) => return false,
                Ok(room) => usize::try_from(room).unwrap_or(CHUNK),
                Err(error) => {
                    self.failed(seen, &error);
                    return false;
                }
            };
            let unread = self.unsent.unread();
            let length = unread.len().min(room);
            if let Err(error) = self.output.write(&unread[..length]) {
                self.failed(seen, &error);
                return false;
            }
            self.unsent.consume(length);
        }
        true
    }

    /// All that can be done without waiting, within a turn.
    pub fn serve(&mut self, server: &mut Server) {
        for _ in 0..TURN_MAX {
            if self.closed {
                return;
            }
            self.answer(server);
            if self.closed || !self.flush(&server.seen) {
                return;
            }
            if !self.dry {
                continue;
            }
            if self.phase == Phase::HalfClosed && !self.shut {
                // The client may have gone.
                let _ = self.socket.shutdown(ShutdownType::Send);
                self.shut = true;
            }
            if !self.ended {
                return;
            }
            if self.phase != Phase::WaitingForEnd {
                return self.close(&server.seen);
            }
            self.unsent.append(b"eof seen\n");
            // Of which there will be none: the next round closes.
            self.phase = Phase::Commands;
        }
    }

    /// Turns what came into answers, until there is no more of it or enough of them.
    fn answer(&mut self, server: &mut Server) {
        self.dry = false;
        while !self.closed && !self.dry && self.unsent.unread().len() < OUTPUT_MAX {
            match self.phase {
                Phase::Commands => self.dry = !self.next_line(server),
                Phase::Sink => self.dry = !self.sink(),
                Phase::Source => self.source(),
                Phase::WaitingForEnd | Phase::HalfClosed => {
                    let length = self.received.unread().len();
                    add(&server.seen.discarded, length as u64);
                    self.received.consume(length);
                    self.dry = true;
                }
            }
        }
    }

    /// Runs the next line; false when it is not there yet.
    fn next_line(&mut self, server: &mut Server) -> bool {
        let unread = self.received.unread();
        let Some(length) = unread.iter().position(|byte| *byte == b'\n') else {
            if unread.len() >= LINE_MAX {
                self.unsent.append(b"error line too long\n");
                self.received.consume(self.received.unread().len());
                self.ended = true;
            }
            return false;
        };
        let line = unread[..length].to_vec();
        self.received.consume(length + 1);
        let space = line.iter().position(|byte| *byte == b' ');
        let (command, argument) = space.map_or((&line[..], &[][..]), |at| (&line[..at], &line[at + 1..]));
        self.run(server, command, argument);
        true
    }

    fn run(&mut self, server: &mut Server, command: &[u8], argument: &[u8]) {
        let text = String::from_utf8_lossy(argument).into_owned();
        let seen = &server.seen;
        let answer = match command {
            b"echo" => return self.unsent.append(&[argument, b"\n"].concat()),
            b"sink" => return self.start(Phase::Sink, &text),
            b"source" => return self.start(Phase::Source, &text),
            b"eof" => {
                self.phase = Phase::WaitingForEnd;
                "waiting".to_owned()
            }
            b"halfclose" => {
                self.phase = Phase::HalfClosed;
                "closing".to_owned()
            }
            b"close" => {
                self.flush(seen);
                if !self.closed {
                    self.close(seen);
                }
                return;
            }
            b"count" => format!("open {} accepted {}", seen.open.get(), seen.accepted.get()),
            b"discarded" => format!("discarded {}", seen.discarded.get()),
            b"errno" => format!("errors {} last {}", seen.errors.get(), seen.last_error.get()),
            b"env" => std::env::var(text).unwrap_or_default(),
            b"fdfill" | b"fdhold" => hold(server, command),
            b"fdfree" => format!("fdfree {}", server.held.drain(..).count()),
            b"exit" => process::exit(text.parse().unwrap_or(0)),
            b"trap" => process::abort(),
            b"spin" => loop {
                std::hint::black_box(());
            },
            _ => "error unknown command".to_owned(),
        };
        self.unsent.append(format!("{answer}\n").as_bytes());
    }

    fn start(&mut self, phase: Phase, size: &str) {
        self.phase = phase;
        self.size = size.parse().unwrap_or(0);
        self.done = 0;
        self.hash = 2_166_136_261;
    }

    /// Takes the bytes of a sink; false when more are to come.
    fn sink(&mut self) -> bool {
        let unread = self.received.unread();
        let left = usize::try_from(self.size - self.done).unwrap_or(usize::MAX);
        let length = unread.len().min(left);
        let hash = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619);
        self.hash = unread[..length].iter().fold(self.hash, hash);
        self.received.consume(length);
        self.done += length as u64;
        if self.done < self.size {
            return false;
        }
        self.unsent.append(format!("sunk {} {:08x}\n", self.size, self.hash).as_bytes());
        self.phase = Phase::Commands;
        true
    }

    /// Makes the next bytes of a source.
    fn source(&mut self) {
        let length = (self.size - self.done).min(CHUNK as u64);
        let byte = |at: u64| ((at % 251 * 31 + 7) % 251) as u8;
        let bytes: Vec<u8> = (self.done..self.done + length).map(byte).collect();
        self.unsent.append(&bytes);
        self.done += length;
        if self.done == self.size {
            self.phase = Phase::Commands;
        }
    }
}

/// Opens sockets until one is refused.
fn hold(server: &mut Server, command: &[u8]) -> String {
    let before = server.held.len();
    let refused = loop {
        match create_tcp_socket(IpAddressFamily::Ipv4) {
            Ok(socket) => server.held.push(socket),
            Err(error) => break number(error),
        }
    };
    let opened = server.held.len() - before;
    if command == b"fdfill" {
        server.held.truncate(before);
    }
    format!("{} {opened} errno {refused}", String::from_utf8_lossy(command))
}
