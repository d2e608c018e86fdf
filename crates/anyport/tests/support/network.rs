//! The networks that behaviours are played on.

use std::sync::Arc;
use std::time::Duration;

use anyport::simulated::{Faults, Simulated};

/// A network to play on.
#[derive(Clone, Debug)]
pub(crate) enum Network {
    Os,
    /// Clients come over a Unix socket.
    Unix,
    /// Clients come from the program that embeds the guest.
    Memory,
    Simulated {
        seed: u64,
        faults: Faults,
    },
    /// A thread of its own takes the connections, as for several guests.
    Front(Box<Self>),
}

impl Network {
    /// A simulated network without faults.
    pub(crate) fn simulated() -> Self {
        Self::Simulated { seed: 0, faults: Faults::none() }
    }

    /// A simulated network that moves bytes in small parts and late, but moves them all. How small
    /// and how late is drawn from the seed too, so that some seeds are all of one fault.
    pub(crate) fn faulty(seed: u64) -> Self {
        let seed = given_seed().unwrap_or(seed);
        let mut dice = fastrand::Rng::with_seed(seed);
        let faults = Faults {
            partial_receive: dice.f64(),
            partial_send: dice.f64(),
            // Seldom: each costs a millisecond, the least that tokio's clock can wait.
            delay: dice.f64() * 0.03,
            delay_max: Duration::from_millis(dice.u64(1..4)),
            buffer_bytes: 1 << dice.u32(5..15),
            ..Faults::none()
        };
        Self::Simulated { seed, faults }
    }

    /// A faulty network that also refuses and resets connections.
    pub(crate) fn stormy(seed: u64) -> Self {
        match Self::faulty(seed) {
            Self::Simulated { seed, faults } => {
                Self::Simulated { seed, faults: Faults { reset: 0.01, refuse: 0.2, ..faults } }
            }
            other => other,
        }
    }

    /// The same, with a thread that takes the connections.
    pub(crate) fn behind_a_front(self) -> Self {
        Self::Front(Box::new(self))
    }

    pub(crate) fn has_front(&self) -> bool {
        matches!(self, Self::Front(_))
    }

    /// What the connections are made of.
    pub(crate) fn sockets(&self) -> &Self {
        match self {
            Self::Front(sockets) => sockets.sockets(),
            sockets => sockets,
        }
    }

    /// Whether connections can fail although both sides do all they should.
    pub(crate) fn is_stormy(&self) -> bool {
        matches!(self.sockets(), Self::Simulated { faults, .. } if faults.reset > 0.0 || faults.refuse > 0.0)
    }

    /// Whether a connection that was made may be yet to come for the guest.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self.sockets(), Self::Simulated { faults, .. } if faults.delay > 0.0)
    }

    /// A number of bytes that no buffer on the way can hold.
    pub(crate) fn large(&self) -> usize {
        match self.sockets() {
            Self::Simulated { faults, .. } => (32 * faults.buffer_bytes).max(64 << 10),
            _ => 8 << 20,
        }
    }

    /// The simulated network, with nothing on it yet; `None` is the operating system's.
    pub(crate) fn build(&self) -> Option<Arc<Simulated>> {
        match self.sockets() {
            Self::Simulated { seed, faults } => Some(Simulated::new(*seed, *faults)),
            _ => None,
        }
    }
}

/// The seed to play again instead of a test's own.
pub(crate) const SEED: &str = "ANYPORT_SEED";

fn given_seed() -> Option<u64> {
    let seed = std::env::var(SEED).ok()?;
    Some(seed.parse().unwrap_or_else(|_| panic!("{SEED} is a number, not `{seed}`")))
}
