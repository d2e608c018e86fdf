//! Which hostcalls are traced: words of a person, and the filter of the log that they are.

use std::collections::BTreeSet;

use super::TABLES;
use super::hostcall::Table;
use crate::error::{Error, ErrorKind};

/// The target of the log that those of all hostcalls begin with.
pub const TARGET: &str = "anyport::hostcall";

/// The directives (of `tracing_subscriber`'s `EnvFilter`) that show the hostcalls which `words` mean:
/// groups and names, `!` in front of those that are not meant; all if there is none.
///
/// # Errors
/// A word is no group and no name.
pub fn filter(words: &str) -> Result<Vec<String>, Error> {
    let names = hostcalls();
    let (unwanted, wanted): (Vec<&str>, Vec<&str>) =
        words.split(',').filter(|word| !word.is_empty()).partition(|word| word.starts_with('!'));
    let unwanted: Vec<&str> = unwanted.iter().map(|word| word.trim_start_matches('!')).collect();
    let mut words = wanted.iter().chain(&unwanted);
    if let Some(word) = words.find(|word| !names.iter().any(|name| means(word, name))) {
        return Err(unknown(word));
    }
    let is_shown = |name: &str| {
        let is_meant = |words: &[&str]| words.iter().any(|word| means(word, name));
        (wanted.is_empty() || is_meant(&wanted)) && !is_meant(&unwanted)
    };
    // One for each name: a target is a prefix, and `fd_read` is one of `fd_readdir`.
    Ok(names.iter().map(|name| directive(name, is_shown(name))).collect())
}

fn directive(name: &str, is_shown: bool) -> String {
    format!("{TARGET}::{name}={}", if is_shown { "trace" } else { "off" })
}

/// The names of all hostcalls.
fn hostcalls() -> BTreeSet<&'static str> {
    TABLES.iter().flat_map(Table::rows).map(|row| row.name).collect()
}

/// The first word of a name; `epoll_oneoff` polls, and a handler of signals is the process's.
fn group(name: &str) -> &str {
    match name.split(['_', '-']).next() {
        Some("epoll") => "poll",
        Some("callback") => "proc",
        first => first.unwrap_or(name),
    }
}

/// Whether a word means this hostcall: its group, its name, or the name that its second version is of.
fn means(word: &str, name: &str) -> bool {
    word == group(name) || word == name || Some(word) == name.strip_suffix("_v2")
}

fn unknown(word: &str) -> Error {
    Error::new(ErrorKind::Host, format!("`{word}` is no group of hostcalls, and no hostcall's name"))
        .with_hint(format!("the groups are {}; `fd_write` is a name", groups()))
}

/// The groups of hostcalls, for people: those of what is there, and of more than a name that says all.
pub fn groups() -> String {
    let there = TABLES.iter().flat_map(Table::rows).filter(|row| !row.is_absent).map(|row| row.name);
    let groups: BTreeSet<&str> =
        there.map(|name| (name, group(name))).filter(|(name, group)| name != group).map(|(_, group)| group).collect();
    groups.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &str) -> String {
        let directives = filter(words).unwrap_or_else(|error| panic!("{error}"));
        let shown = directives.iter().filter_map(|text| text.strip_suffix("=trace")?.rsplit("::").next());
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_are_groups_and_names() {
        assert_eq!(
            shown("poll,args,!args_get"),
            "args_sizes_get epoll_create epoll_ctl epoll_oneoff epoll_wait poll_oneoff"
        );
        assert_eq!(shown("fd_read"), "fd_read");
        assert_eq!(shown("sock_accept"), "sock_accept sock_accept_v2");
        let most = shown("!fd,!path,!sock,!environ,!clock,!args,!poll");
        assert!(
            ["proc_exit", "random_get", "sched_yield"].iter().all(|name| most.split(' ').any(|shown| shown == *name))
        );
        assert!(!most.contains("fd_") && !most.contains("sock_") && !most.contains("epoll_"), "{most}");
        assert_eq!(shown(""), hostcalls().into_iter().collect::<Vec<_>>().join(" "));
        assert!(filter("nothing").expect_err("no word").hint().is_some());
    }
}
