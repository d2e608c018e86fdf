//! Guests that hold sockets, files and connections, and call everything with whatever they like.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use anyport::Outcome;
use anyport::simulated::{Connection, Faults, Simulated};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

use super::arguments::{Arguments, ends};
use super::heap;
use crate::rounds;
use crate::wat_support::{NONBLOCK, Puppet, Row, Stage, connect, rows};

/// How long a call may wait before the guest is stopped.
const PATIENCE: Duration = Duration::from_millis(15);

/// How often a guest calls each hostcall, if it lives so long.
const TURNS: usize = 5;

/// Twice what one hostcall may hold by default: nothing that is single is larger.
const ALLOCATION_MOST: usize = 32 << 20;

/// Panics on the threads of guests.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts them; they are caught before they get here.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if thread::current().name() == Some("puppet") {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            usual(info);
        }));
    });
}

/// Lets guests live on a network, where each hostcall is called but those of WASIX; what came of it.
pub(crate) fn play(lives: u64, network: fn(u64) -> Option<Arc<Simulated>>) -> String {
    play_rows(lives, rows(), |seed| Life::begin(seed, network(seed)))
}

/// The same of guests of WASIX.
pub(crate) fn play_wasix(lives: u64) -> String {
    play_rows(lives, Stage::wasix().rows(), Life::begin_wasix)
}

fn play_rows(lives: u64, rows: &[Row], begin: impl Fn(u64) -> Life) -> String {
    count_panics();
    // Those of a test that has failed are not ours.
    PANICS.store(0, Ordering::Relaxed);
    let mut called = vec![Calls::default(); rows.len()];
    let mut lived = 0;
    rounds::play(lives, |seed| {
        begin(seed).live(rows, &mut called);
        lived += 1;
    });
    let calls: usize = called.iter().map(|calls| calls.all).sum();
    let successes: usize = called.iter().map(|calls| calls.successes).sum();
    for (row, calls) in rows.iter().zip(called) {
        // What ends a guest comes last, and few live so long.
        let comes_last = ends(row);
        assert!(calls.all > 0 || comes_last || lived < lives, "{} was never called in {lived} lives", row.key());
    }
    let largest = heap::largest();
    assert!(largest <= ALLOCATION_MOST, "{largest} bytes were allocated at once");
    format!("{calls} calls by {lived} guests, {successes} with success")
}

/// A network that moves bytes in parts and late, refuses connections and resets them.
pub(crate) fn stormy(seed: u64) -> Option<Arc<Simulated>> {
    Some(Simulated::new(
        seed,
        Faults {
            partial_receive: 0.3,
            partial_send: 0.3,
            reset: 0.02,
            refuse: 0.1,
            delay: 0.1,
            delay_max: Duration::from_millis(2),
            buffer_bytes: 8 << 10,
        },
    ))
}

/// What came of the calls of one row.
#[derive(Clone, Default)]
struct Calls {
    all: usize,
    successes: usize,
}

/// One guest with all that it can get hold of.
struct Life {
    seed: u64,
    arguments: Arguments,
    guest: Puppet,
    _folder: tempfile::TempDir,
    _clients: Vec<Client>,
}

