//! Published ports: reserved on the host before the guest starts, claimed when it binds them.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use super::{Endpoint, Network, SocketOption};
use crate::address::{Family, Publish, Transport};

/// The published ports of one guest, in the order of its policy.
#[derive(Debug)]
pub(crate) struct Published {
    network: Network,
    ports: Vec<Port>,
}

#[derive(Debug)]
struct Port {
    publish: Publish,
    /// Bound, not yet listening: clients are refused until the guest listens, as with any server.
    reserved: Mutex<Option<Endpoint>>,
    /// The address on the host, port 0 resolved.
    address: SocketAddr,
}

impl Published {
    /// Binds every port, so that a taken one is known before the guest starts.
    ///
    /// # Errors
    /// The first port that cannot be had, and why.
    pub(crate) fn reserve(network: Network, publish: &[Publish]) -> Result<Self, (Publish, io::Error)> {
        let ports = publish.iter().map(|&publish| {
            let endpoint = bind(&network, publish.host, publish.transport).map_err(|error| (publish, error))?;
            let address = endpoint.local_address().map_err(|error| (publish, error))?;
            Ok(Port { publish, reserved: Mutex::new(Some(endpoint)), address })
        });
        Ok(Self { ports: ports.collect::<Result<_, _>>()?, network })
    }

    /// The socket for a port that the guest binds; bound anew where it had it before.
    pub(crate) fn claim(&self, index: usize) -> io::Result<Endpoint> {
        let port = &self.ports[index];
        match port.reserved.lock().expect("no panic while held").take() {
            Some(endpoint) => Ok(endpoint),
            None => bind(&self.network, port.address, port.publish.transport),
        }
    }

    /// The IP version that a port is published on.
    pub(crate) fn family(&self, index: usize) -> Family {
        Family::of(&self.ports[index].address)
    }

    /// Each port with its address on the host.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (Publish, SocketAddr)> + '_ {
        self.ports.iter().map(|port| (port.publish, port.address))
    }
}

fn bind(network: &Network, address: SocketAddr, transport: Transport) -> io::Result<Endpoint> {
    let endpoint = network.open(Family::of(&address), transport)?;
    if transport == Transport::Tcp {
        // A restarted server must get its port back from connections in TIME_WAIT.
        endpoint.set_option(SocketOption::ReuseAddress(true))?;
    }
    endpoint.bind(address)?;
    Ok(endpoint)
}
