//! Under a service manager: its sockets, its notifications, a restart that no client notices.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;

use support::client::Client;
use support::service::{activated, activated_with_two, is_quiet, told};
use support::{Folder, PATIENCE, Process, guests, root, skip};

const ONE: &str = "LISTEN_PID=$$ LISTEN_FDS=1";

/// Servers of both dialects, with the answer to `GET /`. The first listens by itself, on port 8080.
const SERVERS: [(&str, &str); 2] = [
    ("guests/wasmedge/hello/server.wasm", "POST your name to /hello\n"),
    ("guests/preview1/axum-fd3/server.wasm", "hello from axum\n"),
];

/// A listener of the manager's, on a free port.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn copy(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().expect("a descriptor").into()
}

#[test]
fn a_socket_of_the_manager_is_the_port_that_the_guest_binds() {
    for words in [&["run"][..], &["run", "--workers", "2"]] {
        for (server, answer) in SERVERS {
            let (listener, address) = listener();
            let mut server = activated(copy(&listener), ONE, &[words, &[server]].concat());
            assert_eq!(server.address(), address);
            assert_eq!(Client::to(address).get("/").expect("an answer"), answer);
            assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
        }
    }
}

#[test]
fn of_two_sockets_the_guest_binds_the_one_with_its_port() {
    let (listeners, ports) = ([listener(), listener()], |address: SocketAddr| format!("PORT={}", address.port()));
    let [(first, one), (second, two)] = listeners;
    for (address, other) in [(one, two), (two, one)] {
        let words = ["run", "-e", &ports(address), SERVERS[0].0];
        let mut server = activated_with_two([copy(&first), copy(&second)], "LISTEN_PID=$$ LISTEN_FDS=2", &words);
        assert_eq!(server.address(), address);
        assert_eq!(Client::to(address).get("/").expect("an answer"), SERVERS[0].1);
        // Nobody serves it, but the socket is the manager's, and listens.
        TcpStream::connect(other).expect("it waits");
        assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
    }
}

#[test]
fn a_unix_socket_of_the_manager() {
    for (server, answer) in SERVERS {
        let folder = Folder::new();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("the folder is ours");
        let mut server = activated(listener.into(), ONE, &["run", server]);
        server.line("listening on unix:");
        assert_eq!(Client::to_unix(&path).get("/").expect("an answer"), answer);
        assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
        assert!(path.exists(), "the file is the manager's");
    }
}

#[test]
fn who_came_before_the_start_is_served() {
    for (server, answer) in SERVERS {
        let (listener, address) = listener();
        let clients: Vec<_> = (0..10).map(|_| Client::to(address)).collect();
        let server = activated(copy(&listener), ONE, &["run", server]);
        for mut client in clients {
            assert_eq!(client.get("/").expect("an answer"), answer);
        }
        assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
    }
}

#[test]
fn who_comes_after_the_end_is_served_by_the_next() {
    for (file, answer) in SERVERS {
        let (listener, address) = listener();
        let server = activated(copy(&listener), ONE, &["run", file]);
        assert_eq!(Client::to(address).get("/").expect("an answer"), answer);
        assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
        let clients: Vec<_> = (0..10).map(|_| Client::to(address)).collect();
        let next = activated(copy(&listener), ONE, &["run", file]);
        for mut client in clients {
            assert_eq!(client.get("/").expect("an answer"), answer);
        }
        assert_eq!(next.end_by(Signal::TERM, PATIENCE).code(), 0);
    }
}

/// Asks again and again, on a connection each, until it is enough.
fn ask_on(address: SocketAddr, wanted: &str, asked: &AtomicUsize, enough: &AtomicBool) {
    while !enough.load(Ordering::Acquire) {
        let answer = Client::to(address).get("/").expect("each request is answered");
        assert_eq!(answer, wanted);
        asked.fetch_add(1, Ordering::AcqRel);
    }
}

#[test]
fn no_client_notices_a_restart() {
    for (words, (file, answer)) in [&["run"][..], &["run", "--workers", "2"]].into_iter().zip(SERVERS) {
        let (listener, address) = listener();
        let (asked, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| ask_on(address, answer, &asked, &enough));
            }
            for _ in 0..5 {
                let server = activated(copy(&listener), ONE, &[words, &[file]].concat());
                let before = asked.load(Ordering::Acquire);
                while asked.load(Ordering::Acquire) < before + 100 {
                    thread::yield_now();
                }
                let ended = server.end_by(Signal::TERM, PATIENCE);
                assert_eq!(ended.code(), 0, "{ended}");
            }
            let last = activated(copy(&listener), ONE, &[words, &[file]].concat());
            enough.store(true, Ordering::Release);
            last
        });
    }
}

/// A service manager's ear at this path.
fn ear(folder: &Folder) -> (UnixDatagram, String) {
    let path = folder.path().join("notify");
    (UnixDatagram::bind(&path).expect("the folder is ours"), path.display().to_string())
}

