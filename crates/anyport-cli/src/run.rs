//! `anyport run`: from a plan to an exit code.

use std::process::ExitCode;
use std::time::Duration;

use anyport::{Artifact, ArtifactKind, Error, ErrorKind, Listener, Outcome, Running, Runtime, Server, StdioTarget};
use listenfd::ListenFd;
use rustix::process::{Resource, Rlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{Global, Run};
use crate::plan::Plan;
use crate::{open_cache, report};

/// What a guest gets to end in after a signal: it is dropped at its next hostcall or tick, so only
/// a file operation that hangs in the kernel takes longer.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The code of a process that ended itself by `abort`, as shells tell it: 128 + SIGABRT.
const TRAPPED: u8 = 134;

pub(crate) fn run(global: &Global, run: Run) -> Result<ExitCode, Error> {
    let plan = Plan::resolve(&run)?;
    let artifact = Artifact::from_file(&run.file)?;
    let server = load(global, &run, &artifact)?;
    raise_descriptor_limit();
    let running = configure(server, plan, run.args)?.start()?;
    for (publish, address) in running.ports() {
        report::note(global, &format!("listening on {address} for port {}/{} of the guest", publish.guest_port, publish.transport));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(ErrorKind::Host, format!("signals cannot be waited for: {error}")))?;
    runtime.block_on(until_end(running))
}

fn load(global: &Global, run: &Run, artifact: &Artifact) -> Result<Server, Error> {
    let mut builder = Runtime::builder();
    if !global.no_cache {
        match open_cache(global) {
            Ok(cache) => builder = builder.cache(cache),
            // A named folder must work; the usual one may be missing, as in a container.
            Err(error) if global.cache_dir.is_some() => return Err(error),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    let runtime = builder.build()?;
    if artifact.kind() == ArtifactKind::Precompiled && run.allow_precompiled {
        return runtime.load_precompiled(artifact);
    }
    if runtime.is_cached(artifact) {
        return runtime.load(artifact);
    }
    report::while_compiling(artifact, || runtime.load(artifact))
}

fn configure(mut server: Server, plan: Plan, args: Vec<String>) -> Result<Server, Error> {
    for (name, value) in plan.env {
        server = server.env(name, value);
    }
    for directory in plan.directories {
        server = server.directory(directory);
    }
    for listener in inherited_listeners()? {
        server = server.listener(listener);
    }
    for address in plan.listeners {
        server = server.listener(Listener::Bind(address));
    }
    Ok(server
        .args(args)
        .policy(plan.policy)
        .limits(plan.limits)
        .stdio(StdioTarget::Inherit, StdioTarget::Inherit, StdioTarget::Inherit))
}

/// The sockets that a service manager started us with: `sd_listen_fds(3)`.
fn inherited_listeners() -> Result<Vec<Listener>, Error> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut inherited = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..inherited.len() {
        let listener = inherited.take_tcp_listener(index).map_err(|error| {
            Error::new(ErrorKind::Host, format!("descriptor {} of LISTEN_FDS is no TCP listener: {error}", 3 + index))
        })?;
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
        if let Some(listener) = listener {
            listeners.push(Listener::Inherited { socket: listener.into(), name: name.to_owned() });
        }
    }
    Ok(listeners)
}

/// A server holds a descriptor for each connection; the soft limit of 1,024 is for `select`'s sake.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
            tracing::debug!("the limit of open files stays as it is: {error}");
        }
    }
}

/// Waits for the guest's end or a signal, whichever comes first.
async fn until_end(mut running: Running) -> Result<ExitCode, Error> {
    let mut terminate = listen_for(SignalKind::terminate())?;
    let mut interrupt = listen_for(SignalKind::interrupt())?;
    let signal = tokio::select! {
        () = running.ended() => None,
        _ = terminate.recv() => Some(SignalKind::terminate()),
        _ = interrupt.recv() => Some(SignalKind::interrupt()),
    };
    let Some(signal) = signal else { return Ok(exit_code(running.wait())) };
    running.stop();
    tokio::select! {
        _ = tokio::time::timeout(STOP_TIMEOUT, running.ended()) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Not joined: it may hang in the kernel, and the process ends with this thread.
    std::mem::forget(running);
    Ok(ExitCode::from(u8::try_from(128 + signal.as_raw_value()).unwrap_or(u8::MAX)))
}

fn listen_for(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|error| Error::new(ErrorKind::Host, format!("signals cannot be waited for: {error}")))
}

fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        // As the kernel does: a process has eight bits for its code.
        Outcome::Exited(code) => ExitCode::from((code & 0xff) as u8),
        Outcome::Trapped { reason, backtrace } => {
            report::trap(&reason, &backtrace);
            ExitCode::from(TRAPPED)
        }
        _ => ExitCode::SUCCESS,
    }
}
