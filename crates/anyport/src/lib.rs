//! One runtime for every WebAssembly HTTP server.
//!
//! A module that was built for `WasmEdge`'s sockets, or for a preopened WASI preview1 listener, is
//! loaded by a [`Runtime`], given what it may use, and started:
//!
//! ```
//! use anyport::{Artifact, Policy, Publish, Runtime};
//! # use std::io::{Read, Write};
//! # use std::net::TcpStream;
//! # use std::time::Duration;
//! # fn ask(mut stream: impl Read + Write) -> std::io::Result<String> {
//! #     stream.write_all(b"POST /hello HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nBob")?;
//! #     let mut answer = String::new();
//! #     stream.read_to_string(&mut answer)?;
//! #     Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests/wasmedge/hello/server.wasm");
//!
//! let runtime = Runtime::builder().build()?;
//! let server = runtime.load(&Artifact::from_file(file)?)?;
//! // On a free port of 127.0.0.1; `Publish::in_memory(8080)` would need none.
//! let policy = Policy { publish: vec!["127.0.0.1:0:8080".parse()?], ..Policy::default() };
//! let running = server.env("PORT", "8080").policy(policy).start()?;
//!
//! // Within this process, without any port of the host:
//! assert_eq!(ask(running.connect(8080)?)?, "👋 Hello Bob\n");
//! // Over the published port:
//! let address = running.ports()[0].address().expect("an IP port");
//! assert_eq!(ask(TcpStream::connect(address)?)?, "👋 Hello Bob\n");
//! assert!(running.drain(Duration::from_secs(8)).await);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing is allowed that was not given: no port, no file, no name lookup. Linux only for now.
//!
//! The modules, from the top down; each may use those below it (`tests/tidy.rs` holds that):
//! `runtime`, `inspect`; `server`, `settings`, `running`, `status`, `front`, `worker`, `serving`, `lane`,
//! `connection_limits`; `ingress`; `instance`, `program`, `component`, `link`, `engine`, `globals`, `ticker`,
//! `cache`, `artifact`; `dialect`; `guest`; `outgoing`; `health`, `busy`, `readiness`, `sending`, `descriptor`,
//! `epoll`; `event`, `stdio`, `journal`; `net`, `memory`, `tls`, `access_log`; `cgi`, `policy`; `address`,
//! `limits`, `mappings`, `stage`, `directory`; `errno`, `error`, `spelling`.

mod access_log;
mod address;
mod artifact;
mod busy;
pub mod cache;
pub mod cgi;
mod component;
mod connection_limits;
mod descriptor;
mod dialect;
mod directory;
mod engine;
mod epoll;
mod errno;
pub mod error;
mod event;
mod front;
mod globals;
mod guest;
mod health;
mod ingress;
pub mod inspect;
mod instance;
mod journal;
mod lane;
pub mod limits;
mod link;
mod machine;
pub mod mappings;
mod memory;
mod net;
mod outgoing;
pub mod policy;
mod port_holder;
mod program;
mod readiness;
#[cfg(test)]
mod rounds;
mod running;
mod runtime;
mod sending;
pub mod server;
mod serving;
pub mod settings;
pub mod spelling;
mod stage;
mod status;
mod stdio;
mod ticker;
mod tls;
mod worker;

pub use artifact::Artifact;
pub use dialect::Dialect;
#[doc(hidden)]
pub use dialect::document::dialects_markdown;
pub use dialect::filter as trace;
pub use error::Error;
pub use inspect::Inspection;
pub use limits::Limits;
pub use net::simulated;
pub use policy::{Listen, Policy, Publish};
pub use runtime::{Runtime, RuntimeBuilder};
pub use server::{Outcome, Running, Server};
