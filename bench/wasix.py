#!/usr/bin/env python3
"""Measures anyport beside Wasmer and beside native builds of the same C source, on servers of WASIX.

Run bench/setup.sh once before, and `cargo build --release` for anyport itself. How it is measured is told in
bench/run.py, which does it.
"""

import argparse
import pathlib
import subprocess
import sys

import run

SOURCES = run.ROOT / "guests/wasix"
TWINS = run.BENCH / "native/target/wasix"

LOADS = (run.Load(1), run.Load(8), run.Load(32))


def guest(title, name):
    # Each answer counts requests behind these words.
    words = "hello from wasix "
    return run.Guest(title, f"guests/wasix/{name}.wasm", name, "GET", "/hello", "", words, LOADS)


GUESTS = {
    "pthread": guest("C, a thread for each connection (WASIX)", "pthread"),
    "pool": guest("C, a pool of threads (WASIX)", "pool"),
    "poll": guest("C, poll (WASIX)", "pollsrv"),
    "epoll": guest("C, epoll (WASIX)", "epollsrv"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--wasmer", type=pathlib.Path, default=run.PEERS / "wasmer-7/bin/wasmer")
    options = run.parse_arguments(parser, GUESTS)
    run.compare(GUESTS, find_servers, options, [options.anyport, options.wasmer])


def find_servers(guest, options):
    commands, notes = {}, []
    module = run.ROOT / guest.module
    if options.anyport.exists():
        commands["anyport"] = run.Command(lambda port: [options.anyport, "run", "-p", str(port), "-e", f"PORT={port}", module])
    else:
        notes.append(f"anyport is skipped: no `{options.anyport}` (`cargo build --release`)")
    if options.wasmer.exists():
        commands["Wasmer"] = run.Command(lambda port: [options.wasmer, "run", "--net", "--env", f"PORT={port}", module])
    else:
        notes.append(f"Wasmer is skipped: no `{options.wasmer}` (bench/setup.sh)")
    twin = native(guest.twin)
    commands["native"] = run.Command(lambda _port: [twin], "PORT=PORT ")
    return commands, notes


def native(name):
    """The same source for this machine, built now."""
    source, twin = SOURCES / f"{name}.c", TWINS / name
    TWINS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O2", "-pthread", source, "-o", twin], check=True, stdout=sys.stderr)
    return twin


if __name__ == "__main__":
    try:
        main()
    except run.ServerError as error:
        sys.exit(f"bench/wasix.py: {error}")
