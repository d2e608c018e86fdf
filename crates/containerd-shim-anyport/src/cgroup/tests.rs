//! Real cgroups of this machine, where it lets us; folders that look like them for what it does not have.

use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::Message;
use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResourcesBuilder, LinuxThrottleDeviceBuilder,
};

use super::*;

const MIB: i64 = 1 << 20;

/// A cgroup of this machine that is gone after the test, whatever happens.
struct Real(Cgroup);

impl Real {
    /// `None`, and a line that says so, where cgroups cannot be made.
    fn new(resources: Option<&LinuxResources>) -> Option<Self> {
        Self::under(Hierarchies::find(), resources)
    }

    fn under(hierarchies: Result<Hierarchies, Error>, resources: Option<&LinuxResources>) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("anyport-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hierarchies = hierarchies.map_err(skipped).ok()?;
        let cgroup = Cgroup { hierarchies, relative: PathBuf::from(name) };
        if !rustix::process::geteuid().is_root() {
            skipped("only root makes cgroups");
            return None;
        }
        let probe = cgroup.make();
        if cgroup.folders().iter().any(|(_, folder)| !folder.exists()) {
            skipped(probe.map_or_else(|error| error.to_string(), |()| "no cgroup was made".to_owned()));
            let _ = cgroup.remove();
            return None;
        }
        Some(Self(cgroup.made(resources).expect("a cgroup can be made")))
    }

