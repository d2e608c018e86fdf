//! What a container says on its stderr, and so in `docker logs`: in the style of `anyport run`.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use anyport::Error;
use anyport::error::ErrorKind;
use anyport::spelling::{self, Spelling};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// What talks with containerd, and has a lot to say that is of no use here.
const CLIENT_OF_CONTAINERD: [&str; 5] = ["h2", "hyper", "hyper_util", "tonic", "tower"];

/// Logs to stderr what the filter lets through, and the hostcalls that are traced.
///
/// # Errors
/// The words are of no filter.
pub(crate) fn start(filter: &str, traced: Option<&str>) -> Result<(), Error> {
    spelling::choose(Spelling::Container);
    let wrong =
        |why: String| Error::new(ErrorKind::Host, format!("the option `io.anyport.log={filter}` is not right: {why}"));
    let mut filter = EnvFilter::try_new(filter).map_err(|error| wrong(error.to_string()))?;
    for module in CLIENT_OF_CONTAINERD {
        filter = filter.add_directive(format!("{module}=warn").parse().expect("a module's name is plain"));
    }
    if let Some(words) = traced {
        // `true` is what an annotation that only switches on has for a value.
        let words = if matches!(words, "1" | "true") { "" } else { words };
        for directive in anyport::trace::filter(words)? {
            filter = filter.add_directive(directive.parse().expect("names are plain words"));
        }
    }
    start_to(filter, std::io::stderr);
    Ok(())
}

/// Logs to whatever takes lines.
pub(crate) fn start_to<W>(filter: EnvFilter, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let subscriber = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(writer)
        .event_format(Style);
    // Only the first one counts: a process has one role.
    let _ = subscriber.try_init();
}

/// What everybody wants to know, whatever is logged.
pub(crate) fn note(text: &str) {
    tell(&format!("anyport: {text}"));
}

pub(crate) fn trap(reason: &str, backtrace: &str) {
    tell(&format!("error: {reason}"));
    if !backtrace.is_empty() {
        tell(&format!("the guest's functions, innermost first:\n{backtrace}"));
    }
}

/// Tells an error, and gives its exit code.
pub(crate) fn fail(error: &Error) -> ExitCode {
    tell(&format!("error: {error}"));
    if let Some(hint) = error.hint() {
        tell(&format!("hint: {hint}"));
    }
    ExitCode::from(error.kind().exit_code())
}

/// Writes a line to stderr; nobody is left to be told if that fails.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

struct Style;

impl<S, N> FormatEvent<S, N> for Style
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::TRACE if event.metadata().target().starts_with(anyport::trace::TARGET) => "",
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "info: ",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        };
        write!(writer, "{level}")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
