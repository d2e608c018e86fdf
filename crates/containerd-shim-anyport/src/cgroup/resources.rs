//! Which files of the kernel the limits of `linux.resources` are written to.
//!
//! A limit that was asked for and cannot be had is an error, since a container without it would take from
//! others. Wishes that change no limit are warned of: swap where the kernel does not count it, weights of
//! disks without a scheduler that has any.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyport::Error;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::hierarchy::Hierarchies;
use super::{Cgroup, failed, metrics, write, wrong};

/// Sets the limits of a cgroup, whose folders exist. Devices are for new ones only: engines do not send
/// them again with an update.
pub(super) fn apply(cgroup: &Cgroup, resources: &LinuxResources, new: bool) -> Result<(), Error> {
    let files = Files { cgroup };
    match &cgroup.hierarchies {
        Hierarchies::V1(_) => apply_v1(&files, resources, new),
        Hierarchies::V2(_) => apply_v2(&files, resources),
    }
}

/// Devices that every container may open: null, zero, full, random, urandom, and terminals. Engines leave
/// them to the runtime ("Default Devices" of the OCI runtime specification).
const DEVICES: [&str; 8] =
    ["c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"];

fn apply_v1(files: &Files<'_>, resources: &LinuxResources, new: bool) -> Result<(), Error> {
    if let Some(rules) = resources.devices().as_ref().filter(|_| new) {
        // A guest has no device but what the container's mounts show it, and no way to make one. Inside of
        // another container, rules that its parent does not have are refused.
        let rules = rules.iter().map(|rule| (rule.allow(), rule.to_string()));
        let always = DEVICES.iter().map(|device| (true, (*device).to_owned()));
        for (allow, rule) in rules.chain(always) {
            let file = if allow { "devices.allow" } else { "devices.deny" };
            if let Err(error) = files.write("devices", file, &rule) {
                tracing::debug!("the rule of devices `{rule}` is not set: {error}");
            }
        }
    }
    if let Some(memory) = resources.memory() {
        memory_v1(files, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_v1(files, cpu)?;
    }
    cpuset_and_pids(files, resources)?;
    if let Some(io) = resources.block_io() {
        io_v1(files, io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        files.set("hugetlb", &format!("hugetlb.{}.limit_in_bytes", limit.page_size()), limit.limit())?;
    }
    if let Some(class) = resources.network().as_ref().and_then(|network| network.class_id()) {
        files.wish("net_cls", "net_cls.classid", class);
    }
    let priorities = resources.network().as_ref().and_then(|network| network.priorities().as_ref());
    for priority in priorities.into_iter().flatten() {
        files.wish("net_prio", "net_prio.ifpriomap", format!("{} {}", priority.name(), priority.priority()));
    }
    rdma(files, resources);
    Ok(())
}

/// Memory alone, and memory with swap, which the kernel wants to be no less at any moment.
fn memory_v1(files: &Files<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    const ALONE: &str = "memory.limit_in_bytes";
    const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
    let limit = memory.limit().filter(|limit| *limit != 0);
    // Who takes the limit of memory away means no limit of both.
    let unlimited = limit.filter(|limit| *limit == -1);
    let swap = memory.swap().filter(|swap| *swap != 0).or(unlimited);
    let swap = swap.filter(|_| files.exists("memory", WITH_SWAP) || files.no_swap());
    let current = files.number("memory", ALONE).unwrap_or(u64::MAX);
    let grows = swap.is_some_and(|swap| u64::try_from(swap).map_or(true, |swap| swap > current));
    let order = if grows { [(WITH_SWAP, swap), (ALONE, limit)] } else { [(ALONE, limit), (WITH_SWAP, swap)] };
    for (file, value) in order {
        let Some(value) = value else { continue };
        files.set("memory", file, value).map_err(|error| match files.number("memory", "memory.usage_in_bytes") {
            Some(used) if u64::try_from(value).is_ok_and(|value| value < used) => {
                error.with_hint(format!("{used} bytes are in use, and could not be freed"))
            }
            _ => error,
        })?;
    }
    files.set_some("memory", "memory.soft_limit_in_bytes", memory.reservation().filter(|bytes| *bytes != 0))?;
    if let Some(swappiness) = memory.swappiness() {
        files.wish("memory", "memory.swappiness", swappiness);
    }
    if let Some(disabled) = memory.disable_oom_killer() {
        files.set("memory", "memory.oom_control", u8::from(disabled))?;
    }
    // Limits of the kernel's own memory are obsolete since Linux 5.4, and no engine sets them any more.
    Ok(())
}

fn cpu_v1(files: &Files<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    let period = cpu.period().filter(|period| *period != 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    files.set_some("cpu", "cpu.shares", cpu.shares().filter(|shares| *shares != 0))?;
    // The kernel checks each write against the other's old value, so one of both orders may be refused.
    let first = files.set_some("cpu", "cpu.cfs_period_us", period);
    files.set_some("cpu", "cpu.cfs_quota_us", quota)?;
    if first.is_err() {
        files.set_some("cpu", "cpu.cfs_period_us", period)?;
    }
    files.set_some("cpu", "cpu.cfs_burst_us", cpu.burst())?;
    files.set_some("cpu", "cpu.rt_period_us", cpu.realtime_period().filter(|period| *period != 0))?;
    files.set_some("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime().filter(|runtime| *runtime != 0))?;
    files.set_some("cpu", "cpu.idle", cpu.idle())
}

/// The same files in both versions.
fn cpuset_and_pids(files: &Files<'_>, resources: &LinuxResources) -> Result<(), Error> {
    if let Some(cpu) = resources.cpu() {
        files.set_some("cpuset", "cpuset.cpus", cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()))?;
        files.set_some("cpuset", "cpuset.mems", cpu.mems().as_ref().filter(|mems| !mems.is_empty()))?;
    }
    match resources.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit) {
        Some(limit) if limit > 0 => files.set("pids", "pids.max", limit),
        // Unlimited is what a kernel without the controller has anyway.
        Some(_) if files.exists("pids", "pids.max") => files.set("pids", "pids.max", "max"),
        _ => Ok(()),
    }
}

fn io_v1(files: &Files<'_>, io: &LinuxBlockIo) -> Result<(), Error> {
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        files.wish_first("blkio", &["blkio.weight", "blkio.bfq.weight"], weight);
    }
    for device in io.weight_device().iter().flatten() {
        let Some(weight) = device.weight() else { continue };
        let value = format!("{}:{} {weight}", device.major(), device.minor());
        files.wish_first("blkio", &["blkio.weight_device", "blkio.bfq.weight_device"], value);
    }
    for (name, devices) in throttles(io) {
        for device in devices {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            files.set("blkio", &format!("blkio.throttle.{}", name.0), value)?;
        }
    }
    Ok(())
}

/// The limits of disks, each with its name in v1 and in v2.
fn throttles(io: &LinuxBlockIo) -> impl Iterator<Item = ((&'static str, &'static str), &[LinuxThrottleDevice])> {
    [
        (("read_bps_device", "rbps"), io.throttle_read_bps_device()),
        (("write_bps_device", "wbps"), io.throttle_write_bps_device()),
        (("read_iops_device", "riops"), io.throttle_read_iops_device()),
        (("write_iops_device", "wiops"), io.throttle_write_iops_device()),
    ]
    .into_iter()
    .map(|(name, devices)| (name, devices.as_deref().unwrap_or_default()))
}

/// Rules of devices would be a program for the kernel's eBPF here. A guest can neither make a device, nor
/// open one that the container's mounts do not show: they are left out.
fn apply_v2(files: &Files<'_>, resources: &LinuxResources) -> Result<(), Error> {
    if let Some(memory) = resources.memory() {
        memory_v2(files, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_v2(files, cpu)?;
    }
    cpuset_and_pids(files, resources)?;
    if let Some(io) = resources.block_io() {
        io_v2(files, io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        files.set("hugetlb", &format!("hugetlb.{}.max", limit.page_size()), limit.limit())?;
    }
    rdma(files, resources);
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || !file.contains('.') {
            return Err(wrong(format!("`{file}` of `linux.resources.unified` is no file of a cgroup")));
        }
        files.set(file.split('.').next().unwrap_or(file), file, value)?;
    }
    Ok(())
}

fn memory_v2(files: &Files<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = match (memory.swap().filter(|swap| *swap != 0), limit) {
        (None, Some(-1)) | (Some(-1), _) => Some(-1),
        (Some(both), Some(limit)) if limit != -1 => match both.checked_sub(limit) {
            Some(swap) if swap >= 0 => Some(swap),
            _ => return Err(wrong(format!("memory with swap ({both}) cannot be less than memory alone ({limit})"))),
        },
        (Some(_), None) => {
            return Err(wrong("swap cannot be limited without a limit of memory").with_hint("give both limits"));
        }
        _ => None,
    };
    if let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok())
        && memory.check_before_update().unwrap_or(false)
        && let Some(used) = files.number("memory", "memory.current").filter(|used| *used > limit)
    {
        return Err(wrong(format!("memory cannot be limited to {limit} bytes: {used} are in use")));
    }
    if let Some(swap) = swap.filter(|_| files.exists("memory", "memory.swap.max") || files.no_swap()) {
        files.set("memory", "memory.swap.max", or_max(swap))?;
    }
    files.set_some("memory", "memory.max", limit.map(or_max))?;
    files.set_some("memory", "memory.low", memory.reservation().filter(|bytes| *bytes != 0).map(or_max))?;
    if memory.disable_oom_killer().unwrap_or(false) {
        tracing::warn!("the kernel's OOM killer cannot be disabled in cgroup v2");
    }
    Ok(())
}

/// v1 says -1 for no limit.
fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn cpu_v2(files: &Files<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    files.set_some("cpu", "cpu.weight", cpu.shares().filter(|shares| *shares != 0).map(weight_of_shares))?;
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    let max = match (quota, period) {
        (Some(quota), Some(period)) => Some(format!("{} {period}", or_max(quota))),
        (Some(quota), None) => Some(or_max(quota)),
        (None, Some(period)) => {
            let now = files.read("cpu", "cpu.max").unwrap_or_default();
            Some(format!("{} {period}", now.split(' ').next().filter(|quota| !quota.is_empty()).unwrap_or("max")))
        }
        (None, None) => None,
    };
    files.set_some("cpu", "cpu.max", max)?;
    files.set_some("cpu", "cpu.max.burst", cpu.burst())?;
    files.set_some("cpu", "cpu.idle", cpu.idle())?;
    if cpu.realtime_runtime().is_some_and(|runtime| runtime > 0) {
        tracing::warn!("cgroup v2 has no limit of realtime scheduling: it is not set");
    }
    Ok(())
}

/// From v1's shares, 2 to 262144 and usually 1024, to v2's weight, 1 to 10000 and usually 100. All three
/// meet on the curve that runc 1.3.2 and crun 1.23 have, so that pods weigh the same under each runtime:
/// <https://github.com/opencontainers/cgroups/pull/20>.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[allow(clippy::cast_precision_loss, reason = "there are 18 bits of shares")]
            let log = (shares as f64).log2();
            let weight = 10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within 1 and 10000")]
            let weight = weight as u64;
            weight
        }
    }
}

