//! 0.3's `types`: TCP sockets, whose connections and bytes are streams that the host makes or takes.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::sync::oneshot;
use wasmtime::component::{
    Access, Accessor, Destination, FutureReader, Resource, Source, StreamConsumer, StreamProducer, StreamReader,
    StreamResult,
};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode as Code;
use wasmtime_wasi::p3::bindings::sockets::types::{self, ErrorCode, IpAddressFamily, IpSocketAddress};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};
use wasmtime_wasi::sockets::TcpSocket;

use super::address::{as_03, family_03};
use super::code::{code_03, stream_code_03};
use super::tcp::{Direction, Tcp};
use super::{Sockets, renamed};
use crate::guest::Guest;
use crate::net::inlet::ACCEPT_PAUSE;
use crate::net::{Interest, ReceiveFlags};

/// Bytes that are received where the guest does not say how many it wants.
const RECEIVE_BYTES: usize = 8 << 10;

type Outcome = Result<(), ErrorCode>;

fn tcp(guest: &mut Guest, socket: &Resource<TcpSocket>) -> SocketResult<Tcp> {
    guest.resource(socket.rep()).map_err(SocketError::trap)
}

fn told<T>(outcome: Result<T, Code>) -> SocketResult<T> {
    outcome.map_err(|code| code_03(code).into())
}

/// The connections of a listener, one after the other.
struct Connections<T> {
    listener: Tcp,
    guest: fn(&mut T) -> &mut Guest,
    /// Until there may be another.
    wait: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<T: 'static> Connections<T> {
    /// Waits for what was not there at the last look.
    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let wait = self.wait.get_or_insert_with(|| Box::pin(self.listener.arrival()));
        ready!(wait.as_mut().poll(context));
        self.wait = None;
        Poll::Ready(())
    }

    fn poll_accept(&mut self, guest: &mut Guest, context: &mut Context<'_>) -> Poll<wasmtime::Result<Tcp>> {
        loop {
            if self.wait.is_some() {
                ready!(self.poll_wait(context));
            }
            match self.listener.accept(guest) {
                Ok(tcp) => return Poll::Ready(Ok(tcp)),
                Err(Code::WouldBlock) => ready!(self.poll_wait(context)),
                // No guest hears of an error here: it is tried again, for others may be closed meanwhile.
                Err(_) => self.wait = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE))),
            }
        }
    }
}

impl<T: 'static> StreamProducer<T> for Connections<T> {
    type Item = Resource<TcpSocket>;
    type Buffer = Option<Self::Item>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, mut store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>, finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let asks_only = destination.remaining(&mut store) == Some(0);
        let guest = (self.guest)(store.data_mut());
        let polled = if asks_only {
            self.poll_wait(context).map(|()| Ok(None))
        } else {
            self.poll_accept(guest, context).map_ok(Some)
        };
        match polled {
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
            Poll::Ready(accepted) => {
                if let Some(tcp) = accepted? {
                    destination.set_buffer(Some(renamed(&guest.resources().push(tcp)?)));
                }
                Poll::Ready(Ok(StreamResult::Completed))
            }
        }
    }
}

/// One of a connection's streams, and who waits for its end.
struct Stream {
    tcp: Tcp,
    direction: Direction,
    end: Option<oneshot::Sender<Outcome>>,
}

