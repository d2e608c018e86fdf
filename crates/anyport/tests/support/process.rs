//! What the test's own process holds, and tests that need a process of their own to count it.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};

/// Names the test that a process was started for.
const ALONE: &str = "ANYPORT_TEST_ALONE";

/// Runs a test in a process of its own, where no other test opens descriptors or takes memory.
pub(crate) fn in_own_process(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some_and(|name| name == test) {
        return body();
    }
    let output = Command::new(std::env::current_exe().expect("Linux knows it"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, test)
        .output()
        .expect("what runs can be started once more");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "`{test}` in a process of its own:\n{said}");
}

/// Descriptors that this process has open.
pub(crate) fn open_descriptors() -> usize {
    // One of them is the folder's.
    fs::read_dir("/proc/self/fd").expect("Linux has it").count() - 1
}

/// Memory that this process has in use.
pub(crate) fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    let kilobytes = line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of kB");
    kilobytes << 10
}

/// Time that all threads of this process have spent on processors, in steps of 10 ms.
pub(crate) fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux has it");
    // The second field is the name, in brackets, with anything in it.
    let (_, fields) = stat.rsplit_once(") ").expect("the name is in brackets");
    let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number of ticks"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// As many descriptors for this process as it may have: two for each connection, with both of its
/// ends here.
pub(crate) fn allow_descriptors() {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum");
}

/// Lets this process open so many more descriptors, and no more.
pub(crate) fn leave_descriptors(count: usize) {
    // Those that are handed out next, and the one after them, which is to be refused.
    let next: Vec<OwnedFd> =
        (0..=count).map(|_| OwnedFd::from(fs::File::open("/dev/null").expect("it is there"))).collect();
    let refused = next.last().map(AsRawFd::as_raw_fd).and_then(|fd| u64::try_from(fd).ok());
    drop(next);
    let limits = Rlimit { current: refused, ..rustix::process::getrlimit(Resource::Nofile) };
    rustix::process::setrlimit(Resource::Nofile, limits).expect("less is always allowed");
}
