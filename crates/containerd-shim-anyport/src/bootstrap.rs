//! How containerd starts, finds and cleans up after a shim: `start`, `delete`, `-info`, `-v`.
//!
//! containerd's `runtime/v2/README.md` has the words. `start` prints a bare address, which every version of
//! containerd from 1.6 on takes for the task API of version 2; 2.x asks for version 3 under the same
//! address as well.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyport::Error;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::asynchronous::Server;
use containerd_shim_protos::ttrpc::asynchronous::transport::Listener;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use sha2::{Digest, Sha256};

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::container::{PID_FILE, cgroup_path, unmount};
use crate::events::{Events, timestamp};
use crate::launch::Daemon;
use crate::log;
use crate::process::pid_of;
use crate::service::Service;

/// What containerd calls this runtime.
const NAME: &str = "io.containerd.anyport.v1";

/// What the file of this program is called.
const PROGRAM: &[u8] = b"containerd-shim-anyport-v1";

/// Where the shims' sockets are, as of all shims.
const SOCKETS: &str = "/run/containerd/s";

/// How long a killed shim may take to let go of its socket.
const DYING: Duration = Duration::from_secs(1);

/// How long a killed container may take to be gone.
const KILL_TIMEOUT_S: i64 = 3;

/// The words that containerd starts a shim with.
#[derive(Debug, Default)]
pub(crate) struct Words {
    pub(crate) namespace: String,
    pub(crate) id: String,
    /// Where containerd's services are.
    pub(crate) address: PathBuf,
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) debug: bool,
    pub(crate) version: bool,
    pub(crate) info: bool,
    /// What is to be done.
    pub(crate) action: String,
}

impl Words {
    /// Reads them as Go's `flag` package does: one or two dashes, the value behind `=` or as the next word.
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, Error> {
        let mut parsed = Self::default();
        let mut words = words.map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').map(|flag| flag.trim_start_matches('-')) else {
                parsed.action = word;
                break;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (flag.to_owned(), None),
            };
            match name.as_str() {
                "debug" => parsed.debug = value.is_none_or(|value| value != "false"),
                "v" | "version" => parsed.version = true,
                "info" => parsed.info = true,
                name => {
                    let value = value.or_else(|| words.next());
                    let value = value.ok_or_else(|| Error::host(format!("`-{name}` needs a value")))?;
                    match name {
                        "namespace" => parsed.namespace = value,
                        "id" => parsed.id = value,
                        "address" => parsed.address = value.into(),
                        "bundle" => parsed.bundle = Some(value.into()),
                        // Events go over ttrpc; the socket is inherited.
                        "publish-binary" | "socket" => {}
                        _ => return Err(Error::host(format!("there is no option `-{name}`"))),
                    }
                }
            }
        }
        Ok(parsed)
    }

    fn check(&self) -> Result<(), Error> {
        if self.id.is_empty() || self.namespace.is_empty() {
            return Err(Error::host("`-id` and `-namespace` are needed".to_owned()).with_hint(
                "containerd starts this program; `docker run --runtime io.containerd.anyport.v1` does too",
            ));
        }
        Ok(())
    }

    fn bundle(&self) -> PathBuf {
        // It is where containerd starts us.
        self.bundle.clone().unwrap_or_else(|| PathBuf::from("."))
    }
}

/// `-info`: the runtime as a `RuntimeInfo`.
pub(crate) fn info() -> io::Result<()> {
    let mut info = RuntimeInfo::new();
    NAME.clone_into(&mut info.name);
    let mut version = RuntimeVersion::new();
    env!("CARGO_PKG_VERSION").clone_into(&mut version.version);
    info.version = Some(version).into();
    io::stdout().write_all(&info.write_to_bytes().map_err(io::Error::other)?)
}

