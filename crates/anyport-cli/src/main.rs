//! The command line of anyport.
//!
//! `args.rs` has the words, `usage.rs` what is said of wrong ones, `plan.rs` what they mean, `load.rs`
//! the loading, `run.rs` the running, `service.rs` what a service manager has to do with it, `docker` the runtime of
//! containers, `report.rs` what is shown, `trace.rs` which hostcalls are.

mod args;
mod docker;
mod load;
mod manifest;
mod plan;
mod report;
mod run;
mod service;
mod trace;
mod usage;

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyport::error::ErrorKind;
use anyport::{Artifact, Error, Inspection, Runtime};
use clap::{CommandFactory, Parser};

use crate::args::{CacheCommand, Cli, Command, Compile, Global, Inspect};
use crate::manifest::is_manifest;
use crate::plan::{cache_folder, open_cache};

fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => start_log(&cli).and_then(|()| dispatch(cli)),
        Err(error) => usage::answer(&error),
    };
    outcome.unwrap_or_else(|error| {
        report::error(&error);
        ExitCode::from(error.kind().exit_code())
    })
}

fn start_log(cli: &Cli) -> Result<(), Error> {
    let words = match &cli.command {
        Command::Run(run) => run.trace.as_deref(),
        _ => None,
    };
    report::start_log(&cli.global, trace::directives(words)?);
    Ok(())
}

fn dispatch(cli: Cli) -> Result<ExitCode, Error> {
    match cli.command {
        Command::Run(run) => run::run(&cli.global, *run),
        Command::Inspect(command) => show(&command),
        Command::Compile(command) => compile(&cli.global, &command),
        Command::Cache { command } => manage_cache(&cli.global, command),
        Command::Docker { command } => {
            let (text, code) = docker::obey(&cli.global, &command)?;
            print(text.as_bytes()).map(|_| code)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "anyport", &mut script);
            print(&script)
        }
        Command::Man { command } => manual(&command),
    }
}

/// Prints data. A reader that has seen enough is no error.
fn print(bytes: &[u8]) -> Result<ExitCode, Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Host, format!("stdout cannot be written: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn show(command: &Inspect) -> Result<ExitCode, Error> {
    if is_manifest(&command.file) {
        let what = format!("`{}` is a manifest, and not WebAssembly", command.file.display());
        return Err(Error::new(ErrorKind::NotRunnable, what).with_hint(format!(
            "name a .wasm file that it tells of; where that is a CGI program, `anyport run -p 8080 {}` serves all",
            command.file.display()
        )));
    }
    let inspection = Inspection::of(&Artifact::from_file(&command.file)?);
    let text = if command.json {
        serde_json::to_string_pretty(&inspection).expect("an inspection is plain data") + "\n"
    } else {
        report::inspection(&inspection)
    };
    print(text.as_bytes())?;
    Ok(match inspection.problem {
        Some(_) => ExitCode::from(ErrorKind::NotRunnable.exit_code()),
        None => ExitCode::SUCCESS,
    })
}

fn compile(global: &Global, command: &Compile) -> Result<ExitCode, Error> {
    let artifact = Artifact::from_file(&command.file)?;
    let runtime = Runtime::builder().build()?;
    let compiled = report::while_compiling(&artifact, || runtime.precompile(&artifact))?;
    let output = command.output.clone().unwrap_or_else(|| command.file.with_extension("cwasm"));
    std::fs::write(&output, compiled)
        .map_err(|error| Error::new(ErrorKind::Host, format!("`{}` cannot be written: {error}", output.display())))?;
    if !global.quiet {
        report::note(&format!("wrote {}", output.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn manage_cache(global: &Global, command: CacheCommand) -> Result<ExitCode, Error> {
    let unreadable =
        |error: io::Error| Error::new(ErrorKind::Host, format!("the compile cache cannot be read: {error}"));
    match command {
        CacheCommand::Add { files } => add_to_cache(global, &files),
        CacheCommand::Path => print(format!("{}\n", cache_folder(global)?.display()).as_bytes()),
        CacheCommand::Clear => {
            let entries = open_cache(global)?.clear().map_err(unreadable)?;
            if !global.quiet {
                report::note(&format!("removed {}", modules(entries)));
            }
            Ok(ExitCode::SUCCESS)
        }
        CacheCommand::Size { json } => {
            let (bytes, entries) = open_cache(global)?.size().map_err(unreadable)?;
            let text = if json {
                serde_json::json!({ "bytes": bytes, "modules": entries }).to_string()
            } else {
                format!("{:.1} MiB in {}", bytes as f64 / f64::from(1 << 20), modules(entries))
            };
            print(format!("{text}\n").as_bytes())
        }
    }
}

/// Compiles what is not there yet.
fn add_to_cache(global: &Global, files: &[PathBuf]) -> Result<ExitCode, Error> {
    let runtime = Runtime::builder().cache(open_cache(global)?).build()?;
    for file in files {
        let artifact = Artifact::from_file(file)?;
        let compiled = report::while_compiling(&artifact, || runtime.compile(&artifact))?;
        // A file without a name is in memory: the cache did not take it, which was told.
        if compiled.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
            return Err(Error::new(ErrorKind::Host, format!("the compiled `{artifact}` is not in the cache")));
        }
        if !global.quiet {
            report::note(&format!("{artifact} is in the cache"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn modules(count: usize) -> String {
    format!("{count} compiled module{}", if count == 1 { "" } else { "s" })
}

fn manual(names: &[String]) -> Result<ExitCode, Error> {
    let mut command = Cli::command();
    command.build();
    // Pages name others by all their words: `anyport-cache-add`.
    for name in names.iter().flat_map(|name| name.split('-')).skip_while(|name| *name == "anyport") {
        let known = command.find_subcommand(name).cloned();
        command = known.ok_or_else(|| {
            Error::new(ErrorKind::Host, format!("there is no command `{}`", names.join(" ")))
                .with_hint("`anyport --help` lists them")
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).expect("memory takes every byte");
    print(&page)
}
