#!/usr/bin/env python3
"""Measures what a second worker brings, and what a guest in an endless loop takes from its neighbour.

Run bench/setup.sh once before, and `cargo build --release --bins --examples` for anyport itself. Everything stays on
127.0.0.1 and ends with this process.

The client shares the machine. So a second worker is measured by what it is worth: requests for each second of
CPU time that the server used, times its workers. That is what the server would answer if its workers had a core
each and the client none of them. Beside it stands how evenly the work was spread.
"""

import argparse
import contextlib
import pathlib
import resource
import statistics

import run

GUEST = run.GUESTS["hyper"]
LOAD = run.Load(64)
LIGHT = run.Load(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--anyport", type=pathlib.Path, default=run.ROOT / "target/release/anyport")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    print(run.machine())
    workers(options)
    neighbour(options)


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
    used = sorted(after - threads[thread] for thread, after in cpu_of_workers(server).items())
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
    found = {}
    for task in pathlib.Path(f"/proc/{server.process.pid}/task").iterdir():
        if (task / "comm").read_text().startswith("server.wasm"):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[task.name] = int(fields[11]) + int(fields[12])
    return found


def neighbour(options):
    binary = options.anyport.parent / "examples/neighbours"
    module = run.ROOT / GUEST.module
    flags = {"alone": [], "beside a loop": ["--loop"]}
    commands = {
        name: run.Command(lambda port, flags=flags: [binary, module, str(port), *flags]) for name, flags in flags.items()
    }
    figures = {name: {"p50_ms": [], "p99_ms": []} for name in commands}
    # One at a time: the loop would be beside both.
    for _ in range(options.rounds):
        for name, command in commands.items():
            with contextlib.closing(run.Server(command, GUEST)) as server:
                result = run.one_round(server, GUEST, LIGHT, options.seconds)
            for key, values in figures[name].items():
                values.append(result[key])
    print(f"\n## A guest beside one in an endless loop, same process, {LIGHT}\n")
    print("| median of each | alone | beside a loop | ratio |\n| --- | --: | --: | --: |")
    for key, title in {"p50_ms": "median latency, ms", "p99_ms": "p99 latency, ms"}.items():
        alone, beside = (statistics.median(figure[key]) for figure in figures.values())
        print(f"| {title} | {alone:.3f} | {beside:.3f} | {run.rounded(beside / alone)} |")


if __name__ == "__main__":
    main()
