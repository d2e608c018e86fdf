//! Bytes of connections: receiving, sending, and the end of a direction.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Guest;
use crate::descriptor::{Socket, SocketKind};
use crate::errno::Errno;
use crate::memory::{Buffers, Failure, Memory};
use crate::net::{Interest, ReceiveFlags, Shutdown};
use crate::readiness;

impl Guest {
    /// Receives into the buffers; 0 is the end of the stream. Waits if the socket blocks.
    pub(crate) async fn receive(
        &mut self, socket: &Socket, memory: &mut Memory<'_>, mut buffers: Buffers, flags: ReceiveFlags,
    ) -> Result<usize, Failure> {
        if matches!(socket.kind, SocketKind::Udp(_)) {
            return Ok(self.receive_datagram(socket, memory, &buffers, flags).await?.length);
        }
        let mut total = 0;
        socket.used(Interest::Read);
        self.busy.turn();
        if buffers.is_empty() {
            return Ok(0);
        }
        loop {
            let endpoint = socket.stream()?;
            let received = memory.scatter(&buffers, |slices| endpoint.receive(slices, flags))?;
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if socket.is_nonblocking() || flags.dont_wait {
                        return if total > 0 { Ok(total) } else { Err(Errno::Again.into()) };
                    }
                    match self.waits(readiness::ready(&endpoint, Interest::Read, socket.receive_timeout())).await {
                        Err(_) if total > 0 => return Ok(total),
                        outcome => outcome?,
                    }
                }
                Err(_) if total > 0 => return Ok(total),
                Err(error) => return Err(error.into()),
                Ok(received) => {
                    total += received;
                    socket.traffic.received(received);
                    let full = buffers.advance(received);
                    if received == 0 || full || !flags.wait_all || flags.peek {
                        return Ok(total);
                    }
                }
            }
        }
    }

    /// Sends the buffers: all of them if the socket blocks, else what goes at once.
    pub(crate) async fn send(
        &mut self, socket: &Arc<Socket>, memory: &Memory<'_>, mut buffers: Buffers, dont_wait: bool,
    ) -> Result<usize, Failure> {
        let nonblocking = socket.is_nonblocking() || dont_wait;
        let mut total = 0;
        socket.used(Interest::Write);
        self.busy.turn();
        let endpoint = socket.stream()?;
        if buffers.is_empty() {
            return Ok(0);
        }
        let held = self.sending.holds(socket);
        let more = self.sending.send(socket);
        loop {
            let sent = memory.gather(&buffers, |slices| endpoint.send(slices, more))?;
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.touched(Interest::Write);
                    if held {
                        // What was held back for this send does not wait with it.
                        endpoint.push();
                    }
                    socket.traffic.stuck();
                    if nonblocking {
                        return if total > 0 { Ok(total) } else { Err(Errno::Again.into()) };
                    }
                    match self.waits(readiness::ready(&endpoint, Interest::Write, socket.send_timeout())).await {
                        Err(_) if total > 0 => return Ok(total),
                        outcome => outcome?,
                    }
                }
                Err(_) if total > 0 => return Ok(total),
                Err(error) => return Err(error.into()),
                Ok(sent) => {
                    total += sent;
                    let all = buffers.advance(sent);
                    socket.traffic.sent();
                    if !all {
                        socket.touched(Interest::Write);
                        socket.traffic.stuck();
                    }
                    if all || nonblocking {
                        return Ok(total);
                    }
                }
            }
        }
    }

    pub(crate) fn shutdown(&mut self, fd: u32, how: Shutdown) -> Result<(), Errno> {
        let socket = self.descriptors.socket(fd)?;
        let endpoint = socket.tcp()?.stream()?;
        if how == Shutdown::Read {
            self.sending.end();
        } else {
            self.sending.shut(&socket);
        }
        let outcome = endpoint.shutdown(how).map_err(Errno::from);
        socket.changed();
        let first = !socket.was_shut_down.swap(true, Ordering::Relaxed);
        match outcome {
            // The peer has reset the connection: it is shut down already. Servers built with
            // wasmedge_wasi_socket 0.4 end themselves on an error here, so on every port scan.
            Err(Errno::NotConnected) if first => Ok(()),
            outcome => outcome,
        }
    }
}
