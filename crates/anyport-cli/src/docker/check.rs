//! `anyport docker check`: whether Docker, or containerd alone, can run WebAssembly here, and what to do
//! where it cannot.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::daemons::Daemon;
use super::engine::{self, Engine, NoEngine, major, minor};
use super::{RUNTIME, SHIM, daemons, version_of};

/// Where the shim keeps compiled modules.
pub(super) const CACHE_FOLDER: &str = "/var/lib/anyport/cache";

/// The first Docker Engine that takes a shim as a runtime.
const ENGINE_OLDEST: u32 = 23;

/// The first containerd that the shim has been tried with.
const CONTAINERD_OLDEST: (u32, u32) = (1, 6);

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// For scripts.
    name: &'static str,
    verdict: Verdict,
    message: String,
    /// What to do.
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Containers do not run, or not all of them, until it is done.
    Missing,
    /// It could not be looked at.
    Unknown,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

impl Finding {
    fn good(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, message: message.into(), hint: None }
    }

    fn missing(name: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Missing, message: message.into(), hint: Some(hint.into()) }
    }

    fn unknown(name: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Unknown, message: message.into(), hint: Some(hint.into()) }
    }
}

/// Looks at everything.
pub(super) fn all() -> Vec<Finding> {
    let daemons = Daemon::all();
    let engine = engine::find();
    let mut findings = of_engine(&engine, !daemons.is_empty());
    let reported = engine.as_ref().ok().and_then(|engine| engine.containerd.clone());
    findings.extend(of_containerd(reported.or_else(daemons::containerd_version).as_deref()));
    if daemons.is_empty() {
        findings.push(not_running());
    }
    for daemon in &daemons {
        findings.extend(of_shim(daemon));
    }
    let named = daemons.iter().find_map(|daemon| daemon.variable("ANYPORT_CACHE_DIR").ok().flatten());
    let folder = named.filter(|folder| !folder.is_empty()).map_or_else(|| PathBuf::from(CACHE_FOLDER), PathBuf::from);
    findings.push(of_cache(&folder));
    findings.push(of_cgroups(engine.as_ref().ok()));
    findings
}

pub(super) fn is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict != Verdict::Missing)
}

pub(super) fn as_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { name, verdict, message, hint } in findings {
        text += &format!("{:8} {name}: {message}\n", verdict.word());
        if let Some(hint) = hint {
            text += &format!("{:8} {hint}\n", "");
        }
    }
    let docker_answers = findings.iter().any(|finding| finding.name == "docker" && finding.verdict == Verdict::Good);
    if docker_answers && is_well(findings) {
        text += &format!("run: docker run -p 8080:8080 --runtime {RUNTIME} --platform wasi/wasm32 IMAGE\n");
    }
    text
}

pub(super) fn as_json(findings: &[Finding]) -> String {
    let list: Vec<_> = findings
        .iter()
        .map(|Finding { name, verdict, message, hint }| {
            json!({ "check": name, "status": verdict.word(), "message": message, "hint": hint })
        })
        .collect();
    let whole = json!({ "ok": is_well(findings), "checks": list });
    serde_json::to_string_pretty(&whole).expect("it is plain data") + "\n"
}

