//! The containerd shim of anyport: WebAssembly servers as containers of Docker and Kubernetes.
//!
//! One program with several roles. containerd starts it with its own words (`bootstrap.rs`); the shim that
//! serves containerd (`service.rs`) starts the others: `prepare` compiles a module (`prepare.rs`), `init` is
//! the process of a container (`init.rs`), `exec` one beside it (`exec.rs`).

mod bootstrap;
mod bundle;
mod cgroup;
mod container;
mod content;
mod control;
mod events;
mod exec;
mod hooks;
mod init;
mod launch;
mod log;
mod options;
mod prepare;
mod probe;
mod process;
mod sandbox;
mod service;
mod status;
mod stdio;

use std::io::{self, Write};
use std::process::ExitCode;

use anyport::Error;
use anyport::error::ErrorKind;

use crate::bootstrap::Words;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    let role = words.peek().and_then(|word| word.to_str()).unwrap_or_default().to_owned();
    match role.as_str() {
        "init" => return init::run(),
        "exec" => return exec::run(),
        "prepare" => return prepare::run().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        "daemon" => _ = words.next(),
        _ => {}
    }
    let done = Words::parse(words).and_then(|words| match role.as_str() {
        "daemon" => bootstrap::serve(&words),
        _ => obey(&words),
    });
    done.map_or_else(|error| log::fail(&error), |()| ExitCode::SUCCESS)
}

/// Does what containerd says.
fn obey(words: &Words) -> Result<(), Error> {
    let unwritable = |error: io::Error| Error::new(ErrorKind::Host, format!("stdout cannot be written: {error}"));
    match words.action.as_str() {
        _ if words.version => {
            let line = format!("containerd-shim-anyport-v1 {}\n", env!("CARGO_PKG_VERSION"));
            io::stdout().write_all(line.as_bytes()).map_err(unwritable)
        }
        _ if words.info => bootstrap::info().map_err(unwritable),
        "start" => bootstrap::start(words),
        "delete" => bootstrap::delete(words),
        action => {
            let what = if action.is_empty() {
                "nothing to do was said".to_owned()
            } else {
                format!("there is no action `{action}`")
            };
            Err(Error::new(ErrorKind::Host, what).with_hint(
                "containerd starts this program: `docker run --runtime io.containerd.anyport.v1 …`; \
                 `anyport docker check` tells whether it finds it",
            ))
        }
    }
}
