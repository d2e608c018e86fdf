//! The dialects: thin tables of hostcalls over the verbs of `guest.rs`.

pub(crate) mod document;
pub mod filter;
pub(crate) mod hostcall;
pub(crate) mod preview1;
mod trace;
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
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preview1 => "WASI preview1",
            Self::WasmEdge => "WasmEdge sockets",
        })
    }
}

/// Every table. No two rows have the same module, name and type; a test holds that.
pub(crate) const TABLES: &[Table] = &[
    Table {
        dialect: Dialect::Preview1,
        module: "wasi_snapshot_preview1",
        rows: preview1::ROWS,
        bad_pointer: hostcall::trap_on_bad_pointer,
    },
    Table {
        dialect: Dialect::WasmEdge,
        module: "wasi_snapshot_preview1",
        rows: wasmedge::ROWS,
        bad_pointer: wasmedge::errno_on_bad_pointer,
    },
];
