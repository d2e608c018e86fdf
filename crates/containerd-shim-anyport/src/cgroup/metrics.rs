//! The figures of a cgroup, in the messages that `docker stats`, `ctr metrics` and kubelet read.
//!
//! Readers of these messages take some parts for granted: what is there for every container is always
//! there, with zeros where the kernel does not count.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyport::Error;
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};

use super::hierarchy::Hierarchies;
use super::{Cgroup, wrong};

/// The kernel's `USER_HZ`, which is 100 on all architectures that Rust's std runs on.
const NANOSECONDS_OF_A_TICK: u64 = 1_000_000_000 / 100;

pub(super) fn read(cgroup: &Cgroup) -> Result<Any, Error> {
    match &cgroup.hierarchies {
        Hierarchies::V1(_) => any(&read_v1(cgroup)?),
        Hierarchies::V2(point) => any(&read_v2(&point.join(&cgroup.relative))?),
    }
}

/// containerd looks types up by their name alone.
fn any<M: MessageFull>(message: &M) -> Result<Any, Error> {
    let value = message.write_to_bytes().map_err(|error| wrong(format!("figures cannot be encoded: {error}")))?;
    Ok(Any { type_url: M::descriptor().full_name().to_owned(), value, ..Any::default() })
}

fn read_v1(cgroup: &Cgroup) -> Result<v1::Metrics, Error> {
    let there = cgroup.folders().iter().any(|(_, folder)| folder.exists());
    if !there {
        return Err(wrong(format!("there is no cgroup `{}`", cgroup.relative.display())));
    }
    let folder = |controller| cgroup.controller(controller).unwrap_or_default();
    let mut metrics = v1::Metrics::new();
    metrics.pids = MessageField::some(v1::PidsStat {
        current: count(&folder("pids").join("pids.current")),
        // 0 is no limit.
        limit: number(&folder("pids").join("pids.max")).unwrap_or(0),
        ..v1::PidsStat::default()
    });
    metrics.cpu = MessageField::some(cpu_v1(&folder("cpu"), &folder("cpuacct")));
    metrics.memory = MessageField::some(memory_v1(&folder("memory")));
    let oom = table(&folder("memory").join("memory.oom_control"));
    metrics.memory_oom_control = MessageField::some(v1::MemoryOomControl {
        oom_kill_disable: value(&oom, "oom_kill_disable"),
        under_oom: value(&oom, "under_oom"),
        oom_kill: value(&oom, "oom_kill"),
        ..v1::MemoryOomControl::default()
    });
    metrics.blkio = MessageField::some(io_v1(&folder("blkio")));
    for size in page_sizes(&folder("hugetlb"), ".usage_in_bytes") {
        let file = |end: &str| count(&folder("hugetlb").join(format!("hugetlb.{size}.{end}")));
        let (usage, max, failcnt) = (file("usage_in_bytes"), file("max_usage_in_bytes"), file("failcnt"));
        metrics.hugetlb.push(v1::HugetlbStat { usage, max, failcnt, pagesize: size, ..v1::HugetlbStat::default() });
    }
    Ok(metrics)
}

fn cpu_v1(cpu: &Path, cpuacct: &Path) -> v1::CPUStat {
    let ticks = table(&cpuacct.join("cpuacct.stat"));
    let exact = |file: &str, of: &str| {
        number(&cpuacct.join(file)).unwrap_or_else(|| value(&ticks, of).saturating_mul(NANOSECONDS_OF_A_TICK))
    };
    let per_cpu = fs::read_to_string(cpuacct.join("cpuacct.usage_percpu")).unwrap_or_default();
    let usage = v1::CPUUsage {
        total: count(&cpuacct.join("cpuacct.usage")),
        user: exact("cpuacct.usage_user", "user"),
        kernel: exact("cpuacct.usage_sys", "system"),
        per_cpu: per_cpu.split_whitespace().filter_map(|used| used.parse().ok()).collect(),
        ..v1::CPUUsage::default()
    };
    let stat = table(&cpu.join("cpu.stat"));
    let throttling = v1::Throttle {
        periods: value(&stat, "nr_periods"),
        throttled_periods: value(&stat, "nr_throttled"),
        throttled_time: value(&stat, "throttled_time"),
        ..v1::Throttle::default()
    };
    v1::CPUStat {
        usage: MessageField::some(usage),
        throttling: MessageField::some(throttling),
        ..v1::CPUStat::default()
    }
}