    /// A shell in the cgroup. It goes on once its stdin is closed.
    fn shell(&self, script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read -r go; {script}")]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("there is a shell");
        self.0.add(child.id()).expect("a process can be moved");
        child
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let path = self.0.controller(controller).expect("the controller is mounted").join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    /// Whether both this machine has v1, and the controller.
    fn is_v1(&self) -> bool {
        let is = matches!(self.0.hierarchies, Hierarchies::V1(_));
        if !is {
            skipped("this machine has no cgroup v1");
        }
        is
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let killed = self.0.kill_all();
        let removed = self.0.remove();
        if !thread::panicking() {
            killed.expect("processes can be killed");
            removed.expect("a cgroup can be removed");
            assert!(self.0.folders().iter().all(|(_, folder)| !folder.exists()), "something is left");
        }
    }
}

#[allow(clippy::print_stderr, reason = "a test that does nothing says so")]
fn skipped(why: impl std::fmt::Display) {
    eprintln!("skipped: {why}");
}

fn go(child: &mut Child) {
    drop(child.stdin.take());
}

fn end(child: &mut Child) -> ExitStatus {
    go(child);
    child.wait().expect("a child can be waited for")
}

fn memory(limit: i64) -> LinuxResources {
    let memory = LinuxMemoryBuilder::default().limit(limit).swap(limit).build().expect("it is complete");
    LinuxResourcesBuilder::default().memory(memory).devices(Vec::new()).build().expect("it is complete")
}

/// `tail` keeps what has no end of line.
const GREEDY: &str = "head -c 64m /dev/zero | tail";

#[tokio::test(flavor = "current_thread")]
async fn a_process_that_takes_too_much_memory_is_killed_and_told_of() {
    let Some(group) = Real::new(Some(&memory(16 * MIB))) else { return };
    assert_eq!(group.0.memory_limit(), Some(16 << 20));
    let mut events = group.0.oom_events().expect("memory can be watched");
    let mut child = group.shell(GREEDY);
    assert_eq!(group.0.oom_kills(), 0);
    let ended = tokio::task::spawn_blocking(move || end(&mut child));
    let killed = tokio::time::timeout(Duration::from_secs(30), events.next()).await.expect("it is told in time");
    assert!(killed >= Some(1), "{killed:?}");
    assert!(group.0.oom_kills() >= 1);
    let _ = ended.await.expect("the child ends");
    if let Hierarchies::V1(_) = group.0.hierarchies {
        let any = group.0.metrics().expect("there are figures");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).expect("figures can be decoded");
        assert!(metrics.memory_oom_control.oom_kill >= 1, "{metrics}");
        assert!(metrics.memory.usage.max > 15 << 20, "{metrics}");
    } else {
        let metrics = figures_v2(&group.0);
        assert!(metrics.memory_events.oom_kill >= 1 && metrics.memory_events.oom >= 1, "{metrics}");
        assert_eq!(metrics.memory.usage_limit, 16 << 20);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_end_of_a_cgroup_is_told_and_no_kill() {
    let Some(group) = Real::new(Some(&memory(16 * MIB))) else { return };
    let mut child = group.shell("exit 0");
    let mut events = group.0.oom_events().expect("memory can be watched");
    let none = tokio::time::timeout(PAUSE_MAX, events.next()).await;
    assert!(none.is_err(), "nothing has happened yet: {none:?}");
    let _ = end(&mut child);
    // Empty, and still there.
    let none = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
    assert!(none.is_err(), "nothing has happened yet: {none:?}");
    drop(group);
    let end = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
    assert_eq!(end.expect("it is told in time"), None);
}

#[test]
fn limits_are_what_was_asked_for_and_can_be_changed() {
    let cpu = LinuxCpuBuilder::default().shares(512u64).period(100_000u64).quota(150_000).cpus("0").build();
    let resources = LinuxResourcesBuilder::default()
        .memory(LinuxMemoryBuilder::default().limit(64 * MIB).swap(128 * MIB).reservation(32 * MIB).build().unwrap())
        .cpu(cpu.unwrap())
        .pids(LinuxPidsBuilder::default().limit(12).build().unwrap())
        .block_io(LinuxBlockIoBuilder::default().weight(300u16).build().unwrap())
        .devices(vec![
            LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().unwrap(),
            LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(oci_spec::runtime::LinuxDeviceType::C)
                .major(1)
                .minor(3)
                .access("rw")
                .build()
                .unwrap(),
        ])
        .build()
        .unwrap();
    let Some(group) = Real::new(Some(&resources)) else { return };
    if !group.is_v1() {
        return;
    }
    let shown = |group: &Real| {
        let both = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
        both.map(|file| group.read("memory", file).parse::<i64>().expect("it is a number") / MIB)
    };
    assert_eq!(shown(&group), [64, 128]);
    assert_eq!(group.read("memory", "memory.soft_limit_in_bytes"), (32 * MIB).to_string());
    assert_eq!(group.read("cpu", "cpu.shares"), "512");
    assert_eq!(group.read("cpu", "cpu.cfs_quota_us"), "150000");
    assert_eq!(group.read("cpuset", "cpuset.cpus"), "0");
    assert_eq!(group.read("pids", "pids.max"), "12");
    // Those that every container has, and nothing else.
    let devices = ["c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:2", "c 136:*"];
    let devices = devices.map(|device| format!("{device} rwm")).join("\n");
    assert_eq!(group.read("devices", "devices.list"), devices);

    // Both ways, whichever of the two the kernel wants to be written first.
    for (limit, swap, shows) in [(256, 512, [256, 512]), (16, 16, [16, 16]), (32, 32, [32, 32])] {
        let memory = LinuxMemoryBuilder::default().limit(limit * MIB).swap(swap * MIB).build().unwrap();
        let update = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
        group.0.update(&update).expect("limits can be changed");
        assert_eq!(shown(&group), shows);
    }
    let cpu = LinuxCpuBuilder::default().period(10_000u64).quota(5_000).build().unwrap();
    group.0.update(&LinuxResourcesBuilder::default().cpu(cpu).build().unwrap()).expect("limits can be changed");
    assert_eq!([group.read("cpu", "cpu.cfs_quota_us"), group.read("cpu", "cpu.cfs_period_us")], ["5000", "10000"]);
    assert_eq!(group.read("devices", "devices.list"), devices, "an update without devices changes them");
    group.0.update(&memory(-1)).expect("limits can be taken away");
    assert_eq!(group.0.memory_limit(), None);
}

#[test]
fn a_limit_of_processes_holds() {
    let pids = LinuxPidsBuilder::default().limit(2).build().unwrap();
    let Some(group) = Real::new(Some(&LinuxResourcesBuilder::default().pids(pids).build().unwrap())) else { return };
    let mut within = group.shell("sh -c 'exit 3'; exit $?");
    assert_eq!(end(&mut within).code(), Some(3));
    // The shell, two in the background: the third cannot be forked, and shells end with 2 then.
    let mut beyond = group.shell("sleep 60 & sleep 60 & wait; exit 0");
    assert_ne!(end(&mut beyond).code(), Some(0));
}

#[test]
fn a_frozen_process_does_nothing_until_it_is_thawed_and_can_be_killed() {
    let Some(group) = Real::new(None) else { return };
    let mut child = group.shell("exit 5");
    group.0.freeze().expect("it can be frozen");
    go(&mut child);
    let state = fs::read_to_string(format!("/proc/{}/wchan", child.id())).unwrap_or_default();
    assert!(child.try_wait().expect("it can be asked").is_none(), "{state}");
    group.0.thaw().expect("it can be thawed");
    assert_eq!(end(&mut child).code(), Some(5));

    let mut child = group.shell("exit 5");
    group.0.freeze().expect("it can be frozen");
    group.0.kill_all().expect("a frozen process can be killed");
    assert_eq!(end(&mut child).code(), None);
}

#[test]
fn processes_of_nested_groups_are_found_killed_and_removed() {
    let Some(group) = Real::new(None) else { return };
    for (mount, folder) in group.0.folders() {
        fs::create_dir_all(folder.join("a/b")).expect("a group can be made in it");
        // In v2 they are inherited.
        if mount.is_some_and(|mount| mount.has("cpuset")) {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(&folder, &folder.join("a"), file).expect("it can be set");
                inherit(&folder.join("a"), &folder.join("a/b"), file).expect("it can be set");
            }
        }
    }
    let mut own = group.shell("exit 0");
    let mut nested = group.shell("exit 0");
    for (_, folder) in group.0.folders() {
        write(&folder.join("a/b").join(PROCESSES), &nested.id().to_string()).expect("a process can be moved");
    }
    let mut both = [own.id(), nested.id()];
    both.sort_unstable();
    assert_eq!(group.0.pids(), both);
    let again = group.0.clone().made(None).expect_err("it is in use");
    assert!(again.to_string().contains(&own.id().to_string()), "{again}");
    group.0.kill_all().expect("processes can be killed");
    group.0.remove().expect("it can be removed");
    group.0.remove().expect("it can be removed twice");
    assert!(group.0.pids().is_empty() && group.0.metrics().is_err());
    assert_eq!([end(&mut own).code(), end(&mut nested).code()], [None, None]);
}

/// Takes 4 MiB and some time, and then waits.
const BUSY: &str = "held=$(head -c 4m /dev/zero | tr '\\0' a)
    i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done
    sleep 60; : $held";

#[test]
fn figures_are_of_its_own_processes() {
    let Some(group) = Real::new(None) else { return };
    if !group.is_v1() {
        return;
    }
    let mut child = group.shell(BUSY);
    go(&mut child);
    let metrics = once_busy(|| {
        let any = group.0.metrics().expect("there are figures");
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).expect("figures can be decoded");
        let busy = metrics.cpu.usage.total > 20_000_000 && metrics.memory.usage.usage > 4 << 20;
        (metrics, busy)
    });
    assert!(metrics.pids.current >= 1, "{metrics}");
    assert_eq!(metrics.pids.limit, 0);
    assert!(metrics.cpu.throttling.is_some());
    assert!(metrics.memory.usage.usage < 1 << 30, "{metrics}");
    assert!(metrics.memory.swap.is_some() && metrics.memory.kernel.is_some() && metrics.memory.kernel_tcp.is_some());
    child.kill().expect("it can be killed");
    let _ = end(&mut child);
}

