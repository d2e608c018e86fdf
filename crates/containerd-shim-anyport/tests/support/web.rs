//! Clients in the network of a node.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Node, PATIENCE};

/// One request may take this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Node {
    /// Does something in the node's network, on a thread of its own.
    pub fn in_network<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid)).expect("the node is up");
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("we are root");
                what()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// One request on a connection of its own.
    pub fn ask(&self, server: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        self.in_network(|| ask(server, method, path, body))
    }

    /// Asks a server that may only just be starting: until an answer comes.
    pub fn answer(&self, server: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
        self.in_network(|| {
            let start = Instant::now();
            loop {
                match ask(server, method, path, body) {
                    Ok(answer) => return answer,
                    Err(error) => assert!(start.elapsed() < PATIENCE, "{method} {server}{path}: {error}"),
                }
                thread::sleep(Duration::from_millis(10));
            }
        })
    }

    /// Gets `/` of a server that may only just be starting.
    pub fn get(&self, server: SocketAddr) -> Answer {
        self.answer(server, "GET", "/", "")
    }
}

fn ask(server: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
    let mut received = Vec::new();
    let mut buffer = [0; 65536];
    while !whole(&received) {
        match stream.read(&mut buffer)? {
            // A proxy of the engine's accepts before the server does, and then has nothing to say.
            0 if received.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            0 => break,
            length => received.extend(&buffer[..length]),
        }
    }
    let text = String::from_utf8_lossy(&received).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or(ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    Ok(Answer { status, body: body.to_owned() })
}

/// Whether the answer has all that its head announces; without a length it ends with the stream.
fn whole(received: &[u8]) -> bool {
    let text = String::from_utf8_lossy(received);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    length.is_some_and(|length| received.len() >= head.len() + 4 + length)
}
