//! The life of a container: its output, its end, and what makes it begin again.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::container::{PLATFORM, RUNTIME};
use crate::support::{Image, Node, until};

/// Longer than any stop should take, and less than Docker waits before it kills.
const SOON: Duration = Duration::from_secs(8);

pub(crate) fn logs_have_both_streams(node: &Node) {
    let container = node.start(&Image::command(), &[], &["say", "to stdout", "complain", "to stderr"]);
    assert_eq!(container.wait(), 0);
    let logs = container.logs();
    assert_eq!(logs.success(), "to stdout");
    assert!(logs.stderr.contains("to stderr\n"), "{logs}");
}

pub(crate) fn a_container_ends_with_the_code_of_its_guest(node: &Node) {
    for code in [0, 1, 42, 255] {
        let ended = node.run_once(&Image::command(), &[], &["exit", &code.to_string()]);
        assert_eq!(ended.code, code, "{ended}");
    }
    let container = node.start(&Image::command(), &[], &["exit", "42"]);
    assert_eq!(container.wait(), 42);
    assert_eq!(container.inspect("{{.State.ExitCode}} {{.State.Status}} {{.State.OOMKilled}}"), "42 exited false");
}

pub(crate) fn a_trap_is_an_exit_code_and_a_backtrace(node: &Node) {
    let ended = node.run_once(&Image::command(), &[], &["say", "before", "trap"]);
    assert_eq!(ended.code, 134, "{ended}");
    assert_eq!(ended.stdout, "before\n");
    assert!(ended.stderr.contains("unreachable"), "{ended}");
}

pub(crate) fn standard_input_reaches_the_guest(node: &Node) {
    let name = node.load(&Image::command());
    let words = ["run", "--rm", "-i", RUNTIME, PLATFORM, &name, "copy", "say", "end"];
    let ended = node.run("docker", words, Some(b"one\ntwo\n"));
    assert_eq!(ended.success(), "one\ntwo\nend");
}

/// A request that is under way when the container is stopped gets its answer; then the server ends with 0.
pub(crate) fn stop_lets_requests_end(node: &Node) {
    let container = node.start(&Image::axum(), &[], &[]);
    let server = container.address(8080);
    node.get(server);
    thread::scope(|scope| {
        let slow = scope.spawn(|| node.ask(server, "GET", "/sleep/1500", ""));
        // It is under way once there is a connection.
        let established = |file: &str| std::fs::read_to_string(container.proc(file)).unwrap_or_default();
        until("the slow request", || {
            let all = established("net/tcp") + &established("net/tcp6");
            all.lines().any(|line| line.split_whitespace().nth(3) == Some("01")).then_some(())
        });
        let start = Instant::now();
        container.docker(&["stop"]).success();
        assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
        let answer = slow.join().expect("the thread ends").expect("it is answered");
        assert_eq!(answer.status, 200, "{answer:?}");
    });
    assert_eq!(container.inspect("{{.State.ExitCode}} {{.State.Status}}"), "0 exited");
}

pub(crate) fn kill_ends_at_once(node: &Node) {
    let container = node.start(&Image::command(), &[], &["say", "up", "spin"]);
    container.wait_for_log("up");
    container.docker(&["kill"]).success();
    assert_eq!(container.wait(), 137);
    // A guest that only computes ends at a signal too.
    let container = node.start(&Image::command(), &[], &["say", "up", "spin"]);
    container.wait_for_log("up");
    let start = Instant::now();
    container.docker(&["stop"]).success();
    assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
}

pub(crate) fn restart_serves_again(node: &Node) {
    let container = node.start(&Image::hello(), &["-p", "8080"], &[]);
    let ask = || node.answer(container.published(8080), "POST", "/hello", "x").body;
    assert_eq!(ask(), "👋 Hello x\n");
    let pid = container.pid();
    container.docker(&["restart"]).success();
    assert_eq!(ask(), "👋 Hello x\n");
    assert_ne!(container.pid(), pid);
    container.docker(&["stop"]).success();
    container.docker(&["start"]).success();
    assert_eq!(ask(), "👋 Hello x\n");
}

pub(crate) fn a_paused_container_does_not_answer(node: &Node) {
    let container = node.start(&Image::hello(), &[], &[]);
    let server = container.address(8080);
    let ask = || node.answer(server, "POST", "/hello", "x").body;
    assert_eq!(ask(), "👋 Hello x\n");
    container.docker(&["pause"]).success();
    assert_eq!(container.inspect("{{.State.Status}}"), "paused");
    thread::scope(|scope| {
        let waiting = scope.spawn(ask);
        // It takes no processor time, so nothing can come.
        let ticks = || std::fs::read_to_string(container.proc("stat")).expect("it lives");
        let ticks = || ticks().split(' ').skip(13).take(2).map(str::to_owned).collect::<Vec<_>>();
        let before = ticks();
        let asked = node.in_network(|| {
            let stream = std::net::TcpStream::connect_timeout(&server, SOON).expect("its kernel accepts");
            stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket has timeouts");
            std::io::Write::write_all(&mut &stream, b"POST /hello HTTP/1.1\r\nContent-Length: 0\r\n\r\n")?;
            std::io::Read::read(&mut &stream, &mut [0; 16])
        });
        assert!(asked.is_err() && !waiting.is_finished(), "{asked:?}");
        assert_eq!(ticks(), before);
        container.docker(&["unpause"]).success();
        assert_eq!(waiting.join().expect("it is answered"), "👋 Hello x\n");
    });
}

pub(crate) fn a_failing_guest_is_started_again(node: &Node) {
    let container = node.start(&Image::command(), &["--restart=on-failure:3"], &["say", "a try", "exit", "7"]);
    until("three restarts", || (container.inspect("{{.RestartCount}} {{.State.Status}}") == "3 exited").then_some(()));
    assert_eq!(container.log().matches("a try").count(), 4);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "7");
}

/// The terminal ends lines as terminals do.
pub(crate) fn a_terminal_shows_what_the_guest_says(node: &Node) {
    let ended = node.run_once(&Image::command(), &["-t"], &["say", "here", "complain", "there", "exit", "3"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (3, "here\r\nthere\r\n"), "{ended}");
}
