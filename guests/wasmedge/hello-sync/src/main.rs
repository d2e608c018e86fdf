//! A blocking HTTP server for WasmEdge, one connection at a time and one request on each:
//! `wasmedge_wasi_socket` for the socket, `bytecodec` and `httpcodec` for HTTP, as in WasmEdge's first
//! examples. It listens on `$PORT` or 8080.

use std::env;
use std::io::{self, Read, Write};

use bytecodec::{Decode, Eos};
use httpcodec::{
    HeaderField, HttpVersion, NoBodyDecoder, ReasonPhrase, Request, RequestDecoder, Response, StatusCode,
};
use wasmedge_wasi_socket::{Shutdown, TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"), false)?;
    println!("listening on port {port}");

    loop {
        match listener.accept(false) {
            Ok((stream, _peer)) => {
                if let Err(error) = serve(stream) {
                    eprintln!("connection: {error}");
                }
            }
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let (request, body) = read_request(&mut stream)?;
    let response = answer(&request, body).map_err(io::Error::other)?;
    stream.write_all(response.to_string().as_bytes())?;
    stream.shutdown(Shutdown::Both)
}

/// Hands the decoder what each blocking read brings until the head is whole, then reads the body.
/// httpcodec's own body decoder would take a request without `Content-Length` to go on until the
/// client ends its stream, and no client does.
fn read_request(stream: &mut TcpStream) -> io::Result<(Request<()>, String)> {
    let mut decoder = RequestDecoder::<NoBodyDecoder>::default();
    let mut chunk = [0; 4096];
    loop {
        let length = read_some(stream, &mut chunk)?;
        let used = decoder.decode(&chunk[..length], Eos::new(false)).map_err(io::Error::other)?;
        if decoder.is_idle() {
            let request = decoder.finish_decoding().map_err(io::Error::other)?;
            let mut body = chunk[used..length].to_vec();
            while body.len() < content_length(&request)? {
                let length = read_some(stream, &mut chunk)?;
                body.extend_from_slice(&chunk[..length]);
            }
            return Ok((request, String::from_utf8(body).map_err(io::Error::other)?));
        }
    }
}

fn read_some(stream: &mut TcpStream, chunk: &mut [u8]) -> io::Result<usize> {
    match stream.read(chunk)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => Ok(length),
    }
}

fn content_length(request: &Request<()>) -> io::Result<usize> {
    match request.header().get_field("Content-Length") {
        Some(length) => length.parse().map_err(io::Error::other),
        None => Ok(0),
    }
}

fn answer(request: &Request<()>, body: String) -> bytecodec::Result<Response<String>> {
    match (request.method().as_str(), request.request_target().as_str()) {
        ("GET", "/") => page(200, "OK", "POST your name to /hello\n".to_owned()),
        ("POST", "/hello") => page(200, "OK", format!("👋 Hello {body}\n")),
        ("POST", "/echo") => page(200, "OK", body),
        _ => page(404, "Not Found", "no such page\n".to_owned()),
    }
}

fn page(status: u16, reason: &str, text: String) -> bytecodec::Result<Response<String>> {
    let length = text.len().to_string();
    let mut response = Response::new(
        HttpVersion::V1_0,
        StatusCode::new(status)?,
        ReasonPhrase::new(reason)?,
        text,
    );
    let mut header = response.header_mut();
    header.add_field(HeaderField::new("Content-Length", &length)?);
    header.add_field(HeaderField::new("Connection", "close")?);
    Ok(response)
}
