//! A client that keeps its connection: over TCP or a Unix socket, in lines or in HTTP.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// One connection of a client's.
pub struct Client(BufReader<File>);

impl Client {
    pub fn to(server: SocketAddr) -> Self {
        Self::try_to(server).expect("it listens")
    }

    pub fn try_to(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::on(stream))
    }

    pub fn to_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
        Self::on(stream)
    }

    /// A socket is a file to read and to write, of whichever kind it is.
    fn on(stream: impl Into<OwnedFd>) -> Self {
        Self(BufReader::new(File::from(stream.into())))
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("it takes the bytes");
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line comes");
        assert!(line.ends_with('\n'), "the connection ended within a line: `{line}`");
        line.trim_end().to_owned()
    }

    /// One line for another.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n").as_bytes());
        self.line()
    }

    /// What comes up to the end of the connection, in whichever way it ends.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the connection does not end"),
            _ => String::from_utf8_lossy(&rest).into_owned(),
        }
    }

    /// The body of an HTTP answer whose length is told, and the connection stays.
    pub fn get(&mut self, path: &str) -> Result<String> {
        self.0.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
        let mut length = None;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok(),
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut body = vec![0; length.expect("the answer tells its length")];
        self.0.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// Waits until clients are refused.
pub fn wait_until_refused(server: SocketAddr) {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&server, PATIENCE) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            _ => assert!(start.elapsed() < PATIENCE, "{server} still takes connections"),
        }
        thread::sleep(Duration::from_millis(2));
    }
}
