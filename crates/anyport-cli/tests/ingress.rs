//! The front on the command line: TLS, health, the access log, sockets of every kind, and a shortage of descriptors,
//! for a service.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use rustix::process::Signal;

use support::http::http;
use support::service::{activated, under_shell};
use support::{Folder, PATIENCE, Process, command_in, guests, root};

const SERVICE: &str = "guests/wasi-http-0.2/echo/server.wasm";
const SOCKETS: &str = "guests/wasmedge/hello/server.wasm";
const CERTIFICATES: &str = "crates/anyport/tests/front/certificates";

fn serve(words: &[&str]) -> Process {
    Process::spawn(command_in(&root(), [&["run"], words].concat()))
}

fn get(address: SocketAddr, path: &str) -> String {
    http(address, "GET", path, None)
}

/// All that a stream gives for this.
fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).expect("it takes the request");
    let mut answer = Vec::new();
    // It may end with a reset.
    let _ = stream.read_to_end(&mut answer);
    answer
}

const ASK: &[u8] = b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn is_hello(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"Hello\n")
}

#[test]
fn a_certificate_makes_the_port_take_tls() {
    let [cert, key] = ["local.pem", "local.key"].map(|name| format!("{CERTIFICATES}/{name}"));
    for file in [SERVICE, SOCKETS] {
        let mut server = serve(&["-p", "0:8080", "--tls-cert", &cert, "--tls-key", &key, file]);
        let address = server.address();
        // It is known of a service alone that it speaks HTTP.
        let listens = if file == SERVICE { format!("on https://{address}") } else { format!("on {address} for port") };
        server.line(&listens);
        let answer = exchange(TcpStream::connect(address).expect("it listens"), ASK);
        // An alert of TLS, if anything.
        assert!(answer.is_empty() || answer[0] == 0x15, "{file}: {answer:?}");
        assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
    }
}

#[test]
fn a_service_says_the_url_that_it_serves() {
    let mut server = serve(&["-p", "0:8080", SERVICE]);
    let address = server.address();
    server.line(&format!("anyport: listening on http://{address}"));
    assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
}

