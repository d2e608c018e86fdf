//! Denied by default, and the sentence that names the flag; what each flag then allows, and no more.

mod support;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use rustix::process::Signal;

use support::service::activated;
use support::{Ended, Folder, PATIENCE, Process, anyport, command_in, guests, root};

/// `EACCES` of preview1, with which the small guests exit when they are refused.
const ACCESS: i32 = 2;
/// `EROFS`, and `EPERM`, which wasmtime-wasi gives for a directory that is for reading.
const READ_ONLY: [i32; 2] = [69, 63];

fn run(guest: Vec<u8>, words: &[&str]) -> Ended {
    Folder::with("x.wasm", guest).anyport([&["run"], words, &["x.wasm"]].concat())
}

#[test]
fn binding_an_unpublished_port_names_the_flag_once() {
    let refused = run(guests::binds(8080, 3), &[]);
    snapshot!(refused, @"
    code 2
    --- stderr
    warning: the guest may not bind port 8080/tcp, which is not published; to allow it, add `-p ↵
    8080:8080`
    ");
    assert_eq!(refused.code(), ACCESS);
    let other = run(guests::binds(8080, 1), &["-p", "0:80"]);
    snapshot!(other, @"
    code 2
    --- stderr
    warning: the guest may not bind port 8080/tcp, which is not published; to allow it, add `-p ↵
    8080:8080`
    ");
    assert_eq!(run(guests::binds(8080, 1), &["-p", "0:8080"]).code(), 0);
}

#[test]
fn a_real_server_without_its_port_says_what_to_add() {
    let ended =
        Process::spawn(command_in(&root(), ["run", "-e", "PORT=8080", "guests/wasmedge/hello/server.wasm"])).end();
    let ours: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("warning:")).collect();
    assert_eq!(
        ours,
        ["warning: the guest may not bind port 8080/tcp, which is not published; to allow it, add `-p 8080:8080`"]
    );
    assert_ne!(ended.code(), 0, "{ended}");
}

/// A listener of the test's own, for guests to connect to.
fn peer() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

#[test]
fn connecting_out_is_refused_and_names_the_flag() {
    let (listener, port) = peer();
    let refused = run(guests::connects(port), &[]);
    snapshot!(refused, @"
    code 2
    --- stderr
    warning: the guest may not connect to 127.0.0.1:PORT; to allow it, add `--allow-net ↵
    127.0.0.1:PORT`
    ");
    assert_eq!(refused.code(), ACCESS);
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_err(), "nobody has come");
}

#[test]
fn connecting_out_is_allowed_by_name_of_the_address() {
    let (listener, port) = peer();
    for rule in [
        format!("127.0.0.1:{port}"),
        "127.0.0.0/8".to_owned(),
        "private".to_owned(),
        "any".to_owned(),
        format!("10.0.0.1,127.0.0.1:{port}"),
    ] {
        let allowed = run(guests::connects(port), &["--allow-net", &rule]);
        assert_eq!(allowed.code(), 0, "{rule}: {allowed}");
        assert_eq!(allowed.stderr, "");
        let mut text = String::new();
        listener.accept().and_then(|(mut stream, _)| stream.read_to_string(&mut text)).expect("it has come");
        assert_eq!(text, "ready\n");
    }
    for rule in [format!("127.0.0.1:{}", port ^ 1), "public".to_owned(), "10.0.0.0/8".to_owned()] {
        assert_eq!(run(guests::connects(port), &["--net", &rule]).code(), ACCESS, "{rule}");
    }
}

#[test]
fn a_lookup_is_refused_and_names_the_flags() {
    let refused = run(guests::looks_up("localhost"), &[]);
    snapshot!(refused, @"
    code 2
    --- stderr
    warning: the guest may not look up `localhost`; to allow it, add `--allow-net localhost` or ↵
    `--allow-dns`
    ");
    assert_eq!(refused.code(), ACCESS);
    snapshot!(run(guests::looks_up("not a name"), &["--allow-net", "10.0.0.0/8"]), @"
    code 2
    --- stderr
    warning: the guest may not look up `not a name`; to allow it, add `--allow-dns`
    ");
}

#[test]
fn looking_names_up_is_allowed_without_connecting() {
    for words in [&["--allow-dns"][..], &["--allow-net", "localhost"], &["--allow-dns", "--allow-net", "10.0.0.1"]] {
        let allowed = run(guests::looks_up("localhost"), words);
        assert_eq!((allowed.code(), allowed.stderr.as_str()), (0, ""), "{words:?}");
    }
    let (listener, port) = peer();
    let refused = run(guests::connects(port), &["--allow-dns"]);
    assert_eq!(refused.code(), ACCESS);
    assert!(refused.stderr.contains("--allow-net 127.0.0.1:"), "{refused}");
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_err(), "nobody has come");
}

#[test]
fn rules_that_say_too_much_or_nothing_are_explained() {
    let x = guests::exits(0);
    snapshot!(run(x.clone(), &["--net"]), @"
    code 125
    --- stderr
    error: `--net` does not say what to allow, and `x.wasm` is a file
    hint: `anyport run --net any x.wasm` allows every host, `--net HOST:PORT` one
    ");
    snapshot!(run(x.clone(), &["--net", "--quiet"]), @"
    code 125
    --- stderr
    error: `--allow-net` does not say what to allow
    hint: `--allow-net example.com:443` allows one host, `--allow-net any` all
    ");
    snapshot!(run(x.clone(), &["--net=dns:allow=example.com:80"]), @"
    code 125
    --- stderr
    error: `dns:allow=example.com:80` is a rule of Wasmer's
    hint: write `--allow-net HOST:PORT` for outbound, `-p PORT` for inbound traffic
    ");
    snapshot!(run(x.clone(), &["--allow-net", "a b"]), @"
    code 125
    --- stderr
    error: `--allow-net a b` is not right: `a b` is not HOST[:PORT], a CIDR, `private`, `public` or ↵
    `any`
    hint: `--allow-net example.com:443`, `--allow-net 10.0.0.0/8` and `--allow-net any` are right
    ");
    snapshot!(run(x.clone(), &["-S", "inherit-network"]), @"
    code 125
    --- stderr
    error: `-S inherit-network` would allow the whole network
    hint: `-p PORT` publishes a port, `--allow-net RULE` allows outbound traffic (`any` for all)
    ");
    snapshot!(run(x.clone(), &["-S", "http"]), @"
    code 125
    --- stderr
    error: `-S http` is an option of wasmtime's that anyport does not have
    hint: leave it out; `anyport run --help` shows what there is
    ");
    snapshot!(run(x.clone(), &["-W", "fuel=100"]), @"
    code 125
    --- stderr
    error: `-W fuel=100` is an option of wasmtime's that anyport does not have
    hint: `--cpu-time TIME` ends a guest that computes without end, `timeout SECONDS anyport run FILE` ↵
    ends it in any case
    ");
    snapshot!(run(x.clone(), &["-W", "timeout=5s"]), @"
    code 125
    --- stderr
    error: `-W timeout=5s` is an option of wasmtime's that anyport does not have
    hint: `--cpu-time TIME` ends a guest that computes without end, `timeout SECONDS anyport run FILE` ↵
    ends it in any case
    ");
    snapshot!(run(x, &["-W", "threads"]), @"
    code 125
    --- stderr
    error: `-W threads` is an option of wasmtime's that anyport does not have
    hint: leave it out; `anyport run --help` shows what there is
    ");
}

#[test]
fn ports_that_are_none_are_explained() {
    let x = guests::exits(0);
    snapshot!(run(x.clone(), &["-p", "http"]), @"
    code 125
    --- stderr
    error: `--publish http` is not right: `http` is not a port number (0 to 65535)
    hint: `-p 8080`, `-p 8080:80` and `-p 0.0.0.0:8080:80` are right; the first port is this machine's
    ");
    snapshot!(run(x.clone(), &["-p", "8080:99999"]), @"
    code 125
    --- stderr
    error: `--publish 8080:99999` is not right: `99999` is not a port number (0 to 65535)
    hint: `-p 8080`, `-p 8080:80` and `-p 0.0.0.0:8080:80` are right; the first port is this machine's
    ");
    snapshot!(run(x.clone(), &["--listen", "example.com:80"]), @"
    code 125
    --- stderr
    error: `--listen example.com:80` is not right: `example.com` is not an IPv4 address
    hint: `127.0.0.1:PORT`, `[::]:8080` and `:8080` are right
    ");
    snapshot!(run(x.clone(), &["--tcplisten", "[::1:80"]), @"
    code 125
    --- stderr
    error: `--tcplisten [::1:80` is not right: an IPv6 address is written `[::1]:PORT`
    hint: `127.0.0.1:PORT`, `[::]:8080` and `:8080` are right
    ");
    snapshot!(run(x.clone(), &["-p", "192.0.2.1:0:80"]), @"
    code 125
    --- stderr
    error: this machine has no address 192.0.2.1
    hint: `-p 0.0.0.0:HOST:GUEST` publishes on every address
    ");
    snapshot!(run(x, &["-p", "80:1", "-p", "80:2"]), @"
    code 125
    --- stderr
    error: 127.0.0.1:80/tcp is asked for twice
    hint: `-p`, `--listen` and `--tcplisten` each bind a port: leave one out, or change its port
    ");
}

#[test]
fn a_port_in_use_names_port_and_holder() {
    let (_listener, port) = peer();
    let name = fs::read_to_string("/proc/self/comm").expect("we have a name");
    let ended = run(guests::exits(0), &["-p", &format!("{port}:8080")]);
    assert_eq!(ended.code(), 125, "{ended}");
    assert_eq!(
        ended.stderr,
        format!(
            "error: port {port}/tcp on 127.0.0.1 is in use by `{}` (process {})\n\
         hint: stop that process, or publish another port: `-p OTHER:PORT`\n",
            name.trim(),
            std::process::id(),
        )
    );
}

/// The bytes that a server sends to whoever connects.
fn greeting(address: SocketAddr) -> String {
    let mut text = String::new();
    TcpStream::connect(address).and_then(|mut stream| stream.read_to_string(&mut text)).expect("it listens");
    text
}

#[test]
fn listen_and_addr_publish_the_port_of_an_address() {
    for words in [["--listen", "127.0.0.1:0"], ["--addr", ":0"], ["--listen", "localhost:0"], ["--http-addr", "0"]] {
        let folder = Folder::with("x.wasm", guests::accepts(0));
        let mut server = folder.spawn([&["run"], &words[..], &["x.wasm"]].concat());
        assert_eq!(greeting(server.address()), "ready\n", "{words:?}");
        assert_eq!(server.end().code(), 0);
    }
}

#[test]
fn tcplisten_hands_a_listener_over() {
    for words in
        [["--tcplisten", "127.0.0.1:0"], ["-S", "tcplisten=127.0.0.1:0"], ["-S", "preview2=n,tcplisten=127.0.0.1:0"]]
    {
        let command = command_in(&root(), [&["run"], &words[..], &["guests/preview1/axum-fd3/server.wasm"]].concat());
        let mut server = Process::spawn(command);
        let answer = support::http::http(server.address(), "GET", "/", None);
        assert!(answer.contains("hello from axum"), "{words:?}: {answer}");
    }
}

#[test]
fn sockets_of_a_service_manager_are_handed_over() {
    let (listener, port) = peer();
    let axum = ["run", "guests/preview1/axum-fd3/server.wasm"];
    let server = activated(listener.into(), "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web", &axum);
    let answer = support::http::http(([127, 0, 0, 1], port).into(), "GET", "/env", None);
    assert!(answer.contains("LISTEN_FDS=1") && answer.contains("LISTEN_FDNAMES=web"), "{answer}");
    assert!(!answer.contains("LISTEN_PID"), "{answer}");
    assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
}

#[test]
fn sockets_that_are_for_another_process_are_left_alone() {
    let folder = Folder::with("x.wasm", guests::prints_environment());
    let file = folder.path().join("x.wasm").display().to_string();
    let ended = activated(peer().0.into(), "LISTEN_PID=1 LISTEN_FDS=1", &["run", &file]).end();
    assert_eq!(ended.data(), "", "{ended}");
}

#[test]
fn a_descriptor_that_is_no_listener_is_refused() {
    let folder = Folder::with("x.wasm", guests::exits(0));
    let file = folder.path().join("x.wasm").display().to_string();
    let null = fs::File::open("/dev/null").expect("it is there");
    let ended = activated(null.into(), "LISTEN_PID=$$ LISTEN_FDS=1", &["run", &file]).end();
    snapshot!(ended, @"
    code 125
    --- stderr
    error: descriptor 3 of LISTEN_FDS is no stream listener: fd 3 is not a socket
    ");
}

#[test]
fn the_environment_is_not_leaked() {
    let folder = Folder::with("x.wasm", guests::prints_environment())
        .and("variables", "# a comment\n\nA=from file\n B=2 \nOURS\nNOT_SET\n");
    let environment = |words: &[&str]| {
        let mut command = folder.command([&["run"], words, &["x.wasm"]].concat());
        command.env("OURS", "ours").env("SECRET", "secret").env("LISTEN_FDNAMES", "stale");
        let ended = Process::spawn(command).end();
        let mut variables: Vec<String> = ended.data().split_terminator('\0').map(str::to_owned).collect();
        variables.sort();
        variables
    };
    assert!(environment(&[]).is_empty());
    assert_eq!(
        environment(&["-e", "A=1", "-e", "B=x=y", "-e", "C=", "-e", "OURS", "-e", "NOT_SET"]),
        ["A=1", "B=x=y", "C=", "OURS=ours"]
    );
    assert_eq!(environment(&["--env-file", "variables"]), ["A=from file", "B=2", "OURS=ours"]);
    assert_eq!(environment(&["--env-file", "variables", "-e", "A=over"]), ["A=over", "B=2", "OURS=ours"]);
    for all in [&["--inherit-env"][..], &["--forward-host-env"], &["-S", "inherit-env"]] {
        let variables = environment(all);
        assert!(variables.contains(&"SECRET=secret".to_owned()), "{all:?}: {variables:?}");
        assert!(!variables.iter().any(|variable| variable.starts_with("LISTEN_")), "{variables:?}");
    }
}

#[test]
fn variables_that_are_none_are_explained() {
    let folder = Folder::with("x.wasm", guests::exits(0)).and("variables", "A=1\n=2\n").and("binary", b"A=\xff\n");
    snapshot!(folder.anyport(["run", "-e", "=1", "x.wasm"]), @"
    code 125
    --- stderr
    error: `--env =1` is not right: it is not NAME=VALUE, nor a NAME to pass ours on
    hint: `-e PORT=8080` is right
    ");
    snapshot!(folder.anyport(["run", "--env-file", "variables", "x.wasm"]), @"
    code 125
    --- stderr
    error: `--env-file variables` is not right: line 2: it is not NAME=VALUE, nor a NAME to pass ours on
    hint: `-e PORT=8080` is right
    ");
    snapshot!(folder.anyport(["run", "--env-file", "no-such", "x.wasm"]), @"
    code 125
    --- stderr
    error: `--env-file no-such` cannot be read: No such file or directory (os error 2)
    ");
    snapshot!(folder.anyport(["run", "--env-file", "binary", "x.wasm"]), @"
    code 125
    --- stderr
    error: `--env-file binary` cannot be read: stream did not contain valid UTF-8
    ");
    let large = format!("A={}", "x".repeat(100_000));
    snapshot!(folder.anyport(["run", "--limit", "environment-bytes=64k", "-e", &large, "x.wasm"]), @"
    code 125
    --- stderr
    error: the guest's arguments and environment have 100010 bytes, the limit is 65536
    hint: pass less, or raise `--limit environment-bytes=N`
    ");
}

/// A folder with a guest and a directory `data` with the file `ready` in it, if `filled`.
fn with_data(guest: Vec<u8>, filled: bool) -> Folder {
    let folder = Folder::with("x.wasm", guest);
    fs::create_dir(folder.path().join("data")).expect("the folder is ours");
    if filled { folder.and("data/ready", "as it was\n") } else { folder }
}

fn content(folder: &Folder) -> Option<String> {
    fs::read_to_string(folder.path().join("data/ready")).ok()
}

#[test]
fn directories_are_closed_until_they_are_given() {
    let closed = with_data(guests::makes_file(), false);
    assert_eq!(closed.anyport(["run", "x.wasm"]).code(), 8, "EBADF: there is no descriptor 3");
    for dir in ["data", "data:/data", "data::/data", "data:/data:rw"] {
        let folder = with_data(guests::makes_file(), false);
        let ended = folder.anyport(["run", "--dir", dir, "x.wasm"]);
        assert_eq!(ended.code(), 0, "{dir}: {ended}");
        assert_eq!(content(&folder).as_deref(), Some("ready\n"), "{dir}");
    }
}

#[test]
fn a_read_only_directory_is_read_and_not_written() {
    for dir in ["data:ro", "data:/data:ro"] {
        let folder = with_data(guests::prints_file(), true);
        assert_eq!(folder.anyport(["run", "-v", dir, "x.wasm"]).data(), "as it was\n");
        for filled in [true, false] {
            let folder = with_data(guests::makes_file(), filled);
            let ended = folder.anyport(["run", "--volume", dir, "x.wasm"]);
            assert!(READ_ONLY.contains(&ended.code()), "{dir}: {ended}");
            assert_eq!(content(&folder).is_some(), filled);
            assert!(!filled || content(&folder).as_deref() == Some("as it was\n"));
        }
    }
}

#[test]
fn directories_that_are_none_are_explained() {
    let folder = with_data(guests::exits(0), false);
    snapshot!(folder.anyport(["run", "--dir", "no-such", "x.wasm"]), @"
    code 125
    --- stderr
    error: there is no directory `no-such`
    hint: make it, or name another: `--dir HOST:GUEST`
    ");
    snapshot!(folder.anyport(["run", "--dir", "no-such:/data", "x.wasm"]), @"
    code 125
    --- stderr
    error: there is no directory `no-such`
    hint: make it, or name another: `--dir HOST:GUEST`
    ");
    snapshot!(folder.anyport(["run", "--dir", "/guest:data", "x.wasm"]), @"
    code 125
    --- stderr
    error: there is no directory `/guest`
    hint: the host's path comes first here: `--dir data:/guest`
    ");
    snapshot!(folder.anyport(["run", "--dir", ":/data", "x.wasm"]), @"
    code 125
    --- stderr
    error: `--dir :/data` is not right: it is HOST or HOST:GUEST, with `:ro` behind it for reading only
    hint: `--dir site:/www` and `--dir site:/www:ro` are right
    ");
    snapshot!(folder.anyport(["run", "--dir", "x.wasm:/data", "x.wasm"]), @"
    code 125
    --- stderr
    error: `x.wasm` is no directory
    hint: name the directory that it is in: `--dir HOST:GUEST`
    ");
    assert_eq!(folder.anyport(["run", "--mapdir", "/data:data", "x.wasm"]).code(), 0);
}

#[test]
fn limits_that_are_none_are_explained() {
    let x = guests::exits(0);
    snapshot!(run(x.clone(), &["--memory", "lots"]), @"
    code 125
    --- stderr
    error: `--memory lots` is not right: it is a number with k, m or g behind it
    hint: `--memory 64m` is right
    ");
    snapshot!(run(x.clone(), &["--limit", "memory=1g"]), @"
    code 125
    --- stderr
    error: `--limit memory=1g` is not right: it is NAME=N, where NAME is one of memory-bytes, ↵
    table-elements, descriptors, connections, copy-bytes, held-bytes, random-bytes, environment-bytes, ↵
    iovecs, subscriptions, header-bytes, instances, queue, header-lines, body-bytes, threads
    hint: `--limit descriptors=4096` is right
    ");
    snapshot!(run(x.clone(), &["--limit", "descriptors=2"]), @"
    code 125
    --- stderr
    error: the guest may not open even its first descriptors
    hint: raise `--limit descriptors=N`
    ");
    assert_eq!(run(x, &["--limit", "memory-bytes=64k"]).code(), 0);
}

#[test]
fn a_words_order_or_kind_that_is_wrong_is_code_125() {
    for words in [&["run"][..], &["run", "--nope", "x.wasm"], &["nope"], &["cache"], &["completions", "tcsh"], &[]] {
        let ended = anyport(words);
        assert_eq!(ended.code(), 125, "{words:?}: {ended}");
        assert_eq!(ended.stdout, "");
        assert!(!ended.stderr.is_empty());
    }
    assert!(Path::new(env!("CARGO_BIN_EXE_anyport")).is_file());
}
