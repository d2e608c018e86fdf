//! axum on tokio for plain preview 1, whose guests can open no socket: the server expects the runtime
//! to have opened its listener, as fd 3 (or `$LISTEN_FD`).

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let fd = match env::var("LISTEN_FD") {
        Ok(fd) => fd.parse().map_err(io::Error::other)?,
        Err(_) => 3,
    };
    // SAFETY: nothing else in this program takes the fd that the runtime opened for it.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    println!("listening on fd {fd}");

    let pages = Router::new()
        .route("/", get(async || "hello from axum\n"))
        .route("/hello/{name}", get(hello))
        .route("/query", get(query))
        .route("/json", post(json))
        .route("/echo", post(async |body: Body| body))
        .route("/len", post(async |body: Bytes| format!("{}\n", body.len())))
        .route("/big/{length}", get(async |Path(length): Path<usize>| vec![b'x'; length]))
        .route("/sleep/{ms}", get(slow))
        .route("/stream", get(chunks))
        .route("/env", get(environment));
    axum::serve(listener, pages).await
}

async fn hello(Path(name): Path<String>) -> String {
    format!("hello {name}\n")
}

/// The parameters in the order of their names.
async fn query(Query(parameters): Query<BTreeMap<String, String>>) -> String {
    parameters.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

#[derive(Serialize, Deserialize)]
struct Counter {
    name: String,
    n: u64,
}

async fn json(Json(counter): Json<Counter>) -> Json<Counter> {
    Json(Counter { n: counter.n + 1, ..counter })
}

async fn slow(Path(ms): Path<u64>) -> String {
    sleep(Duration::from_millis(ms)).await;
    format!("slept {ms}\n")
}

/// Five chunks, 100 ms apart: the timer and the socket wait in one `poll_oneoff`.
async fn chunks() -> Body {
    Body::from_stream(stream::unfold(0, async |i| {
        if i == 5 {
            return None;
        }
        sleep(Duration::from_millis(100)).await;
        Some((io::Result::Ok(format!("chunk {i}\n")), i + 1))
    }))
}

async fn environment() -> String {
    let variables: BTreeMap<_, _> = env::vars().collect();
    variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}
