//! Every guest of ours, served by the same one command line: `anyport run -p 0:8080 -e PORT=8080 FILE`.

mod support;

mod run {
    mod cgi;
    mod services;
    mod wasix;
}

use std::ffi::OsStr;
use std::io::pipe;
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::Signal;

use support::http::requests;
use support::{Folder, PATIENCE, Process, anyport, command_in, guests, root};

/// Serves a guest, asks it what its `requests` say, and ends it.
fn serves(guest: &str) {
    let folder = root().join("guests").join(guest);
    let file = folder.join("server.wasm");
    let words =
        ["run".as_ref(), "-p".as_ref(), "0:8080".as_ref(), "-e".as_ref(), "PORT=8080".as_ref(), file.as_os_str()];
    let mut server = Process::spawn(command_in(&root(), words));
    let address = server.address();
    for request in requests(&folder) {
        request.ask(address);
    }
    let ended = server.end_by(Signal::TERM, PATIENCE);
    assert_eq!(ended.code(), 0, "{ended}");
}

#[test]
fn wasmedge_hello() {
    serves("wasmedge/hello");
}

#[test]
fn wasmedge_hello_sync() {
    serves("wasmedge/hello-sync");
}

#[test]
fn wasmedge_mio() {
    serves("wasmedge/mio");
}

#[test]
fn wasmedge_legacy_0_1_0() {
    serves("wasmedge/legacy-0.1.0");
}

#[test]
fn wasmedge_legacy_0_3_3() {
    serves("wasmedge/legacy-0.3.3");
}

#[test]
fn wasmedge_legacy_0_4_3() {
    serves("wasmedge/legacy-0.4.3");
}

#[test]
fn preview1_axum_on_a_listener() {
    serves("preview1/axum-fd3");
}

#[test]
fn preview1_like_dotnet() {
    serves("preview1/dotnet-like");
}

#[test]
fn wasi_http_0_2_waki() {
    serves("wasi-http-0.2/waki");
}

#[test]
fn wasi_http_0_2_wstd() {
    serves("wasi-http-0.2/wstd");
}

#[test]
fn wasi_http_0_3_middleware() {
    serves("wasi-http-0.3/middleware");
}

#[test]
fn wasi_sockets_0_2_axum() {
    serves("wasi-sockets-0.2/axum");
}

#[test]
fn wasi_sockets_0_2_hyper() {
    serves("wasi-sockets-0.2/echo");
}

#[test]
fn wasi_sockets_0_3_hello() {
    serves("wasi-sockets-0.3/hello");
}

#[test]
fn the_readme_hello() {
    let mut server = Process::spawn(command_in(&root(), ["run", "-p", "0:8080", "guests/wasmedge/hello/server.wasm"]));
    let address = server.address();
    let answer = support::http::http(address, "POST", "/hello", Some("Bob Morane"));
    assert!(answer.trim_end().ends_with("👋 Hello Bob Morane"), "{answer}");
}

#[test]
fn the_guests_exit_code_is_ours() {
    for (code, ours) in [(0, 0), (1, 1), (42, 42), (125, 125), (255, 255), (256, 0), (u32::MAX, 255)] {
        let ended = Folder::with("exit.wasm", guests::exits(code)).anyport(["run", "exit.wasm"]);
        assert_eq!(ended.code(), ours, "{code}: {ended}");
        assert_eq!(ended.stderr, "");
    }
    let returns = Folder::with("return.wasm", guests::plain("")).anyport(["run", "return.wasm"]);
    assert_eq!(returns.code(), 0, "{returns}");
}

#[test]
fn stdin_goes_to_stdout() {
    let folder = Folder::with("cat.wasm", guests::cat());
    let mut cat = Process::spawn_with_stdin(folder.command(["run", "cat.wasm"]));
    cat.write(b"one\n");
    cat.output("one\n");
    cat.write(&[b'x'; 100_000]);
    cat.close_stdin();
    let ended = cat.end();
    assert_eq!(ended.data().len(), 4 + 100_000);
    assert!(ended.stdout.ends_with('x'));
}

#[test]
fn a_broken_stdout_is_an_error_for_the_guest() {
    let folder = Folder::with("flood.wasm", guests::floods_stdout());
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let mut command = folder.command(["run", "flood.wasm"]);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let ended = Process::start(&mut command).end();
    assert_eq!((ended.code(), ended.stderr.as_str()), (64, ""), "EPIPE");
}

