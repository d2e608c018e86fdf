//! The container's view of cgroups, as a mount of type `cgroup` asks for it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{statfs, symlinkat};
use rustix::io::Errno;

use super::mounts::{Entry, Fault, Mounts};
use super::options::{Options, READONLY};

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const UNIFIED_MAGIC: rustix::fs::FsWord = 0x6367_7270;

const HOST: &str = "/sys/fs/cgroup";

type Result<T> = std::result::Result<T, Fault>;

/// Mounts the one hierarchy of version 2, or all that the host has of version 1.
pub(super) fn mount(mounts: &mut Mounts<'_>, entry: &Entry) -> Result<()> {
    let is_unified = statfs(HOST).is_ok_and(|found| found.f_type == UNIFIED_MAGIC);
    if is_unified { unified(mounts, entry) } else { hierarchies(mounts, entry) }
}

fn unified(mounts: &mut Mounts<'_>, entry: &Entry) -> Result<()> {
    let made = mounts.make(&Entry { kind: "cgroup2".to_owned(), ..entry.clone() });
    match made {
        // What is mounted somewhere else already with other options, or by someone else.
        Err(Fault::Os(error)) if matches!(Errno::from_io_error(&error), Some(Errno::PERM | Errno::BUSY)) => {
            mounts.bind(&bind_of(entry, Path::new(HOST), &entry.destination))
        }
        made => made,
    }
}

/// A folder with one mount per hierarchy: with a cgroup namespace of its own they begin at the
/// container's cgroup by themselves, else each is that cgroup's folder.
fn hierarchies(mounts: &mut Mounts<'_>, entry: &Entry) -> Result<()> {
    let mut options = Options { attributes: entry.options.attributes, ..Options::default() };
    options.values.push(("mode".to_owned(), "755".to_owned()));
    options.propagation.clone_from(&entry.options.propagation);
    mounts.make(&Entry { kind: "tmpfs".to_owned(), source: Some("tmpfs".into()), options, ..entry.clone() })?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let mounted = fs::read_to_string("/proc/self/mountinfo")?;
    for hierarchy in mounted.lines().filter_map(|line| Hierarchy::parse(line, &own)) {
        let destination = entry.destination.join(&hierarchy.name);
        if mounts.has_cgroup_namespace {
            let mut options = Options { attributes: entry.options.attributes, ..Options::default() };
            for word in &hierarchy.words {
                match word.split_once('=') {
                    Some((name, value)) => options.values.push((name.to_owned(), value.to_owned())),
                    None => options.words.push(word.clone()),
                }
            }
            mounts.make(&Entry { kind: "cgroup".to_owned(), source: None, destination, options })?;
        } else {
            mounts.bind(&bind_of(entry, &hierarchy.own, &destination))?;
        }
        // `cpu,cpuacct` is known by both names.
        for controller in hierarchy.name.split(',').filter(|controller| *controller != hierarchy.name) {
            let (folder, name) = (mounts.root.find(&entry.destination)?, Path::new(controller));
            match symlinkat(hierarchy.name.as_str(), folder, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

fn bind_of(entry: &Entry, source: &Path, destination: &Path) -> Entry {
    let mut options = Options { bind: true, recursive: true, ..Options::default() };
    options.attributes = entry.options.attributes;
    options.attributes.set |= entry.options.recursive_attributes.set & READONLY;
    let (source, destination) = (Some(source.to_owned()), destination.to_owned());
    Entry { kind: "bind".to_owned(), source, destination, options }
}

/// A hierarchy of version 1.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// The last name of its folder: `memory`, `cpu,cpuacct`, `systemd`.
    name: String,
    /// What it is mounted with: `memory`, or `none` and `name=systemd`.
    words: Vec<String>,
    /// The folder of the cgroup that the process is in.
    own: PathBuf,
}

impl Hierarchy {
    /// From a line of `/proc/self/mountinfo`, and `/proc/self/cgroup`.
    fn parse(line: &str, own: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        if kind.next()? != "cgroup" {
            return None;
        }
        let controllers = kind.nth(1)?.split(',').filter(|word| !matches!(*word, "rw" | "ro" | "xattr"));
        let controllers: Vec<&str> =
            controllers.filter(|word| !word.contains('=') || word.starts_with("name=")).collect();
        let mut place = place.split(' ').skip(3);
        let (mount_root, mount_point) = (place.next()?, PathBuf::from(place.next()?));
        let path = own.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            let is_it = !names.is_empty() && names.split(',').all(|name| controllers.contains(&name));
            is_it.then_some(path)
        })?;
        // A host that is a container itself may have its part of the hierarchy mounted only.
        let below = Path::new(path).strip_prefix(mount_root).unwrap_or(Path::new(path).strip_prefix("/").ok()?);
        let mut words: Vec<String> = controllers.iter().map(|word| (*word).to_owned()).collect();
        if words.iter().any(|word| word.starts_with("name=")) {
            words.insert(0, "none".to_owned());
        }
        Some(Self { name: mount_point.file_name()?.to_str()?.to_owned(), words, own: mount_point.join(below) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "12:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n0::/\n";

    fn parse(line: &str) -> Option<Hierarchy> {
        Hierarchy::parse(line, OWN)
    }

    #[test]
    fn hierarchies_are_found() {
        let memory =
            parse("34 33 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory").unwrap();
        assert_eq!((memory.name.as_str(), memory.words.as_slice()), ("memory", &["memory".to_owned()][..]));
        assert_eq!(memory.own, Path::new("/sys/fs/cgroup/memory/docker/a"));
        let both = parse("34 33 0:29 /docker /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct").unwrap();
        assert_eq!(
            (both.name.as_str(), both.own.as_path()),
            ("cpu,cpuacct", Path::new("/sys/fs/cgroup/cpu,cpuacct/a"))
        );
        let systemd = "34 33 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd";
        assert_eq!(parse(systemd).unwrap().words, ["none", "name=systemd"]);
    }

    #[test]
    fn what_is_no_hierarchy_is_left() {
        assert_eq!(parse("34 33 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"), None);
        assert_eq!(parse("34 33 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"), None);
        assert_eq!(parse(""), None);
    }
}
