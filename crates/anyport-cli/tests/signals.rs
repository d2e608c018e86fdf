//! SIGTERM and SIGINT end guest and process within two seconds, whatever the guest is doing.

mod support;

use std::io::pipe;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use support::process::GuestState;
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

/// Both signals end this guest, once it is in this state. A server that has finished what it owed did
/// what it was told.
fn both_end(guest: &[u8], words: &[&str], streams: Streams, state: GuestState) {
    let codes = if words.is_empty() { [143, 130] } else { [0, 0] };
    for (signal, code) in [Signal::TERM, Signal::INT].into_iter().zip(codes) {
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
    both_end(&guests::accepts(8080), &["-p", "0:8080"], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_polls_a_listener() {
    both_end(&guests::polls_listener(), &["-p", "0:8080"], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_polls_stdin() {
    both_end(&guests::polls_stdin(), &[], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_reads_stdin() {
    both_end(&guests::reads_stdin(), &[], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_sleeps() {
    both_end(&guests::sleeps(), &[], Streams::Quiet, GuestState::Waiting);
}

#[test]
fn while_it_computes() {
    both_end(&guests::loops(), &[], Streams::Quiet, GuestState::Computing);
}

#[test]
fn while_it_is_instantiated() {
    let loops = "(module (func $loop (loop $forever (br $forever))) (start $loop) (func (export \"_start\")))";
    both_end(&guests::wasm(loops), &[], Streams::Quiet, GuestState::Computing);
}

#[test]
fn while_stdout_is_full() {
    both_end(&guests::floods_stdout(), &[], Streams::Full, GuestState::Waiting);
}

#[test]
fn while_it_is_compiled() {
    let folder = Folder::with("slow.wasm", guests::slow_to_compile());
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
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
