//! Serves a module inside another Rust program: `cargo run --example serve -- FILE PORT`.
#![allow(clippy::print_stderr, reason = "an example tells what it does")]

use anyport::{Artifact, Policy, Publish, Runtime, StdioTarget};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(file), Some(port)) = (words.next(), words.next()) else {
        return Err("usage: serve FILE PORT".into());
    };
    let runtime = Runtime::builder().build()?;
    let server = runtime.load(&Artifact::from_file(file)?)?;
    let policy = Policy { publish: vec![Publish::loopback(port.parse()?)], ..Policy::default() };
    let running = server
        .env("PORT", port)
        .policy(policy)
        .stdio(StdioTarget::Null, StdioTarget::Inherit, StdioTarget::Inherit)
        .start()?;
    for (publish, address) in running.ports() {
        eprintln!("{address} reaches port {} of the guest", publish.guest_port);
    }
    eprintln!("{:?}", running.wait());
    Ok(())
}