fn memory_v1(folder: &Path) -> v1::MemoryStat {
    let stat = table(&folder.join("memory.stat"));
    let of = |name: &str| value(&stat, name);
    let entry = |kind: &str| {
        let file = |end: &str| count(&folder.join(format!("memory{kind}.{end}")));
        MessageField::some(v1::MemoryEntry {
            limit: file("limit_in_bytes"),
            usage: file("usage_in_bytes"),
            max: file("max_usage_in_bytes"),
            failcnt: file("failcnt"),
            ..v1::MemoryEntry::default()
        })
    };
    v1::MemoryStat {
        cache: of("cache"),
        rss: of("rss"),
        rss_huge: of("rss_huge"),
        mapped_file: of("mapped_file"),
        dirty: of("dirty"),
        writeback: of("writeback"),
        pg_pg_in: of("pgpgin"),
        pg_pg_out: of("pgpgout"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: of("hierarchical_memory_limit"),
        hierarchical_swap_limit: of("hierarchical_memsw_limit"),
        total_cache: of("total_cache"),
        total_rss: of("total_rss"),
        total_rss_huge: of("total_rss_huge"),
        total_mapped_file: of("total_mapped_file"),
        total_dirty: of("total_dirty"),
        total_writeback: of("total_writeback"),
        total_pg_pg_in: of("total_pgpgin"),
        total_pg_pg_out: of("total_pgpgout"),
        total_pg_fault: of("total_pgfault"),
        total_pg_maj_fault: of("total_pgmajfault"),
        total_inactive_anon: of("total_inactive_anon"),
        total_active_anon: of("total_active_anon"),
        total_inactive_file: of("total_inactive_file"),
        total_active_file: of("total_active_file"),
        total_unevictable: of("total_unevictable"),
        usage: entry(""),
        swap: entry(".memsw"),
        kernel: entry(".kmem"),
        kernel_tcp: entry(".kmem.tcp"),
        ..v1::MemoryStat::default()
    }
}

/// Disks that are throttled are counted in one place, those of the scheduler BFQ in another.
fn io_v1(folder: &Path) -> v1::BlkIOStat {
    let entries = |file: &str| {
        let kinds = ["throttle", "bfq"];
        let found = kinds.map(|kind| io_entries(&folder.join(format!("blkio.{kind}.{file}_recursive"))));
        found.into_iter().find(|entries| !entries.is_empty()).unwrap_or_default()
    };
    v1::BlkIOStat {
        io_service_bytes_recursive: entries("io_service_bytes"),
        io_serviced_recursive: entries("io_serviced"),
        ..v1::BlkIOStat::default()
    }
}

/// Lines as `8:0 Read 4096`; the last one is a sum without a device.
fn io_entries(file: &Path) -> Vec<v1::BlkIOEntry> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let parsed = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let device = device(major, minor);
        Some(v1::BlkIOEntry { op, device, major, minor, value, ..v1::BlkIOEntry::default() })
    });
    parsed.collect()
}

/// The name of a disk, which graphs are labelled with.
fn device(major: u64, minor: u64) -> String {
    let events = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
    let name = events.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| format!("/dev/{name}")).unwrap_or_default()
}

fn read_v2(folder: &Path) -> Result<v2::Metrics, Error> {
    if !folder.exists() {
        return Err(wrong(format!("there is no cgroup `{}`", folder.display())));
    }
    let mut metrics = v2::Metrics::new();
    metrics.pids = MessageField::some(v2::PidsStat {
        current: count(&folder.join("pids.current")),
        limit: count(&folder.join("pids.max")),
        ..v2::PidsStat::default()
    });
    metrics.cpu = MessageField::some(cpu_v2(folder));
    metrics.memory = MessageField::some(memory_v2(folder));
    let events = table(&folder.join("memory.events"));
    metrics.memory_events = MessageField::some(v2::MemoryEvents {
        low: value(&events, "low"),
        high: value(&events, "high"),
        max: value(&events, "max"),
        oom: value(&events, "oom"),
        oom_kill: value(&events, "oom_kill"),
        oom_group_kill: value(&events, "oom_group_kill"),
        ..v2::MemoryEvents::default()
    });
    metrics.io = MessageField::some(io_v2(folder));
    for size in page_sizes(folder, ".current") {
        let file = |end: &str| folder.join(format!("hugetlb.{size}.{end}"));
        let (current, max) = (count(&file("current")), count(&file("max")));
        let failcnt = value(&table(&file("events")), "max");
        metrics.hugetlb.push(v2::HugeTlbStat { current, max, failcnt, pagesize: size, ..v2::HugeTlbStat::default() });
    }
    Ok(metrics)
}

