//! How much memory there is for this process: the machine's, or what its control groups leave of it.

use std::fs;
use std::path::Path;

/// Bytes of memory that this process may use, as far as the kernel tells.
pub(crate) fn memory_bytes() -> u64 {
    memory_bytes_at(Path::new("/"))
}

fn memory_bytes_at(root: &Path) -> u64 {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| total(&text));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(limit_files).flat_map(|(hierarchy, group, file)| {
        // Each group has the limits of those around it. The root of a container may be any of them.
        let folders: Vec<_> = group.ancestors().map(|group| root.join(hierarchy).join(group).join(file)).collect();
        folders.into_iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
    });
    limits.chain(machine).min().unwrap_or(u64::MAX)
}

/// `MemTotal:       24683000 kB`
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Of a line of cgroup(7)'s `/proc/PID/cgroup`, `ID:CONTROLLERS:PATH`: the hierarchy, the group's folder there, and the
/// file of its limit of memory.
fn limit_files(line: &str) -> Option<(&'static str, &Path, &'static str)> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let (hierarchy, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    Some((hierarchy, Path::new(path.trim_start_matches('/')), file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> u64 {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it is in a folder")).expect("it is ours");
            fs::write(path, text).expect("it is ours");
        }
        memory_bytes_at(root.path())
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        2048 kB\nMemFree:        1024 kB\n");

    #[test]
    fn the_least_of_what_binds_is_what_there_is() {
        assert_eq!(machine(&[]), u64::MAX);
        assert_eq!(machine(&[MEMINFO]), 2 << 20);
        let v2 = ("proc/self/cgroup", "0::/pods/one\n");
        let none = ("sys/fs/cgroup/pods/one/memory.max", "max\n");
        assert_eq!(machine(&[MEMINFO, v2, none]), 2 << 20);
        let outer = ("sys/fs/cgroup/pods/memory.max", "1048576\n");
        assert_eq!(machine(&[MEMINFO, v2, none, outer]), 1 << 20);
        let v1 = ("proc/self/cgroup", "9:cpu:/elsewhere\n8:memory,hugetlb:/docker/one\n");
        let inner = ("sys/fs/cgroup/memory/docker/one/memory.limit_in_bytes", "65536\n");
        assert_eq!(machine(&[MEMINFO, v1, inner]), 1 << 16);
        // Where a container sees its own group as the root.
        let own = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n");
        assert_eq!(machine(&[MEMINFO, v1, own]), 1 << 12);
        // What is around the hierarchy is nobody's limit.
        assert_eq!(machine(&[MEMINFO, v2, none, ("memory.max", "1"), ("sys/fs/memory.max", "1")]), 2 << 20);
        // As it is without a limit.
        let most = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(machine(&[MEMINFO, v1, most]), 2 << 20);
    }
}
