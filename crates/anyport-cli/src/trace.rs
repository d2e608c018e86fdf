//! `--trace`: from words to a filter of the library's log, where each hostcall has a target of its own.

use std::collections::BTreeSet;

use anyport::Error;
use anyport::error::ErrorKind;
use tracing_subscriber::filter::{Directive, LevelFilter};

/// The target that those of all hostcalls begin with.
pub(crate) const TARGET: &str = "anyport::hostcall";

/// What `--trace` adds to the log's filter: nothing without it, all hostcalls if it has no words.
pub(crate) fn directives(words: Option<&str>) -> Result<Vec<Directive>, Error> {
    let Some(words) = words else { return Ok(Vec::new()) };
    let names = hostcalls();
    let (unwanted, wanted): (Vec<&str>, Vec<&str>) =
        words.split(',').filter(|word| !word.is_empty()).partition(|word| word.starts_with('!'));
    let unwanted: Vec<&str> = unwanted.iter().map(|word| word.trim_start_matches('!')).collect();
    let mut words = wanted.iter().chain(&unwanted);
    if let Some(word) = words.find(|word| !names.iter().any(|name| means(word, name))) {
        return Err(unknown(word, &names));
    }
    let is_shown = |name: &str| {
        let is_meant = |words: &[&str]| words.iter().any(|word| means(word, name));
        (wanted.is_empty() || is_meant(&wanted)) && !is_meant(&unwanted)
    };
    // One for each name: a target is a prefix, and `fd_read` is one of `fd_readdir`.
    Ok(names.iter().map(|name| directive(name, is_shown(name))).collect())
}

fn directive(name: &str, is_shown: bool) -> Directive {
    let level = if is_shown { LevelFilter::TRACE } else { LevelFilter::OFF };
    format!("{TARGET}::{name}={level}").parse().expect("names are plain words")
}

/// The names of all hostcalls: the first column of DIALECTS.md.
fn hostcalls() -> BTreeSet<String> {
    let page = anyport::dialects_markdown();
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect()
}

/// The first word of a name; `epoll_oneoff` polls.
fn group(name: &str) -> &str {
    match name.split('_').next() {
        Some("epoll") => "poll",
        first => first.unwrap_or(name),
    }
}

/// Whether a word means this hostcall: its group, its name, or the name that its second version is of.
fn means(word: &str, name: &str) -> bool {
    word == group(name) || word == name || Some(word) == name.strip_suffix("_v2")
}

fn unknown(word: &str, names: &BTreeSet<String>) -> Error {
    Error::new(ErrorKind::Host, format!("`{word}` is no group of hostcalls, and no hostcall's name"))
        .with_hint(format!("the groups are {}; `fd_write` is a name", groups(names)))
}

fn groups(names: &BTreeSet<String>) -> String {
    let groups: BTreeSet<&str> = names.iter().map(|name| group(name)).collect();
    groups.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;

    fn shown(words: &str) -> String {
        let directives = directives(Some(words)).unwrap_or_else(|error| panic!("{error}"));
        let directives = directives.iter().map(ToString::to_string);
        let shown = directives.filter_map(|text| Some(text.strip_suffix("=trace")?.rsplit("::").next()?.to_owned()));
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_are_groups_and_names() {
        assert_eq!(shown("poll,args,!args_get"), "args_sizes_get epoll_oneoff poll_oneoff");
        assert_eq!(shown("fd_read"), "fd_read");
        assert_eq!(shown("sock_accept"), "sock_accept sock_accept_v2");
        assert_eq!(shown("!fd,!path,!sock,!environ,!clock,!args,!poll"), "proc_exit proc_raise random_get sched_yield");
        assert_eq!(shown(""), hostcalls().into_iter().collect::<Vec<_>>().join(" "));
        assert_eq!(directives(None).map(|directives| directives.len()).ok(), Some(0));
    }

    #[test]
    fn the_help_lists_the_groups() {
        let mut command = Cli::command();
        command.build();
        let run = command.find_subcommand("run").expect("there");
        let option = run.get_arguments().find(|argument| argument.get_long() == Some("trace")).expect("there");
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.ends_with(&format!("Groups are {}", groups(&hostcalls()))), "{help}");
    }
}
