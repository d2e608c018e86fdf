//! `wasi:http` 0.2 and 0.3: wasmtime-wasi-http's types, over the guest's own policy.

use wasmtime::component::Linker;
use wasmtime_wasi::WasiView;
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use crate::guest::Guest;

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: self.files.own().ctx().table, ctx: &mut self.http }
    }
}

/// Adds 0.2's.
pub(crate) fn add_02(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}

/// Adds 0.3's.
pub(crate) fn add_03(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p3::add_to_linker(linker)
}
