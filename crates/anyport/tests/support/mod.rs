//! What the tests say: guests, networks, clients, and how one behaviour is played on all of them.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test crate uses a part of it")]

mod bytes;
mod client;
mod guest;
mod network;
#[macro_use]
mod play;
mod process;
mod serving;

pub(crate) use bytes::{assert_same, fnv, pattern, sunk};
pub(crate) use client::{Client, Count, Errors, Failure, Stream, Tested, within};
pub(crate) use guest::Guest;
pub(crate) use network::Network;
pub(crate) use play::{default_limits, play};
pub(crate) use process::{in_own_process, leave_descriptors, open_descriptors, processor_time, resident_bytes};
pub(crate) use serving::{Serving, connect_memory};
