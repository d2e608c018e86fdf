//! A UDP socket: bound or not, perhaps with a peer to send to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Endpoint, Network};
use crate::address::{Family, Transport};
use crate::errno::Errno;

#[derive(Debug)]
pub(crate) struct Udp {
    pub(crate) family: Family,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: Arc<Endpoint>,
    /// The address the guest bound, as it sees it.
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

impl Udp {
    pub(crate) fn open(network: &Network, family: Family) -> Result<Self, Errno> {
        let endpoint = Arc::new(network.open(family, Transport::Udp)?);
        Ok(Self { family, inner: Mutex::new(Inner { endpoint, local: None, peer: None }) })
    }

    pub(crate) fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.lock().endpoint)
    }

    pub(crate) fn bind(&self, to: SocketAddr) -> Result<(), Errno> {
        let mut inner = self.lock();
        inner.must_be_unbound()?;
        inner.endpoint.bind(to)?;
        inner.local = Some(inner.endpoint.local_address()?);
        Ok(())
    }

    /// Takes a socket that is bound on the host already; the guest sees it as bound to `local`.
    pub(crate) fn adopt(&self, bound: Endpoint, local: SocketAddr) -> Result<(), Errno> {
        let mut inner = self.lock();
        inner.must_be_unbound()?;
        inner.local = Some(if local.port() == 0 { bound.local_address()? } else { local });
        inner.endpoint = Arc::new(bound);
        Ok(())
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> Result<(), Errno> {
        let mut inner = self.lock();
        inner.endpoint.connect(to)?;
        inner.peer = Some(to);
        Ok(())
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, Errno> {
        let inner = self.lock();
        match inner.local {
            Some(local) => Ok(local),
            None => Ok(inner.endpoint.local_address()?),
        }
    }

    pub(crate) fn peer_address(&self) -> Result<SocketAddr, Errno> {
        self.lock().peer.ok_or(Errno::NotConnected)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while held")
    }
}

impl Inner {
    fn must_be_unbound(&self) -> Result<(), Errno> {
        if self.local.is_none() { Ok(()) } else { Err(Errno::Invalid) }
    }
}
