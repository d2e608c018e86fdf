//! The README's example: an asynchronous HTTP/1.1 server as people write them for WasmEdge, with
//! `hyper_wasi` and `tokio_wasi`. It opens its own listening socket, on `$PORT` or 8080.
//!
//! `curl -d 'Bob Morane' localhost:8080/hello` answers `👋 Hello Bob Morane`.

use std::convert::Infallible;
use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use hyper::server::conn::Http;
use hyper::service::service_fn;
use hyper::{Body, Method, Request, Response, StatusCode, body};
use tokio::net::{TcpListener, TcpStream};

// One thread is all that WasmEdge's dialect has.
#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let port = match env::var("PORT") {
        Ok(port) => port.parse().map_err(io::Error::other)?,
        Err(_) => 8080,
    };
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?;
    println!("listening on port {port}");

    loop {
        let (stream, _peer) = listener.accept().await?;
        tokio::spawn(serve(stream));
    }
}

async fn serve(stream: TcpStream) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    if let Err(error) = Http::new().serve_connection(stream, service).await {
        eprintln!("connection: {error}");
    }
}

async fn answer(request: Request<Body>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => Response::new("POST your name to /hello\n".into()),
        (&Method::POST, "/hello") => match body::to_bytes(request.into_body()).await {
            Ok(name) => {
                let name = String::from_utf8_lossy(&name);
                Response::new(format!("👋 Hello {name}\n").into())
            }
            Err(error) => page(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        // Not collected first: what arrives goes back as it comes.
        (&Method::POST, "/echo") => Response::new(request.into_body()),
        _ => page(StatusCode::NOT_FOUND, "no such page\n".to_owned()),
    }
}

fn page(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
}