/// `start`: finds the shim of this container's pod, or starts one, and prints its address.
pub(crate) fn start(words: &Words) -> Result<(), Error> {
    words.check()?;
    let bundle = words.bundle();
    let group = Bundle::open(&bundle).ok().and_then(|bundle| bundle.group().map(str::to_owned));
    let socket = socket_path(words, group.as_deref().unwrap_or(&words.id));
    let failed = |error: io::Error| Error::host(format!("the shim cannot be started: {error}"));
    let address = format!("unix://{}", socket.display());
    if UnixStream::connect(&socket).is_err() {
        let listener = listen(&socket).map_err(failed)?;
        spawn(words, &bundle, listener.into()).map_err(failed)?;
    }
    // Where containerd 1.x looks after a restart.
    std::fs::write(bundle.join("address"), &address).map_err(failed)?;
    io::stdout().write_all(address.as_bytes()).map_err(failed)
}

fn socket_path(words: &Words, group: &str) -> PathBuf {
    let mut hasher = Sha256::new();
    for word in [words.address.as_os_str().as_encoded_bytes(), words.namespace.as_bytes(), group.as_bytes()] {
        hasher.update(word);
        hasher.update([0]);
    }
    let name: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Path::new(SOCKETS).join(name)
}

/// A socket of this path; a dead shim's is replaced.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(SOCKETS)?;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(socket, mode)?;
    Ok(listener)
}

/// Starts the shim itself, with its listener as stdin.
fn spawn(words: &Words, bundle: &Path, listener: OwnedFd) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["daemon", "-namespace", &words.namespace, "-id", &words.id]);
    command.arg("-address").arg(&words.address).current_dir(bundle).stdin(listener).stdout(Stdio::null());
    if words.debug {
        command.arg("-debug");
    }
    // containerd reads it; without a reader nothing can be said.
    let log = OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(bundle.join("log"));
    command.stderr(log.map_or_else(|_| Stdio::null(), Stdio::from));
    command.spawn().map(drop)
}

/// The shim: serves until its last container is gone.
pub(crate) fn serve(words: &Words) -> Result<(), Error> {
    let failed = |error: String| Error::host(format!("the shim cannot serve: {error}"));
    let socket =
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(|error| failed(error.to_string()))?;
    let null = std::fs::File::open("/dev/null").map_err(|error| failed(error.to_string()))?;
    rustix::stdio::dup2_stdin(null).map_err(|error| failed(error.to_string()))?;
    leave_containerd();
    log::start_to(if words.debug { "debug" } else { "warn" }.parse().expect("a level is a filter"), io::stderr);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    let served = runtime.block_on(async {
        let ttrpc = std::env::var("TTRPC_ADDRESS").unwrap_or_else(|_| format!("{}.ttrpc", words.address.display()));
        let events = Events::start(ttrpc, words.namespace.clone());
        let daemon =
            Daemon { namespace: words.namespace.clone(), address: words.address.clone(), events: events.clone() };
        let listener = UnixListener::from(socket);
        let path = listener.local_addr().ok().and_then(|address| Some(address.as_pathname()?.to_owned()));
        let service = Service::new(daemon, path);
        let finished = std::sync::Arc::clone(&service.finished);
        let listener = Listener::try_from(listener).map_err(|error| failed(error.to_string()))?;
        let mut server = Server::new().add_listener(listener).register_service(service.methods());
        server.start().await.map_err(|error| failed(error.to_string()))?;
        finished.notified().await;
        events.flush().await;
        // The answer to `shutdown` is still on its way.
        let _ = server.shutdown().await;
        Ok(())
    });
    runtime.shutdown_background();
    served
}

/// A session of its own, and a little readier to be ended than containerd when memory is short.
fn leave_containerd() {
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!("no session of its own: {error}");
    }
    let file = "/proc/self/oom_score_adj";
    let score = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(score) = score.filter(|score| *score < 1000) {
        let _ = std::fs::write(file, (score + 1).to_string());
    }
}

