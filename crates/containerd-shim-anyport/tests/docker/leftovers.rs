//! What is left of containers that are gone, and what happens to containers whose keepers are gone.

use std::thread;

use crate::support::container::Container;
use crate::support::traces::Process;
use crate::support::{Image, Node, until};

/// Ends a process on the node.
fn kill(node: &Node, process: &Process) {
    node.run("sh", ["kill", "-KILL", &process.pid.to_string()], None).success();
}

/// Folders and sockets that an engine makes with the first container are there before the count.
fn warm(node: &Node) {
    let container = node.start(&Image::hello(), &["-p", "8080"], &[]);
    node.answer(container.published(8080), "POST", "/hello", "x");
}

pub(crate) fn a_container_leaves_nothing_behind(node: &Node) {
    warm(node);
    let before = node.traces();
    {
        let container = node.start(&Image::hello(), &["-p", "8080", "--memory", "64m"], &[]);
        node.answer(container.published(8080), "POST", "/hello", "x");
        container.exec(&["anyport", "probe", "http://127.0.0.1:8080/"]);
        assert_ne!(node.traces(), before);
        container.docker(&["stop"]).success();
        container.docker(&["start"]).success();
    }
    node.wait_for_traces(&before);
    // Nor does one that cannot be run.
    let ended = node.run_once(&Image::of("left-text", b"no module".to_vec()), &[], &[]);
    ended.failure();
    node.wait_for_traces(&before);
}

/// The daemon of a container is gone, and with it whoever could have cleaned up.
pub(crate) fn a_killed_shim_leaves_nothing_behind(node: &Node) {
    warm(node);
    let before = node.traces();
    {
        let container = node.start(&Image::hello(), &["-p", "8080"], &[]);
        node.answer(container.published(8080), "POST", "/hello", "x");
        kill(node, &node.daemon_of(container.pid()));
        until("the end of the container", || (container.inspect("{{.State.Status}}") == "exited").then_some(()));
    }
    node.wait_for_traces(&before);
}

pub(crate) fn fifty_killed_containers_leave_nothing_behind(node: &Node) {
    const CONTAINERS: usize = 50;
    warm(node);
    let before = node.traces();
    let image = Image::hello();
    let start = || -> Vec<Container<'_>> { (0..CONTAINERS / 2).map(|_| node.start(&image, &[], &[])).collect() };
    thread::scope(|scope| {
        let other = scope.spawn(start);
        let mut containers = start();
        containers.extend(other.join().expect("they start"));
        assert_eq!(containers.len(), CONTAINERS);
        let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
        // Half of them by their processes, half by their daemons too.
        for (at, container) in containers.iter().enumerate() {
            let pid = container.pid();
            let daemon = if at % 2 == 0 { node.daemon_of(pid).pid.to_string() } else { String::new() };
            // Who is gone with another need not be killed.
            node.shell(&format!("kill -KILL {daemon} {pid} 2>&1 || true")).success();
        }
        let removed = node.docker([&["rm", "-f"], names.as_slice()].concat());
        removed.success();
    });
    node.wait_for_traces(&before);
}

/// An engine is upgraded, and its containers go on: they are found again, with their state.
pub(crate) fn containers_outlive_containerd(node: &Node) {
    let container = node.start(&Image::hello(), &["-p", "8080"], &[]);
    let ask = || node.answer(container.published(8080), "POST", "/hello", "x").body;
    assert_eq!(ask(), "👋 Hello x\n");
    let pid = container.pid();
    node.run("restart", ["containerd"], None).success();
    assert_eq!(ask(), "👋 Hello x\n");
    until("the engine to find it", || (container.docker(&["top"]).code == 0).then_some(()));
    assert_eq!(container.pid(), pid);
    container.docker(&["stop"]).success();
    assert_eq!(container.inspect("{{.State.ExitCode}} {{.State.Status}}"), "0 exited");
}
