#!/usr/bin/env python3
"""Has an instrumented anyport (bench/dist.sh) serve each guest of the benchmarks for a while, and end by itself, which
writes its profile.
"""

import contextlib
import pathlib
import signal
import sys

import handlers
import run
import wasix

SECONDS = 2
LOADS = (run.Load(1), run.Load(32))
GUESTS = run.GUESTS | {name: guest for name, guest in handlers.GUESTS.items() if name != "js"} | wasix.GUESTS


def main():
    (binary,) = map(pathlib.Path, sys.argv[1:])
    for name, guest in GUESTS.items():
        with contextlib.closing(run.Server(command(binary, name, guest), guest)) as server:
            for load in LOADS:
                run.one_round(server, guest, load, SECONDS)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)
        print(f"{name} is trained", flush=True)


def command(binary, name, guest):
    module = run.ROOT / guest.module
    return handlers.anyport(binary, module) if name in handlers.GUESTS else run.anyport(binary, module)


if __name__ == "__main__":
    try:
        main()
    except run.ServerError as error:
        sys.exit(f"bench/train.py: {error}")