/// `delete`: cleans up after a shim that has died, and prints a `DeleteResponse`.
pub(crate) fn delete(words: &Words) -> Result<(), Error> {
    words.check()?;
    let bundle = words.bundle();
    // First of all: containerd gives this program only a few seconds.
    let opened = Bundle::open(&bundle);
    let is_shared = opened.as_ref().is_ok_and(|bundle| bundle.group().is_some());
    remove_socket(&bundle, is_shared);
    let pid = std::fs::read_to_string(bundle.join(PID_FILE)).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(pid) = pid.filter(|pid| is_ours(*pid)).and_then(pid_of) {
        end(pid);
    }
    if let Ok(opened) = opened
        && let Ok(cgroup) = Cgroup::open(&cgroup_path(&opened, &words.id), &words.id)
    {
        let _ = cgroup.kill_all();
        if let Err(error) = cgroup.remove() {
            tracing::warn!("{error}");
        }
    }
    unmount(&bundle);
    let exited_at = Some(timestamp(SystemTime::now())).into();
    let response = DeleteResponse { pid: pid.unwrap_or(0), exit_status: 137, exited_at, ..DeleteResponse::default() };
    let bytes = response.write_to_bytes().map_err(|error| Error::host(error.to_string()))?;
    io::stdout().write_all(&bytes).map_err(|error| Error::host(format!("stdout cannot be written: {error}")))
}

/// Removes a dead shim's socket. One of a pod may have a shim that lives, and serves its other containers; one
/// that has just been killed may still seem to listen, as the kernel closes connections first.
fn remove_socket(bundle: &Path, is_shared: bool) {
    let address = std::fs::read_to_string(bundle.join("address")).unwrap_or_default();
    let Some(path) = address.strip_prefix("unix://") else { return };
    let lives = || UnixStream::connect(path).is_ok();
    let deadline = Instant::now() + DYING;
    while is_shared && lives() {
        if Instant::now() > deadline {
            return;
        }
        std::thread::sleep(DYING / 20);
    }
    let _ = std::fs::remove_file(path);
}

/// Whether a process is an init process of this program: its number may be another's by now.
fn is_ours(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    // Of another version, perhaps, whose file has been replaced since.
    let is_shim = program.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PROGRAM));
    is_shim && line.split(|byte| *byte == 0).nth(1) == Some(b"init")
}

/// Kills a process, and waits until it has ended; whose child it is by now may reap it later.
fn end(pid: Pid) {
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
    let timeout = Timespec { tv_sec: KILL_TIMEOUT_S, tv_nsec: 0 };
    let _ = rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Words, Error> {
        Words::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn words_of_every_containerd_are_read() {
        for line in [
            "-namespace moby -address /run/c.sock -publish-binary /usr/bin/containerd -id abc -debug start",
            "--namespace=moby --address=/run/c.sock --debug=true --id=abc start",
        ] {
            let words = words(line).expect("right");
            assert_eq!((words.namespace.as_str(), words.id.as_str(), words.action.as_str()), ("moby", "abc", "start"));
            assert_eq!((words.address.as_path(), words.debug), (Path::new("/run/c.sock"), true));
        }
        assert!(words("-info").is_ok_and(|words| words.info));
        assert!(words("-v").is_ok_and(|words| words.version));
        assert_eq!(words("-id").expect_err("no value").to_string(), "`-id` needs a value");
        assert_eq!(words("-what x").expect_err("unknown").to_string(), "there is no option `-what`");
    }

    #[test]
    fn a_pod_has_one_socket() {
        let words = words("-namespace k8s.io -address /run/c.sock -id one start").expect("right");
        assert_eq!(socket_path(&words, "pod"), socket_path(&words, "pod"));
        assert_ne!(socket_path(&words, "pod"), socket_path(&words, "pod2"));
        assert!(socket_path(&words, "pod").as_os_str().len() < 107);
    }
}
