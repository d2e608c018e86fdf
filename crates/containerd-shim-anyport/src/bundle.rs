//! A container as containerd describes it: the OCI `config.json` of its bundle.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use anyport::Error;

/// The front of every option's name, as label, annotation or variable of the environment.
const OPTION_FRONT: &str = "io.anyport.";

/// The annotations by which containers share one shim: a pod's, and containerd's own word for it.
const GROUPS: &[&str] = &["io.kubernetes.cri.sandbox-id", "io.containerd.runc.v2.group"];

/// The kernel's own file systems. They are not mounted: nobody in there is a process of its own, and
/// through `/proc` a guest would read and write the memory of the runtime that it runs in.
const KERNEL_FILE_SYSTEMS: &[&str] = &["cgroup", "cgroup2", "devpts", "mqueue", "proc", "sysfs"];

/// A bundle: a folder with `config.json`.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
    pub(crate) spec: Spec,
    /// Where the root file system is, for the host.
    pub(crate) rootfs: PathBuf,
}

impl Bundle {
    /// Reads it.
    ///
    /// # Errors
    /// There is no `config.json`, or it is not one.
    pub(crate) fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let mut spec = Spec::load(path.join("config.json")).map_err(|error| {
            Error::host(format!("the bundle `{}` has no usable config.json: {error}", path.display()))
        })?;
        let root = spec.root().as_ref().map_or_else(|| PathBuf::from("rootfs"), |root| root.path().clone());
        // Absolute ones stay as they are.
        let rootfs = path.join(root);
        leave_kernel_out(&mut spec);
        Ok(Self { path, spec, rootfs })
    }

    /// The words of the container's command line.
    pub(crate) fn args(&self) -> &[String] {
        self.spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default()
    }

    /// The folder that they are relative to, in the container.
    pub(crate) fn cwd(&self) -> PathBuf {
        self.spec.process().as_ref().map_or_else(|| PathBuf::from("/"), |process| process.cwd().clone())
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.spec.annotations().as_ref()?.get(name).map(String::as_str)
    }

    /// What its shim is shared by, if it is.
    pub(crate) fn group(&self) -> Option<&str> {
        GROUPS.iter().find_map(|name| self.annotation(name))
    }

    /// Whether this is the container that only holds the namespaces of a pod.
    pub(crate) fn is_sandbox(&self) -> bool {
        self.annotation("io.kubernetes.cri.container-type") == Some("sandbox")
    }

    /// The container's environment, without our options.
    pub(crate) fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.whole_env().filter(|(name, _)| !name.starts_with(OPTION_FRONT))
    }

    fn whole_env(&self) -> impl Iterator<Item = (&str, &str)> {
        let env = self.spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
        env.iter().filter_map(|variable| variable.split_once('='))
    }

    /// One of our options, if who starts the container gave it as an annotation.
    pub(crate) fn option_of_annotations(&self, name: &str) -> Option<&str> {
        self.annotation(&format!("{OPTION_FRONT}{name}"))
    }

    /// Our options: of labels, over them those of annotations, over them those of the environment.
    pub(crate) fn options(&self, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let annotations = self.spec.annotations().iter().flatten();
        let annotations = annotations.map(|(name, value)| (name.as_str(), value.as_str()));
        let mut options = labels.clone();
        options.extend(options_of(annotations.chain(self.whole_env())));
        // Of what the guest may reach, its image does not have the last word.
        if let Some(rules) = self.option_of_annotations("allow-net") {
            options.insert("allow-net".to_owned(), rules.to_owned());
        }
        options
    }

    /// How many cores its CPU limit is worth, rounded up.
    pub(crate) fn cores(&self) -> Option<u64> {
        let resources = self.spec.linux().as_ref()?.resources().as_ref()?;
        let cpu = resources.cpu().as_ref()?;
        let quota = u64::try_from(cpu.quota()?).ok().filter(|quota| *quota > 0)?;
        Some(quota.div_ceil(cpu.period().filter(|period| *period > 0).unwrap_or(100_000)))
    }

    /// Opens a file of the container as a process in it would: volumes included, and no link leads out.
    pub(crate) fn open_file(&self, path: &Path) -> io::Result<File> {
        let path = normal(&Path::new("/").join(path));
        let volumes = self.spec.mounts().iter().flatten();
        let volume =
            volumes.rev().find_map(|mount| Some((bind_source(mount)?, path.strip_prefix(mount.destination()).ok()?)));
        let found = match volume {
            // The volume is the file itself.
            Some((source, rest)) if rest.as_os_str().is_empty() => {
                rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?
            }
            Some((source, rest)) => find(source, rest)?,
            None => find(&self.rootfs, path.strip_prefix("/").unwrap_or(&path))?,
        };
        // Before it is opened: to open a device of the image may be to use it, and to open a pipe to wait.
        let is_file = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) == FileType::RegularFile;
        if is_file { File::open(format!("/proc/self/fd/{}", found.as_raw_fd())) } else { Err(Errno::NOENT.into()) }
    }
}