/// Docker. Where there is none, containerd may serve Kubernetes without it.
fn of_engine(engine: &Result<Engine, NoEngine>, containerd_runs: bool) -> Vec<Finding> {
    const NAME: &str = "docker";
    let engine = match engine {
        Ok(engine) => engine,
        Err(NoEngine::NoCommand) if containerd_runs => {
            let message = "there is no `docker` command here, so that Docker was not asked";
            return vec![Finding::unknown(NAME, message, "for Kubernetes it is not needed")];
        }
        Err(NoEngine::NoCommand) => {
            let message = "there is no `docker` command here, and containerd does not run";
            return vec![Finding::missing(
                NAME,
                message,
                "install Docker Engine: https://docs.docker.com/engine/install/",
            )];
        }
        Err(NoEngine::NoAnswer(said)) => {
            let hint = if said.contains("permission denied") {
                "ask as root: `sudo anyport docker check`"
            } else {
                "start it with `sudo systemctl start docker`, or say where it is with `DOCKER_HOST`"
            };
            return vec![Finding::missing(NAME, format!("Docker does not answer: {said}"), hint)];
        }
    };
    if engine.name.contains("Podman") {
        let message = format!("`docker` is Podman {}, which starts no shims of containerd", engine.version);
        return vec![Finding::missing(NAME, message, "install Docker Engine, or use containerd")];
    }
    let version = &engine.version;
    let mut findings = vec![if major(version).is_some_and(|major| major < ENGINE_OLDEST) {
        let message = format!("Docker Engine {version} takes no shim as a runtime: {ENGINE_OLDEST} and newer do");
        Finding::missing(NAME, message, "update Docker; there is no OCI runtime of anyport for older ones")
    } else {
        Finding::good(NAME, format!("Docker Engine {version} answers"))
    }];
    findings.push(if engine.has_image_store {
        Finding::good("image-store", "images are in containerd's store, which has platforms like `wasi/wasm32`")
    } else {
        let file = "/etc/docker/daemon.json";
        let verb = if Path::new(file).exists() { "add to" } else { "write to" };
        Finding::missing(
            "image-store",
            "images are in Docker's own store, which has no platforms like `wasi/wasm32`",
            format!(
                "{verb} `{file}`: `{{ \"features\": {{ \"containerd-snapshotter\": true }} }}`\n         and `sudo \
                 systemctl restart docker`; images of the old store are hidden then"
            ),
        )
    });
    findings
}

fn of_containerd(version: Option<&str>) -> Option<Finding> {
    let version = version?;
    Some(if minor(version).is_some_and(|minor| minor < CONTAINERD_OLDEST) {
        let (major, minor) = CONTAINERD_OLDEST;
        let message = format!("containerd {version} is older than {major}.{minor}, the first that works with the shim");
        Finding::missing("containerd", message, "update containerd")
    } else {
        Finding::good("containerd", format!("containerd {version}"))
    })
}

fn not_running() -> Finding {
    let message = format!("neither containerd nor Docker runs here, so that nothing looks for `{SHIM}`");
    Finding::unknown("shim", message, "start one of them, and check again; one on another machine is checked there")
}

/// Whether a daemon finds the shim, and which one it is.
fn of_shim(daemon: &Daemon) -> Vec<Finding> {
    const NAME: &str = "shim";
    let who = format!("{} (process {})", daemon.name, daemon.pid);
    let found = match daemon.find(SHIM) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let message = format!("only root sees the PATH of {who}");
            return vec![Finding::unknown(NAME, message, "`sudo anyport docker check`")];
        }
        Err(error) => {
            return vec![Finding::unknown(NAME, format!("{who} cannot be looked at: {error}"), "check again")];
        }
    };
    let Some(found) = found else {
        let path = daemon.variable("PATH").ok().flatten().unwrap_or_default();
        let message = format!("{who} does not find `{SHIM}`; its PATH is `{}`", path.display());
        return vec![Finding::missing(NAME, message, format!("`sudo anyport docker install{}`", prefix_of(path)))];
    };
    let shown = daemon.shown(&found).display().to_string();
    let ours = env!("CARGO_PKG_VERSION");
    let again = "`sudo anyport docker install` installs the one that is beside this `anyport`";
    let version = match version_of(&found) {
        Ok(version) if version == ours => Finding::good(NAME, format!("{who} finds `{shown}`, of version {version}")),
        Ok(version) => {
            let message = format!("{who} finds `{shown}`, which is of version {version}: this is {ours}");
            Finding::missing(NAME, message, again)
        }
        Err(why) => Finding::missing(NAME, format!("{who} finds `{shown}`, which does not run: {why}"), again),
    };
    let unsafe_place = [found.as_path(), found.parent().unwrap_or_else(|| Path::new("/"))].into_iter().find(|path| {
        fs::metadata(path).is_ok_and(|metadata| metadata.uid() != 0 || metadata.permissions().mode() & 0o002 != 0)
    });
    let unsafe_place = unsafe_place.map(|path| {
        let place = daemon.shown(path).display().to_string();
        let message = format!("`{place}` can be changed by others than root, and runs as root");
        Finding::missing(NAME, message, format!("`sudo chown root {place}` and `sudo chmod go-w {place}`"))
    });
    [version].into_iter().chain(unsafe_place).collect()
}