#[test]
fn figures_of_v2_are_of_its_own_processes() {
    let cpu = LinuxCpuBuilder::default().quota(50_000).period(100_000u64).build().unwrap();
    let Some(group) = real_v2(Some(&LinuxResourcesBuilder::default().cpu(cpu).build().unwrap())) else { return };
    let mut child = group.shell(BUSY);
    go(&mut child);
    let metrics = once_busy(|| {
        let metrics = figures_v2(&group.0);
        let busy = metrics.cpu.usage_usec > 20_000 && metrics.cpu.nr_throttled > 0;
        let busy = busy && metrics.memory.anon > 4 << 20;
        (metrics, busy)
    });
    assert!(metrics.pids.current >= 1, "{metrics}");
    assert_eq!([metrics.pids.limit, metrics.memory.usage_limit, metrics.memory.swap_limit], [u64::MAX; 3]);
    assert!(metrics.cpu.nr_periods > 0 && metrics.cpu.throttled_usec > 0, "{metrics}");
    assert!(metrics.cpu.user_usec + metrics.cpu.system_usec <= metrics.cpu.usage_usec + 1, "{metrics}");
    assert!((metrics.memory.anon..1 << 30).contains(&metrics.memory.usage), "{metrics}");
    assert!(metrics.memory.max_usage >= metrics.memory.anon && metrics.memory.pgfault > 0, "{metrics}");
    assert_eq!(metrics.memory_events.oom_kill, 0);
    child.kill().expect("it can be killed");
    let _ = end(&mut child);
}