fn io_v2(files: &Files<'_>, io: &LinuxBlockIo) -> Result<(), Error> {
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        if files.exists("io", "io.bfq.weight") {
            files.wish("io", "io.bfq.weight", weight);
        } else {
            files.wish("io", "io.weight", format!("default {}", weight_of_blkio(weight)));
        }
    }
    for device in io.weight_device().iter().flatten() {
        let Some(weight) = device.weight() else { continue };
        files.wish("io", "io.bfq.weight", format!("{}:{} {weight}", device.major(), device.minor()));
    }
    for ((_, key), devices) in throttles(io) {
        for device in devices {
            // No limit is 0 in v1.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            files.set("io", "io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()))?;
        }
    }
    Ok(())
}

/// From v1's 10 to 1000 to v2's 1 to 10000.
fn weight_of_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn rdma(files: &Files<'_>, resources: &LinuxResources) {
    for (device, limit) in resources.rdma().iter().flatten() {
        let handles = limit.hca_handles().map(|handles| format!(" hca_handle={handles}"));
        let objects = limit.hca_objects().map(|objects| format!(" hca_object={objects}"));
        let value = format!("{device}{}{}", handles.unwrap_or_default(), objects.unwrap_or_default());
        files.wish("rdma", "rdma.max", value);
    }
}

