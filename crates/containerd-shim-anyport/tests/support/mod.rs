//! What the tests of the shim share: nodes with real engines, images, containers, and clients of them.
//!
//! A node is what `.ci/engine` brings up: containerd and Docker of a Debian release in namespaces of their own,
//! with the shim of this build in their PATH. It comes up with the first test that needs it, and goes with this
//! process, however that ends. Nothing sleeps for a fixed time: a wait ends with what is waited for.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of this")]

pub mod container;
pub mod image;
pub mod node;
pub mod traces;
pub mod web;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub use image::Image;
pub use node::Node;

/// For what takes as long as it takes. Long, since machines are shared, and a guest may be compiled meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Runs each body on a node of each release; `alone` are those that nothing else may run beside.
#[macro_export]
macro_rules! behaviours {
    ($($suite:ident)* { $($body:ident,)* } alone { $($lone:ident,)* }) => {
        behaviours!(@suites [$($suite)*] { $($body,)* } { $($lone,)* });
    };
    (@suites [$($suite:ident)*] $bodies:tt $lone:tt) => {
        $(behaviours!(@suite $suite $bodies $lone);)*
    };
    (@suite $suite:ident { $($body:ident,)* } { $($lone:ident,)* }) => {
        mod $suite {
            $(
                #[test]
                fn $body() {
                    $crate::support::node::play(stringify!($suite), super::$body);
                }
            )*
            $(
                #[test]
                fn $lone() {
                    $crate::support::node::play_alone(stringify!($suite), super::$lone);
                }
            )*
        }
    };
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// A module of guests/.
pub fn guest(path: &str) -> Vec<u8> {
    let path = root().join("guests").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Asks until there is an answer, or the deadline.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Says on stderr that tests could not be run here, and why; past the harness, which would keep it.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Says more of a test that has failed; the harness shows it with that test.
#[expect(clippy::print_stderr, reason = "only what is printed so is kept for the test")]
pub fn tell(what: &str) {
    eprintln!("{what}");
}
