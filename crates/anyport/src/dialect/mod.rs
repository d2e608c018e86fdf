//! The dialects: thin tables of hostcalls over the verbs of `guest.rs`.

pub(crate) mod document;
pub mod filter;
pub(crate) mod hostcall;
pub(crate) mod preview1;
pub(crate) mod signal;
mod trace;
pub(crate) mod wasi;
pub(crate) mod wasi_config;
pub(crate) mod wasi_http;
pub(crate) mod wasi_logging;
pub(crate) mod wasi_sockets;
pub(crate) mod wasix;
pub(crate) mod wasmedge;

use std::fmt;

use hostcall::Table;

/// A family of hostcalls that servers are built for.
///
/// A property of each import, not of a module: one module may mix them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Dialect {
    /// WASI preview1, with the sockets of preopened listeners.
    Preview1,
    /// The sockets of `WasmEdge`, every generation since 0.8.2.
    WasmEdge,
    /// WASIX, the system interface of Wasmer.
    Wasix,
    /// wasi-threads: a shared memory, and how a thread is started.
    Threads,
    /// WASI 0.2 but for the two that follow, for components.
    #[serde(rename = "wasi@0.2")]
    Wasi02,
    /// `wasi:sockets` 0.2.
    #[serde(rename = "wasi:sockets@0.2")]
    WasiSockets02,
    /// `wasi:http` 0.2.
    #[serde(rename = "wasi:http@0.2")]
    WasiHttp02,
    /// WASI 0.3 but for the two that follow.
    #[serde(rename = "wasi@0.3")]
    Wasi03,
    /// `wasi:sockets` 0.3.
    #[serde(rename = "wasi:sockets@0.3")]
    WasiSockets03,
    /// `wasi:http` 0.3.
    #[serde(rename = "wasi:http@0.3")]
    WasiHttp03,
    /// `wasi:config`, a draft.
    #[serde(rename = "wasi:config")]
    WasiConfig,
    /// `wasi:logging`, a draft.
    #[serde(rename = "wasi:logging")]
    WasiLogging,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preview1 => "WASI preview1",
            Self::WasmEdge => "WasmEdge sockets",
            Self::Wasix => "WASIX",
            Self::Threads => "wasi-threads",
            Self::Wasi02 => "WASI 0.2",
            Self::WasiSockets02 => "wasi:sockets 0.2",
            Self::WasiHttp02 => "wasi:http 0.2",
            Self::Wasi03 => "WASI 0.3",
            Self::WasiSockets03 => "wasi:sockets 0.3",
            Self::WasiHttp03 => "wasi:http 0.3",
            Self::WasiConfig => "wasi:config",
            Self::WasiLogging => "wasi:logging",
        })
    }
}

/// Every table. No two rows have the same module, name and type; a test holds that.
pub(crate) const TABLES: &[Table] = &[
    Table::new(Dialect::Preview1, PREVIEW1, preview1::ROWS, hostcall::trap_on_bad_pointer),
    Table::new(Dialect::WasmEdge, PREVIEW1, wasmedge::ROWS, wasmedge::errno_on_bad_pointer),
    // Programs of 2023 import preview1 from here. It means the same, but for what `Guest::is_wasix` tells.
    Table::new(Dialect::Wasix, WASIX, preview1::ROWS, hostcall::errno_on_bad_pointer).except(wasix::OTHERWISE),
    Table::new(Dialect::Wasix, WASIX, wasix::ROWS, hostcall::errno_on_bad_pointer),
    Table::new(Dialect::Wasix, WASIX, wasix::ABSENT, hostcall::errno_on_bad_pointer),
    Table::new(Dialect::Wasix, WASIX, wasix::ABSENT_ENDS, hostcall::errno_on_bad_pointer),
    Table::new(Dialect::Threads, "wasi", wasix::thread::SPAWN, hostcall::trap_on_bad_pointer),
];

const PREVIEW1: &str = "wasi_snapshot_preview1";
const WASIX: &str = "wasix_32v1";