impl Stream {
    /// With the future that tells of its end.
    fn new(tcp: Tcp, direction: Direction) -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        (Self { tcp, direction, end: Some(sender) }, receiver)
    }

    /// It has ended, which is told once.
    fn end(&mut self, outcome: Outcome) {
        if let Some(end) = self.end.take() {
            self.tcp.end(self.direction);
            // The guest may not want to know.
            let _ = end.send(outcome);
        }
    }

    /// Does what moves bytes, waiting until it can; ends the stream where it cannot. None: it has ended.
    fn poll_move(
        &mut self, context: &mut Context<'_>, mut attempt: impl FnMut(&Tcp) -> io::Result<usize>,
    ) -> Poll<Option<usize>> {
        let interest = if self.direction == Direction::In { Interest::Read } else { Interest::Write };
        if self.end.is_none() {
            return Poll::Ready(None);
        }
        self.tcp.pace.turn();
        loop {
            match attempt(&self.tcp) {
                Ok(moved) => return Poll::Ready(Some(moved)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // What is wrong with it, the next attempt says.
                    let _ = ready!(self.tcp.endpoint().poll_ready(context, interest));
                }
                Err(error) => {
                    self.end(Err(stream_code_03(error.into())));
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// Whether something would move.
    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let interest = if self.direction == Direction::In { Interest::Read } else { Interest::Write };
        if self.end.is_none() {
            return Poll::Ready(());
        }
        self.tcp.endpoint().poll_ready(context, interest).map(drop)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}

/// What a stream answers when this has come of a poll; it may be told to give up.
fn answer(polled: Poll<StreamResult>, finish: bool) -> Poll<wasmtime::Result<StreamResult>> {
    match polled {
        Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
        polled => polled.map(Ok),
    }
}

impl<T> StreamProducer<T> for Stream {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, mut store: StoreContextMut<'a, T>,
        destination: Destination<'a, Self::Item, Self::Buffer>, finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if destination.remaining(store.as_context_mut()) == Some(0) {
            return answer(self.poll_ready(context).map(|()| StreamResult::Completed), finish);
        }
        let mut destination = destination.as_direct(store, RECEIVE_BYTES);
        let received = self.poll_move(context, |tcp| {
            let received =
                tcp.endpoint().receive(&mut [IoSliceMut::new(destination.remaining())], ReceiveFlags::default())?;
            tcp.socket.traffic.received(received);
            Ok(received)
        });
        let moved = received.map(|received| match received {
            Some(received) if received > 0 => {
                destination.mark_written(received);
                StreamResult::Completed
            }
            _ => {
                self.end(Ok(()));
                StreamResult::Dropped
            }
        });
        answer(moved, finish)
    }
}

impl<T> StreamConsumer<T> for Stream {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, store: StoreContextMut<'_, T>,
        source: Source<'_, Self::Item>, finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        if source.remaining().is_empty() {
            return answer(self.poll_ready(context).map(|()| StreamResult::Completed), finish);
        }
        let sent = self.poll_move(context, |tcp| {
            let outcome = tcp.endpoint().send(&[IoSlice::new(source.remaining())], false);
            match &outcome {
                Ok(_) => tcp.socket.traffic.sent(),
                Err(_) => tcp.socket.traffic.stuck(),
            }
            outcome
        });
        let moved = sent.map(|sent| match sent {
            Some(sent) => {
                source.mark_read(sent);
                StreamResult::Completed
            }
            None => StreamResult::Dropped,
        });
        answer(moved, finish)
    }
}

impl<T: Send + 'static> types::HostTcpSocketWithStore<T> for Sockets {
    async fn connect(
        store: &Accessor<T, Self>, socket: Resource<TcpSocket>, address: IpSocketAddress,
    ) -> SocketResult<()> {
        let tcp = store.with(|mut view| {
            let guest = view.get();
            let tcp = tcp(guest, &socket)?;
            told(tcp.connect(guest, address.into()))?;
            SocketResult::Ok(tcp)
        })?;
        told(poll_fn(|context| tcp.poll_connected(context)).await)
    }

    async fn listen(
        mut store: Access<'_, T, Self>, socket: Resource<TcpSocket>,
    ) -> SocketResult<StreamReader<Resource<TcpSocket>>> {
        let guest = store.get();
        let listener = tcp(guest, &socket)?;
        told(listener.bind_if_unbound(guest))?;
        told(listener.listen(guest))?;
        let connections = Connections { listener, guest: store.getter(), wait: None };
        StreamReader::new(&mut store, connections).map_err(SocketError::trap)
    }

    fn send(
        mut store: Access<'_, T, Self>, socket: Resource<TcpSocket>, mut data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Outcome>> {
        let tcp = tcp(store.get(), &socket)?;
        if let Err(code) = tcp.take(Direction::Out) {
            data.close(&mut store)?;
            return FutureReader::new(&mut store, async move { wasmtime::error::Ok(Err(code_03(code))) });
        }
        let (stream, end) = Stream::new(tcp, Direction::Out);
        data.pipe(&mut store, stream)?;
        FutureReader::new(&mut store, end)
    }

    fn receive(
        mut store: Access<'_, T, Self>, socket: Resource<TcpSocket>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Outcome>)> {
        let tcp = tcp(store.get(), &socket)?;
        if let Err(code) = tcp.take(Direction::In) {
            let end = async move { wasmtime::error::Ok(Err(code_03(code))) };
            return Ok((StreamReader::new(&mut store, iter::empty())?, FutureReader::new(&mut store, end)?));
        }
        let (stream, end) = Stream::new(tcp, Direction::In);
        Ok((StreamReader::new(&mut store, stream)?, FutureReader::new(&mut store, end)?))
    }
}

