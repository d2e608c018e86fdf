//! Guests that call the host as no compiler would, and files that no compiler made: the outcome is an
//! errno, a trap or an exit; never a panic of the host, and never a guest that cannot be stopped.
//!
//! Random, from a seed that is printed: `ANYPORT_SEED=N` plays one again, `ANYPORT_FUZZ_SECONDS=N`
//! plays longer.

mod wat_support;

mod hostile {
    pub(crate) mod arguments;
    pub(crate) mod reader;
}

use std::env;
use std::fs;
use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyport::{Artifact, Inspection, Outcome};
use fastrand::Rng;
use hostile::arguments::Arguments;
use hostile::reader::Reader;
use wat_support::{Puppet, Stage, connect, load, rows};

/// How long a call may wait before the guest is stopped.
const PATIENCE: Duration = Duration::from_millis(15);

/// Calls of one guest before the next one.
const LIFE: usize = 400;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn seed() -> u64 {
    number("ANYPORT_SEED").unwrap_or_else(|| Rng::new().u64(..))
}

fn duration() -> Duration {
    Duration::from_secs(number("ANYPORT_FUZZ_SECONDS").unwrap_or(5))
}

/// Panics on the threads of guests.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts them; they are caught before they get here.
fn count_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() == Some("puppet") {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        usual(info);
    }));
}

#[test]
fn no_call_breaks_the_host() {
    count_panics();
    let seed = seed();
    println!("ANYPORT_SEED={seed}");
    if seed % 2 == 1 {
        tracing::subscriber::set_global_default(Reader).expect("nobody else traces");
    }
    let began = Instant::now();
    let mut called = vec![Calls::default(); rows().len()];
    let mut lives = 0;
    while began.elapsed() < duration() {
        Life::begin(seed.wrapping_add(lives)).live(&mut called, began);
        lives += 1;
    }
    let calls: usize = called.iter().map(|calls| calls.all).sum();
    let successes: usize = called.iter().map(|calls| calls.successes).sum();
    println!("{calls} calls by {lives} guests, {successes} with success");
    for (row, calls) in rows().iter().zip(called) {
        assert!(calls.all >= 5, "{} was called {} times in {lives} lives", row.key(), calls.all);
    }
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
    _clients: ([TcpStream; 3], UdpSocket),
}

impl Life {
    fn begin(seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[7; 1000]).expect("it is ours");
        let stage = Stage::new().publish("0:80").publish("0:53/udp").listener().allow("127.0.0.1");
        let mut guest = stage.limit("descriptors", 64).directory(folder.path(), "/").stdin(file).start();
        // 3 is the listener that it was handed, 4 the directory; then one of each kind.
        let listener = guest.listen(80);
        let mut clients = [(); 3].map(|()| connect(guest.address(1)));
        guest.accept(listener);
        clients[0].write_all(&[7; 5000]).expect("it is accepted");
        let (datagrams, any) = (guest.udp(), guest.address_of("0.0.0.0"));
        guest.must("sock_bind", &[datagrams, any, 53]);
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        sender.send_to(b"datagram", guest.address(2)).expect("it is bound");
        guest.open_path(4, "file", 1, 1 << 1 | 1 << 6).expect("it is created");
        guest.tcp();
        Self { seed, arguments: Arguments::new(seed), guest, _folder: folder, _clients: (clients, sender) }
    }

    /// Calls until it is over.
    fn live(mut self, called: &mut [Calls], began: Instant) {
        for turn in 0..LIFE {
            if turn % 20 == 0 {
                let (at, bytes) = self.arguments.memory();
                self.guest.poke(at, &bytes);
            }
            // In turn, so that each has its share.
            let number = called.iter().map(|calls| calls.all).sum::<usize>() * 31 % rows().len();
            let row = &rows()[number];
            let params = self.arguments.of(row);
            called[number].all += 1;
            self.guest.begin_row(number, &params);
            let doing = format!("ANYPORT_SEED={}: {}{params:?}", self.seed, row.key());
            match self.guest.finish_within(PATIENCE) {
                Ok(Some(0)) => called[number].successes += 1,
                Ok(Some(errno)) => assert!(errno <= 87, "{doing} = {errno}"),
                Ok(None) => return assert_sane(&self.guest.stop(), &doing),
                Err(_) => return assert_sane(&self.guest.outcome(), &doing),
            }
            if began.elapsed() > duration() + Duration::from_secs(1) {
                break;
            }
        }
        assert_sane(&self.guest.stop(), &format!("ANYPORT_SEED={}", self.seed));
    }
}

/// The guest has ended by its own fault or wish, or was stopped; the host has not failed.
fn assert_sane(outcome: &Outcome, doing: &str) {
    if let Outcome::Trapped { reason, .. } = outcome {
        assert!(!reason.contains("anyport failed"), "{doing}: {reason}");
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "{doing}: {outcome:?}");
}

