//! What a person sees: messages on stderr, an inspection as text.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyport::inspect::{ArtifactKind, ImportStatus, Want};
use anyport::{Artifact, Error, Inspection};
use indicatif::{ProgressBar, ProgressStyle};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::args::{DEFAULT_LOG, Global};
use crate::trace;

/// Writes a line to stderr; nobody is left to be told if that fails.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether stderr takes colours: a terminal, and <https://no-color.org> not asked for.
fn is_coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A word in front of a message, coloured on a terminal.
fn label(word: &str, colour: u8) -> String {
    if is_coloured() { format!("\x1b[1;{colour}m{word}\x1b[0m") } else { word.to_owned() }
}

const RED: u8 = 31;
const YELLOW: u8 = 33;
const CYAN: u8 = 36;

pub(crate) fn error(error: &Error) {
    tell(&format!("{} {error}", label("error:", RED)));
    if let Some(hint) = error.hint() {
        tell(&format!("{} {hint}", label("hint:", CYAN)));
    }
}

pub(crate) fn warn(text: &str) {
    tell(&format!("{} {text}", label("warning:", YELLOW)));
}

/// How a guest failed, and where it was.
pub(crate) fn failure(what: &str, backtrace: &str) {
    tell(&format!("{} {what}", label("error:", RED)));
    if !backtrace.is_empty() {
        tell(&format!("the guest's functions, innermost first:\n{backtrace}"));
    }
}

/// Help that was not asked for.
pub(crate) fn help(text: &str) {
    tell(text.trim_end());
}

pub(crate) fn note(text: &str) {
    tell(&format!("anyport: {text}"));
}

/// A filter that names parts of the program alone leaves the warnings of the others: so does a word that is meant as a
/// level and is none.
fn with_others(filter: &str) -> String {
    let is_level = |word: &str| word.trim().parse::<LevelFilter>().is_ok();
    if filter.split(',').any(is_level) { filter.to_owned() } else { format!("{DEFAULT_LOG},{filter}") }
}

/// Whether a filter is one word that names neither a level nor a part of the program.
fn is_no_level(filter: &str) -> bool {
    let is_word = filter.chars().all(|c| c.is_ascii_alphabetic());
    is_word && filter.parse::<LevelFilter>().is_err() && !PARTS.contains(&filter)
}

/// Parts of the program that say something of themselves, as filters name them.
const PARTS: [&str; 6] = ["anyport", "cranelift", "hyper", "rustls", "tokio", "wasmtime"];

/// Logs to stderr, in the style of the other messages, and what `--trace` adds.
pub(crate) fn start_log(global: &Global, traced: Vec<Directive>) {
    let filter = global.filter();
    if is_no_level(filter) {
        warn(&format!("`--log {filter}` is no level, of which there are error, warn, info, debug and trace"));
    }
    let filter = EnvFilter::try_new(with_others(filter)).unwrap_or_else(|_| {
        warn(&format!("`--log {filter}` is not a filter, so warnings are shown"));
        EnvFilter::new(DEFAULT_LOG)
    });
    let filter = traced.into_iter().fold(filter, EnvFilter::add_directive);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_coloured())
        .with_writer(std::io::stderr)
        // Nobody may read stderr any more, which is no reason to fail.
        .log_internal_errors(false)
        .event_format(Style)
        .init();
}

struct Style;

impl<S, N> FormatEvent<S, N> for Style
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            // A hostcall: its line is long enough, and looks like nothing else.
            Level::TRACE if event.metadata().target().starts_with(trace::TARGET) => String::new(),
            Level::ERROR => label("error:", RED) + " ",
            Level::WARN => label("warning:", YELLOW) + " ",
            Level::INFO => "info: ".to_owned(),
            Level::DEBUG => "debug: ".to_owned(),
            Level::TRACE => "trace: ".to_owned(),
        };
        write!(writer, "{level}")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// What people notice as waiting: a module from the cache is there sooner, and shows nothing.
const SPINNER_AFTER: Duration = Duration::from_millis(200);

/// Shows that something goes on while a module is compiled, on a terminal and if it takes a while.
pub(crate) fn while_compiling<R>(artifact: &Artifact, compile: impl FnOnce() -> R) -> R {
    if !std::io::stderr().is_terminal() {
        return compile();
    }
    let (compiling, compiled) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            // Nothing is ever sent: the other side is dropped at the end.
            if compiled.recv_timeout(SPINNER_AFTER) == Err(RecvTimeoutError::Timeout) {
                let spinner = ProgressBar::new_spinner();
                spinner.set_style(
                    ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                        .expect("a template that indicatif takes"),
                );
                spinner.set_message(format!("compiling {artifact}"));
                spinner.enable_steady_tick(Duration::from_millis(100));
                let _ = compiled.recv();
                spinner.finish_and_clear();
            }
        });
        let outcome = compile();
        drop(compiling);
        outcome
    })
}

