//! What is said of words that are no command or option here. clap finds the fault; these are our
//! words for it, and what to type instead for those who come from another runtime.

use std::error::Error as _;
use std::path::Path;
use std::process::ExitCode;

use anyport::Error;
use anyport::error::ErrorKind;
use anyport::server::AccessLog;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind as Fault};

use crate::args::{Cli, Run};
use crate::report;

/// Shows what was asked for (`--help`, `--version`), or fails with a sentence on the words.
pub(crate) fn answer(error: &clap::Error) -> Result<ExitCode, Error> {
    match error.kind() {
        Fault::DisplayHelp | Fault::DisplayVersion => {
            // A reader that has seen enough is no error.
            let _ = error.print();
            Ok(ExitCode::SUCCESS)
        }
        // The second where a variable sets an option, so that there are arguments of a kind.
        Fault::DisplayHelpOnMissingArgumentOrSubcommand | Fault::MissingSubcommand => {
            report::help(&help_of(&command_of(&words())));
            Ok(ExitCode::from(ErrorKind::Host.exit_code()))
        }
        _ => Err(explain(error, &words())),
    }
}

/// The words behind our name.
fn words() -> Vec<String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The sentence for a fault in `words`, and what to type.
fn explain(error: &clap::Error, words: &[String]) -> Error {
    let command = command_of(words);
    let about = |kind| text(error, kind).unwrap_or_default();
    let (what, hint) = match error.kind() {
        Fault::UnknownArgument => return unknown_option(error, &about(ContextKind::InvalidArg), &command),
        Fault::InvalidSubcommand => {
            return unknown_command(error, &about(ContextKind::InvalidSubcommand), &command);
        }
        Fault::MissingRequiredArgument => match swallowed_file(words) {
            Some((option, file)) => (
                format!("`{option}` does not say what to allow, and `{file}` is a file"),
                Some(format!("`{command} {option} any {file}` allows every host, `{option} HOST:PORT` one")),
            ),
            None => (format!("`{command}` needs {}", about(ContextKind::InvalidArg).trim_end_matches("...")), None),
        },
        Fault::InvalidValue | Fault::ValueValidation => {
            return wrong_value(error, &about(ContextKind::InvalidArg), &about(ContextKind::InvalidValue), &command);
        }
        Fault::ArgumentConflict => (format!("`{}` is given more than once", about(ContextKind::InvalidArg)), None),
        Fault::InvalidUtf8 => ("an argument is not valid UTF-8".to_owned(), None),
        _ => {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            (first.trim_start_matches("error: ").replace('\'', "`"), None)
        }
    };
    wrong(what, hint.unwrap_or_else(|| form_of(&command)))
}

/// The sentence for an argument whose value is missing, or of the wrong kind.
fn wrong_value(error: &clap::Error, argument: &str, value: &str, command: &str) -> Error {
    if value.is_empty() {
        return wrong(format!("`{argument}` has no value"), form_of(command));
    }
    let name = argument.split(' ').next().unwrap_or_default();
    let what = if name.starts_with('-') {
        format!("`{name} {value}` is not right")
    } else {
        format!("`{value}` is not a {name}")
    };
    let advice = VALUES_ELSEWHERE.iter().find(|(option, known, _)| *option == name && value.starts_with(known));
    if let Some((.., advice)) = advice {
        return wrong(what, *advice);
    }
    match (text(error, ContextKind::ValidValue), error.source()) {
        (Some(known), _) => wrong(what, format!("there are {known}")),
        (None, Some(why)) => wrong(format!("{what}: {why}"), form_of(command)),
        (None, None) => wrong(what, form_of(command)),
    }
}

fn wrong(what: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::Host, what).with_hint(hint)
}

/// What clap says about a fault, as text.
fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) if !texts.is_empty() => Some(texts.join(", ")),
        _ => None,
    }
}

