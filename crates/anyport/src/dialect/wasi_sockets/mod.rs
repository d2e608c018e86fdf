//! `wasi:sockets` 0.2 and 0.3: sockets of the guest's own table, with its policy, published ports and limits.
//!
//! Resources are those of wasmtime-wasi by their type and ours by what the table has for their number: nobody
//! else can make its types.

mod address;
mod code;
mod connection;
mod lookup;
mod network;
mod option;
mod tcp;
mod tcp_02;
mod tcp_03;
mod udp;
mod udp_02;
mod udp_03;

use std::any::Any;

use wasmtime::component::{HasData, Linker, Resource, ResourceTableError};

use crate::guest::Guest;

/// What the interfaces need of a guest: all of it.
pub(crate) struct Sockets;

impl HasData for Sockets {
    type Data<'a> = &'a mut Guest;
}

/// Adds 0.2's.
pub(crate) fn add_02(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use wasmtime_wasi::p2::bindings::sockets;

    sockets::instance_network::add_to_linker::<Guest, Sockets>(linker, |guest| guest)?;
    sockets::network::add_to_linker::<Guest, Sockets>(linker, &Default::default(), |guest| guest)?;
    sockets::tcp_create_socket::add_to_linker::<Guest, Sockets>(linker, |guest| guest)?;
    sockets::tcp::add_to_linker::<Guest, Sockets>(linker, |guest| guest)?;
    sockets::udp_create_socket::add_to_linker::<Guest, Sockets>(linker, |guest| guest)?;
    sockets::udp::add_to_linker::<Guest, Sockets>(linker, |guest| guest)?;
    sockets::ip_name_lookup::add_to_linker::<Guest, Sockets>(linker, |guest| guest)
}

/// Adds 0.3's.
pub(crate) fn add_03(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use wasmtime_wasi::p3::bindings::sockets;

    sockets::types::add_to_linker::<Guest, Sockets>(linker, |guest| guest)?;
    sockets::ip_name_lookup::add_to_linker::<Guest, Sockets>(linker, |guest| guest)
}

impl Guest {
    /// What a resource is, to be used without the table.
    fn resource<T: Any + Clone>(&mut self, named: u32) -> Result<T, ResourceTableError> {
        self.resources().get(&Resource::<T>::new_borrow(named)).cloned()
    }

    /// A resource is dropped.
    fn release<T: Any>(&mut self, named: u32) -> Result<T, ResourceTableError> {
        self.resources().delete(Resource::<T>::new_own(named))
    }
}

/// A resource of the type that the bindings name.
fn renamed<T: 'static>(resource: &Resource<impl Any>) -> Resource<T> {
    Resource::new_own(resource.rep())
}
