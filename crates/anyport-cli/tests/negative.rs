//! What must be refused or contained: each file gets its sentence from `inspect` and from `run`, and an
//! exit code, never a panic, a hang or a death by signal.
//!
//! The files are made here, from text or bytes: a name, the bytes, what is said.

mod support;

use std::time::Duration;

use rustix::process::Signal;

use support::guests::{self, wasm};
use support::process::GuestState;
use support::{Folder, anyport};

/// What `inspect` says is wrong with the file, and how `run` ends.
fn verdicts(bytes: impl AsRef<[u8]>) -> String {
    let folder = Folder::with("x.wasm", bytes);
    let inspected = folder.anyport(["inspect", "x.wasm"]);
    let told: Vec<&str> = inspected.stdout.lines().skip_while(|line| !line.starts_with("problem: ")).collect();
    let kind = inspected.stdout.lines().next().unwrap_or_default();
    let ran = folder.anyport(["run", "x.wasm"]);
    if inspected.code() != 0 {
        assert_eq!(inspected.code(), ran.code(), "both say that it cannot be run");
        let ran: Vec<&str> = ran.stderr.lines().filter(|line| !line.starts_with(' ')).collect();
        let ran = ran.join("\n").replacen("error: ", "problem: ", 1);
        assert_eq!(told.join("\n"), ran.replace(":\nhint: ", "\nhint: "), "both say the same");
    }
    format!("inspect: {kind} (code {})\nrun: {ran}", inspected.code())
}

