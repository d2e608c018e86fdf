//! An event loop of our own over `mio_wasi`, the layer beneath `tokio_wasi`: one non-blocking listener,
//! non-blocking connections, and a `poll_oneoff` for all of them. It listens on `$PORT` or 8080.
//!
//! What a runtime has to get right for it: reading and writing of one descriptor are two subscriptions
//! with the same userdata; an event with an error ends the server; and a descriptor is polled again
//! only after it has answered AGAIN, so that answer must come.

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

/// A client that sends more than this without completing a request is cut off.
const REQUEST_MAX: usize = 1 << 20;

fn main() -> io::Result<()> {
    let port = match env::var("PORT") {
        Ok(port) => port.parse().map_err(io::Error::other)?,
        Err(_) => 8080,
    };
    let mut server = Server::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    println!("listening on port {port}");

    let mut events = Events::with_capacity(1024);
    loop {
        server.poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                LISTENER => server.accept()?,
                token => server.advance(token)?,
            }
        }
    }
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: HashMap<Token, Connection>,
    last: Token,
}

impl Server {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self { poll, listener, connections: HashMap::new(), last: LISTENER })
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some((mut stream, _peer)) = unless_blocked(self.listener.accept())? {
            self.last.0 += 1;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, self.last, interest)?;
            self.connections.insert(self.last, Connection::new(stream));
        }
        Ok(())
    }

    fn advance(&mut self, token: Token) -> io::Result<()> {
        // An event may be of a connection that an earlier one of the same poll has ended.
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        let over = connection.advance().unwrap_or_else(|error| {
            eprintln!("connection: {error}");
            true
        });
        if over {
            // mio would go on polling a descriptor that was closed first.
            self.poll.registry().deregister(&mut connection.stream)?;
            self.connections.remove(&token);
        }
        Ok(())
    }
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    unsent: Vec<u8>,
    ended: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, received: Vec::new(), unsent: Vec::new(), ended: false }
    }

    /// Does all that can be done without waiting; true when the connection is over.
    fn advance(&mut self) -> io::Result<bool> {
        self.receive()?;
        while let Some(request) = Request::first(&self.received) {
            request.answer(&mut self.unsent);
            let length = request.length;
            self.received.drain(..length);
        }
        self.send()?;
        Ok(self.ended && self.unsent.is_empty())
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        while !self.ended {
            match unless_blocked(self.stream.read(&mut chunk))? {
                Some(0) => self.ended = true,
                Some(length) => self.received.extend_from_slice(&chunk[..length]),
                None => break,
            }
            if self.received.len() > REQUEST_MAX {
                return Err(io::Error::other("the request is too large"));
            }
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match unless_blocked(self.stream.write(&self.unsent))? {
                Some(length) => drop(self.unsent.drain(..length)),
                None => break,
            }
        }
        Ok(())
    }
}

struct Request<'a> {
    line: &'a str,
    body: &'a [u8],
    length: usize,
}

impl<'a> Request<'a> {
    /// The first request of what was received, once all of it is there.
    fn first(received: &'a [u8]) -> Option<Self> {
        let head_length = received.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
        let mut lines = str::from_utf8(&received[..head_length]).unwrap_or_default().lines();
        let line = lines.next().unwrap_or_default();
        let body_length: usize = lines
            .filter_map(|field| field.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(0);
        let length = head_length.checked_add(body_length)?;
        let body = received.get(head_length..length)?;
        Some(Self { line, body, length })
    }

    fn answer(&self, out: &mut Vec<u8>) {
        let mut words = self.line.split(' ');
        match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
            ("GET", "/") => page(out, "200 OK", b"POST your name to /hello\n"),
            ("GET", "/big") => page(out, "200 OK", &vec![b'x'; 1_000_000]),
            ("POST", "/hello") => {
                let name = String::from_utf8_lossy(self.body);
                page(out, "200 OK", format!("👋 Hello {name}\n").as_bytes());
            }
            ("POST", "/echo") => page(out, "200 OK", self.body),
            _ => page(out, "404 Not Found", b"no such page\n"),
        }
    }
}

fn page(out: &mut Vec<u8>, status: &str, body: &[u8]) {
    out.extend_from_slice(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    out.extend_from_slice(body);
}

fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
