//! Containers by containerd alone, of three versions: 1.6 and 1.7, which speak the older protocol with shims, and 2.

#[macro_use]
mod support;

use std::net::SocketAddr;

use support::container::unique;
use support::node::Ended;
use support::{Image, Node, until};

behaviours! {
    bookworm trixie sid {
        ends_with_the_code_of_its_guest,
        serves_in_the_network_of_the_host,
        tasks_can_be_looked_at_paused_and_killed,
        a_task_takes_commands,
        a_bad_module_is_refused_in_words,
    } alone {
        a_task_leaves_nothing_behind,
        tasks_outlive_containerd,
    }
}

const PLATFORM: &str = "wasi/wasm32";

/// Has the image, and its name.
fn import(node: &Node, image: &Image) -> String {
    node.import(image);
    image.reference()
}

impl Node {
    /// An image for containerd, in the namespace of `ctr`.
    fn import(&self, image: &Image) {
        self.once(&format!("ctr {}", image.name), || {
            self.run("ctr", ["images", "import", "--platform", PLATFORM, "-"], Some(&image.archive())).success();
        });
    }

    fn ctr_run(&self, options: &[&str], image: &str, name: &str, words: &[&str]) -> Ended {
        let run = ["run", "--runtime", "io.containerd.anyport.v1", "--platform", PLATFORM];
        let entrypoint: &[&str] = if words.is_empty() { &[] } else { &["/server.wasm"] };
        self.ctr([&run, options, &[image, name], entrypoint, words].concat())
    }
}

/// A task of `ctr run -d`, killed and deleted in the end.
struct Task<'a> {
    node: &'a Node,
    name: String,
}

impl<'a> Task<'a> {
    fn start(node: &'a Node, image: &Image, options: &[&str], words: &[&str]) -> Self {
        let name = unique(&image.name);
        let image = import(node, image);
        node.ctr_run(&[&["-d"], options].concat(), &image, &name, words).success();
        Self { node, name }
    }

    /// Its state in the list of tasks.
    fn state(&self) -> Option<String> {
        let list = self.node.ctr(["task", "ls"]);
        let mut lines = list.success().lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines
            .find(|line| line.first() == Some(&self.name.as_str()))
            .and_then(|line| line.get(2).map(|s| (*s).to_owned()))
    }

    fn end(&self) {
        self.node.ctr(["task", "kill", "--signal", "SIGKILL", &self.name]);
        until("the end of the task", || (self.state().as_deref() != Some("RUNNING")).then_some(()));
        self.node.ctr(["task", "delete", "--force", &self.name]);
        self.node.ctr(["container", "delete", &self.name]);
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            support::tell(&self.node.last_words());
        }
        self.end();
    }
}

fn ends_with_the_code_of_its_guest(node: &Node) {
    let image = import(node, &Image::command());
    for code in [0, 42, 255] {
        let name = unique("exit");
        let ended = node.ctr_run(&["--rm"], &image, &name, &["say", "hello", "exit", &code.to_string()]);
        assert_eq!((ended.code, ended.stdout.as_str()), (code, "hello\n"), "{ended}");
    }
    let trapped = node.ctr_run(&["--rm"], &image, &unique("trap"), &["trap"]);
    assert_eq!(trapped.code, 134, "{trapped}");
    assert!(trapped.stderr.contains("unreachable"), "{trapped}");
}

fn serves_in_the_network_of_the_host(node: &Node) {
    let task = Task::start(node, &Image::hello(), &["--net-host", "--env", "PORT=18081"], &[]);
    let server = SocketAddr::from(([127, 0, 0, 1], 18081));
    assert_eq!(node.answer(server, "POST", "/hello", "Bob Morane").body, "👋 Hello Bob Morane\n");
    node.ctr(["task", "kill", "--signal", "SIGTERM", &task.name]).success();
    until("the end of the task", || (task.state().as_deref() == Some("STOPPED")).then_some(()));
    assert!(node.ask(server, "POST", "/hello", "x").is_err());
}

