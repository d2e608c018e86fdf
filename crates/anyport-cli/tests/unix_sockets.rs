//! Guests behind a Unix socket: served as over TCP, and what is said of paths that cannot be had.

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use support::client::Client;
use support::{Ended, Folder, PATIENCE, guests};

const BEHAVIOURS: [&str; 2] = ["wasmedge", "preview1"];

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.file_type().is_socket())
}

fn wait_until_gone(path: &Path) {
    let start = Instant::now();
    while path.exists() {
        assert!(start.elapsed() < PATIENCE, "`{}` stays", path.display());
        thread::yield_now();
    }
}

#[test]
fn guests_of_both_dialects_are_served() {
    for dialect in BEHAVIOURS {
        let folder = Folder::with("x.wasm", guests::behaviour(dialect));
        let path = folder.path().join("socket");
        for words in [
            &["--listen", "unix:socket"][..],
            &["-p", "unix:socket:8080"],
            &["-p", "unix:./socket"],
            &["--listen", "unix:socket", "--workers", "2"],
            &["--addr", "unix:socket", "--cpu-time", "0"],
        ] {
            let mut server = folder.spawn([&["run"], words, &["x.wasm"]].concat());
            let line = server.line("listening on unix:");
            assert!(line.contains("socket for "), "{line}");
            let mut clients = [Client::to_unix(&path), Client::to_unix(&path)];
            for client in &mut clients {
                assert_eq!(client.ask("echo hello"), "hello", "{dialect} {words:?}");
            }
            drop(clients);
            let ended = server.end_by(Signal::TERM, PATIENCE);
            assert_eq!(ended.code(), 0, "{dialect} {words:?}: {ended}");
            assert!(!path.exists(), "{words:?}");
        }
    }
}

#[test]
fn what_is_told_of_it() {
    let folder = Folder::with("x.wasm", guests::behaviour("wasmedge"));
    for (word, wanted) in [
        ("unix:socket", "anyport: listening on unix:socket for the guest"),
        ("unix:socket:8080", "anyport: listening on unix:socket for port 8080/tcp of the guest"),
    ] {
        assert_eq!(folder.spawn(["run", "-p", word, "x.wasm"]).line("listening"), wanted);
    }
}

#[test]
fn the_file_is_gone_however_it_ends() {
    let folder = Folder::with("x.wasm", guests::behaviour("wasmedge")).and("exit.wasm", guests::exits(3));
    let path = folder.path().join("socket");
    for command in ["exit 0", "exit 3", "trap"] {
        let mut server = folder.spawn(["run", "--restart", "no", "--listen", "unix:socket", "x.wasm"]);
        server.line("listening");
        assert!(is_socket(&path));
        Client::to_unix(&path).send(format!("{command}\n").as_bytes());
        server.end();
        assert!(!path.exists(), "{command}");
    }
    for (words, code) in [(&[][..], 3), (&["--workers", "2"], 3), (&["--limit", "descriptors=2"], 125)] {
        let ended = folder.anyport([&["run", "--listen", "unix:socket"], words, &["exit.wasm"]].concat());
        assert_eq!(ended.code(), code, "{ended}");
        assert!(!path.exists(), "{words:?}");
    }
    for signals in [&[Signal::TERM][..], &[Signal::INT], &[Signal::TERM, Signal::TERM]] {
        let mut server = folder.spawn(["run", "--listen", "unix:socket", "x.wasm"]);
        server.line("listening");
        let mut client = Client::to_unix(&path);
        client.send(b"sink 6\nabc");
        if signals.len() == 1 {
            drop(client);
        }
        server.signal(signals[0]);
        // The file goes first. Two signals at once would be one.
        wait_until_gone(&path);
        if let Some(second) = signals.get(1) {
            server.signal(*second);
        }
        server.end();
        assert!(!path.exists(), "{signals:?}");
    }
}

#[test]
fn a_restarted_guest_has_the_same_socket() {
    let folder = Folder::with("x.wasm", guests::behaviour("wasmedge"));
    let path = folder.path().join("socket");
    let mut server = folder.spawn(["run", "--listen", "unix:socket", "x.wasm"]);
    server.line("listening");
    let mut client = Client::to_unix(&path);
    client.send(b"trap\n");
    assert_eq!(client.rest(), "");
    assert_eq!(Client::to_unix(&path).ask("count"), "open 1 accepted 1");
}

#[test]
fn a_file_that_was_left_behind_is_taken_over() {
    let folder = Folder::with("x.wasm", guests::behaviour("wasmedge"));
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).expect("the folder is ours"));
    // A process that is just being started may hold it for a moment.
    while UnixStream::connect(&path).is_ok() {
        thread::yield_now();
    }
    let mut server = folder.spawn(["run", "--listen", "unix:socket", "x.wasm"]);
    server.line("listening");
    assert_eq!(Client::to_unix(&path).ask("echo hello"), "hello");
}

