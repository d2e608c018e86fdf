//! Containers that are real: processes become them, and tell what they see.
//!
//! Each test lives on a thread with a mount namespace of its own, so that nothing that fails can
//! change the machine. Its containers are this same program, run again as the one test
//! [`becomes_a_container`], which is told by a variable what to be.

mod confined;
mod contained;
mod hostile;
mod mounted;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyport::{Artifact, Policy, Runtime};
use oci_spec::runtime::Spec;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const PLAN: &str = "ANYPORT_TEST_CONTAINER";

/// Runs a test with mounts of its own, or says that it cannot.
fn on_private_host(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        // Not by a macro, whose words are kept from who runs the tests.
        let _ = writeln!(io::stderr(), "skipped: needs root");
        return;
    }
    let host = thread::spawn(|| {
        sys::unshare(UnshareFlags::NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        test();
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A bundle: a folder with `rootfs`, which begins empty, and a specification.
struct Bundle {
    folder: TempDir,
    spec: Value,
    /// System calls that the kernel lacks while the container is made.
    without: Vec<&'static str>,
}

impl Bundle {
    /// What Docker gives, with the namespaces and mounts that it gives.
    fn like_docker() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("hosts", "127.0.0.1 localhost\n"), ("resolv.conf", "nameserver 10.0.0.2\n")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::create_dir(folder.path().join("rootfs")).unwrap();
        let file = |name: &str| {
            json!({"destination": format!("/etc/{name}"), "type": "bind", "source": folder.path().join(name),
                "options": ["rbind", "rprivate"]})
        };
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/app.wasm"], "capabilities": {
                "bounding": ["CAP_NET_BIND_SERVICE", "CAP_KILL"], "effective": ["CAP_NET_BIND_SERVICE", "CAP_KILL"],
                "permitted": ["CAP_NET_BIND_SERVICE", "CAP_KILL"]}},
            "root": {"path": folder.path().join("rootfs")},
            "hostname": "wasmservice",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                    "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                    "options": ["ro", "nosuid", "noexec", "nodev"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                    "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                    "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]},
                file("hosts"), file("resolv.conf"),
            ],
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"},
                    {"type": "ipc"}, {"type": "cgroup"}],
                "maskedPaths": ["/proc/kcore", "/proc/acpi", "/proc/keys", "/proc/not-there", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys", "/proc/bus", "/proc/not-there"],
            },
        });
        Self { folder, spec, without: Vec::new() }
    }

    /// Puts a server in the image.
    fn with_server(self) -> Self {
        let server = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests/wasmedge/hello/server.wasm");
        fs::copy(server, self.rootfs().join("app.wasm")).unwrap();
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    fn add_mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Starts a container that answers questions.
    fn start(&self) -> Container {
        let namespace = pid_namespace(&self.spec());
        let plan = json!({"spec": self.spec, "bundle": self.path(), "without": self.without});
        Container::start(&namespace, &plan)
    }

    /// Why a container cannot start.
    fn start_error(&self) -> String {
        let mut container = self.start();
        let error = container.line();
        error.strip_prefix("error ").unwrap_or_else(|| panic!("it starts: {error}")).to_owned()
    }

    /// Starts a container and asks it one thing after the other.
    fn ask<const N: usize>(&self, questions: [&str; N]) -> [String; N] {
        let mut container = self.start();
        container.is_ready();
        let answers = questions.map(|question| container.ask(question));
        container.end();
        self.nothing_is_left();
        answers
    }

    fn spec(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    /// On the host nothing is mounted that a container had.
    fn nothing_is_left(&self) {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let path = self.path().to_str().unwrap();
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(path)).collect();
        assert!(left.is_empty(), "{left:#?}");
    }
}

/// A process that has become a container, or a process in one.
struct Container {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Container {
    fn start(namespace: &PidNamespace, plan: &Value) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sandbox::tests::becomes_a_container", "--nocapture", "--test-threads=1"]);
        command.env(PLAN, plan.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn_in(namespace, move || command.spawn()).unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    /// The number of what is in the container: not the first thread of the process, which is the test
    /// harness's, but the second.
    fn pid(&self) -> u32 {
        let first = self.child.id();
        let threads = fs::read_dir(format!("/proc/{first}/task")).unwrap();
        let mut numbers = threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap());
        numbers.find(|number| *number != first).unwrap()
    }

    fn is_ready(&mut self) {
        assert_eq!(self.line(), "ready");
    }

    fn ask(&mut self, question: &str) -> String {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{question}\n").as_bytes()).unwrap();
        self.line()
    }

