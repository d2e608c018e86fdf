//! `anyport run`: from a plan to an exit code.

use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyport::error::ErrorKind;
use anyport::mappings;
use anyport::policy::HostAddress;
use anyport::server::{Listener, StdioTarget};
use anyport::{Error, Outcome, Policy, Publish, Running, Server};
use rustix::process::{Resource, Rlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{Global, Run};
use crate::load::{self, How, Loading};
use crate::manifest::is_manifest;
use crate::plan::Plan;
use crate::report;
use crate::service::{Manager, inherited_listeners};
use crate::usage;

/// What a guest gets to end in after a signal: it is dropped at its next hostcall or tick, so only
/// a file operation that hangs in the kernel takes longer.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The code of a process that ended itself by `abort`, as shells tell it: 128 + SIGABRT.
const TRAPPED: u8 = 134;

pub(crate) fn run(global: &Global, run: Run) -> Result<ExitCode, Error> {
    let plan = Plan::resolve(&run)?;
    let file = plan.file.display().to_string();
    tell_misplaced(&run.file_and_args);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Error::new(ErrorKind::Host, format!("signals cannot be waited for: {error}")))?;
    let how = How { is_cgi: run.cgi, allow_precompiled: run.allow_precompiled };
    let ended = runtime.block_on(serve(global, how, plan));
    // Not waited for: a compilation that a signal cut short ends with the process.
    runtime.shutdown_background();
    ended.map_err(|error| match (error.kind(), usage::hint_for_missing(&file, &run)) {
        (ErrorKind::NotFound, Some(hint)) => error.with_hint(hint),
        _ => error,
    })
}

async fn serve(global: &Global, how: How, mut plan: Plan) -> Result<ExitCode, Error> {
    let mut signals = Signals::listen()?;
    let server = match load::begin(global, &mut plan, how)? {
        Loading::Done(server) => *server,
        Loading::Begun(loading) => tokio::select! {
            loaded = loading => loaded.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?,
            signal = signals.next() => {
                report::wipe_spinner();
                return Ok(code_after(signal));
            }
        },
    };
    raise_descriptor_limit();
    tell_meaningless(&server, &plan, how);
    let waits_in_vain = server.takes_listeners() && !plan.hands_over_listeners();
    let socketless = (server.has_no_sockets() && !plan.publish.is_empty()).then(|| plan.file.clone());
    let drain_timeout = plan.settings.drain_timeout;
    let inherited = inherited_listeners()?;
    let manager = Arc::new(Manager::new(plan.publish.len() + plan.listeners.len() + inherited.len()));
    let scheme = if plan.front.certificates.is_empty() { "http" } else { "https" };
    let scheme = server.is_service().then_some(scheme);
    let mut server = configure(server, plan, inherited);
    server = server.on_listen({
        let (manager, quiet) = (Arc::clone(&manager), global.quiet);
        move |publish| {
            if !quiet {
                report::note(&listening(publish, scheme));
            }
            manager.one_listens();
        }
    });
    let running = server.start()?;
    if let (Some(address), false) = (running.health_address(), global.quiet) {
        report::note(&format!("health on http://{address}/healthz"));
    }
    manager.all_listen(0);
    tokio::spawn(mappings::give_back());
    let code = until_end(running, signals, &manager, drain_timeout).await?;
    if waits_in_vain && code != ExitCode::SUCCESS {
        report::warn("the guest takes connections of a listener, and none was handed to it; add `-p 8080:8080`");
    }
    // It ran once, and answered nobody.
    if let (Some(file), true, false) = (socketless, code == ExitCode::SUCCESS, global.quiet) {
        let file = file.display();
        report::warn(&format!(
            "`{file}` has no sockets, so nobody could answer at the published port; if it is a CGI program (WAGI, \
             WCGI), add `--cgi`"
        ));
    }
    Ok(code)
}

/// Tells of options that change nothing for this guest: who gives a limit relies on it.
fn tell_meaningless(server: &Server, plan: &Plan, how: How) {
    let is_cgi = how.is_cgi || is_manifest(&plan.file);
    let of_instances = |name: &str| name.starts_with("max-instance-");
    for name in &plan.for_services {
        if !server.is_service() {
            let file = plan.file.display();
            report::warn(&format!("`--{name}` has no meaning for `{file}`, which reads its requests by itself"));
        } else if is_cgi && of_instances(name) {
            report::warn(&format!("`--{name}` has no meaning for CGI: a program ends with its request"));
        }
    }
}

/// What a person is told of a port that is served from now on; of requests, where they go.
fn listening(publish: &Publish, scheme: Option<&str>) -> String {
    let Publish { host, transport, .. } = publish;
    match (publish.guest_port, scheme, host) {
        (_, Some(scheme), HostAddress::Ip(address)) => format!("listening on {scheme}://{address}"),
        (_, Some(_), _) => format!("listening on {host}"),
        (Some(port), ..) => format!("listening on {host} for port {port}/{transport} of the guest"),
        (None, ..) => format!("listening on {host} for the guest"),
    }
}

