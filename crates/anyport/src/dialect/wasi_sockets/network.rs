//! 0.2's `network` and `instance-network`: a handle that says that there is one, and the errors of streams.

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::{instance_network, network};
use wasmtime_wasi::p2::{Network, SocketError, SocketResult};

use super::code::code;
use super::renamed;
use crate::errno::Errno;
use crate::guest::Guest;

/// What it allows is the guest's policy, whoever holds it.
#[derive(Clone)]
struct Handle;

impl Guest {
    /// A guest that uses the network must have been given it.
    pub(super) fn must_have(&mut self, network: &Resource<Network>) -> SocketResult<()> {
        self.resource::<Handle>(network.rep())?;
        Ok(())
    }
}

impl instance_network::Host for Guest {
    fn instance_network(&mut self) -> wasmtime::Result<Resource<Network>> {
        Ok(renamed(&self.resources().push(Handle)?))
    }
}

impl network::HostNetwork for Guest {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.release::<Handle>(network.rep())?;
        Ok(())
    }
}

impl network::Host for Guest {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<network::ErrorCode> {
        error.downcast()
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<network::ErrorCode>> {
        let error = self.resources().get(&error)?;
        Ok(error.downcast_ref::<Errno>().map(|errno| code(*errno)))
    }
}
