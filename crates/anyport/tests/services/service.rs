//! A service at work, and a client of it.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyport::server::StdioTarget;
use anyport::{Artifact, Limits, Policy, Running, Runtime, Server};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Longer than anything takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that comes, or fails with what did not.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} takes for ever"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V02,
    V03,
}

impl Version {
    pub(crate) const BOTH: [Self; 2] = [Self::V02, Self::V03];

    /// The echo guest of this version, not started yet.
    pub(crate) fn server(self) -> Server {
        let folder = match self {
            Self::V02 => "wasi-http-0.2",
            Self::V03 => "wasi-http-0.3",
        };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests").join(folder).join("echo/server.wasm");
        let artifact = Artifact::from_file(file).expect("it is committed");
        let runtime = Runtime::builder().build().expect("this machine can run it");
        runtime.load(&artifact).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A service with one worker, whose port is of loopback.
pub(crate) struct Service {
    pub(crate) running: Running,
    /// What the guest writes to its stderr.
    stderr: io::PipeReader,
}

impl Service {
    pub(crate) fn start(version: Version) -> Self {
        Self::with(version, |_| {}, |server| server)
    }

    pub(crate) fn with(version: Version, limit: impl FnOnce(&mut Limits), more: impl FnOnce(Server) -> Server) -> Self {
        Self::of(version.server(), limit, more)
    }

    /// Of this server, whatever it is.
    pub(crate) fn of(server: Server, limit: impl FnOnce(&mut Limits), more: impl FnOnce(Server) -> Server) -> Self {
        let mut limits = Limits::default();
        limit(&mut limits);
        let (stderr, writer) = io::pipe().expect("a test may open descriptors");
        let policy = Policy { publish: vec!["127.0.0.1:0:8080".parse().expect("a port")], ..Policy::default() };
        let server = server.policy(policy).limits(limits).workers(1).stdio(
            StdioTarget::Null,
            StdioTarget::Null,
            StdioTarget::Fd(writer.into()),
        );
        let running = more(server).start().unwrap_or_else(|error| panic!("{error}"));
        Self { running, stderr }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.ports()[0].address().expect("an IP port")
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        within("a connection", TcpStream::connect(self.address())).await.expect("it listens")
    }

    /// A connection of HTTP/1.1.
    pub(crate) async fn client(&self) -> Client {
        let (sender, connection) =
            http1::handshake(TokioIo::new(self.connect().await)).await.expect("nothing is sent yet");
        tokio::spawn(async move {
            // What goes wrong the sender tells too.
            let _ = connection.await;
        });
        Client { sender }
    }

    /// What a request on a connection of its own gets.
    pub(crate) async fn get(&self, path: &str) -> Got {
        self.client().await.get(path).await
    }

    /// Asks on a connection of its own, and leaves when that has been accepted.
    pub(crate) async fn leave(&self, path: &str) {
        let has = |some: bool| {
            let connections = || self.running.status().workers.iter().map(|worker| worker.connections).sum::<usize>();
            async move {
                while (connections() > 0) != some {
                    tokio::task::yield_now().await;
                }
            }
        };
        within("other connections to end", has(false)).await;
        let mut stream = self.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: service.test\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it is open");
        within("the connection to be accepted", has(true)).await;
    }

    /// A line that the guest has written to stderr.
    pub(crate) async fn stderr_line(&mut self) -> String {
        let mut pipe = self.stderr.try_clone().expect("a test may open descriptors");
        let reading = tokio::task::spawn_blocking(move || {
            let (mut line, mut byte) = (Vec::new(), [0]);
            while pipe.read(&mut byte).expect("a pipe does not fail") == 1 && byte != *b"\n" {
                line.extend(byte);
            }
            String::from_utf8_lossy(&line).into_owned()
        });
        within("a line of stderr", reading).await.expect("it does not panic")
    }
}

/// A client with one connection.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
}

/// What a client gets.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    /// Status and body alone.
    pub(crate) fn short(&self) -> (u16, &str) {
        (self.status.as_u16(), &self.body)
    }
}

impl Client {
    pub(crate) async fn get(&mut self, path: &str) -> Got {
        self.send(Method::GET, path, "").await
    }

    pub(crate) async fn send(&mut self, method: Method, path: &str, body: &'static str) -> Got {
        self.try_send(method, path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) async fn try_send(&mut self, method: Method, path: &str, body: &'static str) -> hyper::Result<Got> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "service.test")
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .expect("a request");
        let response = within(path, self.sender.send_request(request)).await?;
        let (head, body) = response.into_parts();
        let body = within(path, body.collect()).await?.to_bytes();
        Ok(Got { status: head.status, headers: head.headers, body: String::from_utf8_lossy(&body).into_owned() })
    }
}