impl Life {
    fn begin(seed: u64, network: Option<Arc<Simulated>>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[7; 1000]).expect("it is ours");
        let mut stage = Stage::new().publish("0:80").publish("0:53/udp").listener().allow("127.0.0.1");
        if let Some(network) = &network {
            stage = stage.simulated(Arc::clone(network));
        }
        let mut guest = stage.limit("descriptors", 64).directory(folder.path(), "/").stdin(file).start();
        let mut arguments = Arguments::new(seed);
        // 3 is the listener that it was handed, 4 the directory; then one of each kind.
        let listener = guest.listen(80);
        let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(guest.address(1), network.as_ref())).collect();
        let connection = guest.accept(listener);
        clients[0].send(&[7; 5000]);
        let (datagrams, any) = (guest.udp(), guest.address_of("0.0.0.0"));
        guest.must("sock_bind", &[datagrams, any, 53]);
        guest.open_path(4, "file", 1, 1 << 1 | 1 << 6).expect("it is created");
        let stream = guest.tcp();
        send_to_itself(&mut guest, datagrams);
        if arguments.is_patient() {
            for fd in [listener, connection, datagrams, stream] {
                guest.set_flags(fd, NONBLOCK);
            }
        }
        Self { seed, arguments, guest, _folder: folder, _clients: clients }
    }

    /// The same of WASIX: 3 is its directory, and so is 4; then what only WASIX has.
    fn begin_wasix(seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let stage = Stage::wasix().publish("0:8080").allow("127.0.0.1").limit("descriptors", 64);
        let mut guest = stage.directory(folder.path(), "/").start();
        let mut arguments = Arguments::new(seed);
        let out = guest.room(8);
        guest.must("fd_dup2", &[3, 4, 0, out]);
        let (connection, stream) = guest.connection_of_wasix();
        guest.must("fd_event", &[1, 0, out]);
        guest.must("fd_pipe", &[out, out + 4]);
        guest.must("epoll_create", &[out]);
        guest.open_path(4, "/file", 1, 1 << 1 | 1 << 6).expect("it is created");
        if arguments.is_patient() {
            for fd in [connection - 1, connection, connection + 1, connection + 2] {
                guest.must("fd_fdstat_set_flags", &[fd, NONBLOCK]);
            }
        }
        let mut client = Client::Os(stream);
        client.send(&[7; 5000]);
        Self { seed, arguments, guest, _folder: folder, _clients: vec![client] }
    }

    /// Calls until it is over: the same calls for the same seed, whatever comes of them.
    fn live(mut self, rows: &[Row], called: &mut [Calls]) {
        let deck = self.arguments.deck(rows, TURNS);
        let (mut at, mut bytes) = self.arguments.memory();
        for (turn, number) in deck.into_iter().enumerate() {
            if turn % 20 == 0 {
                (at, bytes) = self.arguments.memory();
            }
            // Each time: what a call has written, such as the time, is never the same again.
            self.guest.poke(at, &bytes);
            let row = &rows[number];
            let params = self.arguments.of(row);
            called[number].all += 1;
            self.guest.begin_row(number, &params);
            let doing = self.doing(row, &params);
            match self.guest.finish_within(PATIENCE) {
                Ok(Some(0)) => called[number].successes += 1,
                Ok(Some(errno)) => assert!(errno <= ERRNO_MOST, "{doing} = {errno}"),
                Ok(None) => return assert_sane(&self.guest.stop(), &doing),
                Err(error) => {
                    assert_ne!(error.kind(), ErrorKind::WouldBlock, "{doing}");
                    return assert_sane(&self.guest.outcome(), &doing);
                }
            }
        }
        assert_sane(&self.guest.stop(), "at the end");
    }

    fn doing(&self, row: &Row, params: &[u64]) -> String {
        format!("ANYPORT_SEED={}: {}{params:?}", self.seed, row.key())
    }
}

/// The last of the numbers: `WasmEdge`'s for name lookups follow preview1's.
const ERRNO_MOST: u64 = 87;

/// A datagram that waits for its port, which no rule of a simulated network would let a test send.
fn send_to_itself(guest: &mut Puppet, datagrams: u64) {
    let to = guest.address_of("127.0.0.1");
    let port = guest.address(2).port();
    let text = guest.put(b"datagram");
    let (vector, size) = (guest.vector(&[(text, 8)]), guest.room(4));
    guest.must("sock_send_to", &[datagrams, vector, 1, to, port.into(), 0, size]);
}

/// The guest has ended by its own fault or wish, or was stopped; the host has not failed.
fn assert_sane(outcome: &Outcome, doing: &str) {
    if let Outcome::Trapped { reason, .. } = outcome {
        assert!(!reason.contains("anyport failed"), "{doing}: {reason}");
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "{doing}: {outcome:?}");
}

/// The other side of a connection, on the network that the guest is on.
enum Client {
    Os(TcpStream),
    Simulated(Runtime, Connection),
}

impl Client {
    fn connect(to: SocketAddr, network: Option<&Arc<Simulated>>) -> Self {
        let Some(network) = network else { return Self::Os(connect(to)) };
        let runtime = Builder::new_current_thread().enable_time().build().expect("a test may wait");
        loop {
            // Refused at random.
            if let Ok(connection) = runtime.block_on(async { network.connect(to).await }) {
                return Self::Simulated(runtime, connection);
            }
        }
    }

    /// Sends these bytes, unless the network resets the connection.
    fn send(&mut self, bytes: &[u8]) {
        let _ = match self {
            Self::Os(stream) => stream.write_all(bytes),
            Self::Simulated(runtime, connection) => runtime.block_on(connection.write_all(bytes)),
        };
    }
}
