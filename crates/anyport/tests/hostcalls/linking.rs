//! The central mechanism: an import is found by its module, its name and its type, one at a time.

use std::io::Write;

use crate::wat_support::{Stage, connect, errno, load, rows};

/// A server with both shapes of `sock_accept`.
const ACCEPTING: &[&str] = &[
    "sock_accept(ii)i",
    "sock_accept(iii)i",
    "sock_open(iii)i",
    "sock_bind(iii)i",
    "sock_listen(ii)i",
    "sock_recv(iiiiii)i",
    "fd_fdstat_get(ii)i",
];

#[test]
fn one_module_imports_both_shapes_of_accept_in_any_order() {
    let reversed: Vec<&str> = ACCEPTING.iter().rev().copied().collect();
    for imports in [ACCEPTING, &reversed] {
        let mut guest = Stage::only(imports).publish("0:80").start();
        let listener = guest.listen(80);
        let clients = [connect(guest.address(0)), connect(guest.address(0))];
        let out = guest.room(4);
        let first = guest.told(out, "sock_accept", &[listener, out]).expect("accept with 2 parameters");
        let second = guest.told(out, "sock_accept", &[listener, 4, out]).expect("accept with 3 parameters");
        assert_eq!((first, second), (listener + 1, listener + 2));
        for (mut client, text) in clients.iter().zip([b"one", b"two"]) {
            client.write_all(text).expect("it is accepted");
        }
        // The first blocks, the second was asked not to.
        assert_eq!(guest.recv(first, 3).as_deref(), Ok(&b"one"[..]));
        let received = loop {
            match guest.recv(second, 3) {
                Err(errno::AGAIN) => {}
                received => break received,
            }
        };
        assert_eq!(received.as_deref(), Ok(&b"two"[..]));
        assert_eq!(guest.recv(second, 3), Err(errno::AGAIN));
        // Not the listener, as in WasmEdge up to 0.17.1.
        let stat = guest.room(24);
        guest.must("fd_fdstat_get", &[listener, stat]);
        assert_eq!(guest.number(stat + 2, 2), 0);
    }
}

#[test]
fn one_module_imports_every_row() {
    let every = rows();
    let shapes = |name: &str| every.iter().filter(|row| row.name == name).count();
    assert_eq!(["sock_accept", "sock_recv_from", "sock_getlocaladdr", "sock_getpeeraddr"].map(shapes), [2; 4]);
    Stage::new().start().must("sched_yield", &[]);
    Stage::importing(every.iter().rev().cloned().collect()).start().must("sched_yield", &[]);
    let twice: Vec<_> = every.iter().chain(every).cloned().collect();
    Stage::importing(twice).start().must("sched_yield", &[]);
}

/// What a module with these imports is told.
fn told(imports: &str) -> String {
    let Err(error) = load(&format!("(module {imports} (memory (export \"memory\") 1) (func (export \"_start\")))"))
    else {
        return "nothing".to_owned();
    };
    format!("{error}\n{}", error.hint().unwrap_or_default())
}

#[test]
fn a_miss_lists_the_shapes_that_there_are() {
    let accept = |params: &str| {
        format!("(import \"wasi_snapshot_preview1\" \"sock_accept\" (func (param {params}) (result i32)))")
    };
    assert_eq!(told(&accept("i32 i32")), "nothing");
    for (import, shape) in [
        (accept("i32 i32 i32 i32"), "(iiii)i"),
        (accept("i32 i64"), "(iI)i"),
        (accept("f32 f64"), "(fF)i"),
        (accept("i32 i32 i32").replace("(result i32)", ""), "(iii)"),
        (accept("i32 i32").replace("(result i32)", "(result i32 i32)"), "(ii)ii"),
    ] {
        let text = told(&import);
        let wanted = format!(
            "`test.wasm` needs an import that is not there:\n  \
             wasi_snapshot_preview1::sock_accept{shape}; there is (iii)i (WASI preview1), (ii)i (WasmEdge sockets)\n"
        );
        assert!(text.starts_with(&wanted), "{text}");
        assert!(text.contains("whose `sock_accept` is one of these"), "{text}");
    }
}

#[test]
fn all_misses_are_told_together() {
    let missing: String = (0..11).map(|index| format!("(import \"env\" \"f{index}\" (func))")).collect();
    let text = told(&missing);
    assert!(text.contains("needs 11 imports that are not there:"), "{text}");
    assert!(text.contains("  env::f7()\n  and 3 more"), "{text}");
    let mixed = "(import \"wasi_snapshot_preview1\" \"sock_bind\" (func (param i32 i32) (result i32)))
        (import \"wasi_snapshot_preview1\" \"nothing\" (func))
        (import \"wasix_64v1\" \"sock_open\" (func (param i32 i32 i32 i64) (result i32)))";
    let text = told(mixed);
    for line in [
        "  wasi_snapshot_preview1::sock_bind(ii)i; there is (iii)i (WasmEdge sockets)\n",
        "  wasi_snapshot_preview1::nothing()\n",
        "  wasix_64v1::sock_open(iiiI)i, of WASIX with 64-bit memory, which no toolchain makes\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn what_is_no_function_is_a_miss_too() {
    for (import, what) in [
        ("(import \"wasi_snapshot_preview1\" \"sock_accept\" (global i32))", "global"),
        ("(import \"wasi_snapshot_preview1\" \"sock_accept\" (table 1 funcref))", "table"),
        ("(import \"wasi_snapshot_preview1\" \"sock_accept\" (func (param externref)))", "(?)"),
        ("(import \"env\" \"other\" (global i32))", "global"),
    ] {
        let text = told(import);
        assert!(text.contains("needs an import that is not there") || text.contains("was built for"), "{text}");
        assert!(text.contains(what), "{text}");
    }
}