/// The command that the words are for, with `anyport` in front.
fn command_of(words: &[String]) -> String {
    let mut command = Cli::command();
    let mut name = "anyport".to_owned();
    for word in words {
        let Some(inner) = command.find_subcommand(word).cloned() else { continue };
        name = format!("{name} {}", inner.get_name());
        command = inner;
    }
    name
}

/// Does this with a command as clap knows it.
fn with<R>(command: &str, ask: impl FnOnce(&mut clap::Command) -> R) -> R {
    let mut known = Cli::command();
    known.build();
    let mut inner = &mut known;
    for name in command.split(' ').skip(1) {
        inner = inner.find_subcommand_mut(name).expect("`command_of` has found it");
    }
    ask(inner)
}

fn help_of(command: &str) -> String {
    with(command, |command| command.render_help().to_string())
}

/// How a command is written, and where more is told.
fn form_of(command: &str) -> String {
    let usage = with(command, |command| command.render_usage().to_string());
    format!("it is `{}`; `{command} --help` tells more", usage.trim_start_matches("Usage: "))
}

fn unknown_option(error: &clap::Error, option: &str, command: &str) -> Error {
    let name = option.split('=').next().unwrap_or_default();
    if let Some((_, whose, advice)) = OPTIONS_ELSEWHERE.iter().find(|(known, ..)| *known == name) {
        return wrong(format!("`{name}` is an option of {whose}, and not of anyport"), *advice);
    }
    let hint = match text(error, ContextKind::SuggestedArg) {
        _ if command == "anyport" && is_of_run(name) => format!("it is one of a command: `anyport run {name} … FILE`"),
        Some(near) if is_near(name, &near) => format!("there is `{near}`; `{command} --help` lists all options"),
        _ => format!("`{command} --help` lists all options"),
    };
    if name.starts_with('-') {
        wrong(format!("`{command}` has no option `{name}`"), hint)
    } else {
        wrong(format!("`{name}` is one argument too many"), form_of(command))
    }
}

/// Whether `anyport run` has this option.
fn is_of_run(name: &str) -> bool {
    with("anyport run", |run| {
        run.get_arguments().any(|argument| {
            let long = argument.get_long_and_visible_aliases().unwrap_or_default();
            let short = argument.get_short_and_visible_aliases().unwrap_or_default();
            long.iter().any(|long| name == format!("--{long}")) || short.iter().any(|short| name == format!("-{short}"))
        })
    })
}

/// Whether one may be a slip of the other: clap suggests what is much farther.
fn is_near(name: &str, other: &str) -> bool {
    strsim::damerau_levenshtein(name, other) <= 2
}

fn unknown_command(error: &clap::Error, word: &str, command: &str) -> Error {
    if Path::new(word).exists() || word.ends_with(".wasm") {
        return wrong(format!("`{word}` is a file, and not a command"), format!("to run it: `anyport run {word}`"));
    }
    let hint = match text(error, ContextKind::SuggestedSubcommand) {
        Some(near) => format!("there is `{near}`; `{command} --help` lists all commands"),
        None => format!("`{command} --help` lists all commands"),
    };
    wrong(format!("there is no command `{word}`"), hint)
}

/// What to type where there is no file of this name, since it was meant as something else.
pub(crate) fn hint_for_missing(file: &str, run: &Run) -> Option<String> {
    let is_bare = |value: &Option<String>| value.as_deref() == Some("");
    if is_bare(&run.access_log) && file.parse::<AccessLog>().is_ok() {
        return Some(format!("a format stands behind `=`: `--access-log={file} FILE`"));
    }
    if is_bare(&run.trace) && anyport::trace::filter(file).is_ok() {
        return Some(format!("what to trace stands behind `=`: `--trace={file} FILE`"));
    }
    if file.contains("://") {
        return Some(format!("a file is run that is here: `curl -fLO {file}` fetches it"));
    }
    if let (Some(name), true) = (run.env.last().filter(|name| !name.contains('=')), run.file_and_args.len() > 1)
        && !file.ends_with(".wasm")
    {
        return Some(format!("a variable is one word: `-e {name}={file}`"));
    }
    (file == "-").then(|| "`anyport run /dev/stdin` reads it from there".to_owned())
}