/// The files of one cgroup.
struct Files<'a> {
    cgroup: &'a Cgroup,
}

impl Files<'_> {
    fn path(&self, controller: &str, file: &str) -> Option<PathBuf> {
        Some(self.cgroup.controller(controller)?.join(file))
    }

    fn exists(&self, controller: &str, file: &str) -> bool {
        self.path(controller, file).is_some_and(|path| path.exists())
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.path(controller, file)?).ok()
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        metrics::number(&self.path(controller, file)?)
    }

    fn write(&self, controller: &str, file: &str, value: &str) -> io::Result<()> {
        let path = self.path(controller, file).ok_or(io::ErrorKind::NotFound)?;
        write(&path, value)
    }

    /// What the container cannot be without.
    fn set(&self, controller: &str, file: &str, value: impl ToString) -> Result<(), Error> {
        let value = value.to_string();
        self.write(controller, file, &value).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                let missing = wrong(format!("`{file}` cannot be set to `{value}`: there is no such file here"));
                return missing.with_hint(format!(
                    "the kernel's `{controller}` cgroup has to be enabled and available; see `cat /proc/cgroups`"
                ));
            }
            let path = self.path(controller, file).unwrap_or_else(|| Path::new(file).to_owned());
            failed(format!("cannot set `{}` to `{value}`", path.display()), &error)
        })
    }

    fn set_some(&self, controller: &str, file: &str, value: Option<impl ToString>) -> Result<(), Error> {
        value.map_or(Ok(()), |value| self.set(controller, file, value))
    }

    /// What the container can be without.
    fn wish(&self, controller: &str, file: &str, value: impl ToString) {
        let value = value.to_string();
        if let Err(error) = self.write(controller, file, &value) {
            tracing::warn!("`{file}` is not set to `{value}`: {error}");
        }
    }

    /// The same, in the first file that there is.
    fn wish_first(&self, controller: &str, names: &[&str], value: impl ToString) {
        let there = names.iter().find(|file| self.exists(controller, file));
        self.wish(controller, there.unwrap_or(&names[0]), value);
    }

    /// False, and a warning.
    fn no_swap(&self) -> bool {
        tracing::warn!("the kernel does not count swap (`swapaccount=1`): swap is not limited");
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        let pairs = [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (1 << 40, 10_000)];
        for (shares, weight) in pairs {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        let ascending: Vec<u64> = (1..=18).map(|bits| weight_of_shares(1 << bits)).collect();
        assert!(ascending.is_sorted(), "{ascending:?}");
        assert_eq!([10, 500, 1000, 5000].map(weight_of_blkio), [1, 4950, 10_000, 10_000]);
    }
}
