#!/usr/bin/env python3
"""Measures what a second worker brings, and what a guest in an endless loop takes from its neighbour.

Run bench/setup.sh once before, and `cargo build --release --bins --examples` for anyport itself. Everything stays on
127.0.0.1 and ends with this process.

The client shares the machine. So a second worker is measured by what it is worth: requests for each second of
CPU time that the server used, times its workers. That is what the server would answer if its workers had a core
each and the client none of them. Beside it stands how evenly the work was spread.

A guest in an endless loop is moved to a thread that gives way. Run by root, this gives that thread its priority
back in some of the rounds, to measure what it would take from its neighbour.
"""

import argparse
import contextlib
import os
import pathlib
import resource
import statistics
import time

import run

GUEST = run.GUESTS["hyper"]
LOAD = run.Load(64)
LIGHT = run.Load(1)

# A round beside a loop is measured again when other programs used so much of a core, and so often.
OTHERS_MOST = 0.06
TRIES = 60


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--anyport", type=pathlib.Path, default=run.ROOT / "target/release/anyport")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", choices=["workers", "neighbour"])
    options = parser.parse_args()
    print(run.machine())
    for measure in (workers, neighbour):
        if options.only in (None, measure.__name__):
            measure(options)


def workers(options):
    module = run.ROOT / GUEST.module
    commands = {
        count: run.anyport(options.anyport, module, "--workers", str(count)) for count in (1, 2)
    }
    figures = {count: [] for count in commands}
    with contextlib.ExitStack() as stack:
        servers = {
            count: stack.enter_context(contextlib.closing(run.Server(command, GUEST)))
            for count, command in commands.items()
        }
        for _ in range(options.rounds):
            for count, server in servers.items():
                figures[count].append(one_round(server, count, options.seconds))
    print(f"\n## --workers 1 and 2, {LOAD}\n")
    print("| median of each | --workers 1 | --workers 2 | 2 : 1 |\n| --- | --: | --: | --: |")
    titles = {
        "requests_per_s": "requests/s, beside the client",
        "worth": "requests/s of the server's CPU time x workers",
        "server_cores": "cores that the server used",
        "client_cores": "cores that the client used",
        "busiest": "share of the busiest worker",
        "p99_ms": "p99 latency, ms",
    }
    for key, title in titles.items():
        one, two = (statistics.median(figure[key] for figure in figures[count]) for count in (1, 2))
        print(f"| {title} | {run.rounded(one)} | {run.rounded(two)} | {run.rounded(two / one)} |")


def one_round(server, count, seconds):
    client = resource.getrusage(resource.RUSAGE_CHILDREN)
    threads = cpu_of_workers(server)
    result = run.one_round(server, GUEST, LOAD, seconds)
    used = sorted(after - threads.get(thread, 0) for thread, after in cpu_of_workers(server).items())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    client_s = after.ru_utime + after.ru_stime - client.ru_utime - client.ru_stime
    cpu_s = result["cpu_us_per_request"] / 1e6
    return {
        "requests_per_s": result["requests_per_s"],
        "worth": count / cpu_s,
        "server_cores": result["requests_per_s"] * cpu_s,
        "client_cores": client_s / seconds,
        "busiest": used[-1] / sum(used),
        "p99_ms": result["p99_ms"],
    }


def cpu_of_workers(server):
    """{thread: CPU time in ticks} of the threads that run guests: they have its name."""
    return {task.name: ticks for task, _, ticks in threads(server, "server.wasm")}


def threads(server, name):
    """[(its folder, niceness, CPU time in ticks)] of the threads that begin with this name."""
    found = []
    for task in pathlib.Path(f"/proc/{server.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has ended
            if (task / "comm").read_text().startswith(name):
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                found.append((task, int(fields[16]), int(fields[11]) + int(fields[12])))
    return found


def neighbour(options):
    binary = options.anyport.parent / "examples/neighbours"
    module = run.ROOT / GUEST.module
    alone = run.Command(lambda port: [binary, module, str(port)])
    beside = run.Command(lambda port: [binary, module, str(port), "--loop"])
    rounds = {"alone": alone, "beside a loop": beside}
    if os.geteuid() == 0:
        rounds["beside one that does not give way"] = beside
    figures = {name: {"p50_ms": [], "p99_ms": [], "requests_per_s": []} for name in rounds}
    # One at a time: the loop would be beside all of them. Not always after the same one.
    disturbed = 0
    for number in range(options.rounds):
        for name in list(rounds)[:: 1 if number % 2 else -1]:
            with contextlib.closing(run.Server(rounds[name], GUEST)) as server:
                if rounds[name] is beside:
                    thread = that_gives_way(server)
                    if name != "beside a loop":
                        os.setpriority(os.PRIO_PROCESS, int(thread.name), os.getpriority(os.PRIO_PROCESS, 0))
                for _ in range(TRIES):
                    others = cpu_of_others(server)
                    result = run.one_round(server, GUEST, LIGHT, options.seconds)
                    if cpu_of_others(server) - others < OTHERS_MOST * options.seconds:
                        break
                    disturbed += 1
                    time.sleep(1)
            for key, values in figures[name].items():
                values.append(result[key])
    print(f"\n## A guest beside one in an endless loop, same process, {LIGHT}\n")
    ratios = [f"{name} : alone" for name in rounds if name != "alone"]
    print(f"| median of each | {' | '.join([*rounds, *ratios])} |\n| --- |{' --: |' * (len(rounds) + len(ratios))}")
    titles = {"p50_ms": "median latency, ms", "p99_ms": "p99 latency, ms", "requests_per_s": "requests/s"}
    for key, title in titles.items():
        first, *others = (statistics.median(figure[key]) for figure in figures.values())
        values = [f"{value:,.3f}" if value < 100 else run.rounded(value) for value in (first, *others)]
        print(f"| {title} | {' | '.join([*values, *(run.rounded(other / first) for other in others)])} |")
    if disturbed:
        print(f"- {disturbed} rounds were measured again: other programs used more than {OTHERS_MOST:.0%} of a core")


def cpu_of_others(server):
    """CPU time in s of all programs but this one, its clients and the server. What a loop and a client leave
    of two cores is little: another program would make them wait for it, whoever gives way to whom."""
    fields = pathlib.Path("/proc/stat").read_text().split(maxsplit=9)
    every = sum(int(fields[index]) for index in (1, 2, 3, 6, 7)) / os.sysconf("SC_CLK_TCK")
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return every - server.cpu_s() - sum(usage.ru_utime + usage.ru_stime for usage in own)


def that_gives_way(server):
    """The thread to which the loop has been moved."""
    deadline = time.monotonic() + run.START_DEADLINE_S
    while time.monotonic() < deadline:
        for thread, niceness, _ in threads(server, "loop"):
            if niceness > os.getpriority(os.PRIO_PROCESS, 0):
                return thread
        time.sleep(0.01)
    raise run.ServerError("the loop does not give way")


if __name__ == "__main__":
    main()
