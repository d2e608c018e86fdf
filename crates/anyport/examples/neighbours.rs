//! Two guests of one runtime: a server, and with `--loop` one that computes for ever beside it. For
//! `bench/workers.py`, which measures what the one takes from the other:
//! `cargo run --release --example neighbours -- guests/wasmedge/hello/server.wasm 8080 [--loop]`.

use anyport::{Artifact, Policy, Publish, Runtime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(file), Some(port)) = (words.first(), words.get(1)) else {
        return Err("usage: neighbours FILE PORT [--loop]".into());
    };
    let runtime = Runtime::builder().build()?;
    let policy = Policy { publish: vec![Publish::loopback(port.parse()?)], ..Policy::default() };
    let server = runtime.load(&Artifact::from_file(file)?)?.env("PORT", port).policy(policy).start()?;
    let _loop = if words.get(2).is_some_and(|word| word == "--loop") {
        let forever = wat::parse_str("(module (func (export \"_start\") (loop $forever (br $forever))))")?;
        Some(runtime.load(&Artifact::from_bytes("loop", forever))?.start()?)
    } else {
        None
    };
    server.wait();
    Ok(())
}
