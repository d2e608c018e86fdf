//! The sockets of the dialects in the tests' words.

use std::net::{IpAddr, TcpStream};

use super::errno;
use super::observe::connect;
use super::puppet::{Answer, Puppet};
use super::stage::Stage;

/// The enums since WasmEdge 0.10.
pub(crate) const INET4: u64 = 1;
pub(crate) const INET6: u64 = 2;
pub(crate) const DGRAM: u64 = 1;
pub(crate) const STREAM: u64 = 2;
/// `fdflags.nonblock`.
pub(crate) const NONBLOCK: u64 = 4;

/// What a call received.
pub(crate) type Bytes = Vec<u8>;

/// An address argument: a pointer and a length, and the buffer that they describe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) at: u64,
    pub(crate) buffer: u64,
    pub(crate) length: u64,
}

/// An option's value of four bytes.
pub(crate) fn int(number: i32) -> Bytes {
    number.to_le_bytes().to_vec()
}

/// A guest that has accepted one connection of its port 80, which is published so.
pub(crate) struct Connected {
    pub(crate) guest: Puppet,
    pub(crate) listener: u64,
    pub(crate) fd: u64,
    pub(crate) client: TcpStream,
}

pub(crate) fn connected(publish: &str) -> Connected {
    let mut guest = Stage::new().publish(publish).start();
    let listener = guest.listen(80);
    let client = connect(guest.address(0));
    let fd = guest.accept(listener);
    Connected { guest, listener, fd, client }
}

impl Puppet {
    /// A new socket.
    pub(crate) fn open(&mut self, family: u64, kind: u64) -> Answer<u64> {
        let out = self.room(4);
        self.told(out, "sock_open", &[family, kind, out])
    }

    /// A new IPv4 stream.
    pub(crate) fn tcp(&mut self) -> u64 {
        self.open(INET4, STREAM).expect("a stream can be opened")
    }

    /// A new IPv4 datagram socket.
    pub(crate) fn udp(&mut self) -> u64 {
        self.open(INET4, DGRAM).expect("a datagram socket can be opened")
    }

    /// Calls a hostcall that writes a number to `out`.
    pub(crate) fn told(&mut self, out: u64, name: &str, params: &[u64]) -> Answer<u64> {
        match self.call(name, params) {
            errno::SUCCESS => Ok(self.word(out)),
            errno => Err(errno),
        }
    }

    /// A connection of a guest of WASIX that listens on port 8080, with its other end.
    pub(crate) fn connection_of_wasix(&mut self) -> (u64, TcpStream) {
        let (address, out, peer) = (self.room(20), self.room(4), self.room(20));
        self.poke(address, &[1, 0, 0x90, 0x1f]);
        let listener = self.told(out, "sock_open", &[1, 1, 6, out]).expect("it is opened");
        self.must("sock_bind", &[listener, address]);
        self.must("sock_listen", &[listener, 8]);
        let stream = connect(self.address(0));
        (self.told(out, "sock_accept_v2", &[listener, 0, out, peer]).expect("it is there"), stream)
    }

    /// An address argument that names this address.
    pub(crate) fn address_of(&mut self, ip: &str) -> u64 {
        match ip.parse().expect("an address") {
            IpAddr::V4(ip) => self.slot_with(&ip.octets()),
            IpAddr::V6(ip) => self.slot_with(&ip.octets()),
        }
        .at
    }

    /// An address argument with this buffer.
    pub(crate) fn slot_with(&mut self, bytes: &[u8]) -> Slot {
        let slot = self.slot(bytes.len() as u64);
        self.poke(slot.buffer, bytes);
        slot
    }

    /// An address argument with an empty buffer.
    pub(crate) fn slot(&mut self, length: u64) -> Slot {
        let buffer = self.room(length);
        self.slot_at(buffer, length)
    }

    /// An address argument that says so.
    pub(crate) fn slot_at(&mut self, buffer: u64, length: u64) -> Slot {
        let at = self.words(&[buffer, length]);
        Slot { at, buffer, length }
    }

