//! What the tests of single hostcalls say: a guest that calls what it is told to, and their words for it.
#![allow(dead_code, unused_imports, reason = "each test crate uses a part of it")]

pub(crate) mod errno;
mod module;
mod observe;
mod polling;
mod puppet;
mod rows;
mod sockets;
mod stage;

pub(crate) use observe::{connect, nodelay_of, past_deadline, read_all};
pub(crate) use polling::{Event, MONOTONIC, Polling, REALTIME, Wait, indices};
pub(crate) use puppet::{Answer, DEADLINE, Puppet};
pub(crate) use rows::{Row, refused_of_wasix, rows};
pub(crate) use sockets::{Bytes, Connected, DGRAM, INET4, INET6, NONBLOCK, STREAM, Slot, connected, int};
pub(crate) use stage::{Stage, load, runtime};
