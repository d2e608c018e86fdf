//! Programs of WASIX that print what they find, and what they want.

use crate::snapshot;
use crate::support::guests::wasm;
use crate::support::{Folder, anyport};

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

/// What is not supported is told once for each name, however often it is called.
#[test]
fn a_call_that_is_not_supported_is_told_once() {
    let folder = Folder::with(
        "x.wasm",
        wasm(
            r#"(module
              (import "wasix_32v1" "port_unbridge" (func $unbridge (result i32)))
              (import "wasix_32v1" "port_mac" (func $mac (param i32) (result i32)))
              (memory (export "memory") 1)
              (func (export "_start")
                (drop (call $unbridge)) (drop (call $unbridge)) (drop (call $mac (i32.const 0)))))"#,
        ),
    );
    snapshot!(folder.anyport(["run", "x.wasm"]), @"
    code 0
    --- stderr
    warning: the guest calls `port_unbridge`, which is not supported
    warning: the guest calls `port_mac`, which is not supported
    ");
    let inspected = folder.anyport(["inspect", "x.wasm"]);
    assert!(inspected.stdout.contains("not supported: port_unbridge, port_mac"), "{inspected}");
}
