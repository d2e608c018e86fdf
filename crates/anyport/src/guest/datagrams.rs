//! The verbs of datagrams: from whom a guest may hear, and to whom it may send.

use std::net::SocketAddr;

use super::{Failure, Guest};
use crate::address::Family;
use crate::descriptor::{Socket, SocketKind};
use crate::errno::Errno;
use crate::memory::{Buffers, Memory};
use crate::net::{Datagram, Interest, ReceiveFlags};
use crate::readiness;

impl Guest {
    /// Whether a socket may receive from this address: a published port from anybody, another
    /// only from whom it may send to.
    fn may_hear(&self, socket: &Socket, from: SocketAddr) -> bool {
        match &socket.kind {
            SocketKind::Udp(udp) => udp.remember(from) || self.gate.reaches(from),
            SocketKind::Tcp(_) => true,
        }
    }

    /// Receives one datagram into a buffer of the host's.
    async fn receive_from(
        &mut self, socket: &Socket, buffer: &mut [u8], flags: ReceiveFlags,
    ) -> Result<Datagram, Errno> {
        loop {
            match self.try_receive_from(socket, buffer, flags) {
                Err(Errno::Again) if !socket.is_nonblocking() && !flags.dont_wait => {
                    let endpoint = socket.stream()?;
                    self.waits(readiness::ready(&endpoint, Interest::Read, socket.receive_timeout())).await?;
                }
                // Strangers may send without end.
                Ok(None) => tokio::task::yield_now().await,
                Ok(Some(datagram)) => return Ok(datagram),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Receives one datagram that is there already; none if it was a stranger's.
    pub(crate) fn try_receive_from(
        &mut self, socket: &Socket, buffer: &mut [u8], flags: ReceiveFlags,
    ) -> Result<Option<Datagram>, Errno> {
        socket.used(Interest::Read);
        self.busy.turn();
        let endpoint = socket.stream()?;
        let datagram = endpoint.receive_from(buffer, flags)?;
        if self.may_hear(socket, datagram.from) {
            return Ok(Some(datagram));
        }
        if flags.peek {
            // Takes it away, so that the next look finds another.
            let _ = endpoint.receive_from(&mut [], ReceiveFlags::default());
        }
        Ok(None)
    }

    /// Receives one datagram into the guest's buffers.
    pub(crate) async fn receive_datagram(
        &mut self, socket: &Socket, memory: &mut Memory<'_>, buffers: &Buffers, flags: ReceiveFlags,
    ) -> Result<Datagram, Failure> {
        let mut bytes = vec![0; buffers.total()];
        let datagram = self.receive_from(socket, &mut bytes, flags).await?;
        memory.fill(buffers, &bytes[..datagram.length])?;
        Ok(datagram)
    }

    /// Sends one datagram; waits if the socket blocks.
    pub(crate) async fn send_to(&mut self, socket: &Socket, bytes: &[u8], to: SocketAddr) -> Result<usize, Errno> {
        loop {
            match self.try_send_to(socket, bytes, to) {
                Err(Errno::Again) if !socket.is_nonblocking() => {
                    let endpoint = socket.stream()?;
                    self.waits(readiness::ready(&endpoint, Interest::Write, socket.send_timeout())).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends one datagram if there is room for it.
    pub(crate) fn try_send_to(&mut self, socket: &Socket, bytes: &[u8], to: SocketAddr) -> Result<usize, Errno> {
        if Family::of(&to) != socket.family() {
            return Err(Errno::AddressFamilyNotSupported);
        }
        self.may_reach(socket, to)?;
        socket.used(Interest::Write);
        self.busy.turn();
        let sent = socket.stream()?.send_to(bytes, to);
        if sent.is_err() {
            socket.touched(Interest::Write);
        }
        Ok(sent?)
    }
}
