//! 0.2's `udp` and `udp-create-socket`.

use std::net::SocketAddr;

use wasmtime::component::{Resource, ResourceTableError};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    self, IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket;
use wasmtime_wasi::p2::{DynPollable, Network, Pollable, SocketError, SocketResult, UdpSocket, subscribe};
use wasmtime_wasi_io::async_trait;

use super::address::{as_02, family_02};
use super::renamed;
use super::udp::Udp;
use crate::guest::Guest;
use crate::net::Interest;

/// Datagrams of one call, and bytes of them together after which no other is received.
const DATAGRAMS: usize = 16;
const DATAGRAMS_BYTES: usize = 64 << 10;

/// What comes in. Of another peer than the stream was made for, nothing.
#[derive(Clone)]
struct Incoming(Udp);

/// What goes out.
#[derive(Clone)]
struct Outgoing {
    udp: Udp,
    /// How many the guest may send, since it has asked.
    permit: usize,
}

#[async_trait]
impl Pollable for Udp {
    /// Nothing that a socket does by itself takes time.
    async fn ready(&mut self) {}
}

#[async_trait]
impl Pollable for Incoming {
    async fn ready(&mut self) {
        self.0.wait_for(Interest::Read).await;
    }
}

#[async_trait]
impl Pollable for Outgoing {
    async fn ready(&mut self) {
        self.udp.wait_for(Interest::Write).await;
    }
}

impl Guest {
    fn udp(&mut self, socket: &Resource<UdpSocket>) -> Result<Udp, ResourceTableError> {
        self.resource(socket.rep())
    }

    fn outgoing(&mut self, stream: &Resource<OutgoingDatagramStream>) -> Result<&mut Outgoing, ResourceTableError> {
        self.resources().get_mut(&Resource::new_borrow(stream.rep()))
    }

    /// Whether streams of a socket are left.
    fn has_streams(&mut self, socket: &Resource<UdpSocket>) -> Result<bool, ResourceTableError> {
        let mut children = self.resources().iter_children(&Resource::<Udp>::new_borrow(socket.rep()))?;
        Ok(children.any(|child| child.is::<Incoming>() || child.is::<Outgoing>()))
    }
}

impl udp_create_socket::Host for Guest {
    async fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        let udp = Udp::open(self, family_02(family))?;
        Ok(renamed(&self.resources().push(udp)?))
    }
}

impl udp::Host for Guest {}

impl udp::HostUdpSocket for Guest {
    async fn start_bind(
        &mut self, socket: Resource<UdpSocket>, network: Resource<Network>, address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.must_have(&network)?;
        Ok(self.udp(&socket)?.start_bind(self, address.into())?)
    }

    fn finish_bind(&mut self, socket: Resource<UdpSocket>) -> SocketResult<()> {
        Ok(self.udp(&socket)?.finish_bind()?)
    }

    async fn stream(
        &mut self, socket: Resource<UdpSocket>, peer: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>)> {
        let udp = self.udp(&socket)?;
        if self.has_streams(&socket)? {
            return Err(SocketError::trap(wasmtime::Error::msg("the socket's earlier streams are not dropped yet")));
        }
        if !udp.is_bound() {
            return Err(ErrorCode::InvalidState.into());
        }
        match peer {
            Some(peer) => udp.connect(self, peer.into())?,
            None if udp.peer().is_some() => udp.disconnect()?,
            None => {}
        }
        let socket = Resource::<Udp>::new_borrow(socket.rep());
        let incoming = self.resources().push_child(Incoming(udp.clone()), &socket)?;
        let outgoing = self.resources().push_child(Outgoing { udp, permit: 0 }, &socket)?;
        Ok((renamed(&incoming), renamed(&outgoing)))
    }