#[test]
fn the_next_server_may_come_while_one_drains() {
    let folder = Folder::with("x.wasm", guests::behaviour("wasmedge"));
    let path = folder.path().join("socket");
    let words = ["run", "--drain-timeout", "1h", "--listen", "unix:socket", "x.wasm"];
    let mut first = folder.spawn(words);
    first.line("listening");
    let mut client = Client::to_unix(&path);
    client.send(b"sink 6\nabc");
    // An answer on another connection shows that the guest has been at work since.
    let mut other = Client::to_unix(&path);
    for _ in 0..2 {
        assert_eq!(other.ask("echo hello"), "hello");
    }
    drop(other);
    first.signal(Signal::TERM);
    wait_until_gone(&path);
    let mut second = folder.spawn(words);
    second.line("listening");
    client.send(b"def");
    assert_eq!(client.line(), "sunk 6 ff478a2a");
    assert_eq!(first.end().code(), 0);
    assert_eq!(Client::to_unix(&path).ask("count"), "open 1 accepted 1", "the file is the second's");
    assert_eq!(second.end_by(Signal::TERM, PATIENCE).code(), 0);
    assert!(!path.exists());
}

fn run(folder: &Folder, option: &str, word: &str) -> Ended {
    folder.anyport(["run", option, word, "x.wasm"])
}

#[test]
fn paths_that_cannot_be_had_are_explained() {
    let folder = Folder::with("x.wasm", guests::exits(0)).and("file", "content");
    let _listener = UnixListener::bind(folder.path().join("used")).expect("the folder is ours");
    snapshot!(run(&folder, "--listen", "unix:used"), @"
    code 125
    --- stderr
    error: `unix:used` is in use
    hint: stop the process that listens there, or name another path
    ");
    assert!(is_socket(&folder.path().join("used")));
    snapshot!(run(&folder, "--listen", "unix:file"), @"
    code 125
    --- stderr
    error: `unix:file` cannot be made: there is `file`, and it is no socket
    hint: name another path, or remove what is there
    ");
    let file = fs::read_to_string(folder.path().join("file")).expect("it is still there");
    assert_eq!(file, "content");
    symlink("nowhere", folder.path().join("link")).expect("the folder is ours");
    snapshot!(run(&folder, "--listen", "unix:link"), @"
    code 125
    --- stderr
    error: `unix:link` cannot be made: there is `link`, and it is no socket
    hint: name another path, or remove what is there
    ");
    snapshot!(run(&folder, "--listen", "unix:."), @"
    code 125
    --- stderr
    error: `unix:.` cannot be made: there is `.`, and it is no socket
    hint: name another path, or remove what is there
    ");
    snapshot!(run(&folder, "--listen", "unix:no-such/socket"), @"
    code 125
    --- stderr
    error: `unix:no-such/socket` cannot be made: its directory is not there
    hint: make the directory, or name another path
    ");
    snapshot!(run(&folder, "--listen", "unix:file/socket"), @"
    code 125
    --- stderr
    error: `unix:file/socket` cannot be made: its directory is not there
    hint: make the directory, or name another path
    ");
    let long = "x".repeat(108);
    let ended = run(&folder, "--listen", &format!("unix:{long}"));
    snapshot!(ended.to_string().replace(&long, "LONG"), @"
    code 0
    --- stderr
    warning: `x.wasm` has no sockets, so nobody could answer at the published port; if it is a CGI ↵
    program (WAGI, WCGI), add `--cgi`
    ");
    snapshot!(run(&folder, "--listen", "unix:"), @"
    code 125
    --- stderr
    error: `--listen unix:` is not right: a Unix socket needs a path: `unix:/run/server.sock`
    hint: `unix:/run/server.sock` is right, and `unix:/run/server.sock:8080` for one port of several
    ");
    snapshot!(run(&folder, "-p", "unix:socket:99999"), @"
    code 125
    --- stderr
    error: `--publish unix:socket:99999` is not right: `99999` is not a port number (0 to 65535)
    hint: `unix:/run/server.sock` is right, and `unix:/run/server.sock:8080` for one port of several
    ");
    snapshot!(run(&folder, "--tcplisten", "unix:socket"), @"
    code 125
    --- stderr
    error: `--tcplisten unix:socket` is not right: `unix:socket` is not a port number (0 to 65535)
    hint: `--listen unix:PATH` publishes a Unix socket, and hands it over where a guest waits for one
    ");
    snapshot!(folder.anyport(["run", "-p", "unix:a", "--listen", "unix:a", "x.wasm"]), @"
    code 125
    --- stderr
    error: unix:a/tcp is asked for twice
    hint: `-p`, `--listen` and `--tcplisten` each bind a port: leave one out, or change its port
    ");
    snapshot!(folder.anyport(["run", "-p", "unix:a", "-p", "unix:b", "x.wasm"]), @"
    code 125
    --- stderr
    error: `unix:a` and `unix:b` are both for the first port that the guest binds
    hint: say which port of the guest is meant: `-p unix:PATH:8080`
    ");
}
