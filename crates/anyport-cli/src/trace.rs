//! `--trace`: from words to directives for the log's filter.

use anyport::Error;
use tracing_subscriber::filter::Directive;

pub(crate) use anyport::trace::TARGET;

/// What `--trace` adds to the log's filter: nothing without it, all hostcalls if it has no words.
pub(crate) fn directives(words: Option<&str>) -> Result<Vec<Directive>, Error> {
    let directives = words.map(anyport::trace::filter).transpose()?.unwrap_or_default();
    Ok(directives.iter().map(|text| text.parse().expect("names are plain words")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;

    #[test]
    fn without_the_option_nothing_is_added() {
        assert_eq!(directives(None).map(|directives| directives.len()).ok(), Some(0));
        assert!(directives(Some("")).is_ok_and(|directives| directives.len() > 40));
    }

    #[test]
    fn the_help_lists_the_groups() {
        let mut command = Cli::command();
        command.build();
        let run = command.find_subcommand("run").expect("there");
        let option = run.get_arguments().find(|argument| argument.get_long() == Some("trace")).expect("there");
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.ends_with(&format!("Groups are {}", anyport::trace::groups())), "{help}");
    }
}
