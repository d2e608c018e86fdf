//! A guest server inside another Rust program, over a port and over a connection in memory:
//! `cargo run --example embed -- guests/wasmedge/hello/server.wasm`.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyport::{Artifact, Policy, Publish, Runtime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: embed FILE (a server that binds port 8080)")?;
    let runtime = Runtime::builder().build()?;
    let server = runtime.load(&Artifact::from_file(file)?)?;

    // Port 0 of the host: the operating system chooses a free one. `Publish::in_memory(8080)` would
    // publish to this program alone.
    let policy = Policy { publish: vec!["127.0.0.1:0:8080".parse::<Publish>()?], ..Policy::default() };
    let running = server.env("PORT", "8080").policy(policy).start()?;

    println!("in memory: {}", ask(running.connect(8080)?)?);
    let address = running.ports()[0].address().ok_or("it has a port")?;
    println!("over {address}: {}", ask(TcpStream::connect(address)?)?);

    let drain = running.drain(Duration::from_secs(5));
    tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(drain);
    println!("{:?}", running.wait());
    Ok(())
}

/// Posts a name, and gives the body of the answer.
fn ask(mut stream: impl Read + Write) -> Result<String, Box<dyn std::error::Error>> {
    stream.write_all(b"POST /hello HTTP/1.1\r\nHost: guest\r\nConnection: close\r\nContent-Length: 3\r\n\r\nBob")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    Ok(body.to_owned())
}
