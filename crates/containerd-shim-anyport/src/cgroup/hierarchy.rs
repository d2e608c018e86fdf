//! Where cgroups are on this machine, and where in there a container's is.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyport::Error;

use super::failed;

/// What may stand beside mount options in the line of a v1 hierarchy.
const CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// The cgroup file systems that control processes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hierarchies {
    /// Controllers in hierarchies of their own. A machine that also mounts v2 beside them, for systemd
    /// alone, is one of these.
    V1(Vec<Mount>),
    /// One hierarchy for all.
    V2(PathBuf),
}

/// One v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// `memory`; `cpu` and `cpuacct` are often together; `name=systemd` controls nothing.
    pub(super) controllers: Vec<String>,
    pub(super) point: PathBuf,
}

impl Mount {
    /// Whether this one only names groups: nothing depends on it but systemd's bookkeeping.
    pub(super) fn is_named(&self) -> bool {
        self.controllers.iter().all(|controller| controller.starts_with("name="))
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }
}

impl Hierarchies {
    /// Those of this process's mount namespace.
    pub(super) fn find() -> Result<Self, Error> {
        let path = "/proc/self/mountinfo";
        let mounts = fs::read_to_string(path).map_err(|error| failed(format!("cannot read `{path}`"), &error))?;
        Self::parse(&mounts).ok_or_else(|| {
            super::wrong("no cgroup file system is mounted")
                .with_hint("mount one: `mount -t cgroup2 none /sys/fs/cgroup`")
        })
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mut v1: Vec<Mount> = Vec::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            let Some(found) = Line::parse(line) else { continue };
            match found.kind {
                "cgroup2" if found.point == Path::new("/sys/fs/cgroup") => return Some(Self::V2(found.point)),
                "cgroup2" => v2 = v2.or(Some(found.point)),
                "cgroup" => {
                    let options = found.options.split(',');
                    let own = options.filter(|option| CONTROLLERS.contains(option) || option.starts_with("name="));
                    let controllers: Vec<String> = own.map(str::to_owned).collect();
                    // The same hierarchy can be mounted again, for a container say: the first one is the host's.
                    if !controllers.is_empty() && !v1.iter().any(|mount| mount.controllers == controllers) {
                        v1.push(Mount { controllers, point: found.point });
                    }
                }
                _ => {}
            }
        }
        if v1.iter().all(Mount::is_named) { v2.map(Self::V2) } else { Some(Self::V1(v1)) }
    }
}

/// What is used of a line of mountinfo: `proc_pid_mountinfo(5)`.
struct Line<'a> {
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1)?);
        Some(Self { point: PathBuf::from(point.replace("\\040", " ")), kind, options })
    }
}

/// Where below each hierarchy the cgroup is that `linux.cgroupsPath` means.
///
/// A path is taken as it is. `SLICE:PREFIX:NAME` is what engines with the systemd driver give: systemd
/// is asked for nothing here, but the cgroup is made where systemd would have it, beneath the slice that
/// has the pod's limits, and where kubelet looks for its figures.
pub(super) fn relative(path: &Path, id: &str) -> Result<PathBuf, Error> {
    let unusable = |why: &str| super::wrong(format!("the cgroup path `{}` {why}", path.display()));
    let text = path.to_str().ok_or_else(|| unusable("is not UTF-8"))?;
    let parts: Vec<&str> = text.split(':').collect();
    let relative = match parts.as_slice() {
        [""] => PathBuf::from("anyport").join(id),
        [slice, prefix, name] if !slice.contains('/') => {
            let name = if name.is_empty() { id } else { *name };
            let unit = if name.ends_with(".slice") {
                name.to_owned()
            } else if prefix.is_empty() {
                format!("{name}.scope")
            } else {
                format!("{prefix}-{name}.scope")
            };
            let slice = if slice.is_empty() { "system.slice" } else { slice };
            slice_path(slice).ok_or_else(|| unusable("names no slice of systemd"))?.join(unit)
        }
        _ => PathBuf::from(text.trim_start_matches('/')),
    };
    let plain = |component: Component<'_>| matches!(component, Component::Normal(_));
    if relative.as_os_str().is_empty() || !relative.components().all(plain) {
        return Err(unusable("is not a place of its own below the cgroup file system"));
    }
    Ok(relative)
}

/// `a-b.slice` is inside of `a.slice`: `systemd.slice(5)`.
fn slice_path(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    if name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
    Some(ends.map(|end| format!("{}.slice", &name[..end])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_both_kinds_is_of_v1() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            36 31 0:32 /docker/x /mnt/with\\040space rw,relatime - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\nnonsense\n";
        let Some(Hierarchies::V1(found)) = Hierarchies::parse(mounts) else { panic!("not v1") };
        let found: Vec<_> = found.iter().map(|mount| (mount.controllers.join("+"), mount.point.clone())).collect();
        let expected = [
            ("cpu+cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ("memory", "/sys/fs/cgroup/memory"),
            ("name=systemd", "/sys/fs/cgroup/systemd"),
        ];
        assert_eq!(found, expected.map(|(name, point)| (name.to_owned(), PathBuf::from(point))));
    }

    #[test]
    fn a_machine_without_controllers_of_v1_is_of_v2() {
        let named = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let at = |point: &str| Some(Hierarchies::V2(PathBuf::from(point)));
        assert_eq!(Hierarchies::parse(&format!("{named}{unified}")), at("/sys/fs/cgroup/unified"));
        let whole = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        assert_eq!(Hierarchies::parse(whole), at("/sys/fs/cgroup"));
        assert_eq!(Hierarchies::parse(""), None);
    }

    #[test]
    fn paths_of_engines_with_either_driver() {
        let place = |path: &str| relative(Path::new(path), "c1").map(|path| path.display().to_string());
        let is = |path: &str, expected: &str| assert_eq!(place(path).expect(path), expected);
        is("", "anyport/c1");
        is("/docker/abc", "docker/abc");
        is("k8s.io/abc", "k8s.io/abc");
        is("/odd/a:b", "odd/a:b");
        is("system.slice:docker:abc", "system.slice/docker-abc.scope");
        is(":cri:abc", "system.slice/cri-abc.scope");
        is("-.slice::abc", "abc.scope");
        is(
            "kubepods-burstable-pod1_2.slice:cri-containerd:abc",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope",
        );
        for path in ["/", "..", "/a/../b", "a/..", "x:y:z", "a--b.slice:p:n", "a.slice:../p:n", ".slice:a:b"] {
            assert!(place(path).is_err(), "{path}");
        }
    }
}
