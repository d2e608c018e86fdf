//! How the server is, over HTTP on a port of its own: for load balancers, Kubernetes, and people with curl.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};

use crate::net::inlet::{ACCEPT_PAUSE, tell_of_pause};
use crate::net::stream::Stream;
use crate::net::{self, Endpoint, Interest};
use crate::stage::Stage;
use crate::status::{Status, View};

/// Connections at a time: some probes and some people. Others wait in the kernel's backlog.
const CONNECTIONS: usize = 32;

/// How long a head may take, and how long a connection may stay: probes ask and go.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
const STAYS: Duration = Duration::from_secs(60);

/// Bytes of a head; probes send less than 500.
const HEAD_BYTES: usize = 8192;

/// A port where it is told how the server is.
pub(crate) struct HealthPort {
    listener: Endpoint,
    teller: Arc<Teller>,
}

/// What is told.
struct Teller {
    view: View,
    stage: watch::Receiver<Stage>,
    started: Instant,
}

impl HealthPort {
    /// Listens; nothing is answered before [`Self::serve`].
    pub(crate) fn bind(address: SocketAddr, view: View, stage: watch::Receiver<Stage>) -> io::Result<Self> {
        let listener = net::listen_at(address, 128)?;
        Ok(Self { listener, teller: Arc::new(Teller { view, stage, started: Instant::now() }) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_address()
    }

    /// Answers until the task is dropped.
    pub(super) async fn serve(self) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let stream = self.accept().await;
            let teller = Arc::clone(&self.teller);
            tokio::spawn(async move {
                let _permit = permit;
                let _ = tokio::time::timeout(STAYS, teller.serve(stream)).await;
            });
        }
    }

    /// The next connection, whatever happens to others.
    async fn accept(&self) -> Stream {
        loop {
            match self.listener.accept() {
                Ok((endpoint, _)) => return Stream::new(endpoint, None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if poll_fn(|context| self.listener.poll_ready(context, Interest::Read)).await.is_err() {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
                Err(error) => {
                    tell_of_pause(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Teller {
    async fn serve(self: Arc<Self>, stream: Stream) {
        let answer = service_fn(move |request: Request<Incoming>| {
            let answer = self.answer(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES);
        if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
            tracing::debug!("a connection of the health port ended: {error}");
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let status = Status::of(&self.view, *self.stage.borrow(), self.started.elapsed());
        match path {
            "/healthz" => match status.stage {
                "starting" | "serving" => text(StatusCode::OK, "ok\n"),
                other => text(StatusCode::SERVICE_UNAVAILABLE, other),
            },
            "/readyz" => match status.stage {
                "serving" if status.ports.iter().all(|port| port.listening) => text(StatusCode::OK, "ready\n"),
                "serving" => text(StatusCode::SERVICE_UNAVAILABLE, "a port is not served yet\n"),
                other => text(StatusCode::SERVICE_UNAVAILABLE, other),
            },
            "/status" => {
                let status = serde_json::to_vec(&status).expect("a status is plain data");
                let mut response = text(StatusCode::OK, "");
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                *response.body_mut() = Full::from(status);
                response
            }
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /status\n"),
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
