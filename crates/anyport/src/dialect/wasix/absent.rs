//! What a guest may import and cannot have here: other processes, code that is loaded later, networks of its own.
//! It links, so that one which never gets there runs.

use std::fmt;

use wasmtime::Linker;

use crate::dialect::hostcall::{Hostcall, Param, Row, Table};
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

pub(super) const PATH: Param = Param { name: "path", wide: false };
pub(super) const PATH_LEN: Param = Param { name: "path_len", wide: false };
pub(super) const ARGS: Param = Param { name: "args", wide: false };
pub(super) const ARGS_SIZE: Param = Param { name: "args_size", wide: false };
pub(super) const ENVS: Param = Param { name: "envs", wide: false };
pub(super) const ENVS_SIZE: Param = Param { name: "envs_size", wide: false };
pub(super) const VALUE: Param = Param { name: "value64", wide: true };

/// How a row gets into a linker.
type Define = fn(&mut Linker<Guest>, &'static Row, &'static Table, &str) -> wasmtime::Result<()>;

/// A row without a result.
pub(super) const fn ends(
    name: &'static str, params: &'static [Param], tell: fn(fmt::Arguments<'_>), define: Define,
) -> Row {
    Row { name, params, result: false, is_absent: true, tell, define }
}

/// Ends the guest.
pub(super) fn end(name: &'static str) -> wasmtime::Result<()> {
    Err(wasmtime::Error::msg(format!("it calls `{name}`, which is not supported")))
}
