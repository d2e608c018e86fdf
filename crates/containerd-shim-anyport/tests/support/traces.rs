//! What containers may leave behind on a node.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Node, PATIENCE};

/// Of each kind of thing that a container brings along the names, sorted.
pub type Traces = BTreeMap<&'static str, Vec<String>>;

/// A process on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// As the node numbers it.
    pub pid: u32,
    pub parent: u32,
    /// The file that it runs.
    program: String,
    pub words: Vec<String>,
}

impl Process {
    fn at(folder: &Path) -> Option<Self> {
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        let line = fs::read_to_string(folder.join("cmdline")).ok()?;
        let program = fs::read_link(folder.join("exe")).ok()?.display().to_string();
        let words = line.split_terminator('\0').map(str::to_owned).collect();
        Some(Self { pid: folder.file_name()?.to_str()?.parse().ok()?, parent, program, words })
    }

    fn is_of_containers(&self) -> bool {
        self.program.contains("containerd-shim") || self.program.ends_with("docker-proxy")
    }
}

impl Node {
    pub fn processes(&self) -> Vec<Process> {
        let proc = self.path("/proc");
        let mut processes: Vec<Process> =
            names(&proc).iter().filter_map(|name| Process::at(&proc.join(name))).collect();
        processes.sort_by_key(|process| process.pid);
        processes
    }

    /// The shim's daemon that has started a process.
    pub fn daemon_of(&self, pid: u32) -> Process {
        let process = Process::at(&self.path(&format!("/proc/{pid}"))).expect("it lives");
        let daemon = Process::at(&self.path(&format!("/proc/{}", process.parent))).expect("it lives");
        assert!(daemon.is_of_containers(), "{daemon:?} has started {process:?}");
        daemon
    }

    /// Waits until there is what there was, and fails with what is left or lacks.
    pub fn wait_for_traces(&self, before: &Traces) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE / 4 {
            if self.traces() == *before {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let now = self.traces();
        let beyond = |all: &Traces, others: &Traces| -> Traces {
            let only = all.iter().map(|(kind, names)| {
                let others = others.get(kind).map(Vec::as_slice).unwrap_or_default();
                (*kind, names.iter().filter(|name| !others.contains(name)).cloned().collect::<Vec<_>>())
            });
            only.filter(|(_, names)| !names.is_empty()).collect()
        };
        panic!("left: {:#?}\nlacking: {:#?}\nnow: {now:?}", beyond(&now, before), beyond(before, &now));
    }

    pub fn traces(&self) -> Traces {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).expect("the node is up");
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect();
        // Daemons start and end helpers of their own: only what concerns containers counts.
        let theirs = self.processes().into_iter().filter(Process::is_of_containers);
        let theirs = theirs.map(|process| process.words.join(" ")).collect();
        let mut traces = BTreeMap::from([
            ("mounts", mounts),
            ("processes", theirs),
            ("sockets", names(&self.path("/run/containerd/s"))),
            ("cgroups", self.cgroups()),
            ("bundles", below(&self.path("/run/containerd/io.containerd.runtime.v2.task"), 2)),
            ("fifos", names(&self.path("/run/docker/containerd"))),
            ("the shim's own", names(&self.path("/run/anyport"))),
            ("interfaces", self.interfaces()),
        ]);
        traces.values_mut().for_each(|names| names.sort());
        traces
    }

    fn cgroups(&self) -> Vec<String> {
        let hierarchies = names(Path::new("/sys/fs/cgroup"));
        let below =
            |path: &Path| -> Vec<String> { names(path).into_iter().filter(|name| path.join(name).is_dir()).collect() };
        let of = |hierarchy: &str| {
            let folder = Path::new("/sys/fs/cgroup").join(hierarchy).join(&self.id);
            below(&folder).into_iter().map(move |name| format!("{hierarchy}/{name}")).collect::<Vec<_>>()
        };
        let mut all: Vec<String> = hierarchies.iter().flat_map(|hierarchy| of(hierarchy)).collect();
        all.extend(of(""));
        all
    }

    fn interfaces(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/net/dev", self.pid)).expect("the node is up");
        text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The names so many folders down.
fn below(folder: &Path, depth: usize) -> Vec<String> {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    for _ in 0..depth {
        folders = folders.iter().flat_map(|folder| names(folder).into_iter().map(|name| folder.join(name))).collect();
    }
    folders.iter().map(|path| path.display().to_string()).collect()
}
