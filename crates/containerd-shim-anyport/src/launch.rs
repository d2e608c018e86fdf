//! How the processes of a container are started: in their PID namespace and cgroup, with their first
//! message, and the hooks around that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyport::Error;
use oci_spec::runtime::Hook;
use tokio::process::{Child, Command};

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::control::{AsyncControl, Container as Named, Control, FromInit, Prepare};
use crate::events::Events;
use crate::hooks::{self, HookState};
use crate::process::Process;
use crate::sandbox::{self, PidNamespace};

/// What containerd and its namespace are, for all containers of a shim.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    pub(crate) namespace: String,
    /// Where containerd's services are.
    pub(crate) address: PathBuf,
    pub(crate) events: Events,
}

/// Starts one of our roles in a PID namespace, in the container's cgroup, with its first message.
#[allow(clippy::too_many_arguments, reason = "each is needed once, and they have nothing in common")]
pub(crate) async fn spawn<M: serde::Serialize>(
    role: &str, namespace: PidNamespace, process: &Process, named: &Named, daemon: &Daemon,
    message: impl FnOnce(OwnedFd) -> (M, Vec<OwnedFd>), cgroup: &Cgroup,
) -> Result<(Child, AsyncControl), Error> {
    let failed = |error: io::Error| Error::host(format!("the container's process cannot be started: {error}"));
    let (streams, held) = process.streams.open(&named.id, &daemon.namespace)?;
    let (control, theirs) = Control::pair().map_err(failed)?;
    let mut command = Command::new("/proc/self/exe");
    // The environment of containerd is none of the container's business.
    command.arg(role).env_clear().stdin(theirs).stdout(streams.stdout).stderr(streams.stderr);
    // Of a container that could not be made, nothing must be left.
    command.kill_on_drop(true);
    let runtime = tokio::runtime::Handle::current();
    let spawned = sandbox::spawn_in(&namespace, move || {
        let _runtime = runtime.enter();
        command.spawn()
    });
    let mut child = spawned.map_err(failed)?;
    let is = process.is(child.id().unwrap_or(0));
    *process.held.lock().expect("no panic while held") = held;
    let (message, descriptors) = message(streams.stdin);
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let told = async {
        is.map_err(failed)?;
        cgroup.add(process.pid())?;
        let control = control.into_async().map_err(failed)?;
        control.send(&message, &descriptors).await.map_err(failed)?;
        Ok(control)
    };
    match told.await {
        Ok(control) => Ok((child, control)),
        Err(error) => {
            let _ = child.kill().await;
            Err(error)
        }
    }
}

pub(crate) fn prepare(named: &Named, daemon: &Daemon, args: &[String], cwd: &Path) -> Prepare {
    Prepare {
        container: named.clone(),
        namespace: daemon.namespace.clone(),
        address: daemon.address.clone(),
        args: args.to_vec(),
        cwd: cwd.to_owned(),
    }
}

/// Waits for a message of the init process that has not started yet.
pub(crate) async fn expect(control: &AsyncControl, is_it: impl Fn(&FromInit) -> bool) -> Result<(), Error> {
    match control.receive().await {
        Ok((FromInit::Failed(failure), _)) => Err(failure.into()),
        Ok((message, _)) if is_it(&message) => Ok(()),
        Ok((message, _)) => Err(Error::host(format!("the container's process said {message:?} out of turn"))),
        Err(error) => Err(lost(&error)),
    }
}

#[allow(deprecated, reason = "Docker up to 27 has its network set up by a prestart hook")]
pub(crate) fn before_start(hooks: &oci_spec::runtime::Hooks) -> impl Iterator<Item = &Hook> {
    hooks.prestart().iter().flatten().chain(hooks.create_runtime().iter().flatten())
}

pub(crate) async fn run_hooks(
    hooks: impl Iterator<Item = &Hook>, bundle: &Bundle, named: &Named, pid: u32, status: &str,
) -> Result<(), Error> {
    let hooks: Vec<Hook> = hooks.cloned().collect();
    if hooks.is_empty() {
        return Ok(());
    }
    let state = HookState {
        oci_version: bundle.spec.version().clone(),
        id: named.id.clone(),
        status: status.to_owned(),
        pid: Some(pid),
        bundle: named.bundle.clone(),
        annotations: bundle.spec.annotations().clone().unwrap_or_default(),
    };
    hooks::run(&hooks, &state).await
}

pub(crate) fn lost(error: &io::Error) -> Error {
    Error::host(format!("the container's process has ended: {error}"))
}
