//! The answer to a request: a page at once, or a body bit by bit.

use std::io::{self, Read, Write};

use wasip2::http::types::{
    ErrorCode, Fields, FutureTrailers, IncomingBody, OutgoingBody, OutgoingResponse, ResponseOutparam, Trailers,
};
use wasip2::io::streams::{InputStream, OutputStream};

/// Most of a body is read, or made, at a time.
pub const CHUNK: usize = 64 << 10;

/// A body that goes out bit by bit. Dropped before `finish`, it is cut short.
pub struct Body {
    // Before the body that it is of: a child is dropped before its parent.
    stream: OutputStream,
    body: OutgoingBody,
}

impl Body {
    pub fn new(body: OutgoingBody) -> Self {
        Self { stream: body.write().expect("it is asked for once"), body }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sees to it that what was written is on its way.
    pub fn flush(&mut self) -> io::Result<()> {
        Write::flush(&mut self.stream)
    }

    pub fn finish(self, trailers: Option<Trailers>) -> io::Result<()> {
        drop(self.stream);
        OutgoingBody::finish(self.body, trailers).map_err(|error| io::Error::other(name(&error)))
    }
}

/// A body that comes in bit by bit.
pub struct Incoming {
    stream: InputStream,
    body: IncomingBody,
}

impl Incoming {
    pub fn new(body: IncomingBody) -> Self {
        Self { stream: body.stream().expect("it is asked for once"), body }
    }

    /// What has come, or nothing at the end.
    pub fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; CHUNK];
        let length = Read::read(&mut self.stream, &mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    pub fn all(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Each bit to `body` as soon as it is here, and the trailers after them.
    pub fn copy_to(mut self, mut body: Body) -> io::Result<()> {
        loop {
            let bytes = self.next()?;
            if bytes.is_empty() {
                break;
            }
            body.write(&bytes)?;
            body.flush()?;
        }
        body.finish(self.trailers()?)
    }

    fn trailers(self) -> io::Result<Option<Trailers>> {
        drop(self.stream);
        let future: FutureTrailers = IncomingBody::finish(self.body);
        let result = loop {
            match future.get() {
                Some(result) => break result.expect("it is asked for once"),
                None => future.subscribe().block(),
            }
        };
        // What a request brought cannot be sent on as it is: it may not be changed, so its copy is.
        let trailers = result.map_err(|error| io::Error::other(name(&error)))?;
        Ok(trailers.map(|trailers| trailers.clone()))
    }
}

/// The head now, the body later; none for a status or fields that are not allowed.
pub fn begin(out: ResponseOutparam, status: u16, fields: Fields) -> Option<Body> {
    let response = OutgoingResponse::new(fields);
    if response.set_status_code(status).is_err() {
        page(out, 400, &format!("{status} is no status\n")).ok()?;
        return None;
    }
    let body = response.body().expect("it is asked for once");
    ResponseOutparam::set(out, Ok(response));
    Some(Body::new(body))
}

pub fn page(out: ResponseOutparam, status: u16, text: &str) -> io::Result<()> {
    let fields = fields(&[("content-type", "text/plain; charset=utf-8"), ("content-length", &text.len().to_string())]);
    let Some(mut body) = begin(out, status, fields) else { return Ok(()) };
    body.write(text.as_bytes())?;
    body.finish(None)
}

pub fn fields(pairs: &[(&str, &str)]) -> Fields {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    Fields::from_list(&pairs).expect("these names and values are allowed")
}

/// The name that the specification gives an error, in lower case: `connection-refused`.
pub fn name(error: &ErrorCode) -> String {
    let debug = format!("{error:?}");
    let camel = debug.trim_start_matches("ErrorCode::");
    let camel = &camel[..camel.find(['(', ' ', '{']).unwrap_or(camel.len())];
    let mut name = String::new();
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
