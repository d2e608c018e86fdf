//! The answer to a request: a page at once, or a body bit by bit.

use wasip3::http::types::{ErrorCode, Fields, Request, Response, Trailers};
use wasip3::wit_bindgen::{FutureReader, FutureWriter, StreamReader, StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

/// Most of a body is read, or made, at a time.
pub const CHUNK: usize = 64 << 10;

type End = Result<Option<Trailers>, ErrorCode>;

/// A body that goes out bit by bit. Dropped before `finish`, it is cut short.
pub struct Body {
    stream: StreamWriter<u8>,
    end: FutureWriter<End>,
}

/// Its reader is gone.
pub struct Gone;

impl Body {
    /// With what a response or a request takes of it.
    pub fn new() -> (Self, Incoming) {
        let (stream, contents) = wit_stream::new();
        let (end, trailers) = wit_future::new(|| Err(ErrorCode::InternalError(Some("cut short".to_owned()))));
        (Self { stream, end }, Incoming { stream: contents, end: trailers })
    }

    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Gone> {
        let left = self.stream.write_all(bytes).await;
        if left.is_empty() { Ok(()) } else { Err(Gone) }
    }

    pub async fn finish(self, end: End) -> Result<(), Gone> {
        drop(self.stream);
        self.end.write(end).await.map_err(|_| Gone)
    }
}

/// A body that comes in bit by bit.
pub struct Incoming {
    pub stream: StreamReader<u8>,
    pub end: FutureReader<End>,
}

impl Incoming {
    pub fn of_request(request: Request) -> Self {
        let (stream, end) = Request::consume_body(request, well());
        Self { stream, end }
    }

    pub fn of_response(response: Response) -> Self {
        let (stream, end) = Response::consume_body(response, well());
        Self { stream, end }
    }

    pub async fn all(self) -> Vec<u8> {
        self.stream.collect().await
    }

    /// Each bit to `body` as soon as it is here, and the trailers after them.
    pub async fn copy_to(mut self, mut body: Body) -> Result<(), Gone> {
        loop {
            let (result, bytes) = self.stream.read(Vec::with_capacity(CHUNK)).await;
            if !bytes.is_empty() {
                body.write(bytes).await?;
            }
            if result == StreamResult::Dropped {
                break;
            }
        }
        drop(self.stream);
        // What a request brought cannot be sent on as it is: it may not be changed, so its copy is.
        let end = self.end.await.map(|trailers| trailers.map(|trailers| trailers.clone()));
        body.finish(end).await
    }
}

/// The result of handling a body, where nothing can go wrong.
fn well() -> FutureReader<Result<(), ErrorCode>> {
    let (writer, reader) = wit_future::new(|| Ok(()));
    drop(writer);
    reader
}

/// A response, and the body to write once it has been returned.
pub fn begin(status: u16, fields: Fields) -> (Response, Body) {
    let (body, contents) = Body::new();
    (response(status, fields, contents), body)
}

/// A response whose body is one that comes from elsewhere.
pub fn response(status: u16, fields: Fields, body: Incoming) -> Response {
    let (response, _sent) = Response::new(fields, Some(body.stream), body.end);
    if response.set_status_code(status).is_ok() {
        return response;
    }
    page(400, format!("{status} is no status\n"))
}

pub fn page(status: u16, text: String) -> Response {
    let fields = fields(&[("content-type", "text/plain; charset=utf-8"), ("content-length", &text.len().to_string())]);
    let (response, mut body) = begin(status, fields);
    spawn_local(async move {
        if body.write(text.into_bytes()).await.is_ok() {
            _ = body.finish(Ok(None)).await;
        }
    });
    response
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