/// Modules that are valid, and odd. Each ends within the deadline, with these words.
#[test]
fn odd_modules_end_in_words() {
    let write = "(import \"wasi_snapshot_preview1\" \"fd_write\" (func $w (param i32 i32 i32 i32) (result i32)))";
    let memory = "(memory (export \"memory\") 1)";
    let call = "(drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";
    let cases = [
        // Calls the host before there is an instance.
        (format!("{write} {memory} (func $s {call}) (start $s) (func (export \"_start\"))"), "Exited(0)"),
        (format!("{memory} (func (export \"_start\") unreachable)"), "unreachable"),
        (format!("{memory} (func $f (export \"_start\") (call $f))"), "its stack is full"),
        (format!("{memory} (data (i32.const 65536) \"x\") (func (export \"_start\"))"), "out of bounds"),
        ("(memory (export \"memory\") 65536) (func (export \"_start\"))".to_owned(), "memory"),
        ("(table 10000000 funcref) (func (export \"_start\"))".to_owned(), "table"),
        (
            format!("{memory} (func (export \"_start\") (drop (i32.div_u (i32.const 1) (i32.const 0))))"),
            "divide by zero",
        ),
    ];
    for (body, words) in cases {
        let server = load(&format!("(module {body})")).unwrap_or_else(|error| panic!("{error}"));
        let outcome = format!("{:?}", server.start().expect("it can be started").wait());
        assert!(outcome.contains(words) && !outcome.contains("anyport failed"), "{words}: {outcome}");
    }
    for (body, words) in [
        (format!("{write} (func (export \"_start\") {call})"), "memory"),
        (format!("{write} (memory (export \"memory\") 1 1 shared) (func (export \"_start\"))"), "memory"),
        (format!("{write} (func (export \"memory\")) (func (export \"_start\"))"), "memory"),
        (format!("{memory} (func (export \"_start\") (param i32))"), "`_start`"),
        (format!("{memory} (global (export \"_start\") i32 (i32.const 0))"), "`_start`"),
        (String::new(), "exports nothing"),
    ] {
        let Err(error) = load(&format!("(module {body})")) else { panic!("{words}: it is taken") };
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn no_bytes_break_the_inspection() {
    let seed = seed();
    println!("ANYPORT_SEED={seed}");
    let corpus = corpus();
    let began = Instant::now();
    let mut files = 0;
    while began.elapsed() < duration() / 2 {
        let mut random = Rng::with_seed(seed.wrapping_add(files));
        let mut bytes = corpus[random.usize(..corpus.len())].clone();
        for _ in 0..random.usize(1..6) {
            mutate(&mut bytes, &mut random);
        }
        let told = Inspection::of(&Artifact::from_bytes("hostile.wasm", bytes));
        assert_eq!(told.run.is_some(), told.problem.is_none(), "ANYPORT_SEED={}", seed.wrapping_add(files));
        files += 1;
    }
    println!("{files} files");
}

/// Small files of every kind that is known.
fn corpus() -> Vec<Vec<u8>> {
    let text = "(module (import \"wasi_snapshot_preview1\" \"sock_accept\" (func (param i32 i32) (result i32)))
        (import \"wasi_snapshot_preview1\" \"sock_accept\" (func (param i32 i32 i32) (result i32)))
        (import \"env\" \"table\" (table 1 funcref)) (import \"env\" \"tag\" (tag (param i32)))
        (memory (export \"memory\") 1) (global (export \"g\") (mut i64) (i64.const 1)) (data (i32.const 0) \"text\")
        (func (export \"_start\") (drop (call 0 (i32.const 1) (i32.const 2)))))";
    let component = "(component (core module (func (export \"f\"))) (component))";
    let mut corpus = vec![Vec::new(), b"\0asm".to_vec(), b"#!/bin/sh\n".to_vec(), b"\x7fELF".to_vec()];
    corpus.extend([text, component].map(|text| wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))));
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/behaviour");
    for entry in fs::read_dir(guests).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "wasm") {
            corpus.extend(fs::read(path).ok().filter(|bytes| bytes.len() < 100_000));
        }
    }
    corpus
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Rng) {
    let at = random.usize(..=bytes.len());
    match random.u8(..7) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.u8(..)),
        2 => bytes.extend((0..at.min(64)).map(|_| random.u8(..)).collect::<Vec<_>>()),
        3 => {
            let copied: Vec<u8> = bytes.iter().skip(at).take(32).copied().collect();
            let to = random.usize(..=bytes.len());
            bytes.splice(to..to, copied);
        }
        4 if at < bytes.len() => {
            let end = (at + random.usize(..32)).min(bytes.len());
            bytes.drain(at..end);
        }
        // Where lengths and types are.
        5 if bytes.len() > 8 => {
            let at = 8 + at % (bytes.len() - 8).min(64);
            let at = at.min(bytes.len() - 1);
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(..5)];
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.u8(..8);
            }
        }
    }
}