fn configure(mut server: Server, plan: Plan, inherited: Vec<Listener>) -> Server {
    for (name, value) in plan.env {
        server = server.env(name, value);
    }
    for directory in plan.directories {
        server = server.directory(directory);
    }
    for listener in inherited {
        server = server.listener(listener);
    }
    for address in plan.listeners {
        server = server.listener(Listener::Bind(address));
    }
    for file in plan.ca_files {
        server = server.ca_file(file);
    }
    let settings = plan.settings;
    for (name, value) in settings.config {
        server = server.config(name, value);
    }
    let policy = Policy {
        publish: plan.publish,
        outbound: settings.outbound,
        name_lookup: settings.name_lookup,
        ..Policy::default()
    };
    server = server
        .args(plan.args)
        .policy(policy)
        .limits(settings.limits)
        .restart(settings.restart)
        .front(plan.front)
        .stdio(StdioTarget::Inherit, StdioTarget::Inherit, StdioTarget::Inherit);
    match settings.workers {
        Some(workers) => server.workers(workers),
        None => server,
    }
}

/// Options whose place is before the file. Behind it they are the guest's, as they are with `docker
/// run`; but who forgets that finds no port published. Not those that many guests have themselves.
const BEFORE_THE_FILE: &[&str] = &[
    "-p",
    "--publish",
    "--listen",
    "--addr",
    "--tcplisten",
    "--allow-net",
    "--net",
    "--allow-dns",
    "--dir",
    "--volume",
    "--env-file",
    "--config-file",
    "--ca-file",
    "--workers",
    "--restart",
    "--drain-timeout",
    "--idle-timeout",
    "--header-timeout",
    "--body-timeout",
    "--cpu-time",
    "--max-body",
    "--max-connections",
    "--max-instances",
    "--max-queue",
    "--prewarm",
    "--tls-cert",
    "--tls-key",
    "--proxy-protocol",
    "--x-forwarded",
    "--health",
    "--access-log",
    "--cgi",
    "--trace",
];

fn tell_misplaced(words: &[OsString]) {
    let name = |word: &OsString| word.to_str().and_then(|word| word.split('=').next()).map(str::to_owned);
    let meant = words.get(1).is_some_and(|word| word == "--");
    let misplaced = words.iter().skip(1).filter_map(name).find(|name| BEFORE_THE_FILE.contains(&name.as_str()));
    if let (Some(option), false) = (misplaced, meant) {
        report::warn(&format!(
            "`{option}` stands behind the file, so it goes to the guest: options of anyport stand before the file \
             (`--` behind the file says that it is meant)"
        ));
    }
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

/// The signals that end a server. Waited for from the start: the first process of a container has no
/// default for them, and would go on compiling.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal is gone. None where whoever started this wants it to go on without one, as `nohup` does.
    hang_up: Option<Signal>,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::new(ErrorKind::Host, format!("signals cannot be waited for: {error}")))
        };
        let hang_up = if is_ignored(SignalKind::hangup()) { None } else { Some(listen(SignalKind::hangup())?) };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())?, hang_up })
    }

    async fn next(&mut self) -> SignalKind {
        let hung_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = hung_up => SignalKind::hangup(),
        }
    }

    /// Somebody will not wait. A terminal that closes may say so twice: the shell and the kernel both do.
    async fn insist(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Whether this process was started with this signal ignored.
fn is_ignored(signal: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A bit for each signal, from 1 on.
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

/// As shells tell the end by a signal: 128 and its number.
fn code_after(signal: SignalKind) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal.as_raw_value()).unwrap_or(u8::MAX))
}

/// Waits for the guest's end, or for a signal and what is owed to clients then. A second signal ends it
/// at once.
async fn until_end(
    running: Running, mut signals: Signals, manager: &Manager, drain_timeout: Duration,
) -> Result<ExitCode, Error> {
    let signal = tokio::select! {
        () = running.ended() => None,
        signal = signals.next() => Some(signal),
    };
    let Some(signal) = signal else { return Ok(exit_code(running.wait())) };
    Manager::stops();
    let drained = tokio::select! {
        drained = running.drain_on(signal.as_raw_value().cast_unsigned(), drain_timeout) => drained,
        () = signals.insist() => false,
    };
    running.stop();
    let ended = tokio::select! {
        ended = tokio::time::timeout(STOP_TIMEOUT, running.ended()) => ended.is_ok(),
        () = signals.insist() => false,
    };
    // A server that finished its work did what it was told.
    let stopped = if drained && manager.is_serving() { ExitCode::SUCCESS } else { code_after(signal) };
    if !ended {
        // Not joined: it may hang in the kernel, and the process ends with this thread.
        std::mem::forget(running);
        return Ok(stopped);
    }
    Ok(match running.wait() {
        Outcome::Stopped | Outcome::Exited(0) => stopped,
        // It failed while it finished its work.
        failed => exit_code(failed),
    })
}

fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Exited(code) => own_code(code),
        Outcome::Trapped { reason, backtrace } => {
            report::failure(&format!("the guest trapped: {reason}"), &backtrace);
            ExitCode::from(TRAPPED)
        }
        Outcome::OutOfMemory { reason, backtrace, code } => {
            report::failure(&format!("the guest is out of memory: {reason}"), &backtrace);
            code.map_or_else(|| ExitCode::from(TRAPPED), own_code)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The guest's own code, as the kernel has it: a process has eight bits for it.
fn own_code(code: u32) -> ExitCode {
    ExitCode::from((code & 0xff) as u8)
}
