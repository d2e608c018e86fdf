//! `anyport docker`: the shim where containerd finds it.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use support::{Ended, Folder};

const SHIM: &str = "containerd-shim-anyport-v1";

/// A folder with what says that it is the shim, of this version, and a folder to install to.
fn with_shim(version: &str) -> Folder {
    let folder = Folder::with("shim", format!("#!/bin/sh\n[ \"$1\" = -v ] && echo {SHIM} {version}\n"));
    fs::set_permissions(folder.path().join("shim"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::create_dir(folder.path().join("bin")).expect("it is ours");
    folder
}

fn installed(folder: &Folder) -> PathBuf {
    folder.path().join("bin").join(SHIM)
}

/// What is said on stderr, by which this machine's Docker is not told.
fn notes(ended: &Ended) -> &str {
    &ended.stderr
}

fn install(folder: &Folder) -> Ended {
    folder.anyport(["docker", "install", "--shim", "shim", "--prefix", "bin"])
}

#[test]
fn the_shim_is_installed_in_one_piece_and_removed() {
    let folder = with_shim(env!("CARGO_PKG_VERSION"));
    let ended = install(&folder);
    assert_eq!(ended.code(), 0, "{ended}");
    assert_eq!(notes(&ended), format!("anyport: installed bin/{SHIM} ({})\n", env!("CARGO_PKG_VERSION")));
    let metadata = fs::metadata(installed(&folder)).expect("it is there");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read(installed(&folder)).expect("ours"), fs::read(folder.path().join("shim")).expect("ours"));

    // Over the one that is there, and over itself.
    fs::write(installed(&folder), "old").expect("it is ours");
    assert_eq!(install(&folder).code(), 0);
    let shim = format!("bin/{SHIM}");
    assert_eq!(folder.anyport(["docker", "install", "--shim", &shim, "--prefix", "bin"]).code(), 0);
    assert_eq!(fs::read(installed(&folder)).expect("ours"), fs::read(folder.path().join("shim")).expect("ours"));
    let left: Vec<_> = fs::read_dir(folder.path().join("bin")).expect("ours").collect();
    assert_eq!(left.len(), 1, "{left:?}");

    snapshot!(folder.anyport(["docker", "uninstall", "--prefix", "bin"]), @"
    code 0
    --- stdout
    removed bin/containerd-shim-anyport-v1
    Nothing else was written by `anyport docker install`. What may be left:
    /var/lib/anyport/cache: compiled modules; `sudo rm -r /var/lib/anyport` removes them
    /etc/docker/daemon.json, /etc/containerd/config.toml: what you have added for ↵
    `io.containerd.anyport.v1`
    ");
    assert!(!installed(&folder).exists());
    snapshot!(folder.anyport(["docker", "uninstall", "--prefix", "bin"]), @"
    code 127
    --- stderr
    error: there is no `bin/containerd-shim-anyport-v1`
    hint: name its folder with `--prefix DIR`
    ");
}

#[test]
fn what_is_not_the_shim_is_not_installed() {
    let folder = with_shim("").and("text", "hello").and("other", "#!/bin/sh\necho other 1.0\n");
    fs::set_permissions(folder.path().join("other"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    snapshot!(folder.anyport(["docker", "install", "--shim", "text", "--prefix", "bin"]), @"
    code 125
    --- stderr
    error: `FOLDER/text` is not the shim: Permission denied (os error 13)
    hint: name the file `containerd-shim-anyport-v1` of anyport VERSION with `--shim FILE`
    ");
    snapshot!(folder.anyport(["docker", "install", "--shim", "./other", "--prefix", "bin"]), @r#"
    code 125
    --- stderr
    error: `FOLDER/other` is not the shim: it does not say its version with `-v`, but "other ↵
    1.0"
    hint: name the file `containerd-shim-anyport-v1` of anyport VERSION with `--shim FILE`
    "#);
    assert_eq!(fs::read_dir(folder.path().join("bin")).expect("ours").count(), 0);
}

#[test]
fn a_folder_that_is_not_there_is_told_of() {
    let folder = with_shim(env!("CARGO_PKG_VERSION"));
    snapshot!(folder.anyport(["docker", "install", "--shim", "./shim", "--prefix", "none"]), @"
    code 125
    --- stderr
    error: `none` cannot be written to: No such file or directory (os error 2)
    hint: name a folder of containerd's PATH with `--prefix DIR`
    ");
}

#[test]
fn another_version_is_warned_of() {
    let folder = with_shim("9.9.9");
    let ended = install(&folder);
    assert_eq!(ended.code(), 0, "{ended}");
    assert!(notes(&ended).contains("warning: it is of anyport 9.9.9"), "{ended}");
}

#[test]
fn kubernetes_is_told_what_to_write() {
    let folder = with_shim(env!("CARGO_PKG_VERSION"));
    let ended = folder.anyport(["docker", "install", "--shim", "./shim", "--prefix", "bin", "--kubernetes"]);
    assert_eq!(ended.code(), 0, "{ended}");
    assert!(ended.stdout.contains("runtime_type = \"io.containerd.anyport.v1\""), "{ended}");
    assert!(ended.stdout.contains("kind: RuntimeClass"), "{ended}");
}

/// Whatever Docker is here, or none: what is found agrees with the code, and each problem has a hint.
#[test]
fn a_check_says_what_is_missing() {
    let folder = Folder::new();
    let ended = folder.anyport(["docker", "check", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect("it is JSON");
    let checks = report["checks"].as_array().expect("there are checks");
    let is_missing = |check: &serde_json::Value| check["status"] == "missing";
    assert_eq!(ended.code(), i32::from(checks.iter().any(is_missing)), "{ended}");
    assert_eq!(report["ok"], ended.code() == 0);
    assert!(checks.iter().filter(|check| check["status"] != "ok").all(|check| check["hint"].is_string()), "{ended}");
    for name in ["docker", "shim", "cache", "cgroups"] {
        assert!(checks.iter().any(|check| check["check"] == name), "{name}: {ended}");
    }
    let text = folder.anyport(["docker", "check"]);
    assert_eq!(text.code(), ended.code());
    assert!(text.stdout.lines().count() >= checks.len(), "{text}");
}

/// Without a `docker` that answers: the same everywhere.
#[test]
fn docker_that_does_not_answer_is_told_of() {
    let folder =
        Folder::with("docker", "#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\necho '{\"Server\":null}'\n");
    fs::set_permissions(folder.path().join("docker"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut command = folder.command(["docker", "check"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()));
    let ended = support::Process::spawn(command).end();
    assert_eq!(ended.code(), 1, "{ended}");
    snapshot!(ended.stdout.lines().take(2).collect::<Vec<_>>().join("\n"), @"
    missing  docker: Docker does not answer: Cannot connect to the Docker daemon
             start it with `sudo systemctl start docker`, or say where it is with `DOCKER_HOST`
    ");
}