/// Wasmer's `--net` stands alone, so that the file behind it was taken for its rule.
fn swallowed_file(words: &[String]) -> Option<(&str, &str)> {
    words.windows(2).find_map(|pair| match [pair[0].as_str(), pair[1].as_str()] {
        [option @ ("--net" | "--allow-net"), file] if Path::new(file).is_file() => Some((option, file)),
        _ => None,
    })
}

const BY_DEFAULT: &str = "leave it out: what anyport supports is on";
const BY_SERVICE_MANAGER: &str =
    "leave it out; a service manager or a container does that for anyport as for any process";

const DRAIN_TIMEOUT: &str = "`--drain-timeout TIME` is how long a guest may take to finish what it owes";

const STREAMS: &str = "leave it out: the guest has stdin, stdout and stderr as anyport has them";

const ROOT: &str = "leave it out: a guest begins at `/`, where `--dir HOST:/` puts a directory";

const COMPILER: &str = "leave it out: there is one compiler, Cranelift";

const TLS: &str = "`--tls-cert FILE --tls-key FILE` are the same here";

/// Docker's, which Podman and others have too.
pub(crate) const NETWORK: &str = "leave it out: the network is closed but for `-p` and `--allow-net`";

/// Options of the peers that are not ours: the option, whose it is, what to do.
const OPTIONS_ELSEWHERE: &[(&str, &str, &str)] = &[
    ("-C", "Wasmtime", "leave it out: compiled modules are kept in the cache by default"),
    (
        "--invoke",
        "Wasmtime and Wasmer",
        "anyport runs a program's start; leave it out, and build a program with `main`",
    ),
    ("--argv0", "Wasmtime", "leave it out: the guest is told the file's name"),
    (
        "--time-limit",
        "WasmEdge",
        "`timeout SECONDS anyport run FILE` ends it after that time, `--cpu-time TIME` when it computes without end",
    ),
    ("--memory-page-limit", "WasmEdge", "`--memory SIZE` is the limit, in bytes: a page has 64k"),
    (
        "--gas-limit",
        "WasmEdge",
        "anyport does not count instructions: `--cpu-time TIME` ends a guest that computes without end",
    ),
    ("--reactor", "WasmEdge", "anyport runs a program's start; leave it out, and build a program with `main`"),
    ("--enable-threads", "WasmEdge", BY_DEFAULT),
    ("--enable-all", "WasmEdge and Wasmer", BY_DEFAULT),
    (
        "--allow-af-unix",
        "WasmEdge",
        "leave it out: no known server needs Unix sockets of its own; `--listen unix:PATH` puts its port behind one",
    ),
    ("--cwd", "Wasmer", "`--dir HOST:GUEST` gives the guest a directory"),
    ("--shutdown-addr", "Wasmtime", "leave it out: SIGTERM ends anyport, once what was begun is answered"),
    ("--idle-instance-timeout", "Wasmtime", "leave it out: an instance that has no request is dropped after a second"),
    ("--from", "Spin", "name the .wasm file: `anyport run FILE`"),
    ("--name", "Docker", BY_SERVICE_MANAGER),
    ("--cpus", "Docker", "`--workers N` is how many cores serve; less than one is up to a service manager"),
    ("--stop-timeout", "Docker", DRAIN_TIMEOUT),
    (
        "--stop-signal",
        "Docker",
        "leave it out: SIGTERM, SIGINT and SIGHUP end anyport, once what was begun is answered",
    ),
    ("--ulimit", "Docker", "leave it out: anyport takes as many open files as `ulimit -n` allows it"),
    ("--rm", "Docker", BY_SERVICE_MANAGER),
    ("-i", "Docker", STREAMS),
    ("-t", "Docker", STREAMS),
    ("--init", "Docker", "leave it out: a guest has no processes that anybody would have to wait for"),
    ("--entrypoint", "Docker", "leave it out: what is run is the file"),
    ("--user", "Docker", BY_SERVICE_MANAGER),
    ("-u", "Docker", BY_SERVICE_MANAGER),
    ("--cap-drop", "Docker", "leave it out: a guest has no capabilities, and no system calls"),
    ("--workdir", "Docker", ROOT),
    ("-w", "Docker", ROOT),
    ("-O", "Wasmtime", "leave it out: code is optimized, and instances are pooled"),
    ("--wasm-features", "Wasmtime", BY_DEFAULT),
    ("--wasi-modules", "Wasmtime", BY_DEFAULT),
    ("--singlepass", "Wasmer", COMPILER),
    ("--llvm", "Wasmer", COMPILER),
    ("--cranelift", "Wasmer", COMPILER),
    ("--graceful-timeout", "gunicorn", DRAIN_TIMEOUT),
    ("--keep-alive", "gunicorn", "`--idle-timeout TIME` is how long a connection may be quiet"),
    ("--bind", "gunicorn", "`--listen ADDR:PORT` and `--listen unix:PATH` are the same here"),
    ("--certfile", "gunicorn", TLS),
    ("--keyfile", "gunicorn", TLS),
    ("--ssl-certfile", "uvicorn", TLS),
    ("--ssl-keyfile", "uvicorn", TLS),
    ("--cert", "other servers", TLS),
    ("--key", "other servers", TLS),
    ("--detach", "Docker", BY_SERVICE_MANAGER),
    ("-d", "Docker", BY_SERVICE_MANAGER),
    ("--read-only", "Docker", "leave it out: the guest has the directories of `--dir` alone, read-only with `:ro`"),
    ("--network", "Docker", NETWORK),
];