/// Every interface that a component may import, with the version that it is compatible with.
pub(crate) const INTERFACES: &[(&str, &str, Dialect)] = &[
    ("wasi:cli/environment", "0.2", Dialect::Wasi02),
    ("wasi:cli/exit", "0.2", Dialect::Wasi02),
    ("wasi:cli/stdin", "0.2", Dialect::Wasi02),
    ("wasi:cli/stdout", "0.2", Dialect::Wasi02),
    ("wasi:cli/stderr", "0.2", Dialect::Wasi02),
    ("wasi:cli/terminal-input", "0.2", Dialect::Wasi02),
    ("wasi:cli/terminal-output", "0.2", Dialect::Wasi02),
    ("wasi:cli/terminal-stdin", "0.2", Dialect::Wasi02),
    ("wasi:cli/terminal-stdout", "0.2", Dialect::Wasi02),
    ("wasi:cli/terminal-stderr", "0.2", Dialect::Wasi02),
    ("wasi:clocks/monotonic-clock", "0.2", Dialect::Wasi02),
    ("wasi:clocks/wall-clock", "0.2", Dialect::Wasi02),
    ("wasi:filesystem/preopens", "0.2", Dialect::Wasi02),
    ("wasi:filesystem/types", "0.2", Dialect::Wasi02),
    ("wasi:io/error", "0.2", Dialect::Wasi02),
    ("wasi:io/poll", "0.2", Dialect::Wasi02),
    ("wasi:io/streams", "0.2", Dialect::Wasi02),
    ("wasi:random/insecure", "0.2", Dialect::Wasi02),
    ("wasi:random/insecure-seed", "0.2", Dialect::Wasi02),
    ("wasi:random/random", "0.2", Dialect::Wasi02),
    ("wasi:sockets/instance-network", "0.2", Dialect::WasiSockets02),
    ("wasi:sockets/ip-name-lookup", "0.2", Dialect::WasiSockets02),
    ("wasi:sockets/network", "0.2", Dialect::WasiSockets02),
    ("wasi:sockets/tcp", "0.2", Dialect::WasiSockets02),
    ("wasi:sockets/tcp-create-socket", "0.2", Dialect::WasiSockets02),
    ("wasi:sockets/udp", "0.2", Dialect::WasiSockets02),
    ("wasi:sockets/udp-create-socket", "0.2", Dialect::WasiSockets02),
    ("wasi:http/outgoing-handler", "0.2", Dialect::WasiHttp02),
    ("wasi:http/types", "0.2", Dialect::WasiHttp02),
    ("wasi:cli/environment", "0.3", Dialect::Wasi03),
    ("wasi:cli/exit", "0.3", Dialect::Wasi03),
    ("wasi:cli/stdin", "0.3", Dialect::Wasi03),
    ("wasi:cli/stdout", "0.3", Dialect::Wasi03),
    ("wasi:cli/stderr", "0.3", Dialect::Wasi03),
    ("wasi:cli/terminal-input", "0.3", Dialect::Wasi03),
    ("wasi:cli/terminal-output", "0.3", Dialect::Wasi03),
    ("wasi:cli/terminal-stdin", "0.3", Dialect::Wasi03),
    ("wasi:cli/terminal-stdout", "0.3", Dialect::Wasi03),
    ("wasi:cli/terminal-stderr", "0.3", Dialect::Wasi03),
    ("wasi:cli/types", "0.3", Dialect::Wasi03),
    ("wasi:clocks/monotonic-clock", "0.3", Dialect::Wasi03),
    ("wasi:clocks/system-clock", "0.3", Dialect::Wasi03),
    ("wasi:clocks/types", "0.3", Dialect::Wasi03),
    ("wasi:filesystem/preopens", "0.3", Dialect::Wasi03),
    ("wasi:filesystem/types", "0.3", Dialect::Wasi03),
    ("wasi:random/insecure", "0.3", Dialect::Wasi03),
    ("wasi:random/insecure-seed", "0.3", Dialect::Wasi03),
    ("wasi:random/random", "0.3", Dialect::Wasi03),
    ("wasi:sockets/ip-name-lookup", "0.3", Dialect::WasiSockets03),
    ("wasi:sockets/types", "0.3", Dialect::WasiSockets03),
    ("wasi:http/client", "0.3", Dialect::WasiHttp03),
    ("wasi:http/types", "0.3", Dialect::WasiHttp03),
    ("wasi:config/store", "0.2.0-rc.1", Dialect::WasiConfig),
    ("wasi:logging/logging", "", Dialect::WasiLogging),
    ("wasi:logging/logging", "0.1.0-draft", Dialect::WasiLogging),
];
