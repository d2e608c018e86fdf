//! 0.3's `types`: UDP sockets.

use std::net::SocketAddr;

use wasmtime::component::{Accessor, Resource};
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode as Code;
use wasmtime_wasi::p3::bindings::sockets::types::{self, IpAddressFamily, IpSocketAddress};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};
use wasmtime_wasi::sockets::UdpSocket;

use super::address::{as_03, family_03};
use super::code::code_03;
use super::udp::Udp;
use super::{Sockets, renamed};
use crate::guest::Guest;
use crate::net::Interest;

fn udp(guest: &mut Guest, socket: &Resource<UdpSocket>) -> SocketResult<Udp> {
    guest.resource(socket.rep()).map_err(SocketError::trap)
}

fn told<T>(outcome: Result<T, Code>) -> SocketResult<T> {
    outcome.map_err(|code| code_03(code).into())
}

impl<T: Send + 'static> types::HostUdpSocketWithStore<T> for Sockets {
    async fn send(
        store: &Accessor<T, Self>, socket: Resource<UdpSocket>, data: Vec<u8>, to: Option<IpSocketAddress>,
    ) -> SocketResult<()> {
        let to = to.map(SocketAddr::from);
        let udp = store.with(|mut view| udp(view.get(), &socket))?;
        let _turn = udp.sending.lock().await;
        loop {
            match store.with(|mut view| udp.send(view.get(), &data, to)) {
                Err(Code::WouldBlock) => udp.wait_for(Interest::Write).await,
                outcome => return told(outcome),
            }
        }
    }

    async fn receive(
        store: &Accessor<T, Self>, socket: Resource<UdpSocket>,
    ) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
        let udp = store.with(|mut view| udp(view.get(), &socket))?;
        let _turn = udp.receiving.lock().await;
        loop {
            match store.with(|mut view| udp.receive(view.get())) {
                Err(Code::WouldBlock) => udp.wait_for(Interest::Read).await,
                outcome => return told(outcome.map(|(data, from)| (data, from.into()))),
            }
            // Strangers may send without end.
            tokio::task::yield_now().await;
        }
    }
}

impl types::HostUdpSocket for Guest {
    async fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        let udp = told(Udp::open(self, family_03(family)))?;
        Ok(renamed(&self.resources().push(udp).map_err(SocketError::trap)?))
    }

    async fn bind(&mut self, socket: Resource<UdpSocket>, address: IpSocketAddress) -> SocketResult<()> {
        told(udp(self, &socket)?.bind(self, address.into()))
    }

    async fn connect(&mut self, socket: Resource<UdpSocket>, address: IpSocketAddress) -> SocketResult<()> {
        told(udp(self, &socket)?.connect(self, address.into()))
    }

    fn disconnect(&mut self, socket: Resource<UdpSocket>) -> SocketResult<()> {
        told(udp(self, &socket)?.disconnect())
    }

    fn get_local_address(&mut self, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        told(udp(self, &socket)?.local_address().map(IpSocketAddress::from))
    }

    fn get_remote_address(&mut self, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        told(udp(self, &socket)?.remote_address().map(IpSocketAddress::from))
    }

    fn get_address_family(&mut self, socket: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(as_03(udp(self, &socket)?.family()))
    }

    fn get_unicast_hop_limit(&mut self, socket: Resource<UdpSocket>) -> SocketResult<u8> {
        told(udp(self, &socket)?.options().hop_limit())
    }

    fn set_unicast_hop_limit(&mut self, socket: Resource<UdpSocket>, hops: u8) -> SocketResult<()> {
        told(udp(self, &socket)?.options().set_hop_limit(hops))
    }

    fn get_receive_buffer_size(&mut self, socket: Resource<UdpSocket>) -> SocketResult<u64> {
        told(udp(self, &socket)?.options().receive_buffer())
    }

    fn set_receive_buffer_size(&mut self, socket: Resource<UdpSocket>, bytes: u64) -> SocketResult<()> {
        told(udp(self, &socket)?.options().set_receive_buffer(bytes))
    }

    fn get_send_buffer_size(&mut self, socket: Resource<UdpSocket>) -> SocketResult<u64> {
        told(udp(self, &socket)?.options().send_buffer())
    }

    fn set_send_buffer_size(&mut self, socket: Resource<UdpSocket>, bytes: u64) -> SocketResult<()> {
        told(udp(self, &socket)?.options().set_send_buffer(bytes))
    }

    fn drop(&mut self, socket: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.release::<Udp>(socket.rep())?;
        Ok(())
    }
}