/// Values of the peers for options that are ours too: the option, how the value begins, what to do.
const VALUES_ELSEWHERE: &[(&str, &str, &str)] = &[
    (
        "--restart",
        "unless-stopped",
        "`--restart always` starts the guest whenever it ends; that anyport itself is started again is up to a \
         service manager",
    ),
    (
        "--restart",
        "on-failure:",
        "`--restart on-failure`: attempts are not counted, but each failure doubles the pause before the next start",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn said(words: &[&str]) -> String {
        let error = Cli::try_parse_from(["anyport"].iter().chain(words)).expect_err("wrong");
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let error = explain(&error, &words);
        format!("{error}\nhint: {}", error.hint().unwrap_or_default())
    }

    #[test]
    fn wrong_words_are_explained() {
        insta::assert_snapshot!(said(&["run", "--publsh", "80", "x.wasm"]), @"
        `anyport run` has no option `--publsh`
        hint: there is `--publish`; `anyport run --help` lists all options
        ");
        insta::assert_snapshot!(said(&["run", "--nope", "x.wasm"]), @"
        `anyport run` has no option `--nope`
        hint: `anyport run --help` lists all options
        ");
        insta::assert_snapshot!(said(&["run", "--time-limit", "5", "x.wasm"]), @"
        `--time-limit` is an option of WasmEdge, and not of anyport
        hint: `timeout SECONDS anyport run FILE` ends it after that time, `--cpu-time TIME` when it computes without end
        ");
        insta::assert_snapshot!(said(&["run", "--stop-timeout=30", "x.wasm"]), @"
        `--stop-timeout` is an option of Docker, and not of anyport
        hint: `--drain-timeout TIME` is how long a guest may take to finish what it owes
        ");
        insta::assert_snapshot!(said(&["run"]), @"
        `anyport run` needs <FILE>
        hint: it is `anyport run [OPTIONS] <FILE> [ARGS]...`; `anyport run --help` tells more
        ");
        insta::assert_snapshot!(said(&["run", "-p"]), @"
        `--publish <[ADDR:]HOST[:GUEST][/udp]>` has no value
        hint: it is `anyport run [OPTIONS] <FILE> [ARGS]...`; `anyport run --help` tells more
        ");
        insta::assert_snapshot!(said(&["run", "-m", "1g", "-m", "2g", "x.wasm"]), @"
        `--memory <SIZE>` is given more than once
        hint: it is `anyport run [OPTIONS] <FILE> [ARGS]...`; `anyport run --help` tells more
        ");
        insta::assert_snapshot!(said(&["inspect", "a.wasm", "b.wasm"]), @"
        `b.wasm` is one argument too many
        hint: it is `anyport inspect [OPTIONS] <FILE>`; `anyport inspect --help` tells more
        ");
        insta::assert_snapshot!(said(&["server.wasm"]), @"
        `server.wasm` is a file, and not a command
        hint: to run it: `anyport run server.wasm`
        ");
        insta::assert_snapshot!(said(&["rnu", "x"]), @"
        there is no command `rnu`
        hint: `anyport --help` lists all commands
        ");
        insta::assert_snapshot!(said(&["completions", "tcsh"]), @"
        `tcsh` is not a <SHELL>
        hint: there are bash, elvish, fish, powershell, zsh
        ");
        insta::assert_snapshot!(said(&["cache", "siez"]), @"
        there is no command `siez`
        hint: there is `size`; `anyport cache --help` lists all commands
        ");
        insta::assert_snapshot!(said(&["--dir", ".:.", "x.wasm"]), @"
        `anyport` has no option `--dir`
        hint: it is one of a command: `anyport run --dir … FILE`
        ");
        insta::assert_snapshot!(said(&["run", "--usr", "x.wasm"]), @"
        `anyport run` has no option `--usr`
        hint: `anyport run --help` lists all options
        ");
        insta::assert_snapshot!(said(&["run", "--cert", "a.pem", "x.wasm"]), @"
        `--cert` is an option of other servers, and not of anyport
        hint: `--tls-cert FILE --tls-key FILE` are the same here
        ");
        insta::assert_snapshot!(said(&["run", "--no-cache=yes", "x.wasm"]), @"
        unexpected value `yes` for `--no-cache` found; no more were expected
        hint: it is `anyport run [OPTIONS] <FILE> [ARGS]...`; `anyport run --help` tells more
        ");
    }

    #[test]
    fn a_file_that_was_meant_as_a_value_is_explained() {
        let hint = |words: &[&str]| {
            let cli = Cli::try_parse_from(["anyport", "run"].iter().chain(words)).expect("they are right");
            let crate::args::Command::Run(run) = cli.command else { panic!("it is `run`") };
            hint_for_missing(&run.file_and_args[0].to_string_lossy(), &run)
        };
        for (words, wanted) in [
            (&["--access-log", "json", "x.wasm"][..], "`--access-log=json FILE`"),
            (&["--trace", "sock", "x.wasm"], "`--trace=sock FILE`"),
            (&["https://example.com/x.wasm"], "`curl -fLO https://example.com/x.wasm`"),
            (&["-"], "`anyport run /dev/stdin`"),
            (&["-e", "PORT", "8080", "x.wasm"], "`-e PORT=8080`"),
        ] {
            assert!(hint(words).is_some_and(|hint| hint.contains(wanted)), "{words:?}");
        }
        for words in [
            &["x.wasm"][..],
            &["-e", "HOME", "x.wasm", "y"],
            &["-e", "HOME", "x"],
            &["--access-log", "x.wasm"],
            &["json"],
            &["--trace=sock", "sock"],
        ] {
            assert_eq!(hint(words), None, "{words:?}");
        }
    }

    #[test]
    fn no_option_of_ours_is_called_anothers() {
        for (option, ..) in OPTIONS_ELSEWHERE {
            assert!(!is_of_run(option), "{option}");
        }
    }
}