    fn local_address(&mut self, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp(&socket)?.local_address()?.into())
    }

    fn remote_address(&mut self, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp(&socket)?.remote_address()?.into())
    }

    fn address_family(&mut self, socket: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(as_02(self.udp(&socket)?.family()))
    }

    fn unicast_hop_limit(&mut self, socket: Resource<UdpSocket>) -> SocketResult<u8> {
        Ok(self.udp(&socket)?.options().hop_limit()?)
    }

    fn set_unicast_hop_limit(&mut self, socket: Resource<UdpSocket>, hops: u8) -> SocketResult<()> {
        Ok(self.udp(&socket)?.options().set_hop_limit(hops)?)
    }

    fn receive_buffer_size(&mut self, socket: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&socket)?.options().receive_buffer()?)
    }

    fn set_receive_buffer_size(&mut self, socket: Resource<UdpSocket>, bytes: u64) -> SocketResult<()> {
        Ok(self.udp(&socket)?.options().set_receive_buffer(bytes)?)
    }

    fn send_buffer_size(&mut self, socket: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&socket)?.options().send_buffer()?)
    }

    fn set_send_buffer_size(&mut self, socket: Resource<UdpSocket>, bytes: u64) -> SocketResult<()> {
        Ok(self.udp(&socket)?.options().set_send_buffer(bytes)?)
    }

    fn subscribe(&mut self, socket: Resource<UdpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.resources(), Resource::<Udp>::new_borrow(socket.rep()))
    }

    fn drop(&mut self, socket: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.release::<Udp>(socket.rep())?;
        Ok(())
    }
}

impl udp::HostIncomingDatagramStream for Guest {
    fn receive(&mut self, stream: Resource<IncomingDatagramStream>, most: u64) -> SocketResult<Vec<IncomingDatagram>> {
        let Incoming(udp) = self.resource(stream.rep())?;
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(DATAGRAMS);
        let (mut datagrams, mut bytes) = (Vec::new(), 0);
        while datagrams.len() < most && bytes < DATAGRAMS_BYTES {
            match udp.receive(self) {
                Ok((data, from)) => {
                    bytes += data.len();
                    datagrams.push(IncomingDatagram { data, remote_address: from.into() });
                }
                Err(code) if code != ErrorCode::WouldBlock && datagrams.is_empty() => return Err(code.into()),
                Err(_) => break,
            }
        }
        Ok(datagrams)
    }

    fn subscribe(&mut self, stream: Resource<IncomingDatagramStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.resources(), Resource::<Incoming>::new_borrow(stream.rep()))
    }

    fn drop(&mut self, stream: Resource<IncomingDatagramStream>) -> wasmtime::Result<()> {
        self.release::<Incoming>(stream.rep())?;
        Ok(())
    }
}

impl udp::HostOutgoingDatagramStream for Guest {
    /// There is room for some, as far as is known; [`udp::HostOutgoingDatagramStream::send`] says how many went.
    fn check_send(&mut self, stream: Resource<OutgoingDatagramStream>) -> SocketResult<u64> {
        self.outgoing(&stream)?.permit = DATAGRAMS;
        Ok(DATAGRAMS as u64)
    }

    fn send(
        &mut self, stream: Resource<OutgoingDatagramStream>, datagrams: Vec<OutgoingDatagram>,
    ) -> SocketResult<u64> {
        let outgoing = self.outgoing(&stream)?;
        if datagrams.len() > std::mem::take(&mut outgoing.permit) {
            return Err(SocketError::trap(wasmtime::Error::msg("more datagrams were sent than was permitted")));
        }
        let udp = outgoing.udp.clone();
        let mut sent = 0;
        for OutgoingDatagram { data, remote_address } in datagrams {
            match udp.send(self, &data, remote_address.map(SocketAddr::from)) {
                Ok(()) => sent += 1,
                Err(code) if code != ErrorCode::WouldBlock && sent == 0 => return Err(code.into()),
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    fn subscribe(&mut self, stream: Resource<OutgoingDatagramStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.resources(), Resource::<Outgoing>::new_borrow(stream.rep()))
    }

    async fn drop(&mut self, stream: Resource<OutgoingDatagramStream>) -> wasmtime::Result<()> {
        self.release::<Outgoing>(stream.rep())?;
        Ok(())
    }
}
