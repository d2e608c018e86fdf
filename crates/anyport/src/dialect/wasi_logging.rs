//! `wasi:logging`: a guest's lines in the log of this process.
//!
//! See <https://github.com/WebAssembly/wasi-logging/blob/main/wit/logging.wit>.

use wasmtime::component::{Linker, Val};

use crate::guest::Guest;
use crate::journal::Level;

/// Its names: guests were built for it before it had a version.
const NAMES: &[&str] = &["wasi:logging/logging", "wasi:logging/logging@0.1.0-draft"];

/// Adds `wasi:logging/logging`.
pub(crate) fn add(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for name in NAMES {
        linker.instance(name)?.func_new("log", |store, _, values, _| log(store.data(), values))?;
    }
    Ok(())
}

/// `log: func(level: level, context: string, message: string)`
fn log(guest: &Guest, values: &[Val]) -> wasmtime::Result<()> {
    let [Val::Enum(level), Val::String(context), Val::String(message)] = values else {
        return Err(wasmtime::Error::msg("its `wasi:logging` has other types than the draft"));
    };
    let level = Level::from_name(level).ok_or_else(|| wasmtime::Error::msg("there is no such level of a log"))?;
    guest.log(level, context, message);
    Ok(())
}