impl types::Host for Guest {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl types::HostTcpSocket for Guest {
    fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let tcp = told(Tcp::open(self, family_03(family)))?;
        Ok(renamed(&self.resources().push(tcp).map_err(SocketError::trap)?))
    }

    async fn bind(&mut self, socket: Resource<TcpSocket>, address: IpSocketAddress) -> SocketResult<()> {
        told(tcp(self, &socket)?.bind(self, address.into()))
    }

    fn get_local_address(&mut self, socket: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        told(tcp(self, &socket)?.local_address().map(IpSocketAddress::from))
    }

    fn get_remote_address(&mut self, socket: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        told(tcp(self, &socket)?.remote_address().map(IpSocketAddress::from))
    }

    fn get_is_listening(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(tcp(self, &socket)?.is_listening())
    }

    fn get_address_family(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(as_03(tcp(self, &socket)?.family()))
    }

    fn set_listen_backlog_size(&mut self, socket: Resource<TcpSocket>, size: u64) -> SocketResult<()> {
        told(tcp(self, &socket)?.set_backlog(size))
    }

    fn get_keep_alive_enabled(&mut self, socket: Resource<TcpSocket>) -> SocketResult<bool> {
        told(tcp(self, &socket)?.options().and_then(|options| options.keep_alive()))
    }

    fn set_keep_alive_enabled(&mut self, socket: Resource<TcpSocket>, on: bool) -> SocketResult<()> {
        told(tcp(self, &socket)?.options().and_then(|options| options.set_keep_alive(on)))
    }

    fn get_keep_alive_idle_time(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        told(tcp(self, &socket)?.options().and_then(|options| options.keep_alive_idle()))
    }

    fn set_keep_alive_idle_time(&mut self, socket: Resource<TcpSocket>, time: u64) -> SocketResult<()> {
        told(tcp(self, &socket)?.options().and_then(|options| options.set_keep_alive_idle(time)))
    }

    fn get_keep_alive_interval(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        told(tcp(self, &socket)?.options().and_then(|options| options.keep_alive_interval()))
    }

    fn set_keep_alive_interval(&mut self, socket: Resource<TcpSocket>, time: u64) -> SocketResult<()> {
        told(tcp(self, &socket)?.options().and_then(|options| options.set_keep_alive_interval(time)))
    }

    fn get_keep_alive_count(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u32> {
        told(tcp(self, &socket)?.options().and_then(|options| options.keep_alive_count()))
    }

    fn set_keep_alive_count(&mut self, socket: Resource<TcpSocket>, count: u32) -> SocketResult<()> {
        told(tcp(self, &socket)?.options().and_then(|options| options.set_keep_alive_count(count)))
    }

    fn get_hop_limit(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u8> {
        told(tcp(self, &socket)?.options().and_then(|options| options.hop_limit()))
    }

    fn set_hop_limit(&mut self, socket: Resource<TcpSocket>, hops: u8) -> SocketResult<()> {
        told(tcp(self, &socket)?.options().and_then(|options| options.set_hop_limit(hops)))
    }

    fn get_receive_buffer_size(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        told(tcp(self, &socket)?.options().and_then(|options| options.receive_buffer()))
    }

    fn set_receive_buffer_size(&mut self, socket: Resource<TcpSocket>, bytes: u64) -> SocketResult<()> {
        told(tcp(self, &socket)?.options().and_then(|options| options.set_receive_buffer(bytes)))
    }

    fn get_send_buffer_size(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        told(tcp(self, &socket)?.options().and_then(|options| options.send_buffer()))
    }

    fn set_send_buffer_size(&mut self, socket: Resource<TcpSocket>, bytes: u64) -> SocketResult<()> {
        told(tcp(self, &socket)?.options().and_then(|options| options.set_send_buffer(bytes)))
    }

    fn drop(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.release::<Tcp>(socket.rep())?;
        Ok(())
    }
}
