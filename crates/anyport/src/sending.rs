//! When a send is held back: the guest is about to send more, or to end the stream.
//!
//! Servers send head and body apart, and shut the stream down after that: three packets, and three
//! wake-ups of the client, where one would do. Guests are creatures of habit, so what one did last time
//! with a connection says what it will do now. Nothing is held for longer than to its next hostcall of
//! another kind, or the next tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::descriptor::{Socket, SocketKind};

/// A row of sends on one connection, with no other hostcall in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    sends: u8,
    /// After the last of them the guest has shut the stream down.
    shut: bool,
}

/// The last row of a connection, 0 before its first.
#[derive(Debug, Default)]
pub(crate) struct Habit(AtomicU16);

impl Habit {
    fn get(&self) -> Option<Row> {
        let [sends, shut] = self.0.load(Ordering::Relaxed).to_le_bytes();
        (sends > 0).then_some(Row { sends, shut: shut > 0 })
    }

    fn set(&self, row: Row) {
        self.0.store(u16::from_le_bytes([row.sends, u8::from(row.shut)]), Ordering::Relaxed);
    }
}

/// The row of sends that a guest is at.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    current: Option<Current>,
    /// The first row of the connection that had its first last: what new ones are expected to have.
    first: Row,
}

#[derive(Debug)]
struct Current {
    socket: Arc<Socket>,
    sends: u8,
    held: bool,
}

impl Sending {
    /// The guest sends: whether these bytes may be held back for what it will do next.
    pub(crate) fn send(&mut self, socket: &Arc<Socket>) -> bool {
        let sends = match &self.current {
            Some(current) if Arc::ptr_eq(&current.socket, socket) => current.sends.saturating_add(1),
            _ => {
                self.end();
                1
            }
        };
        let expected = socket.habit.get().unwrap_or_else(|| if socket.accepted { self.first } else { Row::default() });
        let more = sends < expected.sends || (sends == expected.sends && expected.shut);
        let held = more && matches!(socket.kind, SocketKind::Tcp(_));
        self.current = Some(Current { socket: Arc::clone(socket), sends, held });
        held
    }

    /// Whether bytes that were sent on this connection are held back.
    pub(crate) fn holds(&self, socket: &Arc<Socket>) -> bool {
        matches!(&self.current, Some(current) if current.held && Arc::ptr_eq(&current.socket, socket))
    }

    /// The guest shuts the stream down, which sends what was held back, all as one.
    pub(crate) fn shut(&mut self, socket: &Arc<Socket>) {
        match self.current.take() {
            Some(current) if Arc::ptr_eq(&current.socket, socket) => self.learn(&current, true),
            other => {
                self.current = other;
                self.end();
            }
        }
    }

    /// Sends what was held back: the guest does something else.
    pub(crate) fn end(&mut self) {
        let Some(current) = self.current.take() else { return };
        self.learn(&current, false);
        if current.held {
            current.socket.endpoint().push();
        }
    }

    fn learn(&mut self, current: &Current, shut: bool) {
        let row = Row { sends: current.sends, shut };
        if current.socket.accepted && current.socket.habit.get().is_none() {
            self.first = row;
        }
        current.socket.habit.set(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Family;
    use crate::net::Network;
    use crate::net::tcp::Tcp;

    fn connection() -> Arc<Socket> {
        let tcp = Tcp::open(&Network::Os, Family::Inet4).expect("a socket");
        Arc::new(Socket::accepted(tcp))
    }

    #[test]
    fn a_pair_of_sends_is_held_from_the_second_time_on() {
        let (mut sending, socket) = (Sending::default(), connection());
        for held in [[false, false], [true, false], [true, false]] {
            assert_eq!(held.map(|_| sending.send(&socket)), held);
            sending.end();
        }
        assert!(sending.send(&socket));
        sending.end();
        assert!(!sending.send(&socket), "the last row had one send");
    }

    #[test]
    fn a_new_connection_is_expected_to_be_as_the_last() {
        let mut sending = Sending::default();
        for held in [[false, false], [true, true], [true, true]] {
            let socket = connection();
            assert_eq!(held.map(|_| sending.send(&socket)), held);
            sending.shut(&socket);
            assert!(!sending.holds(&socket));
        }
    }

    #[test]
    fn turning_to_another_connection_ends_a_row() {
        let (mut sending, one, other) = (Sending::default(), connection(), connection());
        for socket in [&one, &other, &one] {
            sending.send(socket);
            sending.send(socket);
        }
        assert!(sending.send(&other));
        assert!(sending.holds(&other) && !sending.holds(&one));
        sending.shut(&one);
        assert!(!sending.holds(&other), "another is shut, so this one is sent");
    }
}