/// A file below a folder; no link leads out of that.
fn find(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// `io.anyport.NAME=VALUE`, without the front.
pub(crate) fn options_of<'a>(
    variables: impl Iterator<Item = (&'a str, &'a str)>,
) -> impl Iterator<Item = (String, String)> {
    variables.filter_map(|(name, value)| Some((name.strip_prefix(OPTION_FRONT)?.to_owned(), value.to_owned())))
}

fn bind_source(mount: &Mount) -> Option<&Path> {
    let is_bind = mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    mount.source().as_deref().filter(|_| is_bind)
}

fn leave_kernel_out(spec: &mut Spec) {
    let Some(mounts) = spec.mounts_mut() else { return };
    mounts.retain(|mount| mount.typ().as_deref().is_none_or(|kind| !KERNEL_FILE_SYSTEMS.contains(&kind)));
}

/// Without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => _ = normal.pop(),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Read;

    fn bundle(config: &serde_json::Value) -> (tempfile::TempDir, Bundle) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("rootfs")).expect("room");
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("room");
        let bundle = Bundle::open(folder.path()).expect("a bundle");
        (folder, bundle)
    }

    fn text(file: io::Result<File>) -> String {
        let mut text = String::new();
        file.expect("there").read_to_string(&mut text).expect("readable");
        text
    }

    #[test]
    fn files_are_found_in_the_image_and_in_volumes() {
        let volume = tempfile::tempdir().expect("a folder");
        std::fs::write(volume.path().join("b.wasm"), "volume").expect("room");
        let source = volume.path().display().to_string();
        let (_folder, bundle) = bundle(&json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/data", "type": "bind", "source": source, "options": ["rbind"] },
                { "destination": "/one.wasm", "type": "bind", "source": format!("{source}/b.wasm") },
                { "destination": "/proc", "type": "proc", "source": "proc" },
            ],
        }));
        std::fs::write(bundle.rootfs.join("app.wasm"), "image").expect("room");
        std::os::unix::fs::symlink("/app.wasm", bundle.rootfs.join("link.wasm")).expect("room");
        std::os::unix::fs::symlink("../../../../etc/passwd", bundle.rootfs.join("out.wasm")).expect("room");
        for (path, want) in [
            ("/app.wasm", "image"),
            ("/./x/../app.wasm", "image"),
            ("/link.wasm", "image"),
            ("/data/b.wasm", "volume"),
            ("/one.wasm", "volume"),
        ] {
            assert_eq!(text(bundle.open_file(Path::new(path))), want, "{path}");
        }
        // A pipe is no module, and nobody waits at it.
        rustix::fs::mkfifoat(rustix::fs::CWD, bundle.rootfs.join("pipe.wasm"), 0o600.into()).expect("a pipe");
        assert!(bundle.open_file(Path::new("/pipe.wasm")).is_err());
        // Within the image's root there is no such file.
        assert!(bundle.open_file(Path::new("/out.wasm")).is_err());
        assert_eq!(bundle.spec.mounts().as_ref().map(Vec::len), Some(2));
    }

    #[test]
    fn the_nearest_option_counts() {
        let (_folder, bundle) = bundle(&json!({
            "ociVersion": "1.0.2",
            "process": {
                "cwd": "/", "user": { "uid": 0, "gid": 0 },
                "env": ["PORT=80", "io.anyport.workers=3", "EMPTY="],
            },
            "annotations": { "io.anyport.workers": "2", "io.anyport.timeout": "1s", "other": "x" },
        }));
        let labels = [("timeout", "9s"), ("log", "info")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let options = bundle.options(&labels.into());
        let options: Vec<_> = options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(options, [("log", "info"), ("timeout", "1s"), ("workers", "3")]);
        assert_eq!(bundle.env().collect::<Vec<_>>(), [("PORT", "80"), ("EMPTY", "")]);
    }
}