/// Leaves a clean line to the shell where a compilation is given up.
pub(crate) fn wipe_spinner() {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K");
    }
}

/// An inspection as text.
pub(crate) fn inspection(inspection: &Inspection) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_inspection(&mut text, inspection);
    text
}

fn write_inspection(out: &mut String, inspection: &Inspection) -> fmt::Result {
    let kind = match inspection.kind {
        ArtifactKind::Module => "core module",
        ArtifactKind::Component => "component",
        ArtifactKind::Precompiled => "precompiled module",
        _ => "not WebAssembly",
    };
    writeln!(out, "{}: {kind}, {} bytes", inspection.name, inspection.bytes)?;
    if let Some(world) = &inspection.world {
        writeln!(out, "is for: {world}")?;
    }
    if !inspection.dialects.is_empty() {
        let dialects: Vec<String> = inspection.dialects.iter().map(ToString::to_string).collect();
        writeln!(out, "dialects: {}", dialects.join(", "))?;
    }
    if !inspection.wants.is_empty() {
        let wants: Vec<&str> = inspection.wants.iter().map(|want| describe_want(*want)).collect();
        writeln!(out, "wants to: {}", wants.join(", "))?;
    }
    if !inspection.not_supported.is_empty() {
        writeln!(out, "not supported: {}, whose calls fail", inspection.not_supported.join(", "))?;
    }
    write_imports(out, inspection)?;
    write_exports(out, inspection)?;
    if !inspection.runtimes.is_empty() {
        writeln!(out, "runtimes:")?;
        for verdict in &inspection.runtimes {
            writeln!(out, "  {:3} {:24} {}", if verdict.runs { "yes" } else { "no" }, verdict.runtime, verdict.why)?;
        }
    }
    if let Some(problem) = &inspection.problem {
        writeln!(out, "problem: {problem}")?;
    }
    if let Some(hint) = &inspection.hint {
        writeln!(out, "hint: {hint}")?;
    }
    if let Some(run) = &inspection.run {
        writeln!(out, "run: {run}")?;
    }
    Ok(())
}

fn write_imports(out: &mut String, inspection: &Inspection) -> fmt::Result {
    if inspection.imports.is_empty() {
        return Ok(());
    }
    writeln!(out, "imports:")?;
    for import in inspection.imports.iter().take(IMPORTS_SHOWN) {
        let status = match &import.status {
            ImportStatus::Found { dialect } => dialect.to_string(),
            ImportStatus::OtherShape { shapes } => format!("not found; there is {}", shapes.join(", ")),
            ImportStatus::Missing { owner: Some(owner) } => format!("not found; of {owner}"),
            _ => "not found".to_owned(),
        };
        writeln!(out, "  {import}  {status}")?;
    }
    write_more(out, inspection.imports.len(), IMPORTS_SHOWN)
}

/// Of so many that there are, where no more were shown.
fn write_more(out: &mut String, all: usize, shown: usize) -> fmt::Result {
    match all.saturating_sub(shown) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more, which `--json` shows"),
    }
}

/// The largest server has some hundred.
const IMPORTS_SHOWN: usize = 500;

/// A library may have thousands; a server has three.
const EXPORTS_SHOWN: usize = 20;

fn write_exports(out: &mut String, inspection: &Inspection) -> fmt::Result {
    if inspection.exports.is_empty() {
        return Ok(());
    }
    writeln!(out, "exports:")?;
    for export in inspection.exports.iter().take(EXPORTS_SHOWN) {
        match export.signature.as_str() {
            "instance" => writeln!(out, "  {}", export.name)?,
            function if function.starts_with('(') => writeln!(out, "  {}{function}", export.name)?,
            other => writeln!(out, "  {}  {other}", export.name)?,
        }
    }
    write_more(out, inspection.exports.len(), EXPORTS_SHOWN)
}

fn describe_want(want: Want) -> &'static str {
    match want {
        Want::Listen => "listen",
        Want::AcceptPreopened => "take connections of a listener it is handed",
        Want::Connect => "connect",
        Want::LookUpNames => "look names up",
        Want::Datagrams => "exchange datagrams",
        Want::Files => "open files",
        Want::AnswerRequests => "answer HTTP requests",
        Want::AnswerByCgi => "answer HTTP requests by CGI",
        Want::SendRequests => "send HTTP requests",
        _ => "do something else",
    }
}
