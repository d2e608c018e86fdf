//! A minimal server on `wasmedge_wasi_socket` 0.4.3: the calls of WasmEdge 0.10, the first with today's
//! numbers. It listens on `$PORT` or 8080.
//!
//! The crate closes its descriptors, and its accept asks for the peer's address, of which it takes
//! families 4 and 6 only.

use std::env;
use std::io::{self, Read, Write};

use wasmedge_wasi_socket::{Shutdown, TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let address = format!("0.0.0.0:{port}");
    let listener = TcpListener::bind(&address, false)?;
    println!("listening on port {port}");

    loop {
        let (mut stream, _peer) = listener.accept(false)?;
        if let Err(error) = serve(&mut stream) {
            eprintln!("connection: {error}");
        }
    }
}

/// Answers one request.
fn serve(stream: &mut TcpStream) -> io::Result<()> {
    let (line, body) = read_request(stream)?;
    let (status, page) = match line.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["GET", "/"] => ("200 OK", "POST your name to /hello\n".to_owned()),
        ["POST", "/hello"] => ("200 OK", format!("👋 Hello {body}\n")),
        _ => ("404 Not Found", "no such page\n".to_owned()),
    };
    let length = page.len();
    let response = format!("HTTP/1.0 {status}\r\nContent-Length: {length}\r\n\r\n{page}");
    stream.write_all(response.as_bytes())?;
    stream.shutdown(Shutdown::Both)
}

/// Reads a whole request: its first line, and its body.
fn read_request(stream: &mut TcpStream) -> io::Result<(String, String)> {
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => received.extend_from_slice(&chunk[..length]),
        }
        let text = String::from_utf8_lossy(&received);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let body_length = head
            .lines()
            .filter_map(|field| field.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(0);
        if body.len() >= body_length {
            return Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()));
        }
    }
}
