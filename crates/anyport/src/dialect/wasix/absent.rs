//! What a guest may import and cannot have here: other processes, code that is loaded later, networks of its own.
//! It links, so that one which never gets there runs.

use crate::dialect::hostcall::{Hostcall, Row};
use crate::errno::Errno;
use crate::guest::Guest;

/// Says so to the person, once for each name, and to the guest.
pub(super) fn refuse(guest: &mut Guest, name: &'static str) -> Hostcall {
    if guest.misses(name) {
        tracing::warn!("the guest calls `{name}`, which is not supported");
    }
    Err(Errno::NotSupported.into())
}

/// Declares rows that are not supported: `absent!{ "name"(a: u32); }`, with `-> ()` behind those without a result,
/// which no guest expects back.
macro_rules! absent {
    ($($name:literal($($param:ident : $kind:ty),*);)*) => {
        &[$($crate::dialect::hostcall::Row {
            is_absent: true,
            ..$crate::dialect::hostcall::row!($name($($param: $kind),*) = |guest, _memory, $($param: $kind),*| {
                let _ = ($($param,)*);
                $crate::dialect::wasix::absent::refuse(guest, $name)
            })
        }),*]
    };
}
pub(super) use absent;

/// The same for a row without a result.
pub(super) const fn ends(row: Row) -> Row {
    Row { is_absent: true, ..row }
}

/// Ends the guest.
pub(super) fn end(name: &'static str) -> wasmtime::Result<()> {
    Err(wasmtime::Error::msg(format!("it calls `{name}`, which is not supported")))
}
