//! The process of a container: becomes it, then runs the guest within itself.
//!
//! It has one thread until its privileges are dropped, since namespaces and privileges are a thread's
//! own; only then does it touch what the image chose.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyport::policy::{Listen as ListenPolicy, Publish};
use anyport::server::{Directory, Listener, Resolver, StdioTarget};
use anyport::{Error, Outcome, Policy, Running, Runtime, Server};
use oci_spec::runtime::Process;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::bundle::Bundle;
use crate::control::{AsyncControl, Control, Failure, FromInit, Prepared, ToInit};
use crate::options::Options;
use crate::{log, sandbox};
use anyport::mappings::Mappings;

/// As shells tell the end by `abort`: 128 + SIGABRT.
pub(crate) const TRAPPED: u8 = 134;

/// As the kernel's own killer leaves it: 128 + SIGKILL.
pub(crate) const OUT_OF_MEMORY: u8 = 137;

/// What a guest gets to end in once it is stopped: it is dropped at its next hostcall or tick.
const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// The process itself.
pub(crate) fn run() -> ExitCode {
    let control = match Control::from_stdin() {
        Ok(control) => control,
        Err(error) => return log::fail(&Error::host(format!("the shim cannot be heard: {error}"))),
    };
    let mappings = Mappings::open();
    match become_container(&control) {
        Ok(Role::Guest(guest)) => serve(control, *guest, mappings),
        Ok(Role::Sandbox) => hold_namespaces(control, mappings),
        Err(error) => {
            // The shim tells it; a shim that has gone has nobody to tell.
            let _ = control.send(&FromInit::Failed(Failure::from(&error)), &[]);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// What a container is for.
enum Role {
    Guest(Box<Guest>),
    /// Holds the namespaces of a pod.
    Sandbox,
}

/// A guest that is ready to start.
struct Guest {
    known: Known,
    server: Server,
}

/// What is known of a guest while it runs.
struct Known {
    /// What the container calls it.
    name: String,
    options: Options,
}

fn become_container(control: &Control) -> Result<Role, Error> {
    let (message, descriptors) = control.receive::<ToInit>().map_err(gone)?;
    let ToInit::Become(container) = message else { return Err(out_of_turn(&message)) };
    if let Some(stdin) = descriptors.into_iter().next() {
        rustix::stdio::dup2_stdin(stdin)
            .map_err(|error| Error::host(format!("the guest's stdin cannot be set: {error}")))?;
        take_terminal();
    }
    let bundle = Bundle::open(&container.bundle)?;
    sandbox::enter_namespaces(&bundle.spec)?;
    control.send(&FromInit::Namespaces, &[]).map_err(gone)?;
    let (message, descriptors) = control.receive::<ToInit>().map_err(gone)?;
    let ToInit::Prepared(prepared) = message else { return Err(out_of_turn(&message)) };
    let options = Options::of(&bundle, &prepared)?;
    log::start(&options.log, options.trace.as_deref())?;
    tell_left_out(&bundle);
    sandbox::prepare_rootfs(&bundle.spec, &bundle.path)?;
    let process = bundle.spec.process().clone().unwrap_or_default();
    sandbox::drop_privileges(&process, bundle.spec.linux().as_ref())?;
    match descriptors.into_iter().next() {
        None if bundle.is_sandbox() => Ok(Role::Sandbox),
        None => Err(Error::host("the compiled module did not arrive".to_owned())),
        Some(module) => {
            let server = load(&prepared, module, options.cgi)?;
            let server = configure(server, &bundle, &process, &prepared, &options).front(options.front.clone());
            Ok(Role::Guest(Box::new(Guest { known: Known { name: prepared.name, options }, server })))
        }
    }
}

/// Hooks that would have to run where nothing but the guest runs.
fn tell_left_out(bundle: &Bundle) {
    let hooks = bundle.spec.hooks().as_ref();
    let inside = hooks.and_then(|hooks| hooks.create_container().as_ref().or_else(|| hooks.start_container().as_ref()));
    if inside.is_some_and(|hooks| !hooks.is_empty()) {
        tracing::warn!("hooks that run within the container (createContainer, startContainer) are left out");
    }
}

/// Makes a terminal on stdin this process's own, so that its Ctrl-C is a SIGINT.
pub(crate) fn take_terminal() {
    let stdin = rustix::stdio::stdin();
    if rustix::termios::isatty(stdin) {
        let taken = rustix::process::setsid().and_then(|_| rustix::process::ioctl_tiocsctty(stdin));
        if let Err(error) = taken {
            tracing::debug!("the terminal is not this process's own: {error}");
        }
    }
}

/// The guest of a module that the shim compiled.
pub(crate) fn load(prepared: &Prepared, module: OwnedFd, is_cgi: bool) -> Result<Server, Error> {
    let (runtime, module) = (Runtime::builder().build()?, File::from(module));
    if is_cgi {
        runtime.load_compiled_cgi(module, &prepared.name)
    } else {
        runtime.load_compiled(module, &prepared.name)
    }
}

/// A guest of this container: all of its files, its whole network.
pub(crate) fn configure(
    mut server: Server, bundle: &Bundle, process: &Process, prepared: &Prepared, options: &Options,
) -> Server {
    for directory in directories(process.cwd()) {
        server = server.directory(directory);
    }
    // Go's guests take it from there.
    for (name, value) in [("PWD", process.cwd().to_str().unwrap_or("/"))].into_iter().chain(bundle.env()) {
        server = server.env(name, value);
    }
    let args = process.args().iter().flatten().skip(1).cloned();
    let settings = &options.settings;
    for (name, value) in &settings.config {
        server = server.config(name, value);
    }
    let policy = Policy {
        outbound: settings.outbound.clone(),
        name_lookup: settings.name_lookup,
        listen: ListenPolicy::Anywhere,
        ..Policy::default()
    };
    if server.takes_listeners() {
        for address in &options.listen.addresses {
            server = server.listener(Listener::Bind(*address));
        }
        let ports: Vec<String> = options.listen.addresses.iter().map(ToString::to_string).collect();
        log::note(&format!("the guest is handed a listener on {} ({})", ports.join(" and "), options.listen.source));
    }
    tracing::debug!("the guest is {}", prepared.origin);
    if let Some(workers) = settings.workers {
        server = server.workers(workers);
    }
    server
        .args(args)
        .policy(policy)
        .limits(settings.limits.clone())
        .restart(settings.restart)
        .resolver(Resolver::Files { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() })
        .stdio(StdioTarget::Inherit, StdioTarget::Inherit, StdioTarget::Inherit)
        .on_listen(tell_listening)
}

/// The container's files. What may be written is the kernel's to say, by their mounts and owners.
///
/// A guest of wasi-libc has no folder that it is in: names that are relative begin where the last directory
/// without a name of its own is. For another folder than `/` that one is the last, and each folder of the
/// root is there by its name, so that absolute names stay what they are.
fn directories(cwd: &Path) -> Vec<Directory> {
    let directory = |host: PathBuf, guest: &str| Directory { host, guest: guest.to_owned(), read_only: false };
    let mut directories = vec![directory("/".into(), "/")];
    if cwd == Path::new("/") || cwd.as_os_str().is_empty() {
        return directories;
    }
    let entries = std::fs::read_dir("/").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    directories.extend(folders.into_iter().filter_map(|path| {
        let name = path.to_str()?.to_owned();
        Some(directory(path, &name))
    }));
    directories.push(directory(cwd.to_owned(), "."));
    directories
}

fn tell_listening(publish: &Publish) {
    log::note(&format!("listening on {}/{}", publish.host, publish.transport));
}

/// Runs the guest to its end.
fn serve(control: Control, guest: Guest, mappings: Mappings) -> ExitCode {
    with_runtime(async move {
        let control = control.into_async().map_err(gone)?;
        let signals = Signals::listen()?;
        control.send(&FromInit::Created, &[]).await.map_err(gone)?;
        until(&control, |message| matches!(message, ToInit::Start)).await.map_err(gone)?;
        let listens = Arc::new(Notify::new());
        let notify = Arc::clone(&listens);
        let server = guest.server.on_listen(move |publish| {
            tell_listening(publish);
            notify.notify_one();
        });
        let running = match server.start() {
            Ok(running) => running,
            Err(error) => {
                let _ = control.send(&FromInit::Failed(Failure::from(&error)), &[]).await;
                return Err(error);
            }
        };
        control.send(&FromInit::Started, &[]).await.map_err(gone)?;
        tokio::spawn(async move {
            listens.notified().await;
            mappings.give_back().await;
        });
        Ok(until_end(running, &guest.known, &control, signals).await)
    })
}

/// Holds the namespaces of a pod until it is told to end.
fn hold_namespaces(control: Control, mappings: Mappings) -> ExitCode {
    with_runtime(async move {
        let control = control.into_async().map_err(gone)?;
        let mut signals = Signals::listen()?;
        control.send(&FromInit::Created, &[]).await.map_err(gone)?;
        until(&control, |message| matches!(message, ToInit::Start)).await.map_err(gone)?;
        control.send(&FromInit::Started, &[]).await.map_err(gone)?;
        tokio::spawn(mappings.give_back());
        signals.next().await;
        Ok(ExitCode::SUCCESS)
    })
}

fn with_runtime(work: impl Future<Output = Result<ExitCode, Error>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return log::fail(&Error::host(format!("signals cannot be waited for: {error}"))),
    };
    let code = runtime.block_on(work).unwrap_or_else(|error| log::fail(&error));
    runtime.shutdown_background();
    code
}

/// Waits for this message, and drops those before it.
async fn until(control: &AsyncControl, is_it: impl Fn(&ToInit) -> bool) -> io::Result<()> {
    while !is_it(&control.receive().await?.0) {}
    Ok(())
}

/// Waits for the guest's end or a signal, then for what is owed to its clients; answers the shim meanwhile.
async fn until_end(running: Running, known: &Known, control: &AsyncControl, mut signals: Signals) -> ExitCode {
    let signal = tokio::select! {
        () = running.ended() => None,
        signal = signals.next() => Some(signal),
        () = answer(&running, known, control) => None,
    };
    let Some(signal) = signal else { return finish(running, control, ExitCode::SUCCESS).await };
    let (number, most) = (signal.as_raw_value().cast_unsigned(), known.options.settings.drain_timeout);
    let drained = tokio::select! {
        drained = running.drain_on(number, most) => drained,
        _ = signals.next() => false,
        () = answer(&running, known, control) => false,
    };
    running.stop();
    let stopped = if drained { ExitCode::SUCCESS } else { code_after(signal) };
    if tokio::time::timeout(STOP_TIMEOUT, running.ended()).await.is_err() {
        // Not joined: it may hang in the kernel, and the process ends with this thread.
        std::mem::forget(running);
        return stopped;
    }
    finish(running, control, stopped).await
}

/// Answers the shim for as long as it is there; without it the guest goes on.
async fn answer(running: &Running, known: &Known, control: &AsyncControl) {
    while let Ok((message, _)) = control.receive().await {
        match message {
            ToInit::Status => {
                let mut status = serde_json::to_value(running.status()).unwrap_or_default();
                status["module"] = known.name.as_str().into();
                if let Err(error) = control.send(&FromInit::Status(status), &[]).await {
                    tracing::warn!("the shim cannot be told what the guest does: {error}");
                }
            }
            ToInit::Memory(limit) => running.limit_memory(known.options.guest_memory(limit)),
            ToInit::Become(_) | ToInit::Prepared(_) | ToInit::Start => {}
        }
    }
    std::future::pending().await
}

/// The code of a server that has ended; `stopped` if it was told to and failed at nothing.
async fn finish(running: Running, control: &AsyncControl, stopped: ExitCode) -> ExitCode {
    match running.wait() {
        Outcome::Exited(0) | Outcome::Stopped => stopped,
        // As the kernel does: a process has eight bits for its code.
        Outcome::Exited(code) => ExitCode::from((code & 0xff) as u8),
        Outcome::OutOfMemory { reason, backtrace, .. } => {
            log::trap(&format!("the guest is out of memory: {reason}"), &backtrace);
            let _ = control.send(&FromInit::OutOfMemory, &[]).await;
            ExitCode::from(OUT_OF_MEMORY)
        }
        Outcome::Trapped { reason, backtrace } => {
            log::trap(&format!("the guest trapped: {reason}"), &backtrace);
            ExitCode::from(TRAPPED)
        }
        _ => stopped,
    }
}

/// The signals that end a server. The first process of a container has no default for them.
struct Signals(Vec<(SignalKind, Signal)>);

impl Signals {
    fn listen() -> Result<Self, Error> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::hangup()];
        let listen = |kind| Ok((kind, signal(kind)?));
        let signals = kinds.into_iter().map(listen).collect::<io::Result<_>>();
        signals.map(Self).map_err(|error| Error::host(format!("signals cannot be waited for: {error}")))
    }

    async fn next(&mut self) -> SignalKind {
        std::future::poll_fn(|context| {
            for (kind, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*kind);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// As shells tell the end by a signal: 128 and its number.
fn code_after(signal: SignalKind) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal.as_raw_value()).unwrap_or(u8::MAX))
}

fn gone(error: io::Error) -> Error {
    Error::host(format!("the shim has gone: {error}"))
}

fn out_of_turn(message: &ToInit) -> Error {
    Error::host(format!("the shim said {message:?} out of turn"))
}
