//! axum on tokio as on any machine: it opens its own port, which on this target is wasi:sockets. Sockets and timers
//! wait in one `poll`.
//!
//! | route | answer |
//! |---|---|
//! | `/` | `hello from axum` |
//! | `/hello/NAME` | `hello NAME` |
//! | `POST /echo` | the body, each bit as it comes |
//! | `POST /json` | the counter that the body is, one further |
//! | `/stream?n=3&ms=10` | so many chunks, with a pause before each |
//! | `/peer` | the address that the client asks from |

use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::sleep;

// One thread is all that the target has.
#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let port = match env::var("PORT") {
        Ok(port) => port.parse().map_err(io::Error::other)?,
        Err(_) => 8080,
    };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    println!("listening on port {port}");

    let pages = Router::new()
        .route("/", get(async || "hello from axum\n"))
        .route("/hello/{name}", get(async |Path(name): Path<String>| format!("hello {name}\n")))
        .route("/echo", post(async |body: Body| body))
        .route("/json", post(json))
        .route("/stream", get(chunks))
        .route("/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("{}\n", peer.ip())))
        .fallback(async || (StatusCode::NOT_FOUND, "no such page\n"));
    axum::serve(listener, pages.into_make_service_with_connect_info::<SocketAddr>()).await
}

#[derive(Serialize, Deserialize)]
struct Counter {
    name: String,
    n: u64,
}

async fn json(Json(counter): Json<Counter>) -> Json<Counter> {
    Json(Counter { n: counter.n + 1, ..counter })
}

#[derive(Deserialize)]
#[serde(default)]
struct Chunks {
    n: u64,
    ms: u64,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { n: 3, ms: 10 }
    }
}

async fn chunks(Query(Chunks { n, ms }): Query<Chunks>) -> Body {
    Body::from_stream(stream::unfold(0, move |i| async move {
        if i == n {
            return None;
        }
        sleep(Duration::from_millis(ms)).await;
        Some((io::Result::Ok(format!("chunk {i}\n")), i + 1))
    }))
}
