//! The behaviour guests, compiled once for a process.

use std::path::Path;
use std::sync::OnceLock;

use anyport::{Artifact, Runtime, Server};

/// A behaviour guest: its dialect, and whether it waits for all connections at once or blocks on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    Preview1,
    Preview1Blocking,
    Wasmedge,
    WasmedgeBlocking,
    Wasix,
    WasixBlocking,
    /// A component of wasi:sockets 0.2.
    Sockets02,
    /// One of 0.3.
    Sockets03,
}

impl Guest {
    fn folder(self) -> &'static str {
        match self {
            Self::Sockets02 => "wasi-sockets-0.2/behaviour",
            Self::Sockets03 => "wasi-sockets-0.3/behaviour",
            _ => "behaviour",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Preview1 => "behaviour-preview1",
            Self::Preview1Blocking => "behaviour-preview1-blocking",
            Self::Wasmedge => "behaviour-wasmedge",
            Self::WasmedgeBlocking => "behaviour-wasmedge-blocking",
            Self::Wasix => "behaviour-wasix",
            Self::WasixBlocking => "behaviour-wasix-blocking",
            Self::Sockets02 | Self::Sockets03 => "behaviour",
        }
    }

    /// Whether it can open descriptors of its own.
    pub(crate) fn opens_sockets(self) -> bool {
        !matches!(self, Self::Preview1 | Self::Preview1Blocking)
    }

    /// A server of it, to be given ports and limits.
    pub(crate) fn server(self) -> Server {
        static COMPILED: [OnceLock<Artifact>; 8] = [const { OnceLock::new() }; 8];
        let compiled = COMPILED[self as usize].get_or_init(|| self.compile());
        runtime().load_precompiled(compiled).expect("this runtime has compiled it")
    }

    fn compile(self) -> Artifact {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests").join(self.folder());
        let path = folder.join(self.name()).with_extension("wasm");
        let artifact = Artifact::from_file(path).expect("the guests are committed");
        let compiled = runtime().precompile(&artifact).expect("the guests are valid");
        Artifact::from_bytes(self.name(), compiled)
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::builder().build().expect("tests run where anyport does"))
}
