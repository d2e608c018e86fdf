//! Random tests: from which seed, how many rounds, and how a failure is played again.
//!
//! A round has its own seed, which a failure tells: `ANYPORT_SEED=N` begins with that round.
//! `ANYPORT_FUZZ_SECONDS=N` plays for so long; without it a test has a number of rounds, so that slow
//! machines test as much as fast ones.

use std::env;
use std::io::{self, Write};
use std::process;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The longest that a round may take before it counts as a hang: those that compile take seconds, and
/// machines have much else to do.
const ROUND_MOST: Duration = Duration::from_secs(120);

/// Plays so many rounds, or as the environment says. Ends the process when one of them hangs.
pub(crate) fn play(rounds: u64, mut round: impl FnMut(u64)) {
    let first = number("ANYPORT_SEED").unwrap_or_else(|| fastrand::u64(..));
    let end = number("ANYPORT_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let begun = watch();
    for number in 0.. {
        if end.map_or(number == rounds, |end| Instant::now() >= end) {
            break;
        }
        let seed = first.wrapping_add(number);
        begun.send(seed).expect("it watches until there are no more rounds");
        let _told = Told(seed);
        round(seed);
    }
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

/// A round that is being played: whatever makes it panic, its seed is told.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if thread::panicking() {
            tell(&format!("ANYPORT_SEED={} plays this again", self.0));
        }
    }
}

/// Takes the seed of each round as it begins, and ends the process if the next one does not come.
fn watch() -> Sender<u64> {
    let (begun, beginnings): (_, Receiver<u64>) = channel();
    let test = thread::current().name().unwrap_or_default().to_owned();
    thread::spawn(move || {
        let Ok(mut seed) = beginnings.recv() else { return };
        loop {
            match beginnings.recv_timeout(ROUND_MOST) {
                Ok(next) => seed = next,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    tell(&format!("{test}: no end after {ROUND_MOST:?}; ANYPORT_SEED={seed} plays this again"));
                    process::abort();
                }
            }
        }
    });
    begun
}

/// Not captured as a test's own output is, which would be lost with the process.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
