//! What a person sees: messages on stderr, an inspection as text.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use anyport::{Artifact, ArtifactKind, Error, ImportStatus, Inspection, Want};
use indicatif::{ProgressBar, ProgressStyle};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::args::Global;

/// Writes a line to stderr; nobody is left to be told if that fails.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A word in front of a message, coloured on a terminal.
fn label(word: &str, colour: u8) -> String {
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if coloured { format!("\x1b[1;{colour}m{word}\x1b[0m") } else { word.to_owned() }
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

pub(crate) fn trap(reason: &str, backtrace: &str) {
    tell(&format!("{} the guest trapped: {reason}", label("error:", RED)));
    if !backtrace.trim().is_empty() {
        tell(backtrace.trim_end());
    }
}

pub(crate) fn note(global: &Global, text: &str) {
    if !global.quiet {
        tell(&format!("anyport: {text}"));
    }
}

/// Logs to stderr, in the style of the other messages.
pub(crate) fn start_log(global: &Global) {
    let filter = if global.quiet { "error" } else { global.log.as_str() };
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| {
        tell(&format!("{} `--log {filter}` is not a filter, so warnings are shown", label("warning:", YELLOW)));
        EnvFilter::new("warn")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
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
        let label = match *event.metadata().level() {
            Level::ERROR => label("error:", RED),
            Level::WARN => label("warning:", YELLOW),
            Level::INFO => "info:".to_owned(),
            Level::DEBUG => "debug:".to_owned(),
            Level::TRACE => "trace:".to_owned(),
        };
        write!(writer, "{label} ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Shows that something goes on while a module is compiled, on a terminal and if it takes a while.
pub(crate) fn while_compiling<R>(artifact: &Artifact, compile: impl FnOnce() -> R) -> R {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("a template that indicatif takes"));
    bar.set_message(format!("compiling {artifact}"));
    bar.enable_steady_tick(Duration::from_millis(100));
    let compiled = compile();
    bar.finish_and_clear();
    compiled
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
    if !inspection.dialects.is_empty() {
        let dialects: Vec<String> = inspection.dialects.iter().map(ToString::to_string).collect();
        writeln!(out, "dialects: {}", dialects.join(", "))?;
    }
    if !inspection.wants.is_empty() {
        let wants: Vec<&str> = inspection.wants.iter().map(|want| describe_want(*want)).collect();
        writeln!(out, "wants to: {}", wants.join(", "))?;
    }
    write_imports(out, inspection)?;
    if !inspection.exports.is_empty() {
        let exports: Vec<String> = inspection.exports.iter().map(|export| format!("{} {}", export.name, export.signature)).collect();
        writeln!(out, "exports: {}", exports.join(", "))?;
    }
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
    for import in &inspection.imports {
        let status = match &import.status {
            ImportStatus::Found { dialect } => dialect.to_string(),
            ImportStatus::OtherShape { shapes } => format!("not found; there is {}", shapes.join(", ")),
            ImportStatus::Missing { owner: Some(owner) } => format!("not found; of {owner}"),
            _ => "not found".to_owned(),
        };
        writeln!(out, "  {import}  {status}")?;
    }
    Ok(())
}

fn describe_want(want: Want) -> &'static str {
    match want {
        Want::Listen => "listen",
        Want::AcceptPreopened => "take connections of a listener it is handed",
        Want::Connect => "connect",
        Want::LookUpNames => "look names up",
        Want::Datagrams => "exchange datagrams",
        Want::Files => "open files",
        _ => "do something else",
    }
}
