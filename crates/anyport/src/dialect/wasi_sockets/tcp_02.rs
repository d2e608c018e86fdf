//! 0.2's `tcp` and `tcp-create-socket`.

use std::task::{Context, Waker};

use wasmtime::component::{Resource, ResourceTableError};
use wasmtime_wasi::p2::bindings::sockets::network::{IpAddressFamily, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::tcp::{self, ShutdownType};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, Network, Pollable, SocketResult, TcpSocket, subscribe,
};
use wasmtime_wasi_io::async_trait;

use super::address::{as_02, family_02};
use super::connection::{Reader, Writer};
use super::renamed;
use super::tcp::{Direction, Step, Tcp};
use crate::guest::Guest;

type Streams = (Resource<DynInputStream>, Resource<DynOutputStream>);

impl Guest {
    fn tcp(&mut self, socket: &Resource<TcpSocket>) -> Result<Tcp, ResourceTableError> {
        self.resource(socket.rep())
    }

    /// The streams of a connection, which must be dropped before it.
    fn streams(&mut self, tcp: &Tcp, socket: &Resource<impl Send + 'static>) -> SocketResult<Streams> {
        let socket = Resource::<Tcp>::new_borrow(socket.rep());
        let input: DynInputStream = Box::new(Reader(tcp.clone()));
        let output: DynOutputStream = Box::new(Writer::new(tcp.clone()));
        let table = self.resources();
        Ok((table.push_child(input, &socket)?, table.push_child(output, &socket)?))
    }
}

#[async_trait]
impl Pollable for Tcp {
    async fn ready(&mut self) {
        // Not the method of this trait.
        (**self).ready().await;
    }
}

impl tcp_create_socket::Host for Guest {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let tcp = Tcp::open(self, family_02(family))?;
        Ok(renamed(&self.resources().push(tcp)?))
    }
}

impl tcp::Host for Guest {}

impl tcp::HostTcpSocket for Guest {
    async fn start_bind(
        &mut self, socket: Resource<TcpSocket>, network: Resource<Network>, address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.must_have(&network)?;
        let tcp = self.tcp(&socket)?;
        Ok(tcp.start(Step::Bind, || tcp.bind(self, address.into()))?)
    }

    fn finish_bind(&mut self, socket: Resource<TcpSocket>) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.finish(Step::Bind, &mut Context::from_waker(Waker::noop()))?)
    }

    fn start_connect(
        &mut self, socket: Resource<TcpSocket>, network: Resource<Network>, address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.must_have(&network)?;
        let tcp = self.tcp(&socket)?;
        Ok(tcp.start(Step::Connect, || tcp.connect(self, address.into()))?)
    }

    fn finish_connect(&mut self, socket: Resource<TcpSocket>) -> SocketResult<Streams> {
        let tcp = self.tcp(&socket)?;
        tcp.finish(Step::Connect, &mut Context::from_waker(Waker::noop()))?;
        self.streams(&tcp, &socket)
    }

    async fn start_listen(&mut self, socket: Resource<TcpSocket>) -> SocketResult<()> {
        let tcp = self.tcp(&socket)?;
        Ok(tcp.start(Step::Listen, || tcp.listen(self))?)
    }

    fn finish_listen(&mut self, socket: Resource<TcpSocket>) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.finish(Step::Listen, &mut Context::from_waker(Waker::noop()))?)
    }

    fn accept(
        &mut self, socket: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let accepted = self.tcp(&socket)?.accept(self)?;
        let connection = self.resources().push(accepted.clone())?;
        let (input, output) = self.streams(&accepted, &connection)?;
        Ok((renamed(&connection), input, output))
    }

    fn local_address(&mut self, socket: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&socket)?.local_address()?.into())
    }

    fn remote_address(&mut self, socket: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&socket)?.remote_address()?.into())
    }

    fn is_listening(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(self.tcp(&socket)?.is_listening())
    }

    fn address_family(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(as_02(self.tcp(&socket)?.family()))
    }

    fn set_listen_backlog_size(&mut self, socket: Resource<TcpSocket>, size: u64) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.set_backlog(size)?)
    }

    fn keep_alive_enabled(&mut self, socket: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.tcp(&socket)?.options()?.keep_alive()?)
    }

    fn set_keep_alive_enabled(&mut self, socket: Resource<TcpSocket>, on: bool) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.options()?.set_keep_alive(on)?)
    }

    fn keep_alive_idle_time(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options()?.keep_alive_idle()?)
    }

    fn set_keep_alive_idle_time(&mut self, socket: Resource<TcpSocket>, time: u64) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.options()?.set_keep_alive_idle(time)?)
    }

    fn keep_alive_interval(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options()?.keep_alive_interval()?)
    }

    fn set_keep_alive_interval(&mut self, socket: Resource<TcpSocket>, time: u64) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.options()?.set_keep_alive_interval(time)?)
    }

    fn keep_alive_count(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u32> {
        Ok(self.tcp(&socket)?.options()?.keep_alive_count()?)
    }

    fn set_keep_alive_count(&mut self, socket: Resource<TcpSocket>, count: u32) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.options()?.set_keep_alive_count(count)?)
    }

    fn hop_limit(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u8> {
        Ok(self.tcp(&socket)?.options()?.hop_limit()?)
    }

    fn set_hop_limit(&mut self, socket: Resource<TcpSocket>, hops: u8) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.options()?.set_hop_limit(hops)?)
    }

    fn receive_buffer_size(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options()?.receive_buffer()?)
    }

    fn set_receive_buffer_size(&mut self, socket: Resource<TcpSocket>, bytes: u64) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.options()?.set_receive_buffer(bytes)?)
    }

    fn send_buffer_size(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options()?.send_buffer()?)
    }

    fn set_send_buffer_size(&mut self, socket: Resource<TcpSocket>, bytes: u64) -> SocketResult<()> {
        Ok(self.tcp(&socket)?.options()?.set_send_buffer(bytes)?)
    }

    fn subscribe(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.resources(), Resource::<Tcp>::new_borrow(socket.rep()))
    }

    fn shutdown(&mut self, socket: Resource<TcpSocket>, how: ShutdownType) -> SocketResult<()> {
        let tcp = self.tcp(&socket)?;
        if matches!(how, ShutdownType::Receive | ShutdownType::Both) {
            tcp.shut(Direction::In)?;
            tcp.end(Direction::In);
        }
        if matches!(how, ShutdownType::Send | ShutdownType::Both) {
            tcp.shut(Direction::Out)?;
            tcp.end_output();
        }
        Ok(())
    }

    fn drop(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.release::<Tcp>(socket.rep())?;
        Ok(())
    }
}
