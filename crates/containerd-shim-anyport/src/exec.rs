//! A process beside the guest: `docker exec`, exec probes, health checks.
//!
//! There is no shell and no other program in there. What can be run is `anyport ps`, which shows what the
//! guest is doing, `anyport probe`, which asks it for an answer, and another module of the container.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use anyport::error::ErrorKind;
use anyport::server::StdioTarget;
use anyport::{Error, Outcome};
use oci_spec::runtime::Process;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::control::{Control, Exec, Prepared};
use crate::options::Options;
use crate::{init, log, probe, sandbox, status};

/// How long a probe waits, unless `--timeout` says otherwise: below Kubernetes' and Docker's own limits.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// `anyport ps`, and `anyport` with any other word.
    Status { json: bool },
    /// `anyport probe [URL]`.
    Probe { url: Option<String>, timeout: Duration },
    /// A module of the container.
    Module,
}

impl Request {
    /// What these words ask for. A shell that is only to run one of our commands is taken for it:
    /// `HEALTHCHECK CMD anyport probe` is given to one.
    pub(crate) fn of(args: &[String]) -> Result<Self, Error> {
        let line = shell_line(args);
        let args = line.as_deref().unwrap_or(args);
        match args.first().map(|word| word.rsplit('/').next().unwrap_or(word)) {
            Some("anyport") => Self::of_anyport(&args[1..]),
            _ => Ok(Self::Module),
        }
    }

    fn of_anyport(args: &[String]) -> Result<Self, Error> {
        if args.first().map(String::as_str) != Some("probe") {
            return Ok(Self::Status { json: args.iter().any(|word| word == "--json") });
        }
        let (mut url, mut timeout) = (None, PROBE_TIMEOUT);
        let mut words = args[1..].iter();
        while let Some(word) = words.next() {
            let value = word
                .strip_prefix("--timeout=")
                .or_else(|| if word == "--timeout" { words.next().map(String::as_str) } else { None });
            match value {
                Some(value) => timeout = seconds(value)?,
                None if word.starts_with('-') => return Err(no_option(word)),
                None => url = Some(word.clone()),
            }
        }
        Ok(Self::Probe { url, timeout })
    }
}

fn seconds(text: &str) -> Result<Duration, Error> {
    let number = text.trim_end_matches('s').parse::<f64>().ok();
    let time = number.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|time| !time.is_zero());
    time.ok_or_else(|| Error::host(format!("`--timeout {text}` is not right: it is a number of seconds")))
}

fn no_option(word: &str) -> Error {
    Error::host(format!("`anyport probe` has no option `{word}`"))
        .with_hint("it is `anyport probe [--timeout SECONDS] [URL]`")
}

/// The words of `sh -c 'anyport …'`, with `|| exit 1` behind it or without; nothing for any other shell.
fn shell_line(args: &[String]) -> Option<Vec<String>> {
    let [shell, flag, line] = args else { return None };
    let is_shell = matches!(shell.rsplit('/').next(), Some("sh" | "bash" | "ash")) && flag == "-c";
    let line = line.split("||").next()?.trim();
    let quoted = |word: &str| word.trim_matches(['"', '\'']).to_owned();
    let is_plain = !line.contains([';', '|', '&', '$', '`', '<', '>', '(', '\\']);
    let words: Vec<String> = line.split_whitespace().map(quoted).collect();
    (is_shell && is_plain && words.first().is_some_and(|word| word == "anyport")).then_some(words)
}

/// The process itself.
pub(crate) fn run() -> ExitCode {
    let outcome = Control::from_stdin()
        .and_then(|control| control.receive::<Exec>())
        .map_err(|error| Error::host(format!("the shim has gone: {error}")))
        .and_then(|(exec, descriptors)| enter(exec, descriptors));
    outcome.unwrap_or_else(|error| log::fail(&error))
}