/// The words that install into a folder of this PATH: none where the usual one is in it.
fn prefix_of(path: &std::ffi::OsStr) -> String {
    let folders: Vec<PathBuf> = std::env::split_paths(path).filter(|folder| folder.is_absolute()).collect();
    match folders.first() {
        Some(first) if !folders.iter().any(|folder| folder == Path::new("/usr/local/bin")) => {
            format!(" --prefix {}", first.display())
        }
        _ => String::new(),
    }
}

/// Whether the shim, which is root, can keep what it compiles.
fn of_cache(folder: &Path) -> Finding {
    const NAME: &str = "cache";
    let shown = folder.display();
    match fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => {
            Finding::missing(NAME, format!("`{shown}` is not a folder"), format!("`sudo rm {shown}`"))
        }
        Ok(metadata) if metadata.uid() != 0 || metadata.permissions().mode() & 0o077 != 0 => Finding::missing(
            NAME,
            format!("`{shown}` is not root's alone, and code that runs as root is kept there"),
            format!("`sudo chown root {shown}` and `sudo chmod 700 {shown}`"),
        ),
        Ok(_) => Finding::good(NAME, format!("compiled modules are kept in `{shown}`")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::unknown(NAME, format!("only root sees `{shown}`"), "`sudo anyport docker check`")
        }
        Err(_) => {
            let parent = folder.ancestors().skip(1).find(|parent| parent.exists()).unwrap_or_else(|| Path::new("/"));
            let flags = rustix::fs::statvfs(parent).map(|system| system.f_flag);
            if flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::RDONLY)) {
                let message = format!("`{shown}` cannot be made: the file system is read-only");
                let hint = "set `ANYPORT_CACHE_DIR` in containerd's environment to another folder";
                return Finding::missing(NAME, message, hint);
            }
            Finding::good(NAME, format!("compiled modules will be kept in `{shown}`"))
        }
    }
}

