//! A service manager as systemd is one: hands listeners over, and is told how the service is.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use super::{PATIENCE, Process, root, shared_cache};

/// `anyport` as a service manager starts it: the listener is descriptor 3. The shell's id stays with
/// `exec`, and is what `LISTEN_PID` must be.
pub fn activated(listener: OwnedFd, variables: &str, words: &[&str]) -> Process {
    let mut command = under_shell(&format!("exec 3<&0 0</dev/null; {variables} exec \"$@\""), words);
    command.stdin(Stdio::from(listener)).stdout(Stdio::piped()).stderr(Stdio::piped());
    Process::start(&mut command)
}

/// The same with two listeners, descriptors 3 and 4; stdout is lost.
pub fn activated_with_two(listeners: [OwnedFd; 2], variables: &str, words: &[&str]) -> Process {
    let script = format!("exec 3<&0 4<&1 0</dev/null 1>/dev/null; {variables} exec \"$@\"");
    let mut command = under_shell(&script, words);
    let [first, second] = listeners;
    command.stdin(Stdio::from(first)).stdout(Stdio::from(second)).stderr(Stdio::piped());
    Process::start(&mut command)
}

/// A shell that does this, with `anyport` and these words as its arguments.
pub fn under_shell(script: &str, words: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_anyport")]).args(words);
    command.current_dir(root()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("ANYPORT_CACHE_DIR", shared_cache());
    command
}

/// The next message at `NOTIFY_SOCKET`.
pub fn told(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).expect("a message comes");
    String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
}

/// Whether nothing has come there.
pub fn is_quiet(socket: &UnixDatagram) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    let quiet = socket.recv(&mut [0; 256]).is_err();
    socket.set_nonblocking(false).expect("a socket");
    quiet
}
