//! The handlers of `guests/wasmedge/hello` on hyper 1 and tokio 1, which on this target use wasi:sockets.
//! Nothing of it is about WebAssembly: the same source is a native server in `bench/native`.

use std::convert::Infallible;
use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

type Body = Either<Full<Bytes>, Incoming>;

// One thread is all that the target has.
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
    let stream = TokioIo::new(stream);
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    let connection = http1::Builder::new().serve_connection(stream, service);
    if let Err(error) = connection.await {
        eprintln!("connection: {error}");
    }
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => page(StatusCode::OK, "POST your name to /hello\n".to_owned()),
        (&Method::POST, "/hello") => match request.into_body().collect().await {
            Ok(name) => {
                let name = name.to_bytes();
                let name = String::from_utf8_lossy(&name);
                page(StatusCode::OK, format!("👋 Hello {name}\n"))
            }
            Err(error) => page(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        // Not collected first: what arrives goes back as it comes.
        (&Method::POST, "/echo") => Response::new(Either::Right(request.into_body())),
        _ => page(StatusCode::NOT_FOUND, "no such page\n".to_owned()),
    }
}

fn page(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from(text)));
    *response.status_mut() = status;
    response
}