fn of_cgroups(engine: Option<&Engine>) -> Finding {
    const NAME: &str = "cgroups";
    let root = Path::new("/sys/fs/cgroup");
    let seen = if root.join("cgroup.controllers").exists() {
        Some("2")
    } else if root.join("memory").exists() || root.join("pids").exists() {
        Some("1")
    } else {
        None
    };
    match engine.and_then(|engine| engine.cgroup_version.as_deref()).or(seen) {
        None => {
            let message = "no cgroup file system is mounted, and containers need one";
            Finding::missing(NAME, message, "`sudo mount -t cgroup2 none /sys/fs/cgroup`")
        }
        Some(_) if engine.is_some_and(|engine| !engine.limits_memory) => {
            let message = "the kernel does not limit the memory of cgroups, and so not of containers";
            Finding::missing(NAME, message, "boot with `cgroup_enable=memory`")
        }
        Some(version) => Finding::good(NAME, format!("version {version}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(version: &str, has_image_store: bool) -> Engine {
        Engine {
            name: "Engine".to_owned(),
            version: version.to_owned(),
            containerd: None,
            has_image_store,
            cgroup_version: Some("2".to_owned()),
            limits_memory: true,
        }
    }

    #[test]
    fn what_is_said_of_engines() {
        let said = |engine: Result<Engine, NoEngine>, containerd| as_text(&of_engine(&engine, containerd));
        insta::assert_snapshot!(said(Ok(engine("28.5.2", true)), true), @"
        ok       docker: Docker Engine 28.5.2 answers
        ok       image-store: images are in containerd's store, which has platforms like `wasi/wasm32`
        run: docker run -p 8080:8080 --runtime io.containerd.anyport.v1 --platform wasi/wasm32 IMAGE
        ");
        insta::assert_snapshot!(said(Ok(engine("20.10.24+dfsg1", false)), true).replace("add to", "write to"), @r#"
        missing  docker: Docker Engine 20.10.24+dfsg1 takes no shim as a runtime: 23 and newer do
                 update Docker; there is no OCI runtime of anyport for older ones
        missing  image-store: images are in Docker's own store, which has no platforms like `wasi/wasm32`
                 write to `/etc/docker/daemon.json`: `{ "features": { "containerd-snapshotter": true } }`
                 and `sudo systemctl restart docker`; images of the old store are hidden then
        "#);
        let podman = Engine { name: "Podman Engine".to_owned(), ..engine("5.8.6", false) };
        insta::assert_snapshot!(said(Ok(podman), true), @"
        missing  docker: `docker` is Podman 5.8.6, which starts no shims of containerd
                 install Docker Engine, or use containerd
        ");
        insta::assert_snapshot!(said(Err(NoEngine::NoCommand), true), @"
        unknown  docker: there is no `docker` command here, so that Docker was not asked
                 for Kubernetes it is not needed
        ");
        insta::assert_snapshot!(said(Err(NoEngine::NoCommand), false), @"
        missing  docker: there is no `docker` command here, and containerd does not run
                 install Docker Engine: https://docs.docker.com/engine/install/
        ");
        let told = |text: &str| Err(NoEngine::NoAnswer(text.to_owned()));
        insta::assert_snapshot!(said(told("Cannot connect to the Docker daemon"), false), @"
        missing  docker: Docker does not answer: Cannot connect to the Docker daemon
                 start it with `sudo systemctl start docker`, or say where it is with `DOCKER_HOST`
        ");
        insta::assert_snapshot!(said(told("permission denied while trying to connect"), true), @"
        missing  docker: Docker does not answer: permission denied while trying to connect
                 ask as root: `sudo anyport docker check`
        ");
    }

    #[test]
    fn what_is_said_of_containerd_and_cgroups() {
        let said = |version| as_text(&Vec::from_iter(of_containerd(version)));
        insta::assert_snapshot!(said(Some("1.5.9")), @"
        missing  containerd: containerd 1.5.9 is older than 1.6, the first that works with the shim
                 update containerd
        ");
        assert!(said(Some("1.6.20~ds1")).starts_with("ok "));
        assert!(said(Some("2.1.9")).starts_with("ok "));
        let unlimited = Engine { limits_memory: false, ..engine("28.5.2", true) };
        insta::assert_snapshot!(as_text(&[of_cgroups(Some(&unlimited))]), @"
        missing  cgroups: the kernel does not limit the memory of cgroups, and so not of containers
                 boot with `cgroup_enable=memory`
        ");
    }

    #[test]
    fn the_cache_is_roots_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("a/b");
        assert_eq!(of_cache(&inner).verdict, Verdict::Good);
        fs::create_dir_all(&inner).expect("it is ours");
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).expect("it is ours");
        assert_eq!(of_cache(&inner).verdict, Verdict::Missing);
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).expect("it is ours");
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(of_cache(&inner).verdict, if is_root { Verdict::Good } else { Verdict::Missing });
        fs::write(folder.path().join("file"), "").expect("it is ours");
        assert_eq!(of_cache(&folder.path().join("file")).verdict, Verdict::Missing);
    }

    #[test]
    fn the_usual_folder_needs_no_words() {
        let said = ["/usr/local/sbin:/usr/local/bin:/bin", "/opt/bin:/usr/bin", ""];
        let said = said.map(|path| prefix_of(std::ffi::OsStr::new(path)));
        assert_eq!(said, ["", " --prefix /opt/bin", ""]);
    }

    #[test]
    fn what_is_unknown_is_not_missing() {
        let findings = [Finding::good("a", "b"), Finding::unknown("c", "d", "e")];
        assert!(is_well(&findings));
        let value: serde_json::Value = serde_json::from_str(&as_json(&findings)).expect("it is JSON");
        assert_eq!(value["ok"], true);
        assert_eq!(value["checks"][1], json!({ "check": "c", "status": "unknown", "message": "d", "hint": "e" }));
        assert_eq!(value["checks"][0]["hint"], serde_json::Value::Null);
    }
}
