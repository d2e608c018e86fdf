//! Programs of WASIX that print what they find, and what they want.

use crate::snapshot;
use crate::support::anyport;

/// An eventfd in an epoll set, by level: told until it is read, and then no more.
#[test]
fn an_event_is_told_until_it_is_read() {
    snapshot!(anyport(["run", "guests/wasix/evtest.wasm"]), @"
    code 0
    --- stdout
    one write: events 1 (want 1)
    not read, wait again: events 1 (level wants 1)
    read rc 0 value 2 (want 2)
    drained, wait again: events 0 (want 0), read rc -1 errno 6
    ");
}