    /// These numbers as u32s in memory; where.
    pub(crate) fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: Bytes = words.iter().flat_map(|word| word.to_le_bytes()[..4].to_vec()).collect();
        self.put(&bytes)
    }

    /// The vector of these buffers.
    pub(crate) fn vector(&mut self, buffers: &[(u64, u64)]) -> u64 {
        let words: Vec<u64> = buffers.iter().flat_map(|(at, length)| [*at, *length]).collect();
        self.words(&words)
    }

    /// A stream that listens on this port of the guest.
    pub(crate) fn listen(&mut self, port: u64) -> u64 {
        let (fd, any) = (self.tcp(), self.address_of("0.0.0.0"));
        self.must("sock_bind", &[fd, any, port]);
        self.must("sock_listen", &[fd, 64]);
        fd
    }

    /// The next connection, waited for.
    pub(crate) fn accept(&mut self, listener: u64) -> u64 {
        let out = self.room(4);
        self.told(out, "sock_accept", &[listener, out]).expect("a connection can be accepted")
    }

    /// Connects a new stream.
    pub(crate) fn connect(&mut self, ip: &str, port: u16) -> Answer<u64> {
        let (fd, to) = (self.tcp(), self.address_of(ip));
        match self.call("sock_connect", &[fd, to, port.into()]) {
            errno::SUCCESS => Ok(fd),
            errno => Err(errno),
        }
    }

    pub(crate) fn set_flags(&mut self, fd: u64, flags: u64) {
        self.must("fd_fdstat_set_flags", &[fd, flags]);
    }

    pub(crate) fn close(&mut self, fd: u64) {
        self.must("fd_close", &[fd]);
    }

    /// Receives at most so many bytes.
    pub(crate) fn recv(&mut self, fd: u64, most: u64) -> Answer<Bytes> {
        self.recv_with(fd, most, 0)
    }

    pub(crate) fn recv_with(&mut self, fd: u64, most: u64, flags: u64) -> Answer<Bytes> {
        let block = self.next_block();
        let buffer = self.room(most);
        let (vector, size, roflags) = (self.vector(&[(buffer, most)]), self.room(4), self.room(4));
        self.give_back(block);
        let size = self.told(size, "sock_recv", &[fd, vector, 1, flags, size, roflags])?;
        Ok(self.peek(buffer, size))
    }

    /// Sends what goes of these bytes; how many.
    pub(crate) fn send(&mut self, fd: u64, bytes: &[u8]) -> Answer<u64> {
        let block = self.next_block();
        let buffer = self.put(bytes);
        let (vector, size) = (self.vector(&[(buffer, bytes.len() as u64)]), self.room(4));
        self.give_back(block);
        self.told(size, "sock_send", &[fd, vector, 1, 0, size])
    }

    /// Reads at most so many bytes.
    pub(crate) fn read(&mut self, fd: u64, most: u64) -> Answer<Bytes> {
        let block = self.next_block();
        let buffer = self.room(most);
        let (vector, size) = (self.vector(&[(buffer, most)]), self.room(4));
        self.give_back(block);
        let size = self.told(size, "fd_read", &[fd, vector, 1, size])?;
        Ok(self.peek(buffer, size))
    }

    /// Writes what goes of these bytes; how many.
    pub(crate) fn write(&mut self, fd: u64, bytes: &[u8]) -> Answer<u64> {
        let block = self.next_block();
        let buffer = self.put(bytes);
        let (vector, size) = (self.vector(&[(buffer, bytes.len() as u64)]), self.room(4));
        self.give_back(block);
        self.told(size, "fd_write", &[fd, vector, 1, size])
    }

    /// An option by pointer to its length; as much as was written.
    pub(crate) fn option(&mut self, fd: u64, name: u64, room: u64) -> Answer<Bytes> {
        let (value, length) = (self.room(room), self.words(&[room]));
        let length = self.told(length, "sock_getsockopt", &[fd, 0, name, value, length])?;
        Ok(self.peek(value, length))
    }

    pub(crate) fn set_option(&mut self, fd: u64, name: u64, value: &[u8]) -> u64 {
        let at = self.put(value);
        self.call("sock_setsockopt", &[fd, 0, name, at, value.len() as u64])
    }

    /// Opens a path below a directory for reading, or as the flags say.
    pub(crate) fn open_path(&mut self, directory: u64, path: &str, oflags: u64, rights: u64) -> Answer<u64> {
        let (at, out) = (self.put(path.as_bytes()), self.room(4));
        let length = path.len() as u64;
        self.told(out, "path_open", &[directory, 1, at, length, oflags, rights, rights, 0, out])
    }
}
