//! Small components, written here as text: what they are given by flags, and what is said of those that cannot
//! be run.

mod support;

use std::time::Duration;

use rustix::process::Signal;

use support::http::http;
use support::{Ended, Folder, PATIENCE, Process, command_in, root};

/// A component that runs once, with these imports and, behind them, what it does.
fn component(text: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {text})")).unwrap_or_else(|error| panic!("{error}"))
}

/// Takes the value of `greeting` by `wasi:config` and logs it so many times by `wasi:logging`, of this name; fails
/// where there is none.
fn greeter(logging: &str, level: u32, times: u32) -> Vec<u8> {
    component(&format!(
        r#"
        (import "wasi:config/store@0.2.0-rc.1" (instance $store
          (type $fault (variant (case "upstream" string) (case "io" string)))
          (export "error" (type $error (eq $fault)))
          (type $found (result (option string) (error $error)))
          (export "get" (func (param "key" string) (result $found)))))
        (import "{logging}" (instance $logging
          (type $levels (enum "trace" "debug" "info" "warn" "error" "critical"))
          (export "level" (type $level (eq $levels)))
          (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))
        (core module $Memory
          (memory (export "memory") 1)
          (global $free (mut i32) (i32.const 1024))
          (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $free)
            (global.set $free (i32.add (global.get $free) (local.get 3)))))
        (core instance $memory (instantiate $Memory))
        (core func $get (canon lower (func $store "get")
          (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
        (core func $log (canon lower (func $logging "log")
          (memory (core memory $memory "memory"))))
        (core module $Main
          (import "memory" "memory" (memory 1))
          (import "host" "get" (func $get (param i32 i32 i32)))
          (import "host" "log" (func $log (param i32 i32 i32 i32 i32)))
          (data (i32.const 0) "greeting")
          (data (i32.const 16) "main")
          (func (export "run") (result i32)
            (local $left i32)
            ;; Of the result at 64: its case at 0, the option's at 4, the string at 8 and 12.
            (call $get (i32.const 0) (i32.const 8) (i32.const 64))
            (if (i32.eqz (i32.load8_u (i32.const 68))) (then (return (i32.const 1))))
            (local.set $left (i32.const {times}))
            (loop $again
              (call $log (i32.const {level}) (i32.const 16) (i32.const 4)
                (i32.load (i32.const 72)) (i32.load (i32.const 76)))
              (local.set $left (i32.sub (local.get $left) (i32.const 1)))
              (br_if $again (local.get $left)))
            (i32.const 0)))
        (core instance $main (instantiate $Main
          (with "memory" (instance $memory))
          (with "host" (instance (export "get" (func $get)) (export "log" (func $log))))))
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $command (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $command))"#
    ))
}

const LOGGING: &str = "wasi:logging/logging";

fn run(guest: Vec<u8>, words: &[&str]) -> Ended {
    Folder::with("x.wasm", guest)
        .and("values", "# of a test\n\ngreeting=from a file\n")
        .anyport([&["run", "--no-cache"], words, &["x.wasm"]].concat())
}

#[test]
fn values_are_given_by_flags_and_by_a_file_and_not_otherwise() {
    let warn = greeter(LOGGING, 3, 1);
    assert_eq!(run(warn.clone(), &["--config", "other=1", "-e", "greeting=hello"]).code(), 1);
    snapshot!(run(warn.clone(), &["--config", "greeting=a=b"]), @"
    code 0
    --- stderr
    warning: guest, main: a=b
    ");
    snapshot!(run(warn.clone(), &["--config-file", "values"]), @"
    code 0
    --- stderr
    warning: guest, main: from a file
    ");
    snapshot!(run(warn.clone(), &["--config-file", "values", "--config", "greeting=typed"]), @"
    code 0
    --- stderr
    warning: guest, main: typed
    ");
    snapshot!(run(warn, &["--config", "greeting"]), @"
    code 125
    --- stderr
    error: `--config greeting` is not right: it is NAME=VALUE
    hint: `--config greeting=hello` is right
    ");
}

/// A service of 0.2 that logs when it is instantiated, and then does this; it never answers.
fn service(then: &str) -> Vec<u8> {
    component(&format!(
        r#"
        (import "wasi:http/types@0.2.0" (instance $types
          (export "incoming-request" (type (sub resource)))
          (export "response-outparam" (type (sub resource)))))
        (alias export $types "incoming-request" (type $request))
        (alias export $types "response-outparam" (type $out))
        (import "{LOGGING}" (instance $logging
          (type $levels (enum "trace" "debug" "info" "warn" "error" "critical"))
          (export "level" (type $level (eq $levels)))
          (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))
        (core module $Memory (memory (export "memory") 1))
        (core instance $memory (instantiate $Memory))
        (core func $log (canon lower (func $logging "log") (memory (core memory $memory "memory"))))
        (core module $Main
          (import "memory" "memory" (memory 1))
          (import "host" "log" (func $log (param i32 i32 i32 i32 i32)))
          (data (i32.const 0) "made")
          (func $start (call $log (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4)) {then})
          (start $start)
          (func (export "handle") (param i32 i32)))
        (core instance $main (instantiate $Main
          (with "memory" (instance $memory))
          (with "host" (instance (export "log" (func $log))))))
        (func $handle (param "request" (own $request)) (param "response-out" (own $out))
          (canon lift (core func $main "handle")))
        (instance $handler (export "handle" (func $handle)))
        (export "wasi:http/incoming-handler@0.2.0" (instance $handler))"#
    ))
}

#[test]
fn instances_that_were_made_before_answer_the_first_requests() {
    let folder = Folder::with("x.wasm", service(""));
    let words = ["run", "--no-cache", "-p", "0:8080", "--workers", "1", "--prewarm", "2", "x.wasm"];
    let mut server = folder.spawn(words);
    let address = server.address();
    for _ in 0..3 {
        assert!(http(address, "GET", "/", None).starts_with("HTTP/1.1 500"));
    }
    let told = server.end_by(Signal::TERM, PATIENCE).stderr;
    let seen = told.lines().map(|line| ["made", "listening"].into_iter().find(|word| line.contains(word)));
    let seen: Vec<&str> = seen.map(|word| word.unwrap_or("request")).collect();
    // The next are made meanwhile.
    assert_eq!(seen[..4], ["made", "made", "listening", "request"], "{told}");
}

#[test]
fn an_instance_is_made_for_the_next_request_before_it_comes() {
    let folder = Folder::with("x.wasm", service(""));
    let mut server = folder.spawn(["run", "--no-cache", "-p", "0:8080", "--workers", "1", "x.wasm"]);
    let address = server.address();
    for requests in 1..=2 {
        assert!(http(address, "GET", "/", None).starts_with("HTTP/1.1 500"));
        server.lines("guest: made", requests + 1);
    }
}

#[test]
fn a_guest_that_fails_as_it_is_prewarmed_serves_no_port() {
    let folder = Folder::with("x.wasm", service("unreachable"));
    let ended = folder.anyport(["run", "--no-cache", "-p", "0:8080", "--workers", "2", "--prewarm", "1", "x.wasm"]);
    assert_eq!(ended.code(), 134, "{ended}");
    assert!(ended.stderr.contains("guest: made") && !ended.stderr.contains("listening"), "{ended}");
}

#[test]
fn a_guests_lines_are_in_the_log_by_level() {
    let logged = |name, level, filter| {
        run(greeter(name, level, 1), &["--config", "greeting=it runs\nerror: forged", "--log", filter]).stderr
    };
    assert_eq!(logged(LOGGING, 2, "warn"), "");
    for name in [LOGGING, "wasi:logging/logging@0.1.0-draft"] {
        for (level, label) in
            [(1, "debug: "), (2, "info: "), (3, "warning: "), (4, "error: "), (5, "error: critical: ")]
        {
            let line = format!("{label}guest, main: it runs\u{fffd}error: forged\n");
            assert_eq!(logged(name, level, "warn,guest=debug"), line);
        }
    }
}

#[test]
fn a_guest_that_logs_without_end_does_not_fill_the_disk() {
    let long = format!("greeting={}", "x".repeat(10_000));
    let ended = run(greeter(LOGGING, 3, 5_000), &["--config", &long]);
    assert_eq!(ended.code(), 0);
    let lines = ended.stderr.lines().count();
    // Of each second so many; a slow machine takes some.
    assert!((1000..5000).contains(&lines) || ended.took > Duration::from_secs(4), "{lines}");
    let longest = ended.stderr.lines().map(|line| line.chars().count()).max();
    assert!(longest < Some(4200), "{longest:?}");
}

#[test]
fn a_refused_request_names_the_rule_once() {
    let echo = "guests/wasi-http-0.2/echo/server.wasm";
    let mut serving = Process::spawn(command_in(&root(), ["run", "-p", "0:8080", echo]));
    let server = serving.address();
    for _ in 0..3 {
        assert!(http(server, "GET", "/fetch?url=http://127.0.0.1:81/", None).contains("destination-ip-prohibited"));
        assert!(http(server, "GET", "/fetch?url=http://api.example/", None).contains("http-request-denied"));
    }
    let ended = serving.end_by(Signal::TERM, PATIENCE);
    let warnings: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(
        warnings,
        [
            "warning: the guest may not send requests to 127.0.0.1:81; to allow it, add `--allow-net 127.0.0.1:81`",
            "warning: the guest may not send requests to api.example:80; to allow it, add `--allow-net api.example:80`",
        ]
    );
}

/// What `inspect` and `run` say of a component that imports this.
fn importing(interface: &str) -> String {
    let guest = component(&format!(
        r#"(import "{interface}" (instance))
        (core module $Main (func (export "run") (result i32) (i32.const 0)))
        (core instance $main (instantiate $Main))
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $command (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $command))"#
    ));
    let folder = Folder::with("x.wasm", guest);
    let (ran, inspected) = (folder.anyport(["run", "x.wasm"]), folder.anyport(["inspect", "x.wasm"]));
    assert_eq!((ran.code(), inspected.code()), (126, 126), "{ran}");
    let problem = inspected.stdout.lines().find_map(|line| line.strip_prefix("problem: ")).expect("there is one");
    assert!(ran.stderr.starts_with(&format!("error: {problem}")), "both say the same: {ran}");
    ran.stderr
}

#[test]
fn interfaces_of_others_are_named_with_whose_they_are() {
    snapshot!(importing("wasi:keyvalue/store@0.2.0-draft"), @"
    error: `x.wasm` was built for wasi:keyvalue, a store that Spin and wasmCloud have, and needs an ↵
    import that is not there:
      wasi:keyvalue/store@0.2.0-draft
    hint: run it with what it was built for, or build it for interfaces of WASI 0.2 or 0.3 alone
    ");
    snapshot!(importing("wasi:tls/types@0.2.0-draft"), @"
    error: `x.wasm` was built for wasi:tls, a draft that `wasmtime run -S tls` has, and needs an import ↵
    that is not there:
      wasi:tls/types@0.2.0-draft
    hint: run it with what it was built for, or build it for interfaces of WASI 0.2 or 0.3 alone
    ");
    snapshot!(importing("fermyon:spin/redis@2.0.0"), @"
    error: `x.wasm` was built for Spin 2 and 3, and needs an import that is not there:
      fermyon:spin/redis@2.0.0
    hint: run it with what it was built for, or build it for interfaces of WASI 0.2 or 0.3 alone
    ");
    snapshot!(importing("fastly:compute/http-req"), @"
    error: `x.wasm` was built for Fastly Compute, and needs an import that is not there:
      fastly:compute/http-req
    hint: run it with what it was built for, or build it for interfaces of WASI 0.2 or 0.3 alone
    ");
    snapshot!(importing("wasmcloud:messaging/consumer@0.2.0"), @"
    error: `x.wasm` was built for wasmCloud, and needs an import that is not there:
      wasmcloud:messaging/consumer@0.2.0
    hint: run it with what it was built for, or build it for interfaces of WASI 0.2 or 0.3 alone
    ");
    snapshot!(importing("wasi:config/runtime@0.2.0-draft"), @"
    error: `x.wasm` was built for an older draft of wasi:config, of which `wasi:config/store@0.2.0-rc.1` ↵
    is here, and needs an import that is not there:
      wasi:config/runtime@0.2.0-draft
    hint: run it with what it was built for, or build it for interfaces of WASI 0.2 or 0.3 alone
    ");
    snapshot!(importing("wasi:logging/logging@0.2.0"), @"
    error: `x.wasm` needs an import that is not there:
      wasi:logging/logging@0.2.0; there is one without a version, version 0.1.0-draft
    hint: build it again with a toolchain for one of these
    ");
    for handler in ["wasi:http/handler@0.3.0", "wasi:http/incoming-handler@0.2.12"] {
        let told = importing(handler);
        assert!(told.contains("was built for use as middleware, in front of another handler, and needs"), "{told}");
        assert!(told.contains("hint: put the handler into it: `wac plug"), "{told}");
    }
    snapshot!(importing("my:own/thing@1.0.0"), @"
    error: `x.wasm` needs an import that is not there:
      my:own/thing@1.0.0
    hint: build it for interfaces of WASI 0.2 or 0.3 alone: no runtime that is known here has that ↵
    import
    ");
}

/// What `inspect` and `run` say of a file that cannot be run.
fn refused(bytes: impl AsRef<[u8]>) -> String {
    let folder = Folder::with("x.wasm", bytes);
    let inspected = folder.anyport(["inspect", "x.wasm"]);
    let ran = folder.anyport(["run", "x.wasm"]);
    assert_eq!((ran.code(), inspected.code()), (126, 126), "{ran}");
    let problem = inspected.stdout.lines().find_map(|line| line.strip_prefix("problem: ")).expect("there is one");
    assert!(ran.stderr.starts_with(&format!("error: {problem}")), "both say the same: {ran}{inspected}");
    ran.stderr
}

#[test]
fn a_component_that_is_a_library() {
    let library = component(
        r#"(core module $Main (func (export "add") (param i32 i32) (result i32) (i32.const 0)))
        (core instance $main (instantiate $Main))
        (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $main "add")))
        (export "add" (func $add))"#,
    );
    snapshot!(refused(&library), @"
    error: `x.wasm` is a component that neither runs by itself nor serves HTTP: it exports `add`
    hint: build it for the world `wasi:cli/command`, `wasi:http/proxy` (0.2) or `wasi:http/service` ↵
    (0.3)
    ");
    let inspected = Folder::with("x.wasm", library).anyport(["inspect", "x.wasm"]);
    snapshot!(inspected, @"
    code 126
    --- stdout
    x.wasm: component, 159 bytes
    exports:
      add  function
    problem: `x.wasm` is a component that neither runs by itself nor serves HTTP: it exports `add`
    hint: build it for the world `wasi:cli/command`, `wasi:http/proxy` (0.2) or `wasi:http/service` ↵
    (0.3)
    ");
    snapshot!(refused(component("")), @"
    error: `x.wasm` is a component that neither runs by itself nor serves HTTP: it exports nothing
    hint: build it for the world `wasi:cli/command`, `wasi:http/proxy` (0.2) or `wasi:http/service` ↵
    (0.3)
    ");
}

fn echo() -> Vec<u8> {
    std::fs::read(root().join("guests/wasi-http-0.2/echo/server.wasm")).expect("the guests are committed")
}

#[test]
fn a_component_that_is_cut_off() {
    let whole = echo();
    for length in [9, 100, whole.len() / 2, whole.len() - 1] {
        let told = refused(&whole[..length]);
        assert!(told.contains("is cut off") || told.contains("is not a valid component"), "{length}: {told}");
    }
}

/// Each bit of its front, where the sections' sizes and types are, and some of the rest.
#[test]
fn a_component_with_a_flipped_bit_is_refused_or_runs() {
    let whole = echo();
    let step = whole.len() / 24;
    for position in (8..40).step_by(2).chain((40..whole.len()).step_by(step)) {
        let mut flipped = whole.clone();
        flipped[position] ^= 1 << (position % 8);
        let ended = Folder::with("x.wasm", flipped).anyport(["inspect", "x.wasm"]);
        assert!([0, 126].contains(&ended.code()), "byte {position}: {ended}");
    }
}

#[test]
fn a_component_that_is_nested_a_thousand_deep() {
    let mut bytes = component("");
    for _ in 0..1000 {
        let mut outer = component("");
        outer.push(4);
        leb128(&mut outer, bytes.len());
        outer.extend(&bytes);
        bytes = outer;
    }
    let told = refused(&bytes);
    assert!(told.lines().count() == 2, "{told}");
}

fn leb128(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("seven bits"));
}
