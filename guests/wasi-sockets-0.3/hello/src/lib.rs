//! The answers of `guests/wasmedge/hello` by a command of wasi:cli 0.3, which opens its own listening socket
//! with wasi:sockets 0.3, on `$PORT` or 8080. Its connections are tasks of one instance.

use std::io::Write;

use wasip3::cli::environment::get_environment;
use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::wit_bindgen::{StreamReader, StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_stream};

/// A longer head ends the connection.
const HEAD_MAX: usize = 64 << 10;
const FIELDS_MAX: usize = 100;
/// Read at a time.
const CHUNK: usize = 16 << 10;

wasip3::cli::command::export!(Hello);

struct Hello;

impl wasip3::exports::cli::run::Guest for Hello {
    async fn run() -> Result<(), ()> {
        listen().await.map_err(|error| eprintln!("{error}"))
    }
}

async fn listen() -> Result<(), String> {
    let port = match get_environment().into_iter().find(|(name, _)| name == "PORT") {
        Some((_, port)) => port.parse().map_err(|error| format!("PORT: {error}"))?,
        None => 8080,
    };
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (0, 0, 0, 0) });
    let failed = |error| format!("port {port}: {error:?}");
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    let mut connections = socket.listen().map_err(failed)?;
    println!("listening on port {port}");

    while let Some(connection) = connections.next().await {
        spawn_local(serve(connection));
    }
    Ok(())
}

async fn serve(socket: TcpSocket) {
    let (input, _received) = socket.receive();
    let (output, data) = wit_stream::new();
    let sent = socket.send(data);
    let mut connection = Connection { input, output, unread: Vec::new(), ended: false };
    while connection.answer().await.is_some() {}
    drop(connection);
    // All of it is on its way before the socket is dropped.
    _ = sent.await;
}

struct Connection {
    input: StreamReader<u8>,
    output: StreamWriter<u8>,
    /// What came and was not yet looked at.
    unread: Vec<u8>,
    /// The client sends no more.
    ended: bool,
}

/// What of a request the answer depends on.
struct Head {
    method: String,
    path: String,
    /// Of the body; none if the client does not tell it beforehand.
    length: Option<usize>,
}

impl Connection {
    /// To one request; none if there is no other, or no way to answer it.
    async fn answer(&mut self) -> Option<()> {
        let head = self.head().await?;
        let Some(length) = head.length else {
            self.page("411 Length Required", "how long is it?\n").await;
            return None;
        };
        match (head.method.as_str(), head.path.as_str()) {
            ("GET", "/") => self.page("200 OK", "POST your name to /hello\n").await,
            ("POST", "/hello") => {
                let mut name = Vec::new();
                while name.len() < length {
                    name.extend(self.body(length - name.len()).await?);
                }
                self.page("200 OK", &format!("👋 Hello {}\n", String::from_utf8_lossy(&name))).await
            }
            // Not collected first: what arrives goes back as it comes.
            ("POST", "/echo") => {
                self.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes()).await?;
                let mut left = length;
                while left > 0 {
                    let part = self.body(left).await?;
                    left -= part.len();
                    self.send(part).await?;
                }
                Some(())
            }
            _ => {
                self.page("404 Not Found", "no such page\n").await?;
                // Only what is read can be passed over.
                (length == 0).then_some(())
            }
        }
    }

    async fn head(&mut self) -> Option<Head> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut request = httparse::Request::new(&mut fields);
            if let httparse::Status::Complete(size) = request.parse(&self.unread).ok()? {
                let head = Head {
                    method: request.method?.to_owned(),
                    path: request.path?.to_owned(),
                    length: length(request.headers),
                };
                self.unread.drain(..size);
                return Some(head);
            }
            if self.unread.len() > HEAD_MAX {
                return None;
            }
            self.receive().await?;
        }
    }

    /// Some of the body, at most so much of it.
    async fn body(&mut self, most: usize) -> Option<Vec<u8>> {
        if self.unread.is_empty() {
            self.receive().await?;
        }
        Some(self.unread.drain(..most.min(self.unread.len())).collect())
    }

    async fn receive(&mut self) -> Option<()> {
        if self.ended {
            return None;
        }
        let (result, bytes) = self.input.read(Vec::with_capacity(CHUNK)).await;
        self.ended = result == StreamResult::Dropped;
        self.unread.extend(&bytes);
        (!bytes.is_empty()).then_some(())
    }

    async fn page(&mut self, status: &str, text: &str) -> Option<()> {
        let mut bytes = Vec::new();
        write!(bytes, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}", text.len()).expect("memory takes it");
        self.send(bytes).await
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Option<()> {
        self.output.write_all(bytes).await.is_empty().then_some(())
    }
}

fn length(fields: &[httparse::Header<'_>]) -> Option<usize> {
    if fields.iter().any(|field| field.name.eq_ignore_ascii_case("transfer-encoding")) {
        return None;
    }
    match fields.iter().find(|field| field.name.eq_ignore_ascii_case("content-length")) {
        Some(field) => str::from_utf8(field.value).ok()?.parse().ok(),
        None => Some(0),
    }
}
