//! Servers of one or several guests: who is given a connection, what comes after a guest's end, how a
//! server drains, and the time limits.
//!
//! Nothing here waits for a time to pass where something can be seen instead; where a time limit is
//! tested, it is tested that it comes, and not too early.

mod support;
mod wat_support;

mod servers {
    mod anywhere;
    mod chaos;
    mod connections;
    mod datagrams;
    mod drain;
    mod lane;
    mod listeners;
    mod memory;
    mod restart;
    mod started;
    mod status;
    mod time_limits;
    mod unix;
    mod wasi_sockets;
}