fn tasks_can_be_looked_at_paused_and_killed(node: &Node) {
    let task = Task::start(node, &Image::hello(), &["--net-host", "--env", "PORT=18082"], &[]);
    let server = SocketAddr::from(([127, 0, 0, 1], 18082));
    node.answer(server, "POST", "/hello", "x");
    assert_eq!(task.state().as_deref(), Some("RUNNING"));
    let processes = node.ctr(["task", "ps", &task.name]);
    assert!(processes.success().lines().count() >= 2, "{processes}");
    let metrics = node.ctr(["task", "metrics", &task.name]);
    assert!(metrics.success().contains("memory") && metrics.stdout.contains("cpu"), "{metrics}");

    node.ctr(["task", "pause", &task.name]).success();
    assert_eq!(task.state().as_deref(), Some("PAUSED"));
    node.ctr(["task", "resume", &task.name]).success();
    assert_eq!(task.state().as_deref(), Some("RUNNING"));
    node.answer(server, "POST", "/hello", "x");

    node.ctr(["task", "kill", "--signal", "SIGKILL", &task.name]).success();
    until("the end of the task", || (task.state().as_deref() == Some("STOPPED")).then_some(()));
    // `ctr` has a warning for what is not 0.
    let deleted = node.ctr(["task", "delete", &task.name]);
    assert!(deleted.stderr.contains("137"), "{deleted}");
    assert_eq!(task.state(), None);
}

fn a_task_takes_commands(node: &Node) {
    let task = Task::start(node, &Image::hello(), &["--net-host", "--env", "PORT=18083"], &[]);
    node.answer(SocketAddr::from(([127, 0, 0, 1], 18083)), "POST", "/hello", "x");
    let exec = |words: &[&str]| node.ctr([&["task", "exec", "--exec-id", &unique("exec"), &task.name], words].concat());
    let shown = exec(&["anyport", "ps"]);
    assert!(shown.success().contains("/server.wasm"), "{shown}");
    let failed = exec(&["anyport", "probe", "http://127.0.0.1:18099/"]);
    assert_eq!(failed.code, 1, "{failed}");
    assert_eq!(exec(&["/bin/sh"]).code, 127);
}

fn a_bad_module_is_refused_in_words(node: &Node) {
    let image = import(node, &Image::of("bad-text", b"no module".to_vec()));
    let name = unique("bad");
    let ended = node.ctr_run(&["-d"], &image, &name, &[]);
    node.ctr(["container", "delete", &name]);
    assert!(ended.failure().contains("WebAssembly") && ended.stderr.contains("/server.wasm"), "{ended}");
}

fn a_task_leaves_nothing_behind(node: &Node) {
    drop(Task::start(node, &Image::hello(), &[], &[]));
    let before = node.traces();
    {
        let task = Task::start(node, &Image::hello(), &["--net-host", "--env", "PORT=18084"], &[]);
        node.answer(SocketAddr::from(([127, 0, 0, 1], 18084)), "POST", "/hello", "x");
        assert_ne!(node.traces(), before);
        task.end();
    }
    node.wait_for_traces(&before);
}

fn tasks_outlive_containerd(node: &Node) {
    let task = Task::start(node, &Image::hello(), &["--net-host", "--env", "PORT=18085"], &[]);
    let server = SocketAddr::from(([127, 0, 0, 1], 18085));
    node.answer(server, "POST", "/hello", "x");
    node.run("restart", ["containerd"], None).success();
    assert_eq!(node.ask(server, "POST", "/hello", "x").expect("it still serves").body, "👋 Hello x\n");
    assert_eq!(task.state().as_deref(), Some("RUNNING"));
    node.ctr(["task", "kill", "--signal", "SIGTERM", &task.name]).success();
    until("the end of the task", || (task.state().as_deref() == Some("STOPPED")).then_some(()));
}