    /// The next line that is not the test harness's.
    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the container has ended");
            if let Some((_, answer)) = line.split_once("@ ") {
                return serde_json::from_str(answer).unwrap();
            }
        }
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test by itself: the containers of the others.
#[test]
fn becomes_a_container() {
    let Ok(plan) = std::env::var(PLAN) else { return };
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let result = if plan["join"].is_u64() { join_container(&plan) } else { become_container(&plan) };
    match result {
        Ok(()) => tell("ready"),
        Err(error) => return tell(&format!("error {error}")),
    }
    for question in io::stdin().lines() {
        let answer = answer(&question.unwrap());
        tell(&answer.unwrap_or_else(|error| format!("error {}", error.raw_os_error().unwrap_or(0))));
    }
}

fn become_container(plan: &Value) -> Result<()> {
    let spec: Spec = serde_json::from_value(plan["spec"].clone()).unwrap();
    enter_namespaces(&spec)?;
    if plan["without"].as_array().is_some_and(|names| !names.is_empty()) {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": plan["without"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}]});
        rustix::thread::set_no_new_privs(true).unwrap();
        seccomp::Filter::new(&serde_json::from_value(profile).unwrap())?.install()?;
    }
    // Whatever is wrong above: what follows must not happen to the host.
    let namespace = |whose: &str| fs::read_link(format!("/proc/{whose}/ns/mnt")).unwrap();
    assert_ne!(namespace("thread-self"), namespace("self"), "it has no mount namespace of its own");
    prepare_rootfs(&spec, Path::new(plan["bundle"].as_str().unwrap()))?;
    drop_privileges(spec.process().as_ref().unwrap(), spec.linux().as_ref())
}

fn join_container(plan: &Value) -> Result<()> {
    let spec: Spec = serde_json::from_value(plan["spec"].clone()).unwrap();
    let process = spec.process().as_ref().unwrap();
    // A thread that shares its folder with others cannot change its mount namespace.
    sys::unshare(UnshareFlags::FS).unwrap();
    let folder = format!("/proc/{}/ns", plan["join"]);
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let container = rustix::fs::open(folder, flags, rustix::fs::Mode::empty()).unwrap();
    join(&container, process)?;
    drop_privileges(process, spec.linux().as_ref())
}

fn tell(answer: &str) {
    println!("@ {}", Value::from(answer));
}

/// What a container can be asked.
fn answer(question: &str) -> io::Result<String> {
    let (verb, rest) = question.split_once(' ').unwrap_or((question, ""));
    match verb {
        "read" => fs::read_to_string(rest),
        "write" => fs::write(rest, "written\n").map(|()| "done".to_owned()),
        "link" => Ok(fs::read_link(rest)?.display().to_string()),
        "list" => {
            let mut names = Vec::new();
            for entry in fs::read_dir(rest)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(names.join(" "))
        }
        "status" => {
            let status = fs::read_to_string("/proc/thread-self/status")?;
            let line = status.lines().find(|line| line.starts_with(rest)).unwrap_or_default();
            Ok(line.split_once(':').map_or("", |(_, value)| value).trim().replace('\t', " "))
        }
        "mount" => {
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
            let of = |line: &&str| line.split(' ').nth(4) == Some(rest);
            let line = mounts.lines().rfind(of).unwrap_or_default();
            let options = line.split(' ').nth(5).unwrap_or_default();
            let kind = line.split_once(" - ").map_or("", |(_, kind)| kind);
            Ok(format!("{options} {kind}"))
        }
        "mounts" => fs::read_to_string("/proc/thread-self/mountinfo"),
        "hostname" => Ok(rustix::system::uname().nodename().to_string_lossy().into_owned()),
        "folder" => Ok(String::from_utf8_lossy(rustix::process::getcwd(Vec::new())?.as_bytes()).into_owned()),
        "pid" => Ok(std::process::id().to_string()),
        "mode" => {
            use std::os::unix::fs::MetadataExt;
            let metadata = fs::symlink_metadata(rest)?;
            let rdev = metadata.rdev();
            let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
            Ok(format!("{:o} {}:{} {major}:{minor}", metadata.mode(), metadata.uid(), metadata.gid()))
        }
        "limit" => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            Ok(format!("{:?} {:?}", limit.current, limit.maximum))
        }
        "call" => {
            let mut numbers = rest.split(' ').map(|number| number.parse().unwrap());
            let number = numbers.next().unwrap();
            let arguments = [(); 3].map(|()| numbers.next().unwrap_or(0));
            sys::call(number, arguments).map(|result| result.to_string())
        }
        "work" => work(rest),
        _ => panic!("the container is asked for `{verb}`"),
    }
}

/// Serves with a guest, whose machine code is made here: threads, memory that is run, sockets.
fn work(module: &str) -> io::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let artifact = Artifact::from_file(module).map_err(io::Error::other)?;
        let engine = Runtime::builder().build().map_err(io::Error::other)?;
        let server = engine.load(&artifact).map_err(io::Error::other)?;
        let policy = Policy { publish: vec!["127.0.0.1:0:8080".parse().unwrap()], ..Policy::default() };
        let (tell, listens) = mpsc::channel();
        let server = server.env("PORT", "8080").policy(policy).on_listen(move |_| tell.send(()).unwrap());
        let running = server.start().map_err(io::Error::other)?;
        let address = running.ports()[0].address().unwrap();
        let answer = thread::spawn(move || -> io::Result<String> {
            listens.recv().unwrap();
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"POST /hello HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nBob")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
        });
        let answer = answer.join().unwrap()?;
        running.drain(Duration::from_secs(8)).await;
        Ok(answer)
    })
}

/// The number of an errno, as an answer tells it.
fn refused_with(errno: i32) -> String {
    format!("error {errno}")
}

fn path_bytes(path: &Path) -> usize {
    path.as_os_str().as_bytes().len()
}