#[test]
fn arguments_after_the_file_are_the_guests() {
    let folder = Folder::with("args.wasm", guests::prints_arguments());
    let plain = folder.anyport(["run", "args.wasm", "one", "--two", "-3", ""]);
    assert_eq!(plain.data(), "args.wasm\0one\0--two\0-3\0\0");
    assert_eq!(plain.stderr, "");
    // No folder of the host, as in other runtimes.
    let path = folder.path().join("args.wasm");
    assert_eq!(folder.anyport([OsStr::new("run"), path.as_os_str()]).data(), "args.wasm\0");

    let meant = folder.anyport(["run", "args.wasm", "--", "-p", "80"]);
    assert_eq!(meant.data(), "args.wasm\0-p\080\0");
    assert_eq!(meant.stderr, "");
    let forgotten = folder.anyport(["run", "args.wasm", "-p", "80"]);
    assert_eq!(forgotten.data(), "args.wasm\0-p\080\0");
    snapshot!(forgotten.stderr, @"
    warning: `-p` stands behind the file, so it goes to the guest: options of anyport stand before the ↵
    file (`--` behind the file says that it is meant)
    ");
    for option in ["--workers", "--drain-timeout=1s", "--allow-dns"] {
        let name = option.split('=').next().unwrap_or_default();
        let forgotten = folder.anyport(["run", "args.wasm", option]);
        assert!(forgotten.stderr.contains(&format!("`{name}` stands behind the file")), "{forgotten}");
    }
    // Many guests have it themselves.
    assert_eq!(folder.anyport(["run", "args.wasm", "--timeout", "1"]).stderr, "");
}

#[test]
fn a_guests_arguments_give_no_permissions() {
    let folder = Folder::with("env.wasm", guests::prints_environment());
    for words in [&["-e", "A=b"][..], &["--inherit-env"], &["x", "--inherit-env"], &["--", "--inherit-env"]] {
        let ended = folder.anyport([&["run", "env.wasm"], words].concat());
        assert_eq!(ended.data(), "", "{words:?}");
    }
}

#[test]
fn a_published_port_that_is_never_bound_is_fine() {
    let folder = Folder::with("exit.wasm", guests::exits(0));
    let ended = folder.anyport(["run", "-p", "0:8080", "exit.wasm"]);
    snapshot!(ended, @"
    code 0
    --- stderr
    warning: `exit.wasm` has no sockets, so nobody could answer at the published port; if it is a CGI ↵
    program (WAGI, WCGI), add `--cgi`
    ");
    let quiet = folder.anyport(["run", "-q", "-p", "0:8080", "exit.wasm"]);
    snapshot!(quiet, @"code 0");
}

#[test]
fn memory_that_only_the_start_needed_is_given_back() {
    let words = ["run", "-p", "0:8080", "guests/wasi-http-0.2/echo/server.wasm"];
    let mut server = Process::spawn(command_in(&root(), words));
    let address = server.address();
    let status = format!("/proc/{}/status", server.id());
    let kilobytes = |name: &str| -> u64 {
        let status = fs::read_to_string(&status).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells it");
        line.trim_end_matches("kB").trim().parse().expect("a number")
    };
    let start = Instant::now();
    while kilobytes("VmRSS:") * 4 > kilobytes("VmHWM:") * 3 {
        assert!(start.elapsed() < PATIENCE, "it keeps {} kB", kilobytes("VmRSS:"));
        thread::sleep(Duration::from_millis(20));
    }
    let answer = support::http::http(address, "GET", "/hello", None);
    assert!(answer.ends_with("\r\n\r\nHello\n"), "{answer}");
}

#[test]
fn serve_is_run() {
    assert_eq!(Folder::with("exit.wasm", guests::exits(3)).anyport(["serve", "exit.wasm"]).code(), 3);
}

#[test]
fn a_file_that_is_not_there() {
    snapshot!(anyport(["run", "no-such.wasm"]), @"
    code 127
    --- stderr
    error: there is no file `no-such.wasm`
    ");
    snapshot!(anyport(["run", "guests"]), @"
    code 126
    --- stderr
    error: `guests` is a directory
    hint: name the .wasm file in it
    ");
}
