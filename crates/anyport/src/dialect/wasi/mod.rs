//! WASI 0.2 and 0.3, for components: what wasmtime-wasi has, on the guest's own streams.

mod stdio;

use wasmtime::component::Linker;
use wasmtime_wasi::{WasiCtxView, WasiView};

use crate::guest::Guest;

pub(crate) use stdio::{input, output};

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.files.ctx()
    }
}

/// Adds all of 0.2.
pub(crate) fn add_02(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

/// Adds all of 0.3.
pub(crate) fn add_03(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p3::add_to_linker(linker)
}