#[test]
fn flags_of_the_front_are_explained() {
    let folder = Folder::with("x.wasm", guests::exits(0));
    let run = |words: &[&str]| folder.anyport([&["run"], words, &["x.wasm"]].concat());
    snapshot!(run(&["--tls-key", "key.pem"]), @"
    code 125
    --- stderr
    error: `--tls-key` is given without `--tls-cert`
    hint: each certificate has its key: `--tls-cert cert.pem --tls-key key.pem`
    ");
    snapshot!(run(&["--tls-cert", "a", "--tls-cert", "b", "--tls-key", "c"]), @"
    code 125
    --- stderr
    error: `--tls-cert` is given 2 times, and `--tls-key` 1 times
    hint: each certificate has its key: `--tls-cert cert.pem --tls-key key.pem`
    ");
    snapshot!(run(&["--tls-cert", "missing.pem", "--tls-key", "key.pem"]), @"
    code 125
    --- stderr
    error: `missing.pem` cannot be read: No such file or directory (os error 2)
    hint: it is a file that you may read: `--tls-cert FILE --tls-key FILE`
    ");
    snapshot!(run(&["--health", "x"]), @"
    code 125
    --- stderr
    error: `--health x` is not right: `x` is not a port number (0 to 65535)
    hint: `127.0.0.1:PORT`, `[::]:8080` and `:8080` are right
    ");
    snapshot!(run(&["--access-log=xml"]), @"
    code 125
    --- stderr
    error: `--access-log xml` is not right: `xml` is no format: use `json`, `common` or `combined`
    hint: `--access-log`, `--access-log=combined` and `--access-log=json:/var/log/web.json` are right
    ");
    snapshot!(run(&["--access-log"]), @"
    code 125
    --- stderr
    error: `--access-log` cannot be done for `x.wasm`, which reads its requests by itself
    hint: leave it out; it is for components that export a handler of wasi:http
    ");
    snapshot!(run(&["--max-body", "1k", "--max-queue", "1"]), @"
    code 0
    --- stderr
    warning: `--max-body` has no meaning for `x.wasm`, which reads its requests by itself
    warning: `--max-queue` has no meaning for `x.wasm`, which reads its requests by itself
    ");
    for (flag, value, hint) in [
        ("--max-body", "lots", "`--max-body 10m` is right"),
        ("--max-instances", "0", "`--max-instances 100` is right"),
        ("--max-queue", "-1", "`--max-queue 1000` is right, and 0 where no request is to wait"),
        ("--header-timeout", "soon", "`30s`, `500ms`, `2m` and `1h30m` are right"),
        ("--body-timeout", "soon", "`30s`, `500ms`, `2m` and `1h30m` are right"),
    ] {
        let ended = run(&[flag, value]);
        assert_eq!(ended.code(), 125, "{ended}");
        assert!(ended.stderr.contains(&format!("`{flag} {value}` is not right")), "{ended}");
        assert!(ended.stderr.contains(hint), "{ended}");
    }
}

#[test]
fn limits_of_requests_are_taken() {
    let mut server = serve(&["-p", "0:8080", "--max-body", "10", "--max-instances", "2", "--max-queue", "1", SERVICE]);
    let address = server.address();
    assert!(http(address, "POST", "/hello", Some("0123456789")).contains("Hello 0123456789"));
    assert!(http(address, "POST", "/hello", Some("0123456789a")).starts_with("HTTP/1.1 413 "));
}

#[test]
fn health_is_told_where_it_is_asked_for() {
    for file in [SERVICE, SOCKETS] {
        let mut server = serve(&["-p", "0:8080", "--health", "127.0.0.1:0", file]);
        let line = server.line("health on http://");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        let address: SocketAddr = address.parse().expect("an address");
        server.address();
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/status").contains("\"stage\":\"serving\""));
    }
}

#[test]
fn a_port_of_health_that_cannot_be_had_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    for file in [SERVICE, SOCKETS] {
        let ended = serve(&["-p", "0:8080", "--health", &address.to_string(), file]).end();
        assert_eq!(ended.code(), 125, "{ended}");
        let told = format!("error: port {}/tcp on 127.0.0.1 is in use", address.port());
        assert!(ended.stderr.starts_with(&told), "{ended}");
    }
}

#[test]
fn the_access_log_is_on_stderr_or_in_a_file() {
    let mut server = serve(&["-p", "0:8080", "--access-log=common", SERVICE]);
    let address = server.address();
    get(address, "/hello?a=b");
    let line = server.line("\"GET /hello?a=b HTTP/1.1\" 200 6");
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    let folder = Folder::new();
    let file = folder.path().join("log");
    let mut server = serve(&["-p", "0:8080", &format!("--access-log=json:{}", file.display()), SERVICE]);
    let address = server.address();
    get(address, "/hello");
    let read = |file: &Path| std::fs::read_to_string(file).unwrap_or_default();
    let since = Instant::now();
    while !read(&file).ends_with("}\n") {
        assert!(since.elapsed() < PATIENCE, "nothing is written");
        std::thread::yield_now();
    }
    // As `logrotate` does.
    let moved = folder.path().join("log.1");
    std::fs::rename(&file, &moved).expect("it is there");
    get(address, "/hello?second");
    // The last lines are written before the end.
    assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
    for (file, target) in [(moved, "/hello"), (file, "/hello?second")] {
        let text = read(&file);
        assert!(text.contains(&format!("\"target\":\"{target}\"")) && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn who_reads_neither_log_nor_errors_is_answered_all_the_same() {
    let mut command = command_in(&root(), ["run", "-p", "0:8080", "--access-log", SERVICE]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut server = command.stderr(writer).stdout(std::process::Stdio::null()).spawn().expect("it starts");
    drop(command);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).expect("it says where it listens");
    // Nobody reads from now on.
    let address = line.trim_end().rsplit('/').next().expect("a URL").parse().expect("an address");
    for _ in 0..3 {
        assert!(get(address, "/trap").contains("the server failed"));
    }
    server.kill().expect("it runs");
    server.wait().expect("it ends");
}

#[test]
fn a_body_that_is_not_right_is_no_fault_of_the_guest() {
    for version in ["0.2", "0.3"] {
        let mut server = serve(&["-p", "0:8080", &format!("guests/wasi-http-{version}/echo/server.wasm")]);
        let stream = TcpStream::connect(server.address()).expect("it listens");
        let asked = b"POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n";
        let answer = String::from_utf8_lossy(&exchange(stream, asked)).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let ended = server.end_by(Signal::TERM, PATIENCE);
        assert!(!ended.stderr.contains("warning"), "{ended}");
    }
}

#[test]
fn a_service_listens_wherever_others_do() {
    let folder = Folder::new();
    let path = folder.path().join("server.sock");
    let unix = format!("unix:{}", path.display());
    for workers in ["1", "2"] {
        for words in [["-p", &unix], ["--listen", &unix]] {
            let mut server = serve(&[&words[..], &["--workers", workers, SERVICE]].concat());
            server.line("listening on unix:");
            let stream = UnixStream::connect(&path).expect("it listens");
            assert!(is_hello(&exchange(stream, ASK)));
            assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
            assert!(!path.exists(), "it is left behind");
        }
        let mut server = serve(&["--listen", "127.0.0.1:0", "--workers", workers, SERVICE]);
        assert!(is_hello(&exchange(TcpStream::connect(server.address()).expect("it listens"), ASK)));
        // As systemd starts it.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let words = ["run", "--workers", workers, SERVICE];
        let _server = activated(listener.into(), "LISTEN_PID=$$ LISTEN_FDS=1", &words);
        assert!(is_hello(&exchange(TcpStream::connect(address).expect("it listens already"), ASK)));
    }
}

/// `wasmtime serve` ends at the first connection that it cannot accept.
#[test]
fn a_service_outlives_a_shortage_of_descriptors() {
    const FEW: usize = 60;
    for workers in ["1", "2"] {
        let script = format!("ulimit -n {FEW} && exec \"$@\"");
        let words = ["run", "-p", "0:8080", "--workers", workers, "--health", "127.0.0.1:0", SERVICE];
        let mut server = Process::spawn(under_shell(&script, &words));
        let address = server.address();
        let mut clients: Vec<_> =
            (0..2 * FEW).map(|_| TcpStream::connect(address).expect("the kernel takes it")).collect();
        server.line("connections have to wait");
        for client in &mut clients {
            client.write_all(ASK).expect("the kernel takes it");
        }
        for client in clients {
            client.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
            assert!(is_hello(&exchange(client, b"")), "{workers} workers");
        }
        let began = Instant::now();
        assert!(get(address, "/hello").ends_with("Hello\n"));
        assert!(began.elapsed() < PATIENCE);
        assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
    }
}
