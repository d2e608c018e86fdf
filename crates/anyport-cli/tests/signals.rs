//! SIGTERM, SIGINT and SIGHUP end guest and process within two seconds, whatever the guest is doing.

mod support;

use std::io::pipe;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use support::process::GuestState;
use support::service::under_shell;
use support::{Folder, Process, guests};

/// A person who waits longer than this thinks that it hangs.
const PROMPT: Duration = Duration::from_secs(2);

/// What the guest's standard streams are while it waits.
#[derive(Clone, Copy)]
enum Streams {
    /// stdin is an open pipe on which nothing comes.
    Quiet,
    /// Nobody reads stdout.
    Full,
}

/// Each signal ends this guest, once it is in this state. A server that has finished what it owed did
/// what it was told.
fn each_ends(guest: &[u8], words: &[&str], streams: Streams, state: GuestState) {
    let codes = if words.is_empty() { [143, 130, 129] } else { [0, 0, 0] };
    for (signal, code) in [Signal::TERM, Signal::INT, Signal::HUP].into_iter().zip(codes) {
        let folder = Folder::with("x.wasm", guest);
        let mut command = folder.command([&["run"], words, &["x.wasm"]].concat());
        // Held to the end of the test: a pipe without a reader is broken, and not full.
        let (_reader, writer) = pipe().expect("a pipe");
        let process = match streams {
            Streams::Quiet => Process::spawn_with_stdin(command),
            Streams::Full => {
                command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
                Process::start(&mut command)
            }
        };
        process.wait_for_guest("x.wasm", state);
        let ended = process.end_by(signal, PROMPT);
        assert_eq!(ended.code(), code, "{ended}");
        assert!(!ended.stderr.contains("error"), "{ended}");
    }
}

#[test]
fn while_it_waits_in_accept() {
    each_ends(&guests::accepts(8080), &["-p", "0:8080"], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_polls_a_listener() {
    each_ends(&guests::polls_listener(), &["-p", "0:8080"], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_polls_stdin() {
    each_ends(&guests::polls_stdin(), &[], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_reads_stdin() {
    each_ends(&guests::reads_stdin(), &[], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_sleeps() {
    each_ends(&guests::sleeps(), &[], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_computes() {
    each_ends(&guests::loops(), &[], Streams::Quiet, GuestState::Computing);
}

#[test]
fn while_it_is_instantiated() {
    let loops = "(module (func $loop (loop $forever (br $forever))) (start $loop) (func (export \"_start\")))";
    each_ends(&guests::wasm(loops), &[], Streams::Quiet, GuestState::Computing);
}

#[test]
fn while_stdout_is_full() {
    each_ends(&guests::floods_stdout(), &[], Streams::Full, GuestState::Waiting);
}

#[test]
fn while_it_is_compiled() {
    let folder = Folder::with("slow.wasm", guests::slow_to_compile());
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut process = folder.spawn(["run", "--no-cache", "--log", "debug", "slow.wasm"]);
        process.line("is compiled");
        let ended = process.end_by(signal, PROMPT);
        assert_eq!(ended.code(), code, "{ended}");
    }
}

#[test]
fn the_port_is_free_again() {
    let folder = Folder::with("x.wasm", guests::accepts(8080));
    let mut first = folder.spawn(["run", "-p", "0:8080", "x.wasm"]);
    let port = first.address().port();
    assert_eq!(first.end_by(Signal::TERM, PROMPT).code(), 0);
    let mut second = folder.spawn(["run", "-p", &format!("{port}:8080"), "x.wasm"]);
    assert_eq!(second.address().port(), port);
}

#[test]
fn who_is_to_outlast_the_terminal_does() {
    let folder = Folder::with("x.wasm", guests::sleeps());
    let file = folder.path().join("x.wasm");
    let words = ["run", file.to_str().expect("a name in UTF-8")];
    let process = Process::spawn(under_shell("trap '' HUP && exec \"$@\"", &words));
    process.wait_for_guest("x.wasm", GuestState::Waiting);
    process.signal(Signal::HUP);
    // A signal that was taken first would be the one that is told.
    let ended = process.end_by(Signal::TERM, PROMPT);
    assert_eq!(ended.code(), 143, "{ended}");
}
