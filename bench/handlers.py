#!/usr/bin/env python3
"""Measures anyport beside `wasmtime serve` and a native server on handlers of wasi:http, and prints the ratios.

Run bench/setup.sh once before, and `cargo build --release` for anyport itself; `guests/large/build.sh hono` makes
the guest in JavaScript. How it is measured is told in bench/run.py, which does it.

`--only hogs` measures what others take from a client that behaves: idle connections, and requests that never end.
"""

import argparse
import contextlib
import pathlib
import resource
import signal
import socket
import statistics
import sys
import threading
import time

import run

LOADS = (run.Load(1), run.Load(32), run.Load(256))
HELLO = ("http-hello", "GET", "/hello", "", "Hello\n", LOADS)
GUESTS = {
    "0.2": run.Guest("wasi:http 0.2, Rust", "guests/wasi-http-0.2/echo/server.wasm", *HELLO),
    "0.3": run.Guest("wasi:http 0.3, Rust", "guests/wasi-http-0.3/echo/server.wasm", *HELLO),
    "js": run.Guest("wasi:http 0.2, Hono (JavaScript)", "target/guests/hono.wasm", *HELLO),
}

# What makes the instances of a pool cheapest to use again: their memory need not be mapped anew.
KEEPING = ("-O", "pooling-memory-keep-resident=2097152", "-O", "pooling-table-keep-resident=65536")
KEEPING += ("-O", "pooling-pagemap-scan=y")

# What one client is beside: so many connections that say nothing, and so many requests that never end.
OTHERS = {
    "alone": (0, 0),
    "beside 1,000 idle connections": (1000, 0),
    "beside 2 requests that loop": (0, 2),
    "beside both": (1000, 2),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--wasmtime", type=pathlib.Path, default=run.PEERS / "wasmtime-48/bin/wasmtime")
    parser.add_argument("--only", choices=["hogs"])
    options = run.parse_arguments(parser, GUESTS)
    if options.only == "hogs":
        hogs(options)
    else:
        run.compare(GUESTS, find_servers, options, [options.anyport, options.wasmtime])


def find_servers(guest, options):
    commands, notes = {}, []
    module, twin = run.ROOT / guest.module, run.NATIVE / guest.twin
    if not module.exists():
        notes.append(f"anyport and wasmtime are skipped: no `{guest.module}` (guests/build.sh, guests/large/build.sh)")
    else:
        if options.anyport.exists():
            commands["anyport"] = anyport(options.anyport, module)
        else:
            notes.append(f"anyport is skipped: no `{options.anyport}` (`cargo build --release`)")
        if options.wasmtime.exists():
            commands["wasmtime serve"] = wasmtime(options.wasmtime, module)
            commands["wasmtime serve, tuned"] = wasmtime(options.wasmtime, module, *KEEPING)
        else:
            notes.append(f"wasmtime is skipped: no `{options.wasmtime}` (bench/setup.sh)")
    if twin.exists():
        commands["native"] = native(twin, 1)
        commands["native, 2 threads"] = native(twin, 2)
    else:
        notes.append(f"native is skipped: no `{twin}` (bench/setup.sh)")
    return commands, notes


def anyport(binary, module):
    return run.Command(lambda port: [binary, "run", "-p", f"127.0.0.1:{port}:8080", module])


def wasmtime(binary, module, *options):
    return run.Command(lambda port: [binary, "serve", *options, "-S", "cli", "--addr", f"127.0.0.1:{port}", module])


def native(binary, threads):
    return run.Command(lambda _port: [binary], f"PORT=PORT THREADS={threads} ", (("THREADS", str(threads)),))


# === hogs ===


def hogs(options):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(run.machine(), run.versions([options.anyport, options.wasmtime]), sep="\n\n")
    for name in options.guest or ("0.2", "0.3"):
        guest = GUESTS[name]
        commands, notes = find_servers(guest, options)
        commands = {server: command for server, command in commands.items() if not server.startswith("native")}
        print(f"\n## {guest.title}: one client, beside others\n", flush=True)
        results = {server: {others: [] for others in OTHERS} for server in commands}
        for _ in range(options.rounds):
            for others, (idle, loops) in OTHERS.items():
                for server, command in commands.items():
                    figures = beside_others(command, guest, options.seconds, idle, loops)
                    results[server][others].append(figures)
        print(hogs_table(results))
        for note in notes:
            print(f"- {note}")


def beside_others(command, guest, seconds, idle, loops):
    """The figures of one client, on a server of its own."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(run.Server(command, guest)))
        run.one_round(server, guest, LOADS[0], 1)  # its first requests are slower
        for _ in range(idle):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), run.START_DEADLINE_S))
        stop = threading.Event()
        stack.callback(stop.set)
        for _ in range(loops):
            threading.Thread(target=loop, args=(server.port, stop), daemon=True).start()
        time.sleep(run.REST_S)
        return run.one_round(server, guest, LOADS[0], seconds)


def loop(port, stop):
    """Asks for what never ends; if the server ends it, asks again."""
    while not stop.is_set():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as stream:
            stream.sendall(b"GET /loop HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            stream.settimeout(0.1)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    if not stream.recv(4096):
                        break
        stop.wait(0.01)


def hogs_table(results):
    rows = [["median of each", *results], ["---"] + ["--:"] * len(results)]
    units = {"p50_ms": "median latency, ms", "p99_ms": "p99 latency, ms", "requests_per_s": "requests/s"}
    for key, unit in units.items():
        for others in OTHERS:
            cells = []
            for figures_of in results.values():
                rounds = figures_of[others]
                answered = [figures for figures in rounds if figures["requests_per_s"] > 0]
                # With a round without an answer, a median of the others would be a tale.
                value = statistics.median(figures[key] for figures in rounds) if answered == rounds else None
                cells.append("no answer" if value is None else run.rounded(value))
            rows.append([f"{unit}: {others}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    try:
        main()
    except run.ServerError as error:
        sys.exit(f"bench/handlers.py: {error}")
