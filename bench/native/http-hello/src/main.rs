//! What `guests/wasi-http-0.2/echo` answers to `/hello`, natively: on `$PORT` or 8080, by `$THREADS` threads
//! or one. A handler of wasi:http has no socket and no loop of its own, so this cannot be its source.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

fn main() -> Result<(), Box<dyn Error>> {
    let (port, threads) = (number("PORT", 8080)?, number("THREADS", 1)?);
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads.into()).enable_io().build()?.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?;
        println!("listening on port {port}");
        tokio::spawn(accept(listener)).await?;
        Ok(())
    })
}

fn number(variable: &str, otherwise: u16) -> Result<u16, Box<dyn Error>> {
    env::var(variable).map_or(Ok(otherwise), |text| Ok(text.parse()?))
}

async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => _ = tokio::spawn(serve(stream)),
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

async fn serve(stream: TcpStream) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        eprintln!("connection: {error}");
    }
}

async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/hello") => match request.into_body().collect().await {
            Ok(name) => page(StatusCode::OK, format!("👋 Hello {}\n", String::from_utf8_lossy(&name.to_bytes()))),
            Err(error) => page(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        (_, "/hello") => page(StatusCode::OK, "Hello\n".to_owned()),
        _ => page(StatusCode::NOT_FOUND, "no such page\n".to_owned()),
    }
}

fn page(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header(CONTENT_TYPE, "text/plain; charset=utf-8");
    builder.body(Full::from(text)).expect("it is a valid head")
}