fn enter(exec: Exec, descriptors: Vec<OwnedFd>) -> Result<ExitCode, Error> {
    let mut descriptors = descriptors.into_iter();
    if let Some(stdin) = descriptors.next() {
        rustix::stdio::dup2_stdin(stdin).map_err(|error| Error::host(format!("stdin cannot be set: {error}")))?;
        init::take_terminal();
    }
    let process: Process = serde_json::from_value(exec.process)
        .map_err(|error| Error::host(format!("the description of the process is not right: {error}")))?;
    let bundle = Bundle::open(&exec.container.bundle)?;
    let request = Request::of(process.args().as_deref().unwrap_or_default())?;
    let init = descriptors.next().ok_or_else(|| Error::host("the container's process is not known".to_owned()))?;
    sandbox::join(&init, &process)?;
    drop(init);
    sandbox::drop_privileges(&process, bundle.spec.linux().as_ref())?;
    match request {
        Request::Status { json } => show(exec.status.as_ref(), json),
        Request::Probe { url, timeout } => probe::run(url, exec.status.as_ref(), timeout),
        Request::Module => {
            if let Some(failure) = exec.failure {
                return Err(failure.into());
            }
            let prepared = exec.prepared.ok_or_else(|| no_program(&process))?;
            let module =
                descriptors.next().ok_or_else(|| Error::host("the compiled module did not arrive".to_owned()))?;
            run_module(&bundle, &process, &prepared, module)
        }
    }
}

fn show(status: Option<&Value>, json: bool) -> Result<ExitCode, Error> {
    let status = status.ok_or_else(|| {
        Error::host("the guest does not answer".to_owned())
            .with_hint("it may be paused: `docker unpause` lets it go on")
    })?;
    let text =
        if json { serde_json::to_string_pretty(status).unwrap_or_default() + "\n" } else { status::table(status) };
    // A reader that has seen enough is no error.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// Why a command line that is neither ours nor a module cannot be run.
pub(crate) fn no_program(process: &Process) -> Error {
    let name = process.args().iter().flatten().next().map_or("", String::as_str);
    Error::new(ErrorKind::NotFound, format!("there is no program `{name}` in a container of anyport's")).with_hint(
        "`anyport ps` shows what the guest does, `anyport probe [URL]` asks it, and a .wasm file of the container \
             is run",
    )
}

/// Runs another module of the container, to its end.
fn run_module(bundle: &Bundle, process: &Process, prepared: &Prepared, module: OwnedFd) -> Result<ExitCode, Error> {
    let mut options = Options::of(bundle, prepared)?;
    options.settings.workers = Some(1);
    log::start(&options.log, options.trace.as_deref())?;
    let server = init::load(prepared, module, false)?;
    let mut server = init::configure(server, bundle, process, prepared, &options);
    for (name, value) in process.env().iter().flatten().filter_map(|variable| variable.split_once('=')) {
        server = server.env(name, value);
    }
    let server = server.stdio(StdioTarget::Inherit, StdioTarget::Inherit, StdioTarget::Inherit);
    Ok(match server.start()?.wait() {
        Outcome::Exited(code) => ExitCode::from((code & 0xff) as u8),
        Outcome::Trapped { reason, backtrace } => {
            log::trap(&format!("the guest trapped: {reason}"), &backtrace);
            ExitCode::from(init::TRAPPED)
        }
        Outcome::OutOfMemory { reason, backtrace, .. } => {
            log::trap(&format!("the guest is out of memory: {reason}"), &backtrace);
            ExitCode::from(init::OUT_OF_MEMORY)
        }
        _ => ExitCode::SUCCESS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> Request {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Request::of(&words).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn words_ask_for_something() {
        let probe = |url: Option<&str>, seconds| Request::Probe {
            url: url.map(str::to_owned),
            timeout: Duration::from_secs(seconds),
        };
        assert_eq!(request(&["anyport", "ps"]), Request::Status { json: false });
        assert_eq!(request(&["/bin/anyport", "whatever", "--json"]), Request::Status { json: true });
        assert_eq!(request(&["anyport", "probe"]), probe(None, 5));
        assert_eq!(request(&["anyport", "probe", "--timeout", "2", "http://h/"]), probe(Some("http://h/"), 2));
        for line in ["anyport probe 'http://h/' || exit 1", " anyport  probe http://h/"] {
            assert_eq!(request(&["/bin/sh", "-c", line]), probe(Some("http://h/"), 5), "{line}");
        }
        for words in [&["sh"][..], &["/bin/sh", "-c", "curl x"], &["sh", "-c", "anyport ps; ls"], &["/x.wasm"]] {
            assert_eq!(request(words), Request::Module, "{words:?}");
        }
    }
}
