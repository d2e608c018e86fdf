//! A node: an engine brought up by `.ci/engine`, and commands on it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::thread;

use rustix::process::{Pid, Signal, geteuid, kill_process_group};

use super::{Image, PATIENCE, root, skip};

/// What `.ci/engine` ends with if a node cannot be had here.
const NO_PACKAGES: i32 = 75;
const NO_NODES: i32 = 69;

/// A Debian release, for the engine that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// containerd 1.6, without Docker.
    Bookworm,
    /// Docker 26.1 with containerd 1.7.
    Trixie,
    /// The newest of both. The release moves, so it may be broken without a fault of ours.
    Sid,
}

impl Suite {
    fn named(name: &str) -> Self {
        match name {
            "bookworm" => Self::Bookworm,
            "trixie" => Self::Trixie,
            "sid" => Self::Sid,
            _ => panic!("there is no suite `{name}`"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

pub struct Node {
    pub suite: Suite,
    /// Its first process, as this machine numbers it.
    pub pid: u32,
    /// Names its cgroups, and its namespace of containerd.
    pub id: String,
    /// The node goes when the standard input of this ends.
    _hold: Child,
    turn: RwLock<()>,
    images: Mutex<BTreeSet<String>>,
}

/// Plays a body beside others.
pub fn play(suite: &str, body: fn(&Node)) {
    let Some(node) = Node::of(Suite::named(suite)) else { return };
    let _turn = node.turn.read().unwrap_or_else(PoisonError::into_inner);
    body(node);
}

/// Plays a body that counts what there is on the node, or disturbs it.
pub fn play_alone(suite: &str, body: fn(&Node)) {
    let Some(node) = Node::of(Suite::named(suite)) else { return };
    let _turn = node.turn.write().unwrap_or_else(PoisonError::into_inner);
    body(node);
}

impl Node {
    /// The node of a release; `None` where there can be none, which is told once.
    pub fn of(suite: Suite) -> Option<&'static Self> {
        static NODES: [OnceLock<Option<Node>>; 3] = [const { OnceLock::new() }; 3];
        NODES[suite as usize].get_or_init(|| Self::up(suite)).as_ref()
    }

    fn up(suite: Suite) -> Option<Self> {
        if !geteuid().is_root() {
            skip(&format!("tests with the engine of {} need root", suite.name()));
            return None;
        }
        let log = log_path(suite);
        let mut command = Command::new(root().join(".ci/engine"));
        command.args([suite.name(), "hold"]).env("ANYPORT_SHIM", env!("CARGO_BIN_EXE_containerd-shim-anyport-v1"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(&log).expect("the folder for temporary files is there"));
        // A Ctrl-C is for this process; the node sees its end.
        let mut hold = command.process_group(0).spawn().expect("the script starts");
        let mut ready = String::new();
        BufReader::new(hold.stdout.take().expect("it is piped")).read_line(&mut ready).expect("it can be read");
        let Some((pid, id)) = ready.trim().strip_prefix("ready ").and_then(|ready| ready.split_once(' ')) else {
            let code = hold.wait().expect("it is our child").code();
            let said = fs::read_to_string(&log).unwrap_or_default();
            // Where it must work, nobody would see that it no longer does.
            let must = std::env::var_os("CI").is_some() && suite != Suite::Sid;
            assert!(matches!(code, Some(NO_PACKAGES | NO_NODES)) && !must, "`.ci/engine` ended with {code:?}: {said}");
            skip(&format!("no engine of {}: {}", suite.name(), said.lines().last().unwrap_or_default()));
            return None;
        };
        let (pid, id) = (pid.parse().expect("a number"), id.to_owned());
        let images = Mutex::default();
        Some(Self { suite, pid, id, _hold: hold, turn: RwLock::new(()), images })
    }

    /// A path of the node's, as this process reaches it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// `docker` with these words, to its end.
    pub fn docker<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Ended {
        self.run("docker", words, None)
    }

    /// `ctr` with these words, to its end.
    pub fn ctr<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Ended {
        self.run("ctr", words, None)
    }

    /// A script on the node.
    pub fn shell(&self, script: &str) -> Ended {
        self.run("sh", ["sh", "-c", script], None)
    }

    /// A word of `.ci/engine` to its end, which has to come.
    pub fn run<S: AsRef<str>>(&self, word: &str, words: impl IntoIterator<Item = S>, input: Option<&[u8]>) -> Ended {
        let words: Vec<String> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self.run_in(&root(), word, &words, input)
    }

    pub fn run_in<S: AsRef<str>>(&self, folder: &Path, word: &str, words: &[S], input: Option<&[u8]>) -> Ended {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let line = format!("{word} {}", words.join(" "));
        let mut command = Command::new(root().join(".ci/engine"));
        command.args([self.suite.name(), word]).args(&words).current_dir(folder).process_group(0);
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the script starts");
        let group = Pid::from_child(&child);
        let (stdin, input) = (child.stdin.take(), input.map(<[u8]>::to_vec));
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A command that does not want all of it says by itself what is wrong.
            thread::spawn(move || stdin.write_all(&input));
        }
        let output = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let _ = kill_process_group(group, Signal::KILL);
            panic!("`{line}` does not end; {}", self.last_words());
        });
        Ended::new(line, output.expect("it is our child"))
    }

    /// Has the image in Docker; its name.
    pub fn load(&self, image: &Image) -> String {
        self.once(&image.name, || {
            self.run("docker", ["load"], Some(&image.archive())).success();
        });
        image.name.clone()
    }

    /// Does what brings about a thing of this name, unless it is there.
    pub fn once(&self, name: &str, make: impl FnOnce()) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if !images.contains(name) {
            make();
            images.insert(name.to_owned());
        }
    }

    /// The ends of the daemons' logs.
    pub fn last_words(&self) -> String {
        let folder = root().join("target/engines").join(format!("node-{}", self.suite.name())).join("log");
        let mut words = String::new();
        for daemon in ["containerd", "dockerd"] {
            let log = fs::read_to_string(folder.join(format!("{daemon}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(12)..].join("\n");
            words += &format!("the last of {daemon}:\n{last}\n");
        }
        words
    }
}

fn log_path(suite: Suite) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("engine-{}.log", suite.name()))
}

/// What became of a command.
pub struct Ended {
    line: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    fn new(line: String, output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or_default());
        Self { line, code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// What it printed, without the line's end; it has to have succeeded.
    pub fn success(&self) -> &str {
        assert_eq!(self.code, 0, "{self}");
        self.stdout.trim_end()
    }

    /// What it said on stderr; it has to have failed.
    pub fn failure(&self) -> &str {
        assert_ne!(self.code, 0, "{self}");
        &self.stderr
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ended with {}\nstdout: {}\nstderr: {}", self.line, self.code, self.stdout, self.stderr)
    }
}