/// The figures once they show what [`BUSY`] does.
fn once_busy<M: std::fmt::Display>(read: impl Fn() -> (M, bool)) -> M {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (metrics, busy) = read();
        if busy {
            return metrics;
        }
        assert!(Instant::now() < deadline, "{metrics}");
        thread::sleep(PAUSE_MAX);
    }
}

#[test]
fn a_limit_that_cannot_be_had_leaves_nothing_behind() {
    let cpu = LinuxCpuBuilder::default().cpus("4000").build().unwrap();
    let resources = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
    let Some(group) = Real::new(None) else { return };
    let error = group.0.clone().made(Some(&resources)).expect_err("there are not so many CPUs");
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    assert!(group.0.folders().iter().all(|(_, folder)| !folder.exists()));
}

/// v2 beside v1 has no controllers, but processes and the freezer are its core's.
#[test]
fn the_core_of_v2_works_on_a_machine_of_both() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
    let unified = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let Some(unified) = unified.map(PathBuf::from) else { return skipped("cgroup v2 is not mounted") };
    let Some(group) = Real::under(Ok(Hierarchies::V2(unified)), None) else { return };
    let mut child = group.shell("exit 5");
    assert_eq!(group.0.pids(), [child.id()]);
    group.0.freeze().expect("it can be frozen");
    go(&mut child);
    assert!(child.try_wait().expect("it can be asked").is_none());
    group.0.thaw().expect("it can be thawed");
    assert_eq!(end(&mut child).code(), Some(5));
    let mut child = group.shell("exit 5");
    group.0.freeze().expect("it can be frozen");
    group.0.kill_all().expect("a frozen process can be killed");
    assert_eq!(end(&mut child).code(), None);
    let any = group.0.metrics().expect("there are figures");
    assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
    let metrics = v2::Metrics::parse_from_bytes(&any.value).expect("figures can be decoded");
    assert!(metrics.cpu.usage_usec > 0, "{metrics}");
}

