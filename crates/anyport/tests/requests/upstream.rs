//! A server that a guest sends requests to, played by a test: each connection in a thread.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::client::PATIENCE;

pub(crate) struct Upstream {
    pub(crate) port: u16,
    accepted: Arc<AtomicUsize>,
}

impl Upstream {
    /// Does this with each connection.
    pub(crate) fn new(serve: impl Fn(Connection) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, serve) = (Arc::clone(&accepted), Arc::new(serve));
        // Ends with the process: nothing is left to be told.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
                count.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(Connection(BufReader::new(stream))));
            }
        });
        Self { port, accepted }
    }

    /// Answers each request with this text, until its client ends the connection.
    pub(crate) fn answering(text: &str) -> Self {
        let text = text.to_owned();
        Self::new(move |mut connection| {
            while connection.head().is_some() {
                connection.write(&text);
            }
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn rule(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfar";

pub(crate) struct Connection(pub(crate) BufReader<TcpStream>);

impl Connection {
    /// The head of the next request; none if there is no other.
    pub(crate) fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        loop {
            match self.0.read_line(&mut head) {
                Ok(0) => return None,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::WouldBlock) => {
                    return None;
                }
                read => drop(read.expect("a request is text")),
            }
            if head.ends_with("\r\n\r\n") {
                return Some(head);
            }
        }
    }

    pub(crate) fn write(&mut self, text: &str) {
        // The other end may be gone already.
        let _ = self.0.get_mut().write_all(text.as_bytes());
    }

    /// Whether the other end closes the connection.
    pub(crate) fn ends(&mut self) -> bool {
        match self.0.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}
