//! What a container may take, and what is told of it.

use std::time::{Duration, Instant};

use crate::support::{Image, Node, until};

pub(crate) fn stats_and_top_see_the_guest(node: &Node) {
    let container = node.start(&Image::hello(), &[], &[]);
    node.answer(container.address(8080), "POST", "/hello", "x");
    let format = "{{.MemUsage}}|{{.CPUPerc}}|{{.PIDs}}|{{.NetIO}}";
    let stats = container.docker(&["stats", "--no-stream", "--format", format]);
    let fields: Vec<&str> = stats.success().split('|').collect();
    let [memory, cpu, pids, net] = fields[..] else { panic!("{stats}") };
    assert!(!memory.starts_with("0B") && memory.contains('B'), "{stats}");
    assert!(cpu.ends_with('%'), "{stats}");
    assert!(pids.parse::<u32>().is_ok_and(|pids| pids > 0), "{stats}");
    assert!(!net.starts_with("0B"), "{stats}");

    let top = container.docker(&["top"]);
    let line = top.success().lines().nth(1).unwrap_or_else(|| panic!("{top}"));
    assert!(line.contains(&container.pid().to_string()), "{top}");
}

pub(crate) fn memory_beyond_the_limit_ends_the_guest(node: &Node) {
    let container = node.start(&Image::command(), &["--memory", "64m"], &["say", "up", "grow", "200"]);
    assert_eq!(container.wait(), 137);
    // Docker hears of it by an event, which may come after the end.
    until("word of the memory", || (container.inspect("{{.State.OOMKilled}}") == "true").then_some(()));
    let log = container.log();
    assert!(log.contains("up") && log.contains("MiB") && log.contains("--memory"), "no word of the limit in: {log}");
    // What fits is given.
    let fits = node.run_once(&Image::command(), &["--memory", "128m"], &["grow", "32"]);
    assert_eq!(fits.success(), "grown");
}

pub(crate) fn a_limit_of_memory_can_be_changed(node: &Node) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let mount = format!("{}:/signal", folder.path().display());
    let words = ["say", "up", "await", "/signal/go", "grow", "100"];
    let container = node.start(&Image::command(), &["-v", &mount, "--memory", "300m"], &words);
    container.wait_for_log("up");
    container.docker(&["update", "--memory", "64m", "--memory-swap", "64m"]).success();
    // Of the container's 64 MiB the runtime keeps 8; the guest's bound follows by the next question.
    until("the guest's bound to follow", || {
        let shown = container.exec(&["anyport", "ps"]);
        shown.stdout.contains("/ 56.0 MiB").then_some(())
    });
    std::fs::write(folder.path().join("go"), "").expect("the folder is ours");
    assert_eq!(container.wait(), 137);
    let log = container.log();
    assert!(log.contains("out of memory: it needs more than 56 MiB"), "{log}");
}

/// A fifth of a processor: what takes a second takes five.
pub(crate) fn a_share_of_a_processor_is_a_share(node: &Node) {
    let container = node.start(&Image::command(), &["--cpus", "0.2"], &["say", "up", "spin"]);
    container.wait_for_log("up");
    let used = || {
        let stat = std::fs::read_to_string(container.proc("stat")).expect("it lives");
        let ticks = stat.rsplit(')').next().unwrap_or_default().split(' ').skip(12).take(2).map(str::to_owned);
        ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>()
    };
    let (start, before) = (Instant::now(), used());
    until("two seconds", || (start.elapsed() > Duration::from_secs(2)).then_some(()));
    let (ticks, seconds) = (used() - before, start.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let share = ticks as f64 / 100.0 / seconds;
    assert!((0.05..0.4).contains(&share), "it had {share:.2} of a processor");
}
