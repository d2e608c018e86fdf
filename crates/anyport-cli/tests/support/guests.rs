//! Small guests, written here as text: each does one thing and says how it went by its exit code.

/// What these guests may import, a memory, and two helpers.
///
/// Memory: 0 to 15 scratch of `$say`, 16 a result, 32 an address of WasmEdge's (8 bytes) with its four
/// bytes at 40, 64 a subscription, 128 events, 256 the start of a guest's own.
const PRELUDE: &str = r#"
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_open" (func $sock_open (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_bind" (func $sock_bind (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_listen" (func $sock_listen (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $sock_accept (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_connect" (func $sock_connect (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_getlocaladdr" (func $sock_getlocaladdr (param i32 i32 i32) (result i32)))
"#;

const HELPERS: &str = r#"
  (memory (export "memory") 2)
  (data (i32.const 256) "ready\n")
  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
  (func $write (param $fd i32) (param $from i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $from))
    (i32.store (i32.const 4) (local.get $length))
    (call $check (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $ready (call $write (i32.const 1) (i32.const 256) (i32.const 6)))
  (func $read (param $fd i32) (param $to i32) (param $room i32) (result i32)
    (i32.store (i32.const 0) (local.get $to))
    (i32.store (i32.const 4) (local.get $room))
    (call $check (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.load (i32.const 8)))
"#;

/// WasmEdge's helpers: an open socket's descriptor, an address.
const SOCKETS: &str = r#"
  (func $socket (result i32)
    (call $check (call $sock_open (i32.const 1) (i32.const 2) (i32.const 16)))
    (i32.load (i32.const 16)))
  (func $address (param $bytes i32) (result i32)
    (i32.store (i32.const 32) (i32.const 40))
    (i32.store (i32.const 36) (i32.const 4))
    (i32.store (i32.const 40) (local.get $bytes))
    (i32.const 32))
"#;

/// 127.0.0.1 as [`SOCKETS`]'s `$address` takes it.
const LOOPBACK: &str = "(i32.const 0x0100007f)";

/// A binary of this text.
pub fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A command with all imports of [`PRELUDE`] that does this.
pub fn command(start: &str) -> Vec<u8> {
    wasm(&format!("(module {PRELUDE} {HELPERS} {SOCKETS} (func (export \"_start\") {start}))"))
}

/// A command that imports nothing but its exit.
pub fn plain(start: &str) -> Vec<u8> {
    wasm(&format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
           (memory (export "memory") 1) (func (export "_start") {start}))"#
    ))
}

/// Exits with this code.
pub fn exits(code: u32) -> Vec<u8> {
    plain(&format!("(call $proc_exit (i32.const {code}))"))
}

/// Says that it is ready, then does this.
pub fn ready_then(what: &str) -> Vec<u8> {
    command(&format!("(local $fd i32) (call $ready) {what}"))
}

/// Computes without end.
pub fn loops() -> Vec<u8> {
    ready_then("(loop $forever (br $forever))")
}

/// Sleeps for an hour.
pub fn sleeps() -> Vec<u8> {
    ready_then(
        "(i32.store (i32.const 80) (i32.const 1))
         (i64.store (i32.const 88) (i64.const 3600000000000))
         (call $check (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))",
    )
}

/// Polls stdin for reading.
pub fn polls_stdin() -> Vec<u8> {
    ready_then(
        "(i32.store8 (i32.const 72) (i32.const 1))
         (call $check (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))",
    )
}

/// Reads stdin once.
pub fn reads_stdin() -> Vec<u8> {
    ready_then("(drop (call $read (i32.const 0) (i32.const 1024) (i32.const 1024)))")
}

/// Writes to stdout without end.
pub fn floods_stdout() -> Vec<u8> {
    ready_then("(loop $forever (call $write (i32.const 1) (i32.const 1024) (i32.const 65536)) (br $forever))")
}

/// Copies stdin to stdout, as `cat`.
pub fn cat() -> Vec<u8> {
    command(
        "(local $length i32)
         (loop $more
           (local.set $length (call $read (i32.const 0) (i32.const 1024) (i32.const 1024)))
           (if (local.get $length) (then
             (call $write (i32.const 1) (i32.const 1024) (local.get $length))
             (br $more))))",
    )
}

/// Binds this port of WasmEdge's, listens, and waits for a connection.
pub fn accepts(port: u16) -> Vec<u8> {
    accepts_after("", port)
}

/// The same, after it has said that it is ready and has read stdin once.
pub fn accepts_after_stdin(port: u16) -> Vec<u8> {
    accepts_after("(call $ready) (drop (call $read (i32.const 0) (i32.const 1024) (i32.const 1024)))", port)
}

fn accepts_after(first: &str, port: u16) -> Vec<u8> {
    command(&format!(
        "(local $fd i32)
         {first}
         (local.set $fd (call $socket))
         (call $check (call $sock_bind (local.get $fd) (call $address (i32.const 0)) (i32.const {port})))
         (call $check (call $sock_listen (local.get $fd) (i32.const 128)))
         (call $ready)
         (call $check (call $sock_accept (local.get $fd) (i32.const 16)))
         (call $write (i32.load (i32.const 16)) (i32.const 256) (i32.const 6))"
    ))
}

/// Binds this port `times` times on a socket each, and exits with the last errno.
pub fn binds(port: u16, times: usize) -> Vec<u8> {
    let bind =
        format!("(local.set $errno (call $sock_bind (call $socket) (call $address (i32.const 0)) (i32.const {port})))");
    command(&format!("(local $errno i32) {} (call $proc_exit (local.get $errno))", bind.repeat(times)))
}

/// Connects to this port of 127.0.0.1 and says so; exits with the errno if it may not.
pub fn connects(port: u16) -> Vec<u8> {
    command(&format!(
        "(local $fd i32)
         (local.set $fd (call $socket))
         (call $check (call $sock_connect (local.get $fd) (call $address {LOOPBACK}) (i32.const {port})))
         (call $write (local.get $fd) (i32.const 256) (i32.const 6))"
    ))
}

/// Looks this name up; exits with the errno, or with 0 if it has an address.
pub fn looks_up(name: &str) -> Vec<u8> {
    let length = name.len();
    // A list of one node of 28 bytes, whose address of 12 bytes has room for 26 more.
    wasm(&format!(
        r#"(module
             (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
             (import "wasi_snapshot_preview1" "sock_getaddrinfo"
               (func $look_up (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
             (memory (export "memory") 1)
             (data (i32.const 256) "{name}")
             (func (export "_start")
               (i32.store (i32.const 64) (i32.const 128))
               (i32.store (i32.const 140) (i32.const 160))
               (i32.store (i32.const 164) (i32.const 14))
               (i32.store (i32.const 168) (i32.const 180))
               (call $proc_exit (call $look_up
                 (i32.const 256) (i32.const {length}) (i32.const 0) (i32.const 0)
                 (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 68)))))"#
    ))
}

/// Waits at the listener that it is handed as descriptor 3.
pub fn polls_listener() -> Vec<u8> {
    wasm(
        r#"(module
             (import "wasi_snapshot_preview1" "sock_accept" (func $sock_accept (param i32 i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
             (memory (export "memory") 1)
             (func (export "_start")
               (i32.store8 (i32.const 72) (i32.const 1))
               (i32.store (i32.const 80) (i32.const 3))
               (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))))"#,
    )
}

/// Writes its strings to stdout, each with a NUL behind it: of the environment, or its arguments.
fn prints_strings(sizes: &str, get: &str) -> Vec<u8> {
    command(&format!(
        "(call $check (call {sizes} (i32.const 16) (i32.const 20)))
         (call $check (call {get} (i32.const 1024) (i32.const 32768)))
         (if (i32.load (i32.const 20)) (then
           (call $write (i32.const 1) (i32.const 32768) (i32.load (i32.const 20)))))"
    ))
}

/// Writes its environment to stdout, NUL-terminated.
pub fn prints_environment() -> Vec<u8> {
    prints_strings("$environ_sizes_get", "$environ_get")
}

/// Writes its arguments to stdout, NUL-terminated.
pub fn prints_arguments() -> Vec<u8> {
    prints_strings("$args_sizes_get", "$args_get")
}

/// Opens `ready` in the directory at descriptor 3, as `O_CREAT | O_WRONLY`, and writes to it.
pub fn makes_file() -> Vec<u8> {
    command(
        "(call $check (call $path_open (i32.const 3) (i32.const 0) (i32.const 256) (i32.const 5)
           (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
         (call $write (i32.load (i32.const 16)) (i32.const 256) (i32.const 6))",
    )
}

/// Prints the file `ready` of the directory at descriptor 3.
pub fn prints_file() -> Vec<u8> {
    command(
        "(call $check (call $path_open (i32.const 3) (i32.const 0) (i32.const 256) (i32.const 5)
           (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
         (call $write (i32.const 1) (i32.const 1024)
           (call $read (i32.load (i32.const 16)) (i32.const 1024) (i32.const 1024)))",
    )
}

/// The server that does what its clients tell it, for this dialect: see `guests/behaviour/behaviour.c`.
pub fn behaviour(dialect: &str) -> Vec<u8> {
    let file = super::root().join(format!("guests/behaviour/behaviour-{dialect}.wasm"));
    std::fs::read(file).expect("it is in the repository")
}

/// A module that takes seconds to compile: the ways through a function are what Cranelift is slow at.
pub fn slow_to_compile() -> Vec<u8> {
    let body = "(local.set 0 (i32.add (local.get 0) (i32.load (i32.mul (local.get 0) (i32.const 3)))))".repeat(300);
    let functions: String = (0..400).map(|_| format!("(func (param i32) (result i32) {body} (local.get 0))")).collect();
    wasm(&format!("(module (memory (export \"memory\") 1) {functions} (func (export \"_start\")))"))
}
