//! A guest on strings: it calls the hostcall it is told to, when it is told to.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyport::{Outcome, Running};

use super::errno;
use super::module::{self, EXTRAS, Extra};
use super::rows::Row;

/// How long anything may take before it counts as stuck: long, for machines with much else to do.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What a hostcall gave, or its errno.
pub(crate) type Answer<T> = Result<T, u64>;

pub(crate) struct Puppet {
    /// `None` once its end was waited for.
    running: Option<Running>,
    /// The other end of its descriptor 2.
    control: UnixStream,
    rows: Vec<Row>,
    /// Where the next block of its memory is given out.
    next: u64,
    doing: String,
}

impl Puppet {
    pub(super) fn new(running: Running, control: UnixStream, rows: Vec<Row>) -> Self {
        Self { running: Some(running), control, rows, next: module::FREE, doing: String::new() }
    }

    /// Calls a hostcall, the one of this name that takes so many parameters; its errno.
    pub(crate) fn call(&mut self, name: &str, params: &[u64]) -> u64 {
        self.begin(name, params);
        self.finish()
    }

    /// Calls what must succeed.
    pub(crate) fn must(&mut self, name: &str, params: &[u64]) {
        let errno = self.call(name, params);
        assert_eq!(errno, errno::SUCCESS, "{}", self.doing);
    }

    /// Begins a call that may wait; [`Puppet::finish`] tells how it ended.
    pub(crate) fn begin(&mut self, name: &str, params: &[u64]) {
        let found = self.rows.iter().position(|row| row.name == name && row.params.len() == params.len());
        let number = found.unwrap_or_else(|| panic!("the guest imports no {name} with {} parameters", params.len()));
        self.begin_row(number, params);
    }

    /// Begins to call the row of this number.
    pub(crate) fn begin_row(&mut self, number: usize, params: &[u64]) {
        self.command(format!("{}{params:?}", self.rows[number].name), number, params);
    }

    /// The errno of the call that was begun.
    pub(crate) fn finish(&mut self) -> u64 {
        self.control.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
        match self.answer() {
            Ok(errno) => errno,
            Err(error) => self.fail(&error),
        }
    }

    /// The errno of the call that was begun, unless it waits longer than this.
    pub(crate) fn finish_within(&mut self, patience: Duration) -> io::Result<Option<u64>> {
        self.control.set_read_timeout(Some(patience)).expect("it is not zero");
        match self.answer() {
            Ok(errno) => Ok(Some(errno)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Calls what ends the guest; how.
    pub(crate) fn ends(mut self, name: &str, params: &[u64]) -> Outcome {
        self.begin(name, params);
        if let Ok(Some(errno)) = self.finish_within(DEADLINE) {
            panic!("{} = {errno}, and the guest goes on", self.doing);
        }
        self.outcome()
    }

    /// Stops the guest, whatever it does; how it ended.
    pub(crate) fn stop(mut self) -> Outcome {
        self.running.as_mut().expect("it runs").stop();
        self.outcome()
    }

    /// The server that it is.
    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    /// The server that it is, to be drained: the guest goes on.
    pub(crate) fn take_running(&mut self) -> Running {
        self.running.take().expect("it runs")
    }

    /// How the guest ends, which it must do by now.
    pub(crate) fn outcome(mut self) -> Outcome {
        self.end().unwrap_or_else(|| panic!("{}: the guest has not ended", self.doing))
    }

    /// How it ends, if it does before the deadline.
    fn end(&mut self) -> Option<Outcome> {
        let running = self.running.take().expect("it is waited for once");
        let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a test may wait");
        let ended = waiting.block_on(async { tokio::time::timeout(DEADLINE, running.ended()).await.is_ok() });
        ended.then(|| running.wait())
    }

    fn fail(&mut self, error: &io::Error) -> ! {
        let outcome = match error.kind() {
            io::ErrorKind::WouldBlock => None,
            _ => self.end(),
        };
        panic!("{}: {error}, outcome {outcome:?}", self.doing);
    }

    /// Where the published ports and listeners are, on the host.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.running().ports()[index].address().expect("it is an IP port")
    }

    /// Elements of its tables before any has grown.
    pub(crate) fn table_elements(&self) -> u64 {
        (self.rows.len() + EXTRAS.len()) as u64
    }

    /// Grows its memory; false if it may not.
    pub(crate) fn grow_memory(&mut self, pages: u64) -> bool {
        self.extra(Extra::GrowMemory, &[pages]);
        self.finish() != u64::from(u32::MAX)
    }

    /// Grows its second table; false if it may not.
    pub(crate) fn grow_table(&mut self, elements: u64) -> bool {
        self.extra(Extra::GrowTable, &[elements]);
        self.finish() != u64::from(u32::MAX)
    }

    /// Lets it compute for ever.
    pub(crate) fn spin(&mut self) {
        self.extra(Extra::Spin, &[]);
    }

    /// Room for so many bytes, all zero, at a multiple of eight.
    pub(crate) fn room(&mut self, bytes: u64) -> u64 {
        let at = self.next;
        self.next = (at + bytes).next_multiple_of(8);
        assert!(self.next <= module::PAGES << 16, "the guest's memory is full");
        let zeros = vec![0; usize::try_from(bytes).expect("less than its memory")];
        self.poke(at, &zeros);
        at
    }

    /// These bytes in its memory; where.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.room(bytes.len() as u64);
        self.poke(at, bytes);
        at
    }

    /// Where the next block will be, for [`Puppet::give_back`].
    pub(crate) fn next_block(&self) -> u64 {
        self.next
    }

    /// Frees all blocks that were given out since; what is in them stays until they are given out again.
    pub(crate) fn give_back(&mut self, block: u64) {
        self.next = block;
    }

    /// Writes to its memory.
    pub(crate) fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.extra(Extra::Poke, &[at, bytes.len() as u64]);
        self.control.write_all(bytes).expect("the guest reads");
        assert_eq!(self.finish(), 0);
    }

    /// Reads from its memory.
    pub(crate) fn peek(&mut self, at: u64, length: u64) -> Vec<u8> {
        self.extra(Extra::Peek, &[at, length]);
        let mut bytes = vec![0; usize::try_from(length).expect("less than its memory")];
        self.control.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
        self.control.read_exact(&mut bytes).expect("the guest writes");
        assert_eq!(self.finish(), 0);
        bytes
    }

    /// The u32 at this place.
    pub(crate) fn word(&mut self, at: u64) -> u64 {
        self.number(at, 4)
    }

    /// The unsigned number of so many bytes at this place.
    pub(crate) fn number(&mut self, at: u64, bytes: u64) -> u64 {
        self.peek(at, bytes).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn extra(&mut self, extra: Extra, params: &[u64]) {
        let number = EXTRAS.iter().position(|other| *other == extra).expect("it is one of them");
        self.command(format!("{extra:?}{params:?}"), self.rows.len() + number, params);
    }

    fn command(&mut self, doing: String, number: usize, params: &[u64]) {
        let mut command = vec![number as u64];
        command.extend(params);
        command.resize(module::COMMAND_BYTES / 8, 0);
        let bytes: Vec<u8> = command.into_iter().flat_map(u64::to_le_bytes).collect();
        self.doing = doing;
        // An error says that the guest has ended, which the answer will too.
        let _ = self.control.write_all(&bytes);
    }

    fn answer(&mut self) -> io::Result<u64> {
        let mut answer = [0; 4];
        self.control.read_exact(&mut answer)?;
        Ok(u32::from_le_bytes(answer).into())
    }
}
