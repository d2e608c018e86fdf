//! What `anyport inspect` says of a file, for people and for scripts.

mod support;

use support::{Folder, anyport, guests};

#[test]
fn a_server_for_wasmedge() {
    snapshot!(anyport(["inspect", "guests/wasmedge/hello/server.wasm"]), @"
    code 0
    --- stdout
    guests/wasmedge/hello/server.wasm: core module, 307434 bytes
    dialects: WASI preview1, WasmEdge sockets
    wants to: listen
    imports:
      wasi_snapshot_preview1::sock_open(iii)i  WasmEdge sockets
      wasi_snapshot_preview1::sock_setsockopt(iiiii)i  WasmEdge sockets
      wasi_snapshot_preview1::sock_bind(iii)i  WasmEdge sockets
      wasi_snapshot_preview1::sock_listen(ii)i  WasmEdge sockets
      wasi_snapshot_preview1::sock_accept(ii)i  WasmEdge sockets
      wasi_snapshot_preview1::sock_getpeeraddr(iiii)i  WasmEdge sockets
      wasi_snapshot_preview1::sock_recv(iiiiii)i  WASI preview1
      wasi_snapshot_preview1::random_get(ii)i  WASI preview1
      wasi_snapshot_preview1::poll_oneoff(iiii)i  WASI preview1
      wasi_snapshot_preview1::sock_shutdown(ii)i  WASI preview1
      wasi_snapshot_preview1::sock_send(iiiii)i  WASI preview1
      wasi_snapshot_preview1::environ_get(ii)i  WASI preview1
      wasi_snapshot_preview1::environ_sizes_get(ii)i  WASI preview1
      wasi_snapshot_preview1::clock_time_get(iIi)i  WASI preview1
      wasi_snapshot_preview1::fd_close(i)i  WASI preview1
      wasi_snapshot_preview1::fd_fdstat_get(ii)i  WASI preview1
      wasi_snapshot_preview1::fd_fdstat_set_flags(ii)i  WASI preview1
      wasi_snapshot_preview1::fd_write(iiii)i  WASI preview1
      wasi_snapshot_preview1::proc_exit(i)  WASI preview1
      wasi_snapshot_preview1::sched_yield()i  WASI preview1
    exports:
      memory  memory
      _start()
      __main_void()i
    runtimes:
      yes anyport                  has every import
      no  Wasmtime 47 and later    has no WasmEdge sockets
      no  Wasmtime 36 to 46        has no WasmEdge sockets
      yes WasmEdge 0.17            has every import
      no  Wasmer 7                 has no WasmEdge sockets
    run: anyport run -p 8080:8080 -e PORT=8080 guests/wasmedge/hello/server.wasm
    ");
}

#[test]
fn a_server_for_a_listener() {
    snapshot!(anyport(["inspect", "guests/preview1/axum-fd3/server.wasm"]), @"
    code 0
    --- stdout
    guests/preview1/axum-fd3/server.wasm: core module, 616536 bytes
    dialects: WASI preview1
    wants to: take connections of a listener it is handed
    imports:
      wasi_snapshot_preview1::fd_fdstat_get(ii)i  WASI preview1
      wasi_snapshot_preview1::fd_fdstat_set_flags(ii)i  WASI preview1
      wasi_snapshot_preview1::sock_accept(iii)i  WASI preview1
      wasi_snapshot_preview1::random_get(ii)i  WASI preview1
      wasi_snapshot_preview1::poll_oneoff(iiii)i  WASI preview1
      wasi_snapshot_preview1::sock_shutdown(ii)i  WASI preview1
      wasi_snapshot_preview1::environ_get(ii)i  WASI preview1
      wasi_snapshot_preview1::environ_sizes_get(ii)i  WASI preview1
      wasi_snapshot_preview1::clock_time_get(iIi)i  WASI preview1
      wasi_snapshot_preview1::fd_close(i)i  WASI preview1
      wasi_snapshot_preview1::fd_read(iiii)i  WASI preview1
      wasi_snapshot_preview1::fd_write(iiii)i  WASI preview1
      wasi_snapshot_preview1::proc_exit(i)  WASI preview1
    exports:
      memory  memory
      _start()
      __main_void()i
    runtimes:
      yes anyport                  has every import
      no  Wasmtime 47 and later    dropped listeners (`--tcplisten`)
      yes Wasmtime 36 to 46        with `-S preview2=n -S tcplisten=ADDR`
      no  WasmEdge 0.17            hands over no listeners
      no  Wasmer 7                 hands over no listeners
    run: anyport run -p 8080:8080 -e PORT=8080 guests/preview1/axum-fd3/server.wasm
    ");
}

#[test]
fn explain_is_inspect() {
    let explained = anyport(["explain", "guests/preview1/axum-fd3/server.wasm"]);
    assert_eq!(explained.data(), anyport(["inspect", "guests/preview1/axum-fd3/server.wasm"]).data());
}

/// The JSON without its imports and exports, of which one each is shown.
fn json(file: &str) -> String {
    let ended = anyport(["inspect", "--json", file]);
    let mut all: serde_json::Value = serde_json::from_str(&ended.stdout).expect("it is JSON");
    for list in ["imports", "exports"] {
        let list = all[list].as_array_mut().expect("a list");
        assert!(!list.is_empty());
        list.truncate(1);
    }
    serde_json::to_string_pretty(&all).expect("plain data")
}

#[test]
fn json_for_scripts() {
    snapshot!(json("guests/wasmedge/hello/server.wasm"), @r#"
    {
      "bytes": 307434,
      "dialects": [
        "preview1",
        "wasmedge"
      ],
      "exports": [
        {
          "name": "memory",
          "signature": "memory"
        }
      ],
      "hint": null,
      "imports": [
        {
          "dialect": "wasmedge",
          "module": "wasi_snapshot_preview1",
          "name": "sock_open",
          "signature": "(iii)i",
          "status": "found"
        }
      ],
      "kind": "module",
      "name": "guests/wasmedge/hello/server.wasm",
      "not_supported": [],
      "problem": null,
      "run": "anyport run -p 8080:8080 -e PORT=8080 guests/wasmedge/hello/server.wasm",
      "runtimes": [
        {
          "runs": true,
          "runtime": "anyport",
          "why": "has every import"
        },
        {
          "runs": false,
          "runtime": "Wasmtime 47 and later",
          "why": "has no WasmEdge sockets"
        },
        {
          "runs": false,
          "runtime": "Wasmtime 36 to 46",
          "why": "has no WasmEdge sockets"
        },
        {
          "runs": true,
          "runtime": "WasmEdge 0.17",
          "why": "has every import"
        },
        {
          "runs": false,
          "runtime": "Wasmer 7",
          "why": "has no WasmEdge sockets"
        }
      ],
      "wants": [
        "listen"
      ],
      "world": null
    }
    "#);
    snapshot!(json("guests/preview1/axum-fd3/server.wasm"), @r#"
    {
      "bytes": 616536,
      "dialects": [
        "preview1"
      ],
      "exports": [
        {
          "name": "memory",
          "signature": "memory"
        }
      ],
      "hint": null,
      "imports": [
        {
          "dialect": "preview1",
          "module": "wasi_snapshot_preview1",
          "name": "fd_fdstat_get",
          "signature": "(ii)i",
          "status": "found"
        }
      ],
      "kind": "module",
      "name": "guests/preview1/axum-fd3/server.wasm",
      "not_supported": [],
      "problem": null,
      "run": "anyport run -p 8080:8080 -e PORT=8080 guests/preview1/axum-fd3/server.wasm",
      "runtimes": [
        {
          "runs": true,
          "runtime": "anyport",
          "why": "has every import"
        },
        {
          "runs": false,
          "runtime": "Wasmtime 47 and later",
          "why": "dropped listeners (`--tcplisten`)"
        },
        {
          "runs": true,
          "runtime": "Wasmtime 36 to 46",
          "why": "with `-S preview2=n -S tcplisten=ADDR`"
        },
        {
          "runs": false,
          "runtime": "WasmEdge 0.17",
          "why": "hands over no listeners"
        },
        {
          "runs": false,
          "runtime": "Wasmer 7",
          "why": "hands over no listeners"
        }
      ],
      "wants": [
        "accept-preopened"
      ],
      "world": null
    }
    "#);
}

/// Imports of every kind: found, of another shape, of somebody else, of nobody.
fn mixed() -> Folder {
    Folder::with(
        "mixed.wasm",
        guests::wasm(
            r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_accept" (func (param i32) (result i32)))
        (import "wasix_64v1" "sock_open" (func (param i32 i32 i32 i32) (result i32)))
        (import "wbg" "__wbindgen_throw" (func (param i32 i32)))
        (import "host" "table" (table 1 funcref))
        (memory (export "memory") 1)
        (func (export "_start"))
        (func (export "compute") (param i64 f32) (result f64) (f64.const 0)))"#,
        ),
    )
}

#[test]
fn a_module_that_needs_what_is_not_there() {
    let folder = mixed();
    snapshot!(folder.anyport(["inspect", "mixed.wasm"]), @"
    code 126
    --- stdout
    mixed.wasm: core module, 233 bytes
    dialects: WASI preview1
    imports:
      wasi_snapshot_preview1::fd_write(iiii)i  WASI preview1
      wasi_snapshot_preview1::sock_accept(i)i  not found; there is (iii)i (WASI preview1), (ii)i ↵
    (WasmEdge sockets)
      wasix_64v1::sock_open(iiii)i  not found; of WASIX with 64-bit memory, which no toolchain makes
      wbg::__wbindgen_throw(ii)  not found; of browsers (wasm-bindgen)
      table host::table  not found
    exports:
      memory  memory
      _start()
      compute(If)F
    runtimes:
      no  anyport                  see the problem
      no  Wasmtime 47 and later    has no wasi_snapshot_preview1::sock_accept(i)i
      no  Wasmtime 36 to 46        has no wasi_snapshot_preview1::sock_accept(i)i
      no  WasmEdge 0.17            has no wasi_snapshot_preview1::sock_accept(i)i
      no  Wasmer 7                 has no wasi_snapshot_preview1::sock_accept(i)i
    problem: `mixed.wasm` needs 4 imports that are not there
    hint: rebuild it with a toolchain or library whose `sock_accept` is one of these
    ");
    let ended = folder.anyport(["inspect", "--json", "mixed.wasm"]);
    assert_eq!((ended.code(), ended.stderr.as_str()), (126, ""));
    snapshot!(ended.stdout, @r#"
    {
      "name": "mixed.wasm",
      "bytes": 233,
      "kind": "module",
      "dialects": [
        "preview1"
      ],
      "imports": [
        {
          "module": "wasi_snapshot_preview1",
          "name": "fd_write",
          "signature": "(iiii)i",
          "status": "found",
          "dialect": "preview1"
        },
        {
          "module": "wasi_snapshot_preview1",
          "name": "sock_accept",
          "signature": "(i)i",
          "status": "other-shape",
          "shapes": [
            "(iii)i (WASI preview1)",
            "(ii)i (WasmEdge sockets)"
          ]
        },
        {
          "module": "wasix_64v1",
          "name": "sock_open",
          "signature": "(iiii)i",
          "status": "missing",
          "owner": "WASIX with 64-bit memory, which no toolchain makes"
        },
        {
          "module": "wbg",
          "name": "__wbindgen_throw",
          "signature": "(ii)",
          "status": "missing",
          "owner": "browsers (wasm-bindgen)"
        },
        {
          "module": "host",
          "name": "table",
          "signature": "table",
          "status": "missing",
          "owner": null
        }
      ],
      "exports": [
        {
          "name": "memory",
          "signature": "memory"
        },
        {
          "name": "_start",
          "signature": "()"
        },
        {
          "name": "compute",
          "signature": "(If)F"
        }
      ],
      "world": null,
      "wants": [],
      "runtimes": [
        {
          "runtime": "anyport",
          "runs": false,
          "why": "see the problem"
        },
        {
          "runtime": "Wasmtime 47 and later",
          "runs": false,
          "why": "has no wasi_snapshot_preview1::sock_accept(i)i"
        },
        {
          "runtime": "Wasmtime 36 to 46",
          "runs": false,
          "why": "has no wasi_snapshot_preview1::sock_accept(i)i"
        },
        {
          "runtime": "WasmEdge 0.17",
          "runs": false,
          "why": "has no wasi_snapshot_preview1::sock_accept(i)i"
        },
        {
          "runtime": "Wasmer 7",
          "runs": false,
          "why": "has no wasi_snapshot_preview1::sock_accept(i)i"
        }
      ],
      "not_supported": [],
      "run": null,
      "problem": "`mixed.wasm` needs 4 imports that are not there",
      "hint": "rebuild it with a toolchain or library whose `sock_accept` is one of these"
    }
    "#);
}

#[test]
fn json_of_what_is_no_module() {
    let folder = Folder::with("x.wasm", "hello\n");
    snapshot!(folder.anyport(["inspect", "--json", "x.wasm"]), @r#"
    code 126
    --- stdout
    {
      "name": "x.wasm",
      "bytes": 6,
      "kind": "not-wasm",
      "dialects": [],
      "imports": [],
      "exports": [],
      "world": null,
      "wants": [],
      "runtimes": [],
      "not_supported": [],
      "run": null,
      "problem": "`x.wasm` is not a WebAssembly binary: it is text",
      "hint": "name the .wasm file"
    }
    "#);
}

#[test]
fn the_command_is_one_that_a_shell_takes() {
    let folder = Folder::with("it's mine.wasm", guests::exits(0));
    let inspected = folder.anyport(["inspect", "it's mine.wasm"]);
    assert!(inspected.data().ends_with("run: anyport run 'it'\\''s mine.wasm'\n"), "{inspected}");
}

#[test]
fn a_file_that_is_not_there() {
    snapshot!(anyport(["inspect", "no-such.wasm"]), @"
    code 127
    --- stderr
    error: there is no file `no-such.wasm`
    ");
    snapshot!(anyport(["inspect", "/dev/null/x"]), @"
    code 126
    --- stderr
    error: `/dev/null/x` cannot be read: Not a directory (os error 20)
    ");
}

#[test]
fn a_handler_of_wasi_http() {
    snapshot!(anyport(["inspect", "guests/wasi-http-0.2/echo/server.wasm"]), @"
    code 0
    --- stdout
    guests/wasi-http-0.2/echo/server.wasm: component, 303565 bytes
    is for: wasi:http/incoming-handler@0.2
    dialects: WASI 0.2, wasi:http 0.2
    wants to: answer HTTP requests, send HTTP requests, open files
    imports:
      wasi:io/poll@0.2.12  WASI 0.2
      wasi:clocks/monotonic-clock@0.2.12  WASI 0.2
      wasi:clocks/wall-clock@0.2.12  WASI 0.2
      wasi:io/error@0.2.12  WASI 0.2
      wasi:io/streams@0.2.12  WASI 0.2
      wasi:cli/stdout@0.2.12  WASI 0.2
      wasi:cli/stderr@0.2.12  WASI 0.2
      wasi:cli/stdin@0.2.12  WASI 0.2
      wasi:http/types@0.2.12  wasi:http 0.2
      wasi:http/outgoing-handler@0.2.12  wasi:http 0.2
      wasi:cli/environment@0.2.12  WASI 0.2
      wasi:cli/exit@0.2.12  WASI 0.2
      wasi:cli/terminal-input@0.2.12  WASI 0.2
      wasi:cli/terminal-output@0.2.12  WASI 0.2
      wasi:cli/terminal-stdin@0.2.12  WASI 0.2
      wasi:cli/terminal-stdout@0.2.12  WASI 0.2
      wasi:cli/terminal-stderr@0.2.12  WASI 0.2
      wasi:filesystem/types@0.2.12  WASI 0.2
      wasi:filesystem/preopens@0.2.12  WASI 0.2
    exports:
      wasi:http/incoming-handler@0.2.12
    runtimes:
      yes anyport                  has every import
      yes Wasmtime 46 and later    with `wasmtime serve -S cli`
      yes Wasmtime up to 45        with `wasmtime serve -S cli`
      no  WasmEdge 0.17            runs no components
      no  Wasmer 7                 runs no components
    run: anyport run -p 8080 guests/wasi-http-0.2/echo/server.wasm
    ");
    snapshot!(anyport(["inspect", "guests/wasi-http-0.3/echo/server.wasm"]), @"
    code 0
    --- stdout
    guests/wasi-http-0.3/echo/server.wasm: component, 322484 bytes
    is for: wasi:http/handler@0.3
    dialects: WASI 0.2, WASI 0.3, wasi:http 0.3
    wants to: answer HTTP requests, send HTTP requests, open files
    imports:
      wasi:cli/types@0.3.2  WASI 0.3
      wasi:cli/stdout@0.3.2  WASI 0.3
      wasi:cli/stderr@0.3.2  WASI 0.3
      wasi:cli/stdin@0.3.2  WASI 0.3
      wasi:clocks/types@0.3.2  WASI 0.3
      wasi:http/types@0.3.2  wasi:http 0.3
      wasi:http/client@0.3.2  wasi:http 0.3
      wasi:clocks/monotonic-clock@0.3.2  WASI 0.3
      wasi:io/poll@0.2.9  WASI 0.2
      wasi:clocks/monotonic-clock@0.2.9  WASI 0.2
      wasi:io/error@0.2.9  WASI 0.2
      wasi:io/streams@0.2.9  WASI 0.2
      wasi:cli/stdout@0.2.9  WASI 0.2
      wasi:cli/stderr@0.2.9  WASI 0.2
      wasi:cli/stdin@0.2.9  WASI 0.2
      wasi:cli/environment@0.2.9  WASI 0.2
      wasi:cli/exit@0.2.9  WASI 0.2
      wasi:cli/terminal-input@0.2.9  WASI 0.2
      wasi:cli/terminal-output@0.2.9  WASI 0.2
      wasi:cli/terminal-stdin@0.2.9  WASI 0.2
      wasi:cli/terminal-stdout@0.2.9  WASI 0.2
      wasi:cli/terminal-stderr@0.2.9  WASI 0.2
      wasi:cli/environment@0.3.2  WASI 0.3
      wasi:cli/exit@0.3.2  WASI 0.3
      wasi:filesystem/types@0.3.2  WASI 0.3
      wasi:filesystem/preopens@0.3.2  WASI 0.3
    exports:
      wasi:http/handler@0.3.2
    runtimes:
      yes anyport                  has every import
      yes Wasmtime 46 and later    with `wasmtime serve -S cli`
      no  Wasmtime up to 45        has no WASI 0.3
      no  WasmEdge 0.17            runs no components
      no  Wasmer 7                 runs no components
    run: anyport run -p 8080 guests/wasi-http-0.3/echo/server.wasm
    ");
}

#[test]
fn a_component_on_sockets() {
    snapshot!(anyport(["inspect", "guests/wasi-sockets-0.2/probe/probe.wasm"]), @"
    code 0
    --- stdout
    guests/wasi-sockets-0.2/probe/probe.wasm: component, 173913 bytes
    is for: wasi:cli/run@0.2
    dialects: WASI 0.2, wasi:sockets 0.2
    wants to: listen, connect, look names up, exchange datagrams
    imports:
      wasi:io/poll@0.2.12  WASI 0.2
      wasi:clocks/monotonic-clock@0.2.12  WASI 0.2
      wasi:io/error@0.2.12  WASI 0.2
      wasi:io/streams@0.2.12  WASI 0.2
      wasi:cli/stdout@0.2.12  WASI 0.2
      wasi:cli/stderr@0.2.12  WASI 0.2
      wasi:cli/stdin@0.2.12  WASI 0.2
      wasi:cli/environment@0.2.12  WASI 0.2
      wasi:cli/exit@0.2.12  WASI 0.2
      wasi:cli/terminal-input@0.2.12  WASI 0.2
      wasi:cli/terminal-output@0.2.12  WASI 0.2
      wasi:cli/terminal-stdin@0.2.12  WASI 0.2
      wasi:cli/terminal-stdout@0.2.12  WASI 0.2
      wasi:cli/terminal-stderr@0.2.12  WASI 0.2
      wasi:sockets/network@0.2.12  wasi:sockets 0.2
      wasi:sockets/instance-network@0.2.12  wasi:sockets 0.2
      wasi:sockets/udp@0.2.12  wasi:sockets 0.2
      wasi:sockets/udp-create-socket@0.2.12  wasi:sockets 0.2
      wasi:sockets/tcp@0.2.12  wasi:sockets 0.2
      wasi:sockets/tcp-create-socket@0.2.12  wasi:sockets 0.2
      wasi:sockets/ip-name-lookup@0.2.12  wasi:sockets 0.2
    exports:
      wasi:cli/run@0.2.0
    runtimes:
      yes anyport                  has every import
      yes Wasmtime 46 and later    with `wasmtime run -S inherit-network`
      yes Wasmtime up to 45        with `wasmtime run -S inherit-network`
      no  WasmEdge 0.17            runs no components
      no  Wasmer 7                 runs no components
    run: anyport run -p 8080:8080 -e PORT=8080 guests/wasi-sockets-0.2/probe/probe.wasm
    ");
    snapshot!(anyport(["inspect", "guests/wasi-sockets-0.3/hello/server.wasm"]), @"
    code 0
    --- stdout
    guests/wasi-sockets-0.3/hello/server.wasm: component, 185790 bytes
    is for: wasi:cli/run@0.3
    dialects: WASI 0.2, WASI 0.3, wasi:sockets 0.3
    wants to: listen, connect, exchange datagrams
    imports:
      wasi:cli/environment@0.3.2  WASI 0.3
      wasi:sockets/types@0.3.2  wasi:sockets 0.3
      wasi:io/poll@0.2.9  WASI 0.2
      wasi:clocks/monotonic-clock@0.2.9  WASI 0.2
      wasi:io/error@0.2.9  WASI 0.2
      wasi:io/streams@0.2.9  WASI 0.2
      wasi:cli/stdout@0.2.9  WASI 0.2
      wasi:cli/stderr@0.2.9  WASI 0.2
      wasi:cli/stdin@0.2.9  WASI 0.2
      wasi:cli/environment@0.2.9  WASI 0.2
      wasi:cli/exit@0.2.9  WASI 0.2
      wasi:cli/terminal-input@0.2.9  WASI 0.2
      wasi:cli/terminal-output@0.2.9  WASI 0.2
      wasi:cli/terminal-stdin@0.2.9  WASI 0.2
      wasi:cli/terminal-stdout@0.2.9  WASI 0.2
      wasi:cli/terminal-stderr@0.2.9  WASI 0.2
    exports:
      wasi:cli/run@0.3.2
    runtimes:
      yes anyport                  has every import
      yes Wasmtime 46 and later    with `wasmtime run -S inherit-network`
      no  Wasmtime up to 45        has no WASI 0.3
      no  WasmEdge 0.17            runs no components
      no  Wasmer 7                 runs no components
    run: anyport run -p 8080:8080 -e PORT=8080 guests/wasi-sockets-0.3/hello/server.wasm
    ");
}

#[test]
fn json_of_a_component() {
    snapshot!(json("guests/wasi-http-0.2/echo/server.wasm"), @r#"
    {
      "bytes": 303565,
      "dialects": [
        "wasi@0.2",
        "wasi:http@0.2"
      ],
      "exports": [
        {
          "name": "wasi:http/incoming-handler@0.2.12",
          "signature": "instance"
        }
      ],
      "hint": null,
      "imports": [
        {
          "dialect": "wasi@0.2",
          "module": "wasi:io/poll@0.2.12",
          "name": "",
          "signature": "instance",
          "status": "found"
        }
      ],
      "kind": "component",
      "name": "guests/wasi-http-0.2/echo/server.wasm",
      "not_supported": [],
      "problem": null,
      "run": "anyport run -p 8080 guests/wasi-http-0.2/echo/server.wasm",
      "runtimes": [
        {
          "runs": true,
          "runtime": "anyport",
          "why": "has every import"
        },
        {
          "runs": true,
          "runtime": "Wasmtime 46 and later",
          "why": "with `wasmtime serve -S cli`"
        },
        {
          "runs": true,
          "runtime": "Wasmtime up to 45",
          "why": "with `wasmtime serve -S cli`"
        },
        {
          "runs": false,
          "runtime": "WasmEdge 0.17",
          "why": "runs no components"
        },
        {
          "runs": false,
          "runtime": "Wasmer 7",
          "why": "runs no components"
        }
      ],
      "wants": [
        "answer-requests",
        "send-requests",
        "files"
      ],
      "world": "wasi:http/incoming-handler@0.2"
    }
    "#);
}

#[test]
fn a_list_without_end_is_cut_for_people_alone() {
    let imports: String = (0..600).map(|number| format!("(import \"x\" \"f{number}\" (func))")).collect();
    let folder = Folder::with("many.wasm", wat::parse_str(format!("(module {imports})")).expect("it is valid"));
    let shown = folder.anyport(["inspect", "many.wasm"]);
    assert_eq!(shown.stdout.matches("  x::f").count(), 500, "{shown}");
    assert!(shown.stdout.contains("\n  and 100 more, which `--json` shows\n"), "{shown}");
    let json = folder.anyport(["inspect", "--json", "many.wasm"]);
    assert_eq!(json.stdout.matches("\"name\": \"f").count() + json.stdout.matches("\"name\":\"f").count(), 600);
}
