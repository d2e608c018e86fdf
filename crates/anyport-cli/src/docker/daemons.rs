//! The daemons that start shims, as `/proc` shows them: where each of them looks for programs.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ask;

/// A process of containerd's, or of Docker's.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) name: String,
    pub(super) pid: u32,
    /// Its environment, which only its user and root can read.
    environment: io::Result<Vec<(OsString, OsString)>>,
}

impl Daemon {
    /// The daemons that look for shims: containerd, or Docker's daemon where containerd is not seen.
    pub(super) fn all() -> Vec<Self> {
        let of = |name: &str| -> Vec<Self> {
            let pids = processes().filter(|pid| comm(*pid).is_some_and(|comm| comm == name));
            // A zombie has no program any more.
            let pids = pids.filter(|pid| fs::symlink_metadata(format!("/proc/{pid}/exe")).is_ok());
            let named = |pid| Self { name: name.to_owned(), pid, environment: environment(pid) };
            pids.map(named).collect()
        };
        let found = of("containerd");
        if found.is_empty() { of("dockerd") } else { found }
    }

    /// A variable of its environment.
    ///
    /// # Errors
    /// We may not look.
    pub(super) fn variable(&self, name: &str) -> io::Result<Option<&OsStr>> {
        match &self.environment {
            Ok(pairs) => Ok(pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_os_str())),
            Err(error) => Err(io::Error::from(error.kind())),
        }
    }

    /// The shim that it starts: the first in its PATH, or else the one beside its own program.
    pub(super) fn find(&self, program: &str) -> io::Result<Option<PathBuf>> {
        // Its root may be another one than ours.
        let root = PathBuf::from(format!("/proc/{}/root", self.pid));
        fs::read_dir(&root)?;
        let seen = |folder: &Path| root.join(folder.strip_prefix("/").unwrap_or(folder));
        let own = fs::read_link(format!("/proc/{}/exe", self.pid)).ok();
        let folders = std::env::split_paths(self.variable("PATH")?.unwrap_or_default()).collect::<Vec<_>>();
        let folders = folders.into_iter().chain(own.and_then(|own| Some(own.parent()?.to_owned())));
        let mut files = folders.filter(|folder| folder.is_absolute()).map(|folder| seen(&folder).join(program));
        Ok(files.find(|file| is_program(file)))
    }

    /// What a path of its root is called there.
    pub(super) fn shown(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.pid);
        path.strip_prefix(root).map_or_else(|_| path.to_owned(), |inner| Path::new("/").join(inner))
    }
}

/// The version of the containerd that runs.
pub(super) fn containerd_version() -> Option<String> {
    let daemon = Daemon::all().into_iter().find(|daemon| daemon.name == "containerd")?;
    let told = ask(Command::new(format!("/proc/{}/exe", daemon.pid)).arg("--version")).ok()?;
    // containerd github.com/containerd/containerd/v2 2.1.9 COMMIT
    let version = told.stdout.split_whitespace().nth(2)?;
    Some(version.trim_start_matches('v').to_owned())
}

/// The first such program in the folders of a PATH.
pub(super) fn find_in(path: &OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(program)).find(|file| is_program(file))
}

/// The processes that run this program.
pub(super) fn running(program: &Path) -> Vec<u32> {
    let Ok(program) = program.canonicalize() else { return Vec::new() };
    processes().filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|own| own == program)).collect()
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn comm(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

fn environment(pid: u32) -> io::Result<Vec<(OsString, OsString)>> {
    let bytes = fs::read(format!("/proc/{pid}/environ"))?;
    let pairs = bytes.split(|byte| *byte == 0).filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(&pair[..equals]).to_owned(), OsStr::from_bytes(&pair[equals + 1..]).to_owned()))
    });
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_a_process_is_read() {
        let pairs = environment(std::process::id()).expect("it is our own");
        let path = pairs.iter().find(|(name, _)| name == "PATH").expect("there is a PATH");
        assert_eq!(Some(&path.1), std::env::var_os("PATH").as_ref());
    }

    #[test]
    fn a_program_is_found_and_so_are_its_processes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = std::env::join_paths([Path::new("/nonexistent"), folder.path()]).expect("a path");
        fs::write(folder.path().join("x"), "").expect("it is ours");
        assert_eq!(find_in(&path, "x"), None, "it cannot be run");
        fs::set_permissions(folder.path().join("x"), fs::Permissions::from_mode(0o755)).expect("it is ours");
        assert_eq!(find_in(&path, "x"), Some(folder.path().join("x")));
        assert!(running(&folder.path().join("x")).is_empty());
        let own = std::env::current_exe().expect("we have a path");
        assert!(running(&own).contains(&std::process::id()));
    }

    #[test]
    fn a_daemon_finds_what_is_in_its_own_path() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("x"), "").expect("it is ours");
        fs::set_permissions(folder.path().join("x"), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let with = |path: &OsStr| Daemon {
            name: "containerd".to_owned(),
            pid: std::process::id(),
            environment: Ok(vec![("PATH".into(), path.to_owned())]),
        };
        let daemon = with(folder.path().as_os_str());
        let found = daemon.find("x").expect("we may look at ourselves").expect("it is there");
        assert_eq!(daemon.shown(&found), folder.path().join("x"));
        assert_eq!(with(OsStr::new("/nonexistent")).find("x").expect("we may look"), None);
        assert_eq!(with(OsStr::new("")).find("x").expect("we may look"), None);
        let closed = Daemon { environment: Err(io::ErrorKind::PermissionDenied.into()), ..daemon };
        assert!(closed.find("x").is_err());
    }
}
