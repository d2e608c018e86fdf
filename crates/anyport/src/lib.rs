//! One runtime for every WebAssembly HTTP server.
//!
//! A module that was built for `WasmEdge`'s sockets, or for a preopened WASI preview1 listener, is
//! loaded by a [`Runtime`], given what it may use, and started:
//!
//! ```no_run
//! use anyport::{Artifact, Policy, Publish, Runtime};
//!
//! let runtime = Runtime::builder().build()?;
//! let server = runtime.load(&Artifact::from_file("server.wasm")?)?;
//! let policy = Policy { publish: vec![Publish::loopback(8080)], ..Policy::default() };
//! let running = server.env("PORT", "8080").policy(policy).start()?;
//! println!("{:?}", running.ports());
//! println!("{:?}", running.wait());
//! # Ok::<(), anyport::Error>(())
//! ```
//!
//! Nothing is allowed that was not given: no port, no file, no name lookup. Linux only for now.
//!
//! The modules, from the top down; each may use those below it (`tests/tidy.rs` holds that):
//! `runtime`, `inspect`; `instance`, `link`, `engine`, `cache`, `artifact`; `dialect`; `guest`;
//! `readiness`, `descriptor`, `stdio`; `net`, `memory`; `errno`, `address`, `policy`, `limits`.

mod address;
mod artifact;
mod cache;
mod descriptor;
mod dialect;
mod engine;
mod errno;
mod error;
mod guest;
mod inspect;
mod instance;
pub mod limits;
mod link;
mod memory;
mod net;
mod policy;
mod port_holder;
mod readiness;
#[cfg(test)]
mod rounds;
mod runtime;
mod stdio;

pub use address::{Publish, Transport, parse_listen_address};
pub use artifact::{Artifact, ArtifactKind};
pub use cache::{CACHE_BYTES, Cache};
pub use dialect::Dialect;
#[doc(hidden)]
pub use dialect::document::dialects_markdown;
pub use error::{Error, ErrorKind};
pub use inspect::{Export, Inspection, Verdict, Want, inspect};
pub use instance::Outcome;
pub use limits::Limits;
pub use link::{Import, ImportStatus};
pub use net::simulated;
pub use policy::{Outbound, Policy};
pub use runtime::{Directory, Listener, Running, Runtime, RuntimeBuilder, Server};
pub use stdio::StdioTarget;