fn cpu_v2(folder: &Path) -> v2::CPUStat {
    let stat = table(&folder.join("cpu.stat"));
    v2::CPUStat {
        usage_usec: value(&stat, "usage_usec"),
        user_usec: value(&stat, "user_usec"),
        system_usec: value(&stat, "system_usec"),
        nr_periods: value(&stat, "nr_periods"),
        nr_throttled: value(&stat, "nr_throttled"),
        throttled_usec: value(&stat, "throttled_usec"),
        nr_bursts: value(&stat, "nr_bursts"),
        burst_usec: value(&stat, "burst_usec"),
        psi: pressure(&folder.join("cpu.pressure")),
        ..v2::CPUStat::default()
    }
}

fn memory_v2(folder: &Path) -> v2::MemoryStat {
    let stat = table(&folder.join("memory.stat"));
    let of = |name: &str| value(&stat, name);
    v2::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        // Counted apart for anonymous memory and files since Linux 5.9.
        workingset_refault: of("workingset_refault") + of("workingset_refault_anon") + of("workingset_refault_file"),
        workingset_activate: of("workingset_activate")
            + of("workingset_activate_anon")
            + of("workingset_activate_file"),
        workingset_nodereclaim: of("workingset_nodereclaim"),
        pgrefill: of("pgrefill"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        pgactivate: of("pgactivate"),
        pgdeactivate: of("pgdeactivate"),
        pglazyfree: of("pglazyfree"),
        pglazyfreed: of("pglazyfreed"),
        thp_fault_alloc: of("thp_fault_alloc"),
        thp_collapse_alloc: of("thp_collapse_alloc"),
        usage: count(&folder.join("memory.current")),
        usage_limit: count(&folder.join("memory.max")),
        max_usage: count(&folder.join("memory.peak")),
        swap_usage: count(&folder.join("memory.swap.current")),
        swap_limit: count(&folder.join("memory.swap.max")),
        swap_max_usage: count(&folder.join("memory.swap.peak")),
        psi: pressure(&folder.join("memory.pressure")),
        ..v2::MemoryStat::default()
    }
}

/// Lines as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn io_v2(folder: &Path) -> v2::IOStat {
    let text = fs::read_to_string(folder.join("io.stat")).unwrap_or_default();
    let usage = text.lines().filter_map(|line| {
        let (device, figures) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let figures: HashMap<&str, u64> =
            figures.split(' ').filter_map(|figure| figure.split_once('=')).filter_map(number_of).collect();
        Some(v2::IOEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            rbytes: value(&figures, "rbytes"),
            wbytes: value(&figures, "wbytes"),
            rios: value(&figures, "rios"),
            wios: value(&figures, "wios"),
            ..v2::IOEntry::default()
        })
    });
    v2::IOStat { usage: usage.collect(), psi: pressure(&folder.join("io.pressure")), ..v2::IOStat::default() }
}

/// Lines as `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`: nothing where the kernel does not measure.
fn pressure(file: &Path) -> MessageField<v2::PSIStats> {
    let Ok(text) = fs::read_to_string(file) else { return MessageField::none() };
    let mut psi = v2::PSIStats::new();
    for line in text.lines() {
        let mut data = v2::PSIData::new();
        for (name, text) in line.split(' ').filter_map(|figure| figure.split_once('=')) {
            let share = || text.parse().unwrap_or_default();
            match name {
                "avg10" => data.avg10 = share(),
                "avg60" => data.avg60 = share(),
                "avg300" => data.avg300 = share(),
                "total" => data.total = text.parse().unwrap_or_default(),
                _ => {}
            }
        }
        match line.split(' ').next() {
            Some("some") => psi.some = MessageField::some(data),
            Some("full") => psi.full = MessageField::some(data),
            _ => {}
        }
    }
    MessageField::some(psi)
}

/// `2MB`, `1GB`: the sizes of which there are files.
fn page_sizes(folder: &Path, end: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let sizes = names.filter_map(|name| Some(name.strip_prefix("hugetlb.")?.strip_suffix(end)?.to_owned()));
    let mut sizes: Vec<String> = sizes.filter(|size| !size.contains('.')).collect();
    sizes.sort();
    sizes
}

/// The number that is all of a file, if it is one: `max` is none.
pub(super) fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number of a file, which is the highest for `max`, and 0 without a file.
fn count(file: &Path) -> u64 {
    match fs::read_to_string(file) {
        Ok(text) if text.trim() == "max" => u64::MAX,
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    }
}

/// Lines of a name and a number.
pub(super) fn flat(text: &str) -> HashMap<&str, u64> {
    text.lines().filter_map(|line| line.split_once(' ')).filter_map(number_of).collect()
}

fn table(file: &Path) -> HashMap<String, u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    flat(&text).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn number_of<'a>((name, value): (&'a str, &str)) -> Option<(&'a str, u64)> {
    Some((name, value.trim().parse().ok()?))
}

fn value<K: std::borrow::Borrow<str> + Eq + std::hash::Hash>(table: &HashMap<K, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}
