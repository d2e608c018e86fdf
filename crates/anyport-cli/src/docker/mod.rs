//! `anyport docker`: the shim that lets containerd run WebAssembly, put where it is found, and checked.

mod check;
mod daemons;
mod engine;
mod kubernetes;

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyport::Error;
use anyport::error::ErrorKind;

use crate::args::{DockerCommand, Global, Install};
use crate::report;

/// The name that containerd makes of `io.containerd.anyport.v1`.
pub(crate) const SHIM: &str = "containerd-shim-anyport-v1";

/// What a container names to be run by it.
pub(crate) const RUNTIME: &str = "io.containerd.anyport.v1";

/// Another program that is asked something answers at once, or is not well.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What there is to say, and the process's exit code.
pub(crate) fn obey(global: &Global, command: &DockerCommand) -> Result<(String, ExitCode), Error> {
    match command {
        DockerCommand::Install(words) => install(global, words).map(|text| (text, ExitCode::SUCCESS)),
        DockerCommand::Uninstall { prefix } => {
            let told = uninstall(prefix)?;
            Ok((told, ExitCode::SUCCESS))
        }
        DockerCommand::Check { json } => {
            let findings = check::all();
            let code = if check::is_well(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            Ok((if *json { check::as_json(&findings) } else { check::as_text(&findings) }, code))
        }
    }
}

fn install(global: &Global, words: &Install) -> Result<String, Error> {
    let source = match &words.shim {
        // A bare name would be looked for in our PATH.
        Some(file) => std::path::absolute(file).unwrap_or_else(|_| file.clone()),
        None => beside_us()?,
    };
    let version = version_of(&source).map_err(|why| {
        host(format!("`{}` is not the shim: {why}", source.display()))
            .with_hint(format!("name the file `{SHIM}` of anyport {} with `--shim FILE`", env!("CARGO_PKG_VERSION")))
    })?;
    let target = words.prefix.join(SHIM);
    put(&source, &target)?;
    if !global.quiet {
        report::note(&format!("installed {} ({version})", target.display()));
        if version != env!("CARGO_PKG_VERSION") {
            report::warn(&format!("it is of anyport {version}, and this is {}", env!("CARGO_PKG_VERSION")));
        }
    }
    if words.kubernetes {
        return Ok(kubernetes::what_to_write(daemons::containerd_version().as_deref()));
    }
    Ok(check::as_text(&check::all()))
}

/// The shim of the same release is in the folder that we are in.
fn beside_us() -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(|error| host(format!("our own path is not known: {error}")))?;
    let shim = own.with_file_name(SHIM);
    if shim.is_file() {
        return Ok(shim);
    }
    let message = format!("there is no `{SHIM}` beside `{}`", own.display());
    Err(Error::new(ErrorKind::NotFound, message).with_hint("name it with `--shim FILE`"))
}

/// Copies a program in one step: a container that starts meanwhile has the old one or the new one.
fn put(source: &Path, target: &Path) -> Result<(), Error> {
    let folder = target.parent().unwrap_or_else(|| Path::new("/"));
    let same = |one: io::Result<fs::Metadata>, other: io::Result<fs::Metadata>| match (one, other) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    };
    if same(fs::metadata(source), fs::metadata(target)) {
        return Ok(());
    }
    let new = folder.join(format!(".{SHIM}.{}", std::process::id()));
    let done = copy(source, &new).and_then(|()| fs::rename(&new, target));
    if done.is_err() {
        // It may not have been made.
        let _ = fs::remove_file(&new);
    }
    done.map_err(|error| refused("written to", folder, "install", &error))
}

fn copy(source: &Path, new: &Path) -> io::Result<()> {
    let mut source = fs::File::open(source)?;
    let mut file = fs::File::options().write(true).create_new(true).mode(0o755).open(new)?;
    io::copy(&mut source, &mut file)?;
    // The mask of our process may have taken some of it away.
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.flush()?;
    file.sync_all()
}

/// The error for a folder that cannot be used.
fn refused(verb: &str, folder: &Path, command: &str, error: &io::Error) -> Error {
    let message = format!("`{}` cannot be {verb}: {error}", folder.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => host(message)
            .with_hint(format!("containers are run by root, and so is this: `sudo anyport docker {command}`")),
        io::ErrorKind::NotFound => host(message).with_hint("name a folder of containerd's PATH with `--prefix DIR`"),
        _ => host(message),
    }
}

fn uninstall(prefix: &Path) -> Result<String, Error> {
    let target = prefix.join(SHIM);
    if !target.exists() {
        let message = format!("there is no `{}`", target.display());
        return Err(Error::new(ErrorKind::NotFound, message).with_hint("name its folder with `--prefix DIR`"));
    }
    let running = daemons::running(&target);
    if !running.is_empty() {
        let message = format!("`{}` runs containers (processes {running:?})", target.display());
        return Err(host(message).with_hint("remove them first: `docker ps --all` lists them"));
    }
    fs::remove_file(&target).map_err(|error| refused("changed", prefix, "uninstall", &error))?;
    let cache = check::CACHE_FOLDER;
    Ok(format!(
        "removed {}\n\
         Nothing else was written by `anyport docker install`. What may be left:\n\
         {cache}: compiled modules; `sudo rm -r /var/lib/anyport` removes them\n\
         /etc/docker/daemon.json, /etc/containerd/config.toml: what you have added for `{RUNTIME}`\n",
        target.display(),
    ))
}

/// What a shim says that its version is.
fn version_of(shim: &Path) -> Result<String, String> {
    let told = ask(Command::new(shim).arg("-v"))?;
    let version = told.stdout.trim().strip_prefix(SHIM).unwrap_or_default().trim();
    if version.is_empty() || version.contains(char::is_whitespace) {
        return Err(format!("it does not say its version with `-v`, but {:?}", brief(&told.stdout)));
    }
    Ok(version.to_owned())
}

/// What another program says.
struct Told {
    stdout: String,
    stderr: String,
}

/// Runs a program that ends by itself, and not for long.
fn ask(command: &mut Command) -> Result<Told, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command).map_err(|error| error.to_string())?;
    let readers = [
        child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ];
    let (sender, texts) = channel();
    for (which, reader) in readers.into_iter().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(reader) = reader {
                let _ = reader.take(16 << 20).read_to_end(&mut bytes);
            }
            let _ = sender.send((which, String::from_utf8_lossy(&bytes).into_owned()));
        });
    }
    let mut both = [String::new(), String::new()];
    for _ in 0..2 {
        let Ok((which, text)) = texts.recv_timeout(ANSWER_TIMEOUT) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it does not answer within {} s", ANSWER_TIMEOUT.as_secs()));
        };
        both[which] = text;
    }
    child.wait().map_err(|error| error.to_string())?;
    let [stdout, stderr] = both;
    Ok(Told { stdout, stderr })
}

/// Starts a program, which may be one that is being written just now.
fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut tries = 0..10;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries.next().is_some() => {
                thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// The first line of what somebody said, and no more than fits one of ours.
fn brief(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

fn host(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Host, message)
}
