//! One body for every guest and every network.

use std::fmt;

use anyport::Limits;

use super::client::Tested;
use super::guest::Guest;
use super::network::{Network, SEED};
use super::process::allow_descriptors;
use super::serving::Serving;

/// Makes tests of bodies: `NAME: GUESTS on NETWORKS [with LIMITS];` plays `async fn NAME(&Serving)`
/// as `NAME::GUEST::NETWORK`, for each of them.
///
/// Guests are `every` one, those that serve `many` connections at once, those of them that are `told` why a
/// connection cannot be accepted, `openers` of sockets of their own among these, or those that serve them
/// `in_turn`. Networks are `every` one, those that tell of `resets`, `storms`, or `own_process`: the operating
/// system's, in a process of the test's own, `own_process_and_front` both ways. A body without a line is dead code.
macro_rules! behaviours {
    ($($name:ident: $guests:ident on $networks:ident $(with $limits:ident)?;)*) => { $(
        mod $name {
            behaviours!(@guests $guests, $networks $name [$($limits)?]);
        }
    )* };

    (@guests every, $($rest:tt)*) => {
        behaviours!(@guests many, $($rest)*);
        behaviours!(@guests in_turn, $($rest)*);
    };
    (@guests many, $($rest:tt)*) => {
        behaviours!(@guests told, $($rest)*);
        behaviours!(@guest sockets_03 Sockets03, $($rest)*);
    };
    (@guests told, $($rest:tt)*) => {
        behaviours!(@guest preview1 Preview1, $($rest)*);
        behaviours!(@guests openers, $($rest)*);
    };
    (@guests openers, $($rest:tt)*) => {
        behaviours!(@guest wasmedge Wasmedge, $($rest)*);
        behaviours!(@guest wasix Wasix, $($rest)*);
        behaviours!(@guest sockets_02 Sockets02, $($rest)*);
    };
    (@guests in_turn, $($rest:tt)*) => {
        behaviours!(@guest preview1_blocking Preview1Blocking, $($rest)*);
        behaviours!(@guest wasmedge_blocking WasmedgeBlocking, $($rest)*);
        behaviours!(@guest wasix_blocking WasixBlocking, $($rest)*);
    };

    (@guest $module:ident $guest:ident, $networks:ident $($rest:tt)*) => {
        mod $module {
            use crate::support;

            behaviours!(@networks $networks, $guest $($rest)*);
        }
    };

    (@networks every, $($rest:tt)*) => {
        behaviours!(@networks resets, $($rest)*);
        behaviours!(@test memory, support::Network::Memory, $($rest)*);
        behaviours!(@test unix, support::Network::Unix, $($rest)*);
    };
    (@networks resets, $($rest:tt)*) => {
        behaviours!(@test os, support::Network::Os, $($rest)*);
        behaviours!(@test simulated, support::Network::simulated(), $($rest)*);
        behaviours!(@test simulated_faults_seed1, support::Network::faulty(1), $($rest)*);
        behaviours!(@test simulated_faults_seed2, support::Network::faulty(2), $($rest)*);
        behaviours!(@test simulated_faults_seed3, support::Network::faulty(3), $($rest)*);
        behaviours!(@test os_front, support::Network::Os.behind_a_front(), $($rest)*);
        behaviours!(@test simulated_front_faults_seed4, support::Network::faulty(4).behind_a_front(), $($rest)*);
    };
    (@networks storms, $($rest:tt)*) => {
        behaviours!(@test simulated_storm_seed1, support::Network::stormy(1), $($rest)*);
        behaviours!(@test simulated_storm_seed2, support::Network::stormy(2), $($rest)*);
        behaviours!(@test simulated_storm_seed3, support::Network::stormy(3), $($rest)*);
        behaviours!(@test simulated_storm_seed4, support::Network::stormy(4), $($rest)*);
    };
    (@networks own_process, $($rest:tt)*) => {
        behaviours!(@alone os, support::Network::Os, $($rest)*);
    };
    (@networks own_process_and_front, $($rest:tt)*) => {
        behaviours!(@networks own_process, $($rest)*);
        behaviours!(@alone os_front, support::Network::Os.behind_a_front(), $($rest)*);
    };

    (@alone $test:ident, $network:expr, $($rest:tt)*) => {
        #[test]
        fn $test() {
            let (_, test) =
                concat!(module_path!(), "::", stringify!($test)).split_once("::").expect("after the crate's name");
            support::in_own_process(test, || {
                behaviours!(@play $network, $($rest)*)
            });
        }
    };
    (@test $test:ident, $network:expr, $($rest:tt)*) => {
        #[test]
        fn $test() {
            behaviours!(@play $network, $($rest)*)
        }
    };
    (@play $network:expr, $guest:ident $name:ident []) => {
        support::play(support::Guest::$guest, $network, support::default_limits, crate::$name)
    };
    (@play $network:expr, $guest:ident $name:ident [$limits:ident]) => {
        support::play(support::Guest::$guest, $network, crate::$limits, crate::$name)
    };
}

/// Plays a body with a guest on a network.
pub(crate) fn play(
    guest: Guest, network: Network, limit: impl FnOnce(&mut Limits), body: impl AsyncFnOnce(&Serving) -> Tested,
) {
    let _hint = ReplayHint(network.clone());
    allow_descriptors();
    let mut limits = Limits::default();
    limit(&mut limits);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a test may open descriptors");
    let played = runtime.block_on(async {
        let serving = Serving::start(guest, network, limits).await;
        body(&serving).await?;
        serving.finish().await
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}

/// As they are by default.
pub(crate) fn default_limits(_: &mut Limits) {}

/// Says how to meet the same faults again, when a test fails on a simulated network.
struct ReplayHint(Network);

impl Drop for ReplayHint {
    #[allow(clippy::print_stderr, reason = "the test harness shows it with the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() && matches!(self.0.sockets(), Network::Simulated { .. }) {
            eprintln!("{self}");
        }
    }
}

impl fmt::Display for ReplayHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Network::Simulated { seed, faults } = self.0.sockets() else { return Ok(()) };
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default();
        write!(f, "with {faults:?}; again: {SEED}={seed} cargo test -p anyport --test behaviour -- --exact {test}")
    }
}
