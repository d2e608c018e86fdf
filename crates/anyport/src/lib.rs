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
//! `runtime`, `inspect`; `server`, `running`, `front`, `worker`, `connection_limits`; `instance`, `link`,
//! `engine`, `cache`, `artifact`; `dialect`; `guest`; `busy`, `readiness`, `descriptor`, `stdio`; `net`,
//! `memory`; `policy`, `address`, `limits`, `stage`; `errno`, `error`.

mod address;
mod artifact;
mod busy;
pub mod cache;
mod connection_limits;
mod descriptor;
mod dialect;
mod engine;
mod errno;
pub mod error;
mod front;
mod guest;
pub mod inspect;
mod instance;
pub mod limits;
mod link;
mod memory;
mod net;
pub mod policy;
mod port_holder;
mod readiness;
mod running;
mod runtime;
pub mod server;
mod stage;
mod stdio;
mod worker;

pub use artifact::Artifact;
pub use dialect::Dialect;
#[doc(hidden)]
pub use dialect::document::dialects_markdown;
pub use error::Error;
pub use inspect::Inspection;
pub use limits::Limits;
pub use net::simulated;
pub use policy::{Policy, Publish};
pub use runtime::{Runtime, RuntimeBuilder};
pub use server::{Outcome, Running, Server};
