//! Subscriptions and events of `poll_oneoff`, as the tests write and read them.

use super::errno;
use super::puppet::{Answer, Puppet};

pub(crate) const REALTIME: u64 = 0;
pub(crate) const MONOTONIC: u64 = 1;

/// Bytes of a subscription and of an event.
const SUBSCRIPTION: usize = 48;
const EVENT: usize = 32;

/// One subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A clock, and nanoseconds from now.
    After(u64, u64),
    /// A clock, and the time it shows.
    At(u64, u64),
    Read(u64),
    Write(u64),
}

/// One event; `index` is the place of its subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) index: usize,
    pub(crate) errno: u64,
    /// The event type: 0 clock, 1 read, 2 write.
    pub(crate) kind: u64,
    pub(crate) bytes: u64,
    pub(crate) hangup: bool,
}

/// A call that was begun: where it writes its events.
pub(crate) struct Polling {
    events: u64,
    count: u64,
}

/// Which subscriptions were answered, all without an error.
pub(crate) fn indices(events: &[Event]) -> Vec<usize> {
    assert!(events.iter().all(|event| event.errno == errno::SUCCESS), "{events:?}");
    events.iter().map(|event| event.index).collect()
}

impl Wait {
    fn encode(self, userdata: u64) -> [u8; SUBSCRIPTION] {
        let mut bytes = [0; SUBSCRIPTION];
        let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0, userdata);
        match self {
            Self::After(clock, timeout) | Self::At(clock, timeout) => {
                put(16, clock);
                put(24, timeout);
                put(32, u64::MAX);
                put(40, u64::from(matches!(self, Self::At(..))));
            }
            Self::Read(fd) | Self::Write(fd) => put(16, fd),
        }
        bytes[8] = self.kind();
        bytes
    }

    fn kind(self) -> u8 {
        match self {
            Self::After(..) | Self::At(..) => 0,
            Self::Read(_) => 1,
            Self::Write(_) => 2,
        }
    }
}

impl Puppet {
    /// Waits for any of these.
    pub(crate) fn poll(&mut self, waits: &[Wait]) -> Vec<Event> {
        self.poll_by("poll_oneoff", waits).expect("poll_oneoff does not fail")
    }

    /// Waits with this hostcall.
    pub(crate) fn poll_by(&mut self, name: &str, waits: &[Wait]) -> Answer<Vec<Event>> {
        let polling = self.begin_poll(name, waits);
        self.finish_poll(&polling)
    }

    /// Looks at these without waiting.
    pub(crate) fn look(&mut self, waits: &[Wait]) -> Vec<usize> {
        let with_clock: Vec<Wait> = waits.iter().copied().chain([Wait::After(MONOTONIC, 0)]).collect();
        let mut found = indices(&self.poll(&with_clock));
        found.retain(|index| *index < waits.len());
        found
    }

    /// Begins to wait; [`Puppet::finish_poll`] tells what came of it.
    pub(crate) fn begin_poll(&mut self, name: &str, waits: &[Wait]) -> Polling {
        let block = self.next_block();
        let subscriptions: Vec<u8> = (0..).zip(waits).flat_map(|(index, wait)| wait.encode(index)).collect();
        let subscriptions = self.put(&subscriptions);
        let count = waits.len() as u64;
        let (events, told) = (self.room(count * EVENT as u64), self.room(4));
        // What is not written must not look as if it was.
        self.poke(told, &[0xee; 4]);
        self.give_back(block);
        self.begin(name, &[subscriptions, events, count, told]);
        Polling { events, count: told }
    }

    pub(crate) fn finish_poll(&mut self, polling: &Polling) -> Answer<Vec<Event>> {
        match self.finish() {
            errno::SUCCESS => {}
            errno => return Err(errno),
        }
        let told = self.word(polling.count);
        let bytes = self.peek(polling.events, told * EVENT as u64);
        Ok(bytes.chunks_exact(EVENT).map(Event::decode).collect())
    }
}

impl Event {
    fn decode(bytes: &[u8]) -> Self {
        let number = |at: usize, length: usize| {
            bytes[at..at + length].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        Self {
            index: usize::try_from(number(0, 8)).expect("the place of a subscription"),
            errno: number(8, 2),
            kind: number(10, 1),
            bytes: number(16, 8),
            hangup: number(24, 2) == 1,
        }
    }
}
