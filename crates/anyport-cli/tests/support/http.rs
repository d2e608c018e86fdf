//! A minimal HTTP/1.1 client, and the `requests` files of the guests: what to ask, what must come.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use regex::Regex;

/// An answer may take this long; a server that has just started compiles nothing any more.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// One line of a `requests` file: `METHOD PATH [<BODY>] =REGEX`, or `RAW TEXT =REGEX`.
pub struct Request {
    pub line: String,
    method: String,
    path: String,
    body: Option<String>,
    wanted: Regex,
}

/// The requests of a guest.
pub fn requests(folder: &Path) -> Vec<Request> {
    let form = Regex::new(r"^(\w+) (.*?)(?: <(.*)>)? =(.*)$").expect("a pattern");
    let text = std::fs::read_to_string(folder.join("requests")).expect("a guest has its requests");
    let requests: Vec<Request> = text
        .lines()
        .map(|line| {
            let parts = form.captures(line).unwrap_or_else(|| panic!("`{line}` is not a request"));
            Request {
                line: line.to_owned(),
                method: parts[1].to_owned(),
                path: parts[2].to_owned(),
                body: parts.get(3).map(|body| body.as_str().to_owned()),
                wanted: Regex::new(&parts[4]).unwrap_or_else(|error| panic!("`{line}`: {error}")),
            }
        })
        .collect();
    assert!(!requests.is_empty(), "no requests in {}", folder.display());
    requests
}

impl Request {
    /// Asks, and fails unless the right answer comes.
    pub fn ask(&self, server: SocketAddr) {
        let answer = if self.method == "RAW" {
            exchange(server, unescaped(&self.path).as_bytes(), |answer| self.wanted.is_match(answer))
        } else {
            http(server, &self.method, &self.path, self.body.as_deref())
        };
        assert!(self.wanted.is_match(&answer), "`{}` was answered with: {answer}", self.line);
    }
}

/// One HTTP request on a connection of its own: the whole answer, its body without chunk frames.
pub fn http(server: SocketAddr, method: &str, path: &str, body: Option<&str>) -> String {
    let body_headers = body.map(|body| format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\n{}\r\n{}",
        body_headers.unwrap_or_default(),
        body.unwrap_or_default(),
    );
    let answer = exchange(server, request.as_bytes(), |answer| decoded(answer).is_some());
    decoded(&answer).unwrap_or(answer)
}

/// Sends, then receives until `enough`, or the end of the stream, or the deadline.
fn exchange(server: SocketAddr, request: &[u8], enough: impl Fn(&str) -> bool) -> String {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_WITHIN).expect("it listens");
    stream.set_read_timeout(Some(ANSWER_WITHIN)).expect("a socket has timeouts");
    stream.write_all(request).expect("it takes the request");
    let mut answer = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let text = String::from_utf8_lossy(&answer);
        if enough(&text) {
            return text.into_owned();
        }
        match stream.read(&mut buffer) {
            Ok(0) => return text.into_owned(),
            Ok(length) => answer.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("no whole answer came ({error}), but: {text}"),
        }
    }
}

/// Head and body of a whole answer; `None` while more is to come.
fn decoded(answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    if let Some(length) = header("content-length") {
        let length: usize = length.parse().ok()?;
        return (body.len() >= length).then(|| format!("{head}\r\n\r\n{body}"));
    }
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Some(format!("{head}\r\n\r\n{}", unchunked(body)?));
    }
    None
}

fn unchunked(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size + 2..)?;
    }
}

/// `\r`, `\n`, `\t`, `\\` and `\xNN` as the characters that they stand for.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match (c, c == '\\') {
            (c, false) => c,
            (_, true) => match chars.next() {
                Some('r') => '\r',
                Some('n') => '\n',
                Some('t') => '\t',
                Some('x') => {
                    let digits: String = chars.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16).map(char::from).expect("two hexadecimal digits")
                }
                Some(other) => other,
                None => '\\',
            },
        });
    }
    plain
}
