//! A container of Docker's, for as long as a test needs it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::node::Ended;
use super::{Image, Node, tell, until};

pub const RUNTIME: &str = "--runtime=io.containerd.anyport.v1";
pub const PLATFORM: &str = "--platform=wasi/wasm32";

/// Goes, with all it has, when it is dropped.
pub struct Container<'a> {
    pub node: &'a Node,
    pub name: String,
}

impl Node {
    /// `docker run -d`, which has to succeed.
    pub fn start(&self, image: &Image, options: &[&str], words: &[&str]) -> Container<'_> {
        let container = Container { node: self, name: unique(&image.name) };
        self.docker_run(image, &[&["-d", "--name", &container.name], options].concat(), words).success();
        container
    }

    /// `docker run --rm` with these options, to its end.
    pub fn run_once(&self, image: &Image, options: &[&str], words: &[&str]) -> Ended {
        self.docker_run(image, &[&["--rm", "--name", &unique(&image.name)], options].concat(), words)
    }

    pub fn docker_run(&self, image: &Image, options: &[&str], words: &[&str]) -> Ended {
        let name = self.load(image);
        self.docker([&["run", RUNTIME, PLATFORM], options, &[&name], words].concat())
    }
}

impl Container<'_> {
    /// One of Docker's commands, with the container's name at its end.
    pub fn docker(&self, words: &[&str]) -> Ended {
        self.node.docker([words, &[&self.name]].concat())
    }

    pub fn exec(&self, words: &[&str]) -> Ended {
        self.node.docker([&["exec", &self.name], words].concat())
    }

    /// What it has written: stdout and stderr.
    pub fn logs(&self) -> Ended {
        self.docker(&["logs"])
    }

    /// Both together.
    pub fn log(&self) -> String {
        let ended = self.logs();
        ended.success();
        ended.stdout + &ended.stderr
    }

    pub fn wait_for_log(&self, text: &str) -> String {
        until(&format!("`{text}` in the log"), || Some(self.log()).filter(|log| log.contains(text)))
    }

    pub fn inspect(&self, format: &str) -> String {
        self.docker(&["inspect", "--format", format]).success().to_owned()
    }

    /// Its process, as the node numbers it.
    pub fn pid(&self) -> u32 {
        self.inspect("{{.State.Pid}}").parse().expect("a number")
    }

    /// A file of its process below /proc.
    pub fn proc(&self, file: &str) -> PathBuf {
        self.node.path(&format!("/proc/{}/{file}", self.pid()))
    }

    /// Where a port of it is published, at 127.0.0.1.
    pub fn published(&self, port: u16) -> SocketAddr {
        let ports = self.node.docker(["port", &self.name, &port.to_string()]);
        let port = ports.success().lines().next().and_then(|line| line.rsplit(':').next()).unwrap_or_default();
        SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap_or_else(|_| panic!("{ports}"))))
    }

    /// Its own address on its first network.
    pub fn address(&self, port: u16) -> SocketAddr {
        let address = self.inspect("{{range .NetworkSettings.Networks}}{{println .IPAddress}}{{end}}");
        let address = address.lines().next().unwrap_or_default();
        SocketAddr::new(address.parse().unwrap_or_else(|_| panic!("`{address}` is no address")), port)
    }

    /// Waits for its end; the exit code.
    pub fn wait(&self) -> i32 {
        self.docker(&["wait"]).success().parse().expect("a number")
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let (logs, state) = (self.logs(), self.docker(&["inspect", "--format", "{{json .State}}"]));
            tell(&format!("{logs}\n{state}\n{}", self.node.last_words()));
        }
        let removed = self.docker(&["rm", "-fv"]);
        assert!(thread::panicking() || removed.code == 0, "{removed}");
    }
}

/// A name that no other container has.
pub fn unique(of: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{of}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