#[test]
fn empty() {
    snapshot!(verdicts(""), @"
    inspect: x.wasm: not WebAssembly, 0 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a WebAssembly binary: the file is empty
    hint: build it again: the build may have been interrupted
    ");
}

#[test]
fn header_alone() {
    snapshot!(verdicts(b"\0asm\x01\0\0\0"), @"
    inspect: x.wasm: core module, 8 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is empty: it exports nothing
    hint: build it as a command (a program with `main`)
    ");
}

#[test]
fn half_a_header() {
    snapshot!(verdicts(b"\0asm\x01"), @"
    inspect: x.wasm: not WebAssembly, 5 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a WebAssembly binary: it ends within its header
    hint: build or download it again: it is cut off
    ");
}

#[test]
fn version_2() {
    snapshot!(verdicts(b"\0asm\x02\0\0\0"), @"
    inspect: x.wasm: not WebAssembly, 8 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a WebAssembly binary: its version is 2, and modules have version 1
    hint: build it again with a current toolchain
    ");
}

#[test]
fn text() {
    snapshot!(verdicts("hello, world\n"), @"
    inspect: x.wasm: not WebAssembly, 13 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a WebAssembly binary: it is text
    hint: name the .wasm file
    ");
}

#[test]
fn wat_text() {
    snapshot!(verdicts("(module (func (export \"_start\")))"), @"
    inspect: x.wasm: not WebAssembly, 33 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a WebAssembly binary: it is the text format
    hint: make a binary of it, with `wat2wasm` or `wasm-tools parse`
    ");
}

#[test]
fn script() {
    snapshot!(verdicts("#!/bin/sh\nexec anyport run x.wasm\n"), @"
    inspect: x.wasm: not WebAssembly, 34 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a WebAssembly binary: it is a script
    hint: name the .wasm file that it runs
    ");
}

#[test]
fn native_program() {
    let ourselves = std::fs::read(env!("CARGO_BIN_EXE_anyport")).expect("it is built");
    snapshot!(verdicts(&ourselves[..4096]), @"
    inspect: x.wasm: not WebAssembly, 4096 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a WebAssembly binary: it is a native Linux program (ELF)
    hint: build the server for WebAssembly, for example with `cargo build --target wasm32-wasip1`
    ");
}

#[test]
fn gzip() {
    snapshot!(verdicts(b"\x1f\x8b\x08\0\0\0\0\0\0\x03"), @"
    inspect: x.wasm: not WebAssembly, 10 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a WebAssembly binary: it is gzip-compressed
    hint: unpack it first: `gunzip < FILE > NEW.wasm`
    ");
}

#[test]
fn noise() {
    snapshot!(verdicts([0xde, 0xad, 0xbe, 0xef]), @r"
    inspect: x.wasm: not WebAssembly, 4 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a WebAssembly binary: its first bytes are not `\0asm`
    hint: name the .wasm file
    ");
}

#[test]
fn truncated() {
    let whole = guests::cat();
    snapshot!(verdicts(&whole[..whole.len() / 2]), @"
    inspect: x.wasm: core module, 586 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is cut off: it ends within a section, at byte 586
    hint: build or download it again: it is damaged, or uses a proposal that is not supported
    ");
}

#[test]
fn damaged_body() {
    let mut bytes = wasm(r#"(module (func (export "_start") (nop) (nop) (nop)))"#);
    let body = bytes.windows(3).position(|window| window == [1, 1, 1]).expect("three nops");
    bytes[body + 1] = 0xff;
    snapshot!(verdicts(bytes), @"
    inspect: x.wasm: core module, 39 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is not a valid module: illegal opcode: 0xff (at offset 0x24)
    hint: build or download it again: it is damaged, or uses a proposal that is not supported
    ");
}

/// Every third byte of a small module turned over, one at a time, and every third length that it may be
/// cut to: whatever comes of it, it is an exit code.
#[test]
fn every_damage_ends_with_a_code() {
    let whole = wasm(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (func (export "_start")))"#,
    );
    let inspected = |bytes: &[u8]| {
        let code = Folder::with("x.wasm", bytes).anyport(["inspect", "x.wasm"]).code();
        assert!(code == 0 || code == 126, "{code} for {bytes:02x?}");
    };
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        inspected(&bytes);
        inspected(&whole[..at]);
    }
}

#[test]
fn component() {
    snapshot!(verdicts(wasm("(component)")), @"
    inspect: x.wasm: component, 8 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is a component that neither runs by itself nor serves HTTP: it exports nothing
    hint: build it for the world `wasi:cli/command`, `wasi:http/proxy` (0.2) or `wasi:http/service` ↵
    (0.3)
    ");
}

#[test]
fn library() {
    let adds = r#"(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#;
    snapshot!(verdicts(wasm(adds)), @"
    inspect: x.wasm: core module, 41 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is a library: it exports no `_start`
    hint: build it as a command (a program with `main`) for `wasm32-wasip1`
    ");
}

#[test]
fn reactor() {
    snapshot!(verdicts(wasm(r#"(module (func (export "_initialize")) (func (export "handle")))"#)), @"
    inspect: x.wasm: core module, 54 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is a reactor: it has functions to call and nothing that runs by itself
    hint: build it as a command (a program with `main`)
    ");
}

#[test]
fn start_of_another_type() {
    snapshot!(verdicts(wasm(r#"(module (func (export "_start") (param i32)))"#)), @"
    inspect: x.wasm: core module, 37 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` exports a `_start` that cannot be called: it is (i)
    hint: build it as a command (a program with `main`) for `wasm32-wasip1`
    ");
}

#[test]
fn no_memory() {
    snapshot!(verdicts(wasm(r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (func (export "_start")))"#)), @"
    inspect: x.wasm: core module, 81 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` calls the host but exports no memory
    hint: export its memory under the name `memory`, as every toolchain does
    ");
}

/// A command with this import.
fn importing(module: &str, name: &str, kind: &str) -> Vec<u8> {
    wasm(&format!(
        r#"(module (import "{module}" "{name}" {kind}) (memory (export "memory") 1) (func (export "_start")))"#
    ))
}

#[test]
fn import_that_nobody_has() {
    snapshot!(verdicts(importing("wasi_snapshot_preview1", "sock_frobnicate", "(func (param i32) (result i32))")), @"
    inspect: x.wasm: core module, 99 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` needs an import that is not there:
      wasi_snapshot_preview1::sock_frobnicate(i)i
    hint: rebuild it for `wasm32-wasip1`: no runtime that is known here has that import
    ");
}

#[test]
fn import_of_another_shape() {
    snapshot!(verdicts(importing("wasi_snapshot_preview1", "fd_write", "(func (param i64) (result i64))")), @"
    inspect: x.wasm: core module, 92 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` needs an import that is not there:
      wasi_snapshot_preview1::fd_write(I)I; there is (iiii)i (WASI preview1)
    hint: rebuild it with a toolchain or library whose `fd_write` is one of these
    ");
    snapshot!(verdicts(importing("wasi_snapshot_preview1", "sock_accept", "(func (param i32) (result i32))")), @"
    inspect: x.wasm: core module, 95 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` needs an import that is not there:
      wasi_snapshot_preview1::sock_accept(i)i; there is (iii)i (WASI preview1), (ii)i (WasmEdge sockets)
    hint: rebuild it with a toolchain or library whose `sock_accept` is one of these
    ");
}

#[test]
fn import_that_is_no_function() {
    snapshot!(verdicts(importing("env", "table", "(table 1 funcref)")), @"
    inspect: x.wasm: core module, 67 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` was built for an embedder of its own (AssemblyScript and Emscripten name it so), and ↵
    needs an import that is not there:
      table env::table
    hint: run it with what it was built for, or rebuild it for `wasm32-wasip1`
    ");
    snapshot!(verdicts(importing("wasi_snapshot_preview1", "fd_write", "(global i32)")), @"
    inspect: x.wasm: core module, 88 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` needs an import that is not there:
      global wasi_snapshot_preview1::fd_write; there is (iiii)i (WASI preview1)
    hint: rebuild it with a toolchain or library whose `fd_write` is one of these
    ");
}

#[test]
fn wasix() {
    snapshot!(verdicts(importing("wasix_32v1", "thread_local_create", "(func (param i64 i32) (result i32))")), @"
    inspect: x.wasm: core module, 92 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` was built for the first WASIX, of 2022, and needs an import that is not there:
      wasix_32v1::thread_local_create(Ii)i
    hint: rebuild it with a current wasix-libc or cargo-wasix, for 32 bits
    ");
}

#[test]
fn wasix_64() {
    snapshot!(verdicts(importing("wasix_64v1", "sock_listen", "(func (param i32 i64) (result i32))")), @"
    inspect: x.wasm: core module, 84 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` was built for WASIX with 64-bit memory, which no toolchain makes, and needs an ↵
    import that is not there:
      wasix_64v1::sock_listen(iI)i
    hint: rebuild it with a current wasix-libc or cargo-wasix, for 32 bits
    ");
}

#[test]
fn wasix_with_threads_runs() {
    let bytes = wasm(
        r#"(module
        (import "wasi" "thread-spawn" (func (param i32) (result i32)))
        (import "wasix_32v1" "futex_wait" (func (param i32 i32 i32 i32) (result i32)))
        (import "wasix_32v1" "proc_fork" (func (param i32 i32) (result i32)))
        (import "env" "memory" (memory 1 2 shared))
        (export "memory" (memory 0)) (func (export "_start")))"#,
    );
    let folder = Folder::with("x.wasm", bytes);
    let inspected = folder.anyport(["inspect", "x.wasm"]);
    assert!(inspected.stdout.contains("yes Wasmer 7                 has threads"), "{inspected}");
    assert!(inspected.stdout.contains("no  Wasmtime 36 to 46        has no wasix_32v1::futex_wait"), "{inspected}");
    assert!(inspected.stdout.contains("not supported: proc_fork, whose calls fail"), "{inspected}");
    assert_eq!(folder.anyport(["run", "x.wasm"]).code(), 0);
}

#[test]
fn wamr() {
    let kind = "(func (param i32 i32 i32 i32 i32 i32) (result i32))";
    snapshot!(verdicts(importing("wasi_snapshot_preview1", "sock_addr_resolve", kind)), @"
    inspect: x.wasm: core module, 106 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` was built for the sockets of WAMR, and needs an import that is not there:
      wasi_snapshot_preview1::sock_addr_resolve(iiiiii)i
    hint: run it with what it was built for, or rebuild it for `wasm32-wasip1`
    ");
}

#[test]
fn preview0() {
    let bytes = importing("wasi_unstable", "fd_write", "(func (param i32 i32 i32 i32) (result i32))");
    snapshot!(verdicts(&bytes), @"
    inspect: x.wasm: core module, 86 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` was built for WASI preview0, of before 2020, and needs an import that is not there:
      wasi_unstable::fd_write(iiii)i
    hint: rebuild it with a toolchain of after 2020, for `wasm32-wasip1`
    ");
    let inspected = Folder::with("x.wasm", bytes).anyport(["inspect", "x.wasm"]);
    assert!(inspected.stdout.contains("yes Wasmtime 47 and later    has preview0 too"), "{inspected}");
}

#[test]
fn wasm_bindgen() {
    snapshot!(verdicts(wasm(r#"(module
        (import "wbg" "__wbg_log_0123456789abcdef" (func (param i32 i32)))
        (import "wbg" "__wbindgen_throw" (func (param i32 i32)))
        (memory (export "memory") 1) (func (export "greet")))"#)), @"
    inspect: x.wasm: core module, 113 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` was built for browsers (wasm-bindgen), and needs 2 imports that are not there:
      wbg::__wbg_log_0123456789abcdef(ii)
      wbg::__wbindgen_throw(ii)
    hint: rebuild it for `wasm32-wasip1`
    ");
    let exports = r#"(module (func (export "__wbindgen_malloc") (param i32) (result i32) (i32.const 0)))"#;
    snapshot!(verdicts(wasm(exports)), @"
    inspect: x.wasm: core module, 51 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` is a wasm-bindgen module, for browsers
    hint: rebuild it for `wasm32-wasip1`
    ");
}

#[test]
fn go_for_browsers() {
    snapshot!(verdicts(importing("gojs", "runtime.wasmExit", "(func (param i32))")), @"
    inspect: x.wasm: core module, 81 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` was built for browsers (Go's `GOOS=js`), and needs an import that is not there:
      gojs::runtime.wasmExit(i)
    hint: rebuild it with `GOOS=wasip1`
    ");
}

#[test]
fn assemblyscript() {
    snapshot!(verdicts(importing("env", "abort", "(func (param i32 i32 i32 i32))")), @"
    inspect: x.wasm: core module, 72 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` was built for an embedder of its own (AssemblyScript and Emscripten name it so), and ↵
    needs an import that is not there:
      env::abort(iiii)
    hint: run it with what it was built for, or rebuild it for `wasm32-wasip1`
    ");
}

#[test]
fn many_imports_that_nobody_has() {
    let imports: String = (0..20).map(|n| format!(r#"(import "host" "f{n}" (func))"#)).collect();
    snapshot!(verdicts(wasm(&format!(r#"(module {imports} (func (export "_start")))"#))), @"
    inspect: x.wasm: core module, 250 bytes (code 126)
    run: code 126
    --- stderr
    error: `x.wasm` needs 20 imports that are not there:
      host::f0()
      host::f1()
      host::f2()
      host::f3()
      host::f4()
      host::f5()
      host::f6()
      host::f7()
      and 12 more
    hint: rebuild it for `wasm32-wasip1`: no runtime that is known here has that import
    ");
}

#[test]
fn trap() {
    snapshot!(verdicts(guests::plain("unreachable")), @"
    inspect: x.wasm: core module, 114 bytes (code 0)
    run: code 134
    --- stderr
    error: the guest trapped: wasm `unreachable` instruction executed
    the guest's functions, innermost first:
        0:     0x5a - <wasm function 1>
    ");
}

#[test]
fn division_by_zero() {
    snapshot!(verdicts(wasm(r#"(module
        (func $divide (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
        (func $main (drop (call $divide (i32.const 1) (i32.const 0))))
        (func (export "_start") (call $main)))"#)), @"
    inspect: x.wasm: core module, 88 bytes (code 0)
    run: code 134
    --- stderr
    error: the guest trapped: integer divide by zero
    the guest's functions, innermost first:
        0:     0x2f - divide
        1:     0x37 - main
        2:     0x3d - <wasm function 2>
    ");
}

#[test]
fn names_are_demangled() {
    let divides = r#"(module (func $_ZN5guest6divide17h0123456789abcdefE unreachable)
        (func (export "_start") (call $_ZN5guest6divide17h0123456789abcdefE)))"#;
    snapshot!(verdicts(wasm(divides)), @"
    inspect: x.wasm: core module, 91 bytes (code 0)
    run: code 134
    --- stderr
    error: the guest trapped: wasm `unreachable` instruction executed
    the guest's functions, innermost first:
        0:     0x23 - guest::divide::h0123456789abcdef
        1:     0x28 - <wasm function 1>
    ");
}

#[test]
fn stack_overflow() {
    let said = verdicts(wasm(r#"(module (func $deeper (call $deeper)) (func (export "_start") (call $deeper)))"#));
    let front: Vec<&str> = said.lines().take(6).collect();
    snapshot!(front.join("\n"), @"
    inspect: x.wasm: core module, 62 bytes (code 0)
    run: code 134
    --- stderr
    error: the guest trapped: its stack is full: a recursion without end
    the guest's functions, innermost first:
        0: deeper
    ");
    assert!(said.lines().count() < 40, "the backtrace is bounded: {said}");
}

#[test]
fn out_of_bounds() {
    snapshot!(verdicts(guests::plain("(drop (i32.load (i32.const -1)))")), @"
    inspect: x.wasm: core module, 119 bytes (code 0)
    run: code 134
    --- stderr
    error: the guest trapped: out of bounds memory access
    the guest's functions, innermost first:
        0:     0x5d - <wasm function 1>
    ");
}

#[test]
fn trap_while_it_is_instantiated() {
    snapshot!(verdicts(wasm(r#"(module (func $start unreachable) (start $start) (func (export "_start")))"#)), @"
    inspect: x.wasm: core module, 61 bytes (code 0)
    run: code 134
    --- stderr
    error: the guest trapped: wasm `unreachable` instruction executed
    the guest's functions, innermost first:
        0:     0x26 - start
    ");
    snapshot!(verdicts(wasm(r#"(module (memory 1) (data (i32.const 65536) "x") (func (export "_start")))"#)), @"
    inspect: x.wasm: core module, 52 bytes (code 0)
    run: code 134
    --- stderr
    error: the guest trapped: out of bounds memory access
    ");
}

#[test]
fn hostcall_with_a_wild_pointer() {
    let writes = "(drop (call $fd_write (i32.const 1) (i32.const -4) (i32.const 1) (i32.const 0)))";
    snapshot!(verdicts(guests::command(writes)), @"
    inspect: x.wasm: core module, 1130 bytes (code 0)
    run: code 134
    --- stderr
    error: the guest trapped: it called the host with a pointer outside of its memory (0xfffffffc, for 4 ↵
    bytes)
    the guest's functions, innermost first:
        0:    0x325 - <wasm function 21>
    ");
}

#[test]
fn memory_without_end() {
    let grows = wasm(
        r#"(module (memory (export "memory") 1)
        (func (export "_start")
          (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
          (loop $again (drop (memory.grow (i32.const 16))) (drop (memory.grow (i32.const 32))))
          unreachable))"#,
    );
    snapshot!(verdicts(&grows), @"
    inspect: x.wasm: core module, 101 bytes (code 0)
    run: code 134
    --- stderr
    warning: the guest may not have more than 1024 MiB of memory; to allow more, add `--memory 2048m`
    error: the guest is out of memory: it needs more than 1024 MiB (wasm `unreachable` instruction ↵
    executed)
    the guest's functions, innermost first:
        0:     0x4a - <wasm function 0>
    ");
    let folder = Folder::with("x.wasm", grows);
    snapshot!(folder.anyport(["run", "--memory", "3m", "x.wasm"]), @"
    code 134
    --- stderr
    warning: the guest may not have more than 3 MiB of memory; to allow more, add `--memory 4m`
    error: the guest is out of memory: it needs more than 3 MiB (wasm `unreachable` instruction ↵
    executed)
    the guest's functions, innermost first:
        0:     0x4a - <wasm function 0>
    ");
}

#[test]
fn memory_larger_than_the_limit_from_the_start() {
    let large = wasm(r#"(module (memory (export "memory") 32) (func (export "_start")))"#);
    let folder = Folder::with("x.wasm", large);
    snapshot!(folder.anyport(["run", "-m", "1m", "x.wasm"]), @"
    code 134
    --- stderr
    warning: the guest may not have more than 1 MiB of memory; to allow more, add `--memory 2m`
    error: the guest is out of memory: it needs more than 1 MiB (memory minimum size of 32 pages exceeds ↵
    memory limits)
    ");
    assert_eq!(folder.anyport(["run", "-m", "2m", "x.wasm"]).code(), 0);
}

#[test]
fn table_without_end() {
    snapshot!(verdicts(wasm(r#"(module (table 1 funcref)
        (func (export "_start")
          (if (i32.eq (table.grow (ref.null func) (i32.const 10000000)) (i32.const -1)) (then unreachable))))"#)), @"
    inspect: x.wasm: core module, 59 bytes (code 0)
    run: code 134
    --- stderr
    warning: the guest may not have more than 1048576 elements in its tables; to allow more, add ↵
    `--limit table-elements=10000001`
    error: the guest trapped: wasm `unreachable` instruction executed
    the guest's functions, innermost first:
        0:     0x36 - <wasm function 0>
    ");
}

#[test]
fn accept_without_a_listener() {
    let accepts = wasm(
        r#"(module
        (import "wasi_snapshot_preview1" "sock_accept" (func $sock_accept (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $proc_exit (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 0)))))"#,
    );
    snapshot!(verdicts(accepts), @"
    inspect: x.wasm: core module, 180 bytes (code 0)
    run: code 8
    --- stderr
    warning: the guest takes connections of a listener, and none was handed to it; add `-p 8080:8080`
    ");
}

#[test]
fn loop_without_end_dies_on_sigterm() {
    let folder = Folder::with("x.wasm", wasm(r#"(module (func (export "_start") (loop $forever (br $forever))))"#));
    let process = folder.spawn(["run", "x.wasm"]);
    process.wait_for_guest("x.wasm", GuestState::Computing);
    assert_eq!(process.end_by(Signal::TERM, Duration::from_secs(2)).code(), 143);
}

#[test]
fn devices_and_folders() {
    for device in ["/dev/null", "/dev/zero"] {
        assert_eq!(anyport(["inspect", device]).stderr, format!("error: `{device}` cannot be read: it is a device\n"));
        assert_eq!(anyport(["run", device]).code(), 126);
    }
    snapshot!(anyport(["run", "/"]), @"
    code 126
    --- stderr
    error: `/` is a directory
    hint: name the .wasm file in it
    ");
}

#[test]
fn larger_than_memory() {
    let folder = Folder::with("x.wasm", "");
    let file = std::fs::File::options().write(true).open(folder.path().join("x.wasm")).expect("ours");
    file.set_len(1 << 40).expect("a sparse file");
    snapshot!(folder.anyport(["run", "x.wasm"]), @"
    code 126
    --- stderr
    error: `x.wasm` is larger than a module can be: 1024 MiB
    ");
}
