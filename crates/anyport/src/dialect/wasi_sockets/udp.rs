//! A UDP socket as WASI has it: what is allowed before it is bound, and who it hears.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};

use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

use super::address::{is_local_udp, is_remote_udp, named};
use super::code::code;
use super::option::Options;
use crate::address::{Family, Transport};
use crate::busy::Pace;
use crate::descriptor::{Opened, Socket};
use crate::errno::Errno;
use crate::guest::Guest;
use crate::net::udp::Udp as State;
use crate::net::{Interest, ReceiveFlags};

/// The most that a datagram may have, as its length is written in two bytes.
const DATAGRAM_BYTES: usize = u16::MAX as usize;

/// Datagrams of strangers that are passed over in one call.
const STRANGERS: usize = 16;

/// What the table has for a socket. Streams share it, and the last that lets go closes it.
#[derive(Clone)]
pub(super) struct Udp(Arc<UdpSocket>);

impl Deref for Udp {
    type Target = UdpSocket;

    fn deref(&self) -> &UdpSocket {
        &self.0
    }
}

pub(super) struct UdpSocket {
    /// Before its place in the guest's table, so that it is closed when that is free.
    socket: Arc<Socket>,
    opened: Opened,
    pace: Arc<Pace>,
    stage: Mutex<Stage>,
    /// Where datagrams arrive.
    buffer: Mutex<Vec<u8>>,
    /// The turns of 0.3's calls that wait, of which each direction wakes one.
    pub(super) receiving: tokio::sync::Mutex<()>,
    pub(super) sending: tokio::sync::Mutex<()>,
}

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unbound,
    /// Bound, which 0.2 is yet to be told.
    Binding,
    Bound,
}

impl Udp {
    pub(super) fn open(guest: &Guest, family: Family) -> Result<Self, ErrorCode> {
        let opened = guest.open(family, Transport::Udp).map_err(code)?;
        let socket = opened.socket().map_err(code)?;
        socket.set_nonblocking(true);
        Ok(Self(Arc::new(UdpSocket {
            socket,
            opened,
            pace: guest.busy.pace(),
            stage: Mutex::new(Stage::Unbound),
            buffer: Mutex::default(),
            receiving: tokio::sync::Mutex::default(),
            sending: tokio::sync::Mutex::default(),
        })))
    }
}

impl UdpSocket {
    pub(super) fn bind(&self, guest: &mut Guest, address: SocketAddr) -> Result<(), ErrorCode> {
        if self.is_bound() {
            return Err(ErrorCode::InvalidState);
        }
        if !is_local_udp(address, self.family()) {
            return Err(ErrorCode::InvalidArgument);
        }
        guest.bind(self.opened.fd(), address).map_err(code)?;
        *self.lock() = Stage::Bound;
        Ok(())
    }

    /// As 0.2 has it: it is to be finished.
    pub(super) fn start_bind(&self, guest: &mut Guest, address: SocketAddr) -> Result<(), ErrorCode> {
        if *self.lock() == Stage::Binding {
            return Err(ErrorCode::ConcurrencyConflict);
        }
        self.bind(guest, address)?;
        *self.lock() = Stage::Binding;
        Ok(())
    }

    pub(super) fn finish_bind(&self) -> Result<(), ErrorCode> {
        let mut stage = self.lock();
        if *stage != Stage::Binding {
            return Err(ErrorCode::NotInProgress);
        }
        *stage = Stage::Bound;
        Ok(())
    }

    pub(super) fn is_bound(&self) -> bool {
        *self.lock() != Stage::Unbound
    }

    /// Has one peer from now on.
    pub(super) fn connect(&self, guest: &mut Guest, to: SocketAddr) -> Result<(), ErrorCode> {
        if !is_remote_udp(to, self.family()) {
            return Err(ErrorCode::InvalidArgument);
        }
        if self.peer().is_some() {
            // Linux keeps the address that the socket has for the old one.
            self.disconnect()?;
        }
        guest.begin_connect(&self.socket, to).map_err(code)?;
        self.bound_by_the_host();
        Ok(())
    }

    pub(super) fn disconnect(&self) -> Result<(), ErrorCode> {
        self.remote_address()?;
        self.state().and_then(State::disconnect).map_err(code)
    }

    /// Sends a datagram, if there is room for it: to its peer, if nobody is named.
    pub(super) fn send(&self, guest: &mut Guest, data: &[u8], to: Option<SocketAddr>) -> Result<(), ErrorCode> {
        if data.len() > DATAGRAM_BYTES {
            return Err(ErrorCode::DatagramTooLarge);
        }
        let to = match (to, self.peer()) {
            (Some(to), Some(peer)) if to != peer => return Err(ErrorCode::InvalidArgument),
            (to, peer) => to.or(peer).ok_or(ErrorCode::InvalidArgument)?,
        };
        // Who has asked is answered, by whatever name it came.
        let has_asked = self.state().is_ok_and(|state| state.was_asked_by(to));
        if !has_asked && !is_remote_udp(to, self.family()) {
            return Err(ErrorCode::InvalidArgument);
        }
        guest.try_send_to(&self.socket, data, to).map_err(code)?;
        self.bound_by_the_host();
        Ok(())
    }

    /// The next datagram that the guest may have, if there is one.
    pub(super) fn receive(&self, guest: &mut Guest) -> Result<(Vec<u8>, SocketAddr), ErrorCode> {
        if !self.is_bound() {
            return Err(ErrorCode::InvalidState);
        }
        let peer = self.peer();
        let mut buffer = self.buffer.lock().expect("no panic while held");
        buffer.resize(DATAGRAM_BYTES, 0);
        for _ in 0..STRANGERS {
            let received = guest.try_receive_from(&self.socket, &mut buffer, ReceiveFlags::default()).map_err(code)?;
            let Some(datagram) = received else { continue };
            let from = named(datagram.from, self.family());
            // Linux looks who sent a datagram when it comes, and not when it is received.
            if peer.is_none_or(|peer| peer == from) {
                return Ok((buffer[..datagram.length].to_vec(), from));
            }
        }
        Err(ErrorCode::WouldBlock)
    }

    /// Waits until there is something to receive, or room to send.
    pub(super) async fn wait_for(&self, interest: Interest) {
        self.pace.turn();
        let endpoint = self.socket.endpoint();
        // What is wrong, the next call says.
        let _ = poll_fn(|context| endpoint.poll_ready(context, interest)).await;
    }

    pub(super) fn local_address(&self) -> Result<SocketAddr, ErrorCode> {
        if !self.is_bound() {
            return Err(ErrorCode::InvalidState);
        }
        self.socket.local_address().map(|address| named(address, self.family())).map_err(code)
    }

    pub(super) fn remote_address(&self) -> Result<SocketAddr, ErrorCode> {
        self.peer().ok_or(ErrorCode::InvalidState)
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_address().ok()
    }

    pub(super) fn family(&self) -> Family {
        self.socket.family()
    }

    pub(super) fn options(&self) -> Options<'_> {
        Options(&self.socket)
    }

    fn state(&self) -> Result<&State, Errno> {
        self.socket.udp()
    }

    fn bound_by_the_host(&self) {
        let mut stage = self.lock();
        if *stage == Stage::Unbound {
            *stage = Stage::Bound;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().expect("no panic while held")
    }
}
