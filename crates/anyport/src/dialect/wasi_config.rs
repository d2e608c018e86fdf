//! `wasi:config`: the values that a guest was given by name.

use wasmtime::component::Linker;
use wasmtime_wasi_config::WasiConfig;

use crate::guest::Guest;

/// Adds `wasi:config/store`.
pub(crate) fn add(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi_config::add_to_linker(linker, |guest: &mut Guest| WasiConfig::new(&guest.config))
}