/// A cgroup where v2 has the controllers. Elsewhere `None`, and a line that says so past the harness, once;
/// with `ANYPORT_CGROUP2` set (`.ci/cgroup2`), that is a failure.
fn real_v2(resources: Option<&LinuxResources>) -> Option<Real> {
    static SAID: Once = Once::new();
    let why = match Hierarchies::find() {
        Ok(Hierarchies::V2(point)) => {
            let offered = fs::read_to_string(point.join("cgroup.controllers")).unwrap_or_default();
            let offered: Vec<&str> = offered.split_whitespace().collect();
            let missing = ["cpu", "cpuset", "io", "memory", "pids"].into_iter().filter(|name| !offered.contains(name));
            let missing: Vec<&str> = missing.collect();
            (!missing.is_empty()).then(|| format!("it has no controller {}", missing.join(", ")))
        }
        Ok(Hierarchies::V1(_)) => Some("this machine's controllers are in v1".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let group = if why.is_none() { Real::new(resources) } else { None };
    if group.is_none() {
        let why = why.as_deref().unwrap_or("no cgroup can be made");
        assert!(std::env::var_os("ANYPORT_CGROUP2").is_none(), "no tests of cgroup v2: {why}");
        SAID.call_once(|| {
            let _ = writeln!(io::stderr(), "SKIPPED: tests of cgroup v2 with its controllers: {why}");
        });
    }
    group
}

#[test]
fn limits_of_v2_are_what_the_kernel_shows() {
    let resources = LinuxResourcesBuilder::default()
        .memory(LinuxMemoryBuilder::default().limit(64 * MIB).swap(96 * MIB).reservation(32 * MIB).build().unwrap())
        .cpu(LinuxCpuBuilder::default().shares(512u64).quota(50_000).period(100_000u64).cpus("0").build().unwrap())
        .pids(LinuxPidsBuilder::default().limit(12).build().unwrap())
        .block_io(LinuxBlockIoBuilder::default().weight(300u16).build().unwrap())
        .devices(vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().unwrap()])
        .build()
        .unwrap();
    let Some(group) = real_v2(Some(&resources)) else { return };
    let files = ["memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "cpuset.cpus", "pids.max"];
    let shown = || files.map(|file| group.read("", file));
    let expected = ["67108864", "33554432", "33554432", "59", "50000 100000", "0", "12"];
    assert_eq!(shown(), expected);
    assert_eq!(group.read("", "cpuset.cpus.effective"), "0");
    assert_eq!(group.0.memory_limit(), Some(64 << 20));

    // What is not said stays.
    let cpu = LinuxCpuBuilder::default().shares(1024u64).period(10_000u64).build().unwrap();
    let update = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
    group.0.update(&update).expect("limits can be changed");
    let expected = ["67108864", "33554432", "33554432", "100", "50000 10000", "0", "12"];
    assert_eq!(shown(), expected);
    for (limit, swap, shows) in [(256, 512, [256, 256]), (16, 16, [16, 0]), (32, 40, [32, 8])] {
        let memory = LinuxMemoryBuilder::default().limit(limit * MIB).swap(swap * MIB).build().unwrap();
        let update = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
        group.0.update(&update).expect("limits can be changed");
        let shown = ["memory.max", "memory.swap.max"].map(|file| group.read("", file));
        assert_eq!(shown, shows.map(|mib: i64| (mib * MIB).to_string()));
    }

    let all = LinuxResourcesBuilder::default()
        .memory(LinuxMemoryBuilder::default().limit(-1).swap(-1).build().unwrap())
        .cpu(LinuxCpuBuilder::default().quota(-1).build().unwrap())
        .pids(LinuxPidsBuilder::default().limit(-1).build().unwrap())
        .build()
        .unwrap();
    group.0.update(&all).expect("limits can be taken away");
    assert_eq!(shown(), ["max", "max", "33554432", "100", "max 10000", "0", "max"]);
    assert_eq!(group.0.memory_limit(), None);
}

#[test]
fn each_level_of_v2_passes_controllers_on() {
    let Some(outer) = real_v2(None) else { return };
    let relative = outer.0.relative.join("pod.slice/c1.scope");
    let inner = Cgroup { hierarchies: outer.0.hierarchies.clone(), relative };
    let inner = inner.made(Some(&memory(16 * MIB))).expect("a cgroup can be made below another");
    assert_eq!(inner.memory_limit(), Some(16 << 20));
    outer.0.update(&memory(8 * MIB)).expect("the outer one can be limited");
    assert_eq!(inner.memory_limit(), Some(8 << 20), "a limit around it is its limit too");
    inner.remove().expect("it can be removed");
}

#[test]
fn a_disk_of_v2_is_limited() {
    // A disk of no use to anyone but this test: a loop device with something behind it.
    let behind = |disk: &PathBuf| disk.join("loop/backing_file").exists();
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.path());
    let disk = disks.filter(behind).find_map(|disk| fs::read_to_string(disk.join("dev")).ok());
    let Some(group) = real_v2(None) else { return };
    let Some(disk) = disk else { return skipped("there is no loop device in use") };
    let (major, minor) = disk.trim().split_once(':').expect("a device has two numbers");
    let (major, minor) = (major.parse::<i64>().unwrap(), minor.parse::<i64>().unwrap());
    let throttle = |rate: u64| {
        let limit = LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(rate).build().unwrap();
        let io = LinuxBlockIoBuilder::default().throttle_read_bps_device(vec![limit]).build().unwrap();
        LinuxResourcesBuilder::default().block_io(io).build().unwrap()
    };
    group.0.update(&throttle(1 << 20)).expect("a disk can be limited");
    assert_eq!(group.read("io", "io.max"), format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=max"));
    group.0.update(&throttle(0)).expect("a limit can be taken away");
    assert_eq!(group.read("io", "io.max"), "");
}

fn figures_v2(cgroup: &Cgroup) -> v2::Metrics {
    let any = cgroup.metrics().expect("there are figures");
    assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
    v2::Metrics::parse_from_bytes(&any.value).expect("figures can be decoded")
}

/// A folder that looks like a v2 cgroup with these files.
fn fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
    let root = tempfile::tempdir().expect("a folder can be made");
    let folder = root.path().join("pod/c1");
    fs::create_dir_all(&folder).expect("a folder can be made");
    for (file, text) in files {
        fs::write(folder.join(file), text).expect("a file can be written");
    }
    let hierarchies = Hierarchies::V2(root.path().to_owned());
    (root, Cgroup { hierarchies, relative: PathBuf::from("pod/c1") })
}

fn text(cgroup: &Cgroup, file: &str) -> String {
    fs::read_to_string(cgroup.controller("").expect("v2 has one folder").join(file)).expect("it can be read")
}

#[test]
fn limits_of_v2_are_said_in_its_own_words() {
    let files =
        ["memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "pids.max", "io.max", "io.weight"];
    let (_root, group) = fixture(&files.map(|file| (file, "")));
    let throttle = LinuxThrottleDeviceBuilder::default().major(8).minor(0).rate(1000u64).build().unwrap();
    let resources = LinuxResourcesBuilder::default()
        .memory(LinuxMemoryBuilder::default().limit(64 * MIB).swap(64 * MIB).reservation(MIB).build().unwrap())
        .cpu(LinuxCpuBuilder::default().shares(1024u64).quota(50_000).period(100_000u64).build().unwrap())
        .pids(LinuxPidsBuilder::default().limit(-1).build().unwrap())
        .block_io(
            LinuxBlockIoBuilder::default().weight(10u16).throttle_read_bps_device(vec![throttle]).build().unwrap(),
        )
        .devices(vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().unwrap()])
        .build()
        .unwrap();
    group.update(&resources).expect("limits can be set");
    let shown = files.map(|file| text(&group, file));
    // No swap at all is 0 here, where v1 says as much as memory.
    let expected = ["67108864", "0", "1048576", "100", "50000 100000", "max", "8:0 rbps=1000", "default 1"];
    assert_eq!(shown, expected);
}

#[test]
fn swap_that_is_not_counted_is_not_limited() {
    let (_root, group) = fixture(&[("memory.max", "")]);
    group.update(&memory(64 * MIB)).expect("it is a warning only");
    assert_eq!(text(&group, "memory.max"), "67108864");
    let without = LinuxMemoryBuilder::default().swap(MIB).build().unwrap();
    let without = LinuxResourcesBuilder::default().memory(without).build().unwrap();
    assert!(group.update(&without).is_err());
    let (_root, group) = fixture(&[]);
    let error = group.update(&memory(64 * MIB)).expect_err("memory must be limited");
    assert!(error.hint().is_some_and(|hint| hint.contains("`memory`")), "{error}");
}

#[test]
fn unified_files_are_written_and_no_others() {
    let (_root, group) = fixture(&[("memory.high", "")]);
    let unified = |file: &str| {
        let files = [(file.to_owned(), "1000".to_owned())].into();
        LinuxResourcesBuilder::default().unified::<std::collections::HashMap<_, _>>(files).build().unwrap()
    };
    group.update(&unified("memory.high")).expect("it can be set");
    assert_eq!(text(&group, "memory.high"), "1000");
    for file in ["../c1/memory.high", "/etc/passwd", "memory"] {
        assert!(group.update(&unified(file)).is_err(), "{file}");
    }
}

#[test]
fn figures_of_v2_are_read() {
    let (_root, group) = fixture(&[
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        ("cpu.stat", "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_throttled 2\n"),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
        ("memory.current", "4096\n"),
        ("memory.max", "max\n"),
        ("memory.stat", "anon 1000\nfile 2000\nworkingset_refault_anon 1\nworkingset_refault_file 2\nodd line here\n"),
        ("memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nnonsense\n"),
        ("hugetlb.2MB.current", "0\n"),
        ("hugetlb.2MB.max", "max\n"),
        ("hugetlb.2MB.rsvd.current", "0\n"),
    ]);
    let any = group.metrics().expect("there are figures");
    assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
    let metrics = v2::Metrics::parse_from_bytes(&any.value).expect("figures can be decoded");
    assert_eq!((metrics.pids.current, metrics.pids.limit), (3, u64::MAX));
    assert_eq!((metrics.cpu.usage_usec, metrics.cpu.user_usec, metrics.cpu.nr_throttled), (10, 7, 2));
    assert!((metrics.cpu.psi.some.avg10 - 1.5).abs() < 1e-9);
    assert_eq!(metrics.cpu.psi.some.total, 42);
    assert_eq!((metrics.memory.usage, metrics.memory.usage_limit), (4096, u64::MAX));
    assert_eq!((metrics.memory.anon, metrics.memory.workingset_refault), (1000, 3));
    assert!(metrics.memory.psi.is_none());
    assert_eq!((metrics.memory_events.max, metrics.memory_events.oom_kill), (4, 1));
    let disk = metrics.io.usage.first().expect("there is a disk");
    assert_eq!((disk.major, disk.rbytes, disk.wios, metrics.io.usage.len()), (8, 1, 4, 1));
    assert_eq!(metrics.hugetlb.len(), 1);
    assert_eq!(metrics.hugetlb[0].pagesize, "2MB");
}

#[test]
fn a_limit_around_the_container_is_its_limit_too() {
    let (root, group) = fixture(&[("memory.max", "max\n")]);
    assert_eq!(group.memory_limit(), None);
    fs::write(root.path().join("pod/memory.max"), "5000\n").expect("a file can be written");
    assert_eq!(group.memory_limit(), Some(5000));
}

#[tokio::test(flavor = "current_thread")]
async fn kills_of_v2_are_told_once_each() {
    let (root, group) = fixture(&[("memory.events", "oom 1\noom_kill 2\n"), ("cgroup.events", "populated 1\n")]);
    let mut events = group.oom_events().expect("it can be watched");
    let file = root.path().join("pod/c1/memory.events");
    let set = |text: &str| fs::File::options().write(true).open(&file).expect("it is there").write_all(text.as_bytes());
    set("oom 3\noom_kill 2\n").expect("it can be written");
    set("oom 3\noom_kill 4\n").expect("it can be written");
    let told = tokio::time::timeout(Duration::from_secs(30), events.next()).await.expect("it is told in time");
    assert_eq!(told, Some(2));
    fs::remove_file(&file).expect("it can be removed");
    let told = tokio::time::timeout(Duration::from_secs(30), events.next()).await.expect("it is told in time");
    assert_eq!(told, None);
}