#[test]
fn the_manager_is_told_when_the_guest_listens_and_not_before() {
    let folder = Folder::with("x.wasm", guests::accepts_after_stdin(8080));
    let (ear, path) = ear(&folder);
    let mut command = folder.command(["run", "-p", "0:8080", "x.wasm"]);
    command.env("NOTIFY_SOCKET", path);
    let mut server = Process::spawn_with_stdin(command);
    server.output("ready");
    assert!(is_quiet(&ear));
    server.write(b"go on\n");
    assert_eq!(told(&ear), "READY=1");
    server.address();
    server.signal(Signal::TERM);
    assert_eq!(told(&ear), "STOPPING=1");
    assert_eq!(server.end().code(), 0);
    assert!(is_quiet(&ear));
}

#[test]
fn the_manager_is_told_at_the_start_of_what_has_no_port() {
    for words in [&["run"][..], &["run", "--workers", "2"]] {
        let folder = Folder::with("x.wasm", guests::sleeps());
        let (ear, path) = ear(&folder);
        let mut command = folder.command([words, &["x.wasm"]].concat());
        command.env("NOTIFY_SOCKET", path);
        let process = Process::spawn(command);
        assert_eq!(told(&ear), "READY=1");
        process.signal(Signal::TERM);
        assert_eq!(told(&ear), "STOPPING=1");
        assert_eq!(process.end().code(), 143);
    }
}

#[test]
fn the_manager_is_told_once_for_all_ports_and_workers() {
    let folder = Folder::new();
    let (ear, path) = ear(&folder);
    let (listener, address) = listener();
    let notify = format!("NOTIFY_SOCKET={path} {ONE}");
    let server = activated(copy(&listener), &notify, &["run", "--workers", "3", SERVERS[1].0]);
    assert_eq!(told(&ear), "READY=1");
    assert_eq!(Client::to(address).get("/").expect("an answer"), SERVERS[1].1);
    assert!(is_quiet(&ear));
    server.signal(Signal::TERM);
    assert_eq!(told(&ear), "STOPPING=1");
    assert_eq!(server.end().code(), 0);
}

#[test]
fn the_manager_may_listen_at_an_abstract_name() {
    let folder = Folder::with("x.wasm", guests::sleeps());
    let name = format!("anyport-test-{}", std::process::id());
    let address = UnixAddr::from_abstract_name(&name).expect("a name");
    let ear = UnixDatagram::bind_addr(&address).expect("a free name");
    let mut command = folder.command(["run", "x.wasm"]);
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let process = Process::spawn(command);
    assert_eq!(told(&ear), "READY=1");
    process.signal(Signal::TERM);
    assert_eq!(told(&ear), "STOPPING=1");
}

#[test]
fn a_manager_that_is_not_there_is_no_error() {
    let folder = Folder::with("x.wasm", guests::exits(0));
    let mut command = folder.command(["run", "x.wasm"]);
    command.env("NOTIFY_SOCKET", folder.path().join("nobody"));
    snapshot!(Process::spawn(command).end(), @"code 0");
}

/// The blocks of the document that are unit files.
fn units() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/service.md")).expect("it is in the repository");
    let blocks = text.split("```ini\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks.map(str::to_owned).collect()
}

/// The value of a unit file's line.
fn value<'a>(unit: &'a str, name: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn the_units_of_the_document_work() {
    let units = units();
    let services: Vec<&String> = units.iter().filter(|unit| unit.contains("[Service]")).collect();
    assert_eq!((units.len(), services.len()), (3, 2));
    for service in services {
        assert_eq!(value(service, "Type"), Some("notify"));
        let command = value(service, "ExecStart").expect("it starts something");
        let words: Vec<&str> = command.split(' ').collect();
        let ["/usr/local/bin/anyport", words @ .., "/srv/hello.wasm"] = &words[..] else { panic!("{command}") };
        let has_port = words.contains(&"-p");
        // The test must not have a port that somebody else has.
        let words: Vec<_> = words.iter().map(|word| word.replace("0.0.0.0:8080:", "127.0.0.1:0:")).collect();
        let words: Vec<_> = words.iter().map(String::as_str).chain([SERVERS[0].0]).collect();
        let folder = Folder::new();
        let (ear, path) = ear(&folder);
        let (listener, address) = listener();
        let variables = if has_port { String::new() } else { ONE.to_owned() };
        let mut server = activated(copy(&listener), &format!("NOTIFY_SOCKET={path} {variables}"), &words);
        assert_eq!(told(&ear), "READY=1");
        let served = server.address();
        assert_eq!(served == address, !has_port);
        assert_eq!(Client::to(served).get("/").expect("an answer"), SERVERS[0].1);
        server.signal(Signal::TERM);
        assert_eq!(told(&ear), "STOPPING=1");
        assert_eq!(server.end().code(), 0);
    }
}

#[test]
fn a_socket_of_both_ip_versions_is_served() {
    let Ok(listener) = TcpListener::bind("[::]:0") else {
        skip("there is no IPv6");
        return;
    };
    let port = listener.local_addr().expect("bound").port();
    for (file, answer) in SERVERS {
        let server = activated(copy(&listener), ONE, &["run", file]);
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            let mut client = Client::to(address.parse().expect("an address"));
            assert_eq!(client.get("/").expect("an answer"), answer, "{address}");
        }
        assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
    }
}
