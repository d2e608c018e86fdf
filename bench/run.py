#!/usr/bin/env python3
"""Measures anyport beside WasmEdge (AOT), wasmtime 46 and the guests' native twins, and prints the ratios.

Run bench/setup.sh once before, and `cargo build --release` for anyport itself. All servers of a guest run
at the same time and are loaded in turn, in interleaved rounds, so that a noisy machine is as unfair to one
as to the other; the figures are medians. Everything stays on 127.0.0.1 and ends with this process.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import platform
import random
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
NATIVE = BENCH / "native/target/release"
PEERS = BENCH / ".peers"


@dataclass(frozen=True)
class Load:
    connections: int
    version: str = "HTTP/1.1"

    def __str__(self):
        noun = "connection" if self.connections == 1 else "connections"
        how = "" if self.version == "HTTP/1.1" else f", {self.version}"
        return f"{self.connections} {noun}{how}"


@dataclass(frozen=True)
class Guest:
    title: str
    module: str
    twin: str  # its binary in bench/native
    method: str
    path: str
    body: str
    answer: str  # or what it begins with
    loads: tuple[Load, ...]
    preopened: bool = False  # is given its listener, instead of opening one


HELLO = ("POST", "/hello", "Bob Morane", "👋 Hello Bob Morane\n")
GUESTS = {
    # WasmEdge leaves Nagle's algorithm on, which costs this guest 40 ms a request on a connection that
    # stays open. The third load, a connection for each request, shows WasmEdge without that.
    "hyper": Guest(
        "hyper_wasi + tokio_wasi (WasmEdge sockets)",
        "guests/wasmedge/hello/server.wasm",
        "hyper-hello",
        *HELLO,
        (Load(1), Load(64), Load(1, "HTTP/1.0"), Load(64, "HTTP/1.0")),
    ),
    # Closes after each answer: a connection for each request, whatever the client asks for.
    "blocking": Guest(
        "httpcodec, blocking (WasmEdge sockets)",
        "guests/wasmedge/hello-sync/server.wasm",
        "blocking-hello",
        *HELLO,
        (Load(1), Load(64)),
    ),
    "axum": Guest(
        "axum + tokio (preview1, listener at fd 3)",
        "guests/preview1/axum-fd3/server.wasm",
        "axum-hello",
        *("GET", "/", "", "hello from axum\n"),
        (Load(1), Load(32)),
        preopened=True,
    ),
}

START_DEADLINE_S = 120  # a first start may compile the guest
REST_S = 1.5  # before resident memory counts as idle: anyport gives back what its start needed after 1 s
BACKLOG = 1024  # tokio's own


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--wasmedge", type=pathlib.Path, default=PEERS / "bin/wasmedge")
    parser.add_argument("--wasmtime", type=pathlib.Path, default=PEERS / "wasmtime-46/bin/wasmtime")
    options = parse_arguments(parser, GUESTS)
    compare(GUESTS, find_servers, options, [options.anyport, options.wasmedge, options.wasmtime])


def compare(guests, find_servers, options, binaries):
    """Measures the servers that `find_servers` finds for each guest, and prints that."""
    # The default action of SIGTERM would leave the servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not shutil.which("wrk"):
        sys.exit("`wrk` is missing: run bench/setup.sh")
    report = {"machine": machine(), "versions": versions(binaries), "guests": {}}
    print(report["machine"], report["versions"], sep="\n\n")
    print("\nA ratio is anyport's figure : the other's. More is better for requests/s, else less.")
    for name in options.guest or guests:
        guest = guests[name]
        print(f"\n## {guest.title}\n", flush=True)
        commands, notes = find_servers(guest, options)
        results = measure(guest, commands, notes, options)
        print(table(guest, results))
        for note in [*notes, *wrk_errors(results)]:
            print(f"- {note}")
        print("\n```sh\n" + "\n".join(shown(guest, commands, options)) + "\n```", flush=True)
        report["guests"][name] = results
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments(parser, guests):
    """With the options that every comparison has."""
    parser.add_argument("--anyport", type=pathlib.Path, default=ROOT / "target/release/anyport")
    parser.add_argument("--guest", action="append", choices=guests, help="only this; repeatable")
    parser.add_argument("--rounds", type=int, default=5, help="of each load on each server")
    parser.add_argument("--seconds", type=int, default=3, help="length of a round")
    parser.add_argument("--starts", type=int, default=30, help="process starts of each server")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1 s, 10 starts")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="every single figure")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.starts = 3, 1, 10
    return options


# === servers ===


@dataclass(frozen=True)
class Command:
    words: Callable  # of the port
    prefix: str = ""  # what a person types before the words to get what Server sets up
    environment: tuple[tuple[str, str], ...] = ()  # besides PORT
    preopened: bool = False


def find_servers(guest, options):
    """{server: its Command} for those that can run `guest`, and in words why others cannot."""
    module, twin = ROOT / guest.module, NATIVE / guest.twin
    commands, notes = {}, []
    if not module.exists():
        notes.append(f"anyport and WasmEdge are skipped: no `{guest.module}` (`just guests`)")
    elif options.anyport.exists():
        commands["anyport"] = anyport(options.anyport, module)
    else:
        notes.append(f"anyport is skipped: no `{options.anyport}` (`cargo build --release`)")
    if guest.preopened:
        notes.append("WasmEdge cannot run this guest: it has no preopened listeners")
        if not module.exists():
            pass
        elif options.wasmtime.exists():
            commands["wasmtime 46"] = wasmtime(options.wasmtime, module)
        else:
            notes.append(f"wasmtime is skipped: no `{options.wasmtime}` (bench/setup.sh)")
    elif module.exists() and options.wasmedge.exists():
        commands["WasmEdge AOT"] = wasmedge(options.wasmedge, module)
    elif module.exists():
        notes.append(f"WasmEdge is skipped: no `{options.wasmedge}` (bench/setup.sh)")
    if not twin.exists():
        notes.append(f"native is skipped: no `{twin}` (bench/setup.sh)")
    elif guest.preopened:
        prefix = "systemd-socket-activate --listen=127.0.0.1:PORT "
        commands["native"] = Command(lambda _port: [twin], prefix, preopened=True)
    else:
        commands["native"] = Command(lambda _port: [twin], "PORT=PORT ")
    return commands, notes


def anyport(binary, module, *options):
    def words(port):
        variables = (f"PORT={port}", f"ADDR=127.0.0.1:{port}", "LISTEN_FDS=1")
        flags = [word for variable in variables for word in ("-e", variable)]
        return [binary, "run", "-p", f"{port}:{port}", *options, *flags, module]

    return Command(words)


def wasmedge(binary, module):
    library = aot(module, "so", lambda partial: [binary, "compile", module, partial])
    # Without --run-mode aot it interprets even a compiled library, 8 times slower.
    return Command(lambda port: [binary, "--run-mode", "aot", "--env", f"PORT={port}", library])


def wasmtime(binary, module):
    compiled = aot(module, "cwasm", lambda partial: [binary, "compile", module, "-o", partial])
    wasi = "preview2=n,tcplisten=127.0.0.1:"
    environment = ["--env", "LISTEN_FDS=1"]
    return Command(lambda port: [binary, "run", "--allow-precompiled", "-S", f"{wasi}{port}", *environment, compiled])


def aot(module, suffix, command):
    """The module as a peer compiled it, once for each content."""
    digest = hashlib.sha256(module.read_bytes()).hexdigest()[:16]
    compiled = PEERS / "aot" / f"{module.parent.name}-{digest}.{suffix}"
    if not compiled.exists():
        compiled.parent.mkdir(parents=True, exist_ok=True)
        partial = compiled.with_name(f"partial.{suffix}")
        subprocess.run(command(partial), check=True, stdout=sys.stderr)
        partial.rename(compiled)
    return compiled


class Server:
    """A running server that has given the right answer; closing it kills it."""

    def __init__(self, command, guest):
        self.port = free_port()
        self.log = tempfile.TemporaryFile()
        environment = os.environ | {"PORT": str(self.port)} | dict(command.environment)
        environment.pop("RUST_BACKTRACE", None)  # slows wasmtime's error paths
        with contextlib.ExitStack() as stack:
            inherited = ()
            if command.preopened:
                address = ("127.0.0.1", self.port)
                listener = stack.enter_context(socket.create_server(address, backlog=BACKLOG))
                inherited = (listener.fileno(),)
                environment["LISTEN_FD"] = str(listener.fileno())
            started = time.perf_counter()
            self.process = subprocess.Popen(
                command.words(self.port),
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                env=environment,
                pass_fds=inherited,
            )
        try:
            self.first_answer_ms = (self.first_answer(guest) - started) * 1e3
        except BaseException:
            self.close()
            raise

    def first_answer(self, guest):
        deadline = time.perf_counter() + START_DEADLINE_S
        while time.perf_counter() < deadline:
            try:
                got = ask(self.port, guest)
            except (ConnectionError, TimeoutError):
                self.check_alive()
                os.sched_yield()  # even the shortest sleep can take 0.6 ms, half a native start
                continue
            if not got.startswith(guest.answer.encode()):
                raise ServerError(f"{self} answered {got}")
            return time.perf_counter()
        raise ServerError(f"{self} gave no answer in {START_DEADLINE_S} s")

    def check_alive(self):
        if self.process.poll() is not None:
            self.log.seek(0)
            said = self.log.read().decode(errors="replace")[-500:]
            raise ServerError(f"{self} ended with {self.process.returncode} and said: {said}")

    def cpu_s(self):
        # Linux's clock of another process's CPU time: the user and system time of /proc/PID/stat, but in
        # ns. There it comes in ticks of 10 ms, more than WasmEdge uses in a round at one connection.
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def resident_mb(self):
        self.check_alive()
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    def __str__(self):
        return pathlib.Path(self.process.args[0]).name

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class ServerError(Exception):
    pass


def free_port():
    # Below the range of the clients' own ports. In it, a connect to a port that nobody listens on yet can
    # connect to itself, and a port that an old connection still holds cannot be bound.
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError("found no free port")


def ask(port, guest):
    """The body of the answer to one request, as soon as it is complete."""
    body = guest.body.encode()
    fields = f"Host: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    head = f"{guest.method} {guest.path} HTTP/1.1\r\n{fields}"
    with socket.create_connection(("127.0.0.1", port), START_DEADLINE_S) as stream:
        stream.sendall(head.encode() + body)
        got = b""
        while chunk := stream.recv(4096):
            got += chunk
            head, _, answer = got.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if length and len(answer) >= int(length[1]):
                return answer
            if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head) and answer.endswith(b"0\r\n\r\n"):
                return unchunked(answer)
    raise ConnectionError(f"answer cut short: {got}")


def unchunked(body):
    parts = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        parts, body = parts + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return parts


# === measuring ===


def measure(guest, commands, notes, options):
    """{server: {"start_ms": […], "idle_mb": …, "loads": {load: {figure: […]}}}}

    A server that does not serve the guest at all leaves a note and is dropped from `commands`.
    """
    results = {}
    for name, command in list(commands.items()):
        try:
            start_ms(command, guest)  # compiles and fills caches
        except ServerError as error:
            notes.append(f"**{name} is skipped: {error}**")
            del commands[name]
            continue
        # Not interleaved: a start just after another server's finds the processor's caches cold.
        starts = [start_ms(command, guest) for _ in range(options.starts)]
        results[name] = {"start_ms": starts, "loads": {}}
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(contextlib.closing(Server(command, guest)))
            for name, command in commands.items()
        }
        time.sleep(REST_S)
        for name, server in servers.items():
            results[name]["idle_mb"] = server.resident_mb()
        deaths = dict.fromkeys(servers, 0)
        for _ in range(options.rounds):
            for load in guest.loads:
                for name in servers:
                    figures = results[name]["loads"].setdefault(str(load), {})
                    try:
                        values = one_round(servers[name], guest, load, options.seconds)
                    except ServerError:
                        # A peer that does not bear the load is started again, and that is told.
                        if name == "anyport" or deaths[name] == options.rounds:
                            raise
                        deaths[name] += 1
                        servers[name] = stack.enter_context(contextlib.closing(Server(commands[name], guest)))
                        continue
                    for key, value in values.items():
                        figures.setdefault(key, []).append(value)
    notes += [f"**{name} ended itself under load {count} times**" for name, count in deaths.items() if count]
    return results


def start_ms(command, guest):
    with contextlib.closing(Server(command, guest)) as server:
        return server.first_answer_ms


def one_round(server, guest, load, seconds):
    cpu_s = server.cpu_s()
    command = wrk_command(guest, load, seconds, server.port)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        try:
            time.sleep(seconds / 2)
            loaded_mb = server.resident_mb()
            output, _ = wrk.communicate(timeout=seconds + 30)
        finally:
            wrk.kill()
    server.check_alive()
    result = json.loads(output.splitlines()[-1])
    requests = max(result["requests"], 1)
    return {
        "requests_per_s": result["requests"] / result["seconds"],
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
        "cpu_us_per_request": (server.cpu_s() - cpu_s) * 1e6 / requests,
        "loaded_mb": loaded_mb,
        "errors": result["errors"],
    }


def wrk_command(guest, load, seconds, port):
    script = ["-s", BENCH / "load.lua", f"http://127.0.0.1:{port}{guest.path}"]
    request = ["--", load.version, guest.method, guest.body]
    return ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", *script, *request]


# === the report ===


def table(guest, results):
    peers = [name for name in results if name != "anyport" and "anyport" in results]
    rows = [["median of each", *results, *(f"anyport : {peer}" for peer in peers)]]
    rows.append(["---"] + ["--:"] * (len(rows[0]) - 1))
    for title, figure in figures(guest):
        values = {name: figure(result) for name, result in results.items()}
        # A peer that answers nothing has nothing to be compared with.
        ratios = [values["anyport"] / values[peer] if values[peer] else None for peer in peers]
        rows.append([title, *map(rounded, [*values.values(), *ratios])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def figures(guest):
    """(title, function of a server's results) for each row of the table."""
    units = {
        "requests_per_s": "requests/s",
        "p50_ms": "median latency, ms",
        "p99_ms": "p99 latency, ms",
        "cpu_us_per_request": "server CPU per request, µs",
    }
    for key, unit in units.items():
        for load in guest.loads:
            yield f"{unit}: {load}", loaded(load, key)
    yield "start to first answer, ms", lambda result: statistics.median(result["start_ms"])
    yield "resident when idle, MB", lambda result: result["idle_mb"]
    for load in guest.loads[1:]:
        yield f"resident, MB: {load}", loaded(load, "loaded_mb")


def loaded(load, key):
    return lambda result: statistics.median(result["loads"][str(load)][key])


def rounded(value):
    return "–" if value is None else f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def wrk_errors(results):
    for name, result in results.items():
        for load, values in result["loads"].items():
            if count := sum(values["errors"]):
                yield f"**{name}, {load}: wrk counted {count} errors**"


def shown(guest, commands, options):
    """The commands as a person would type them at the root of the repository."""

    def relative(words):
        return shlex.join(map(str, words)).replace(f"{ROOT}/", "")

    for command in commands.values():
        yield command.prefix + relative(command.words("PORT"))
    for load in guest.loads:
        yield relative(wrk_command(guest, load, options.seconds, "PORT"))


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return (
        f"{len(os.sched_getaffinity(0))} cores of {model[1] if model else platform.machine()},"
        f" {platform.system()} {platform.release()}, load average {os.getloadavg()[0]:.2f} before"
    )


def versions(binaries):
    found = []
    for command in [*([binary, "--version"] for binary in binaries), ["wrk", "-v"]]:
        if shutil.which(command[0]):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            number = re.search(r"\d+\.\d+[.\d]*", done.stdout + done.stderr)
            found.append(f"{pathlib.Path(command[0]).name} {number[0] if number else '?'}")
    lock = (BENCH / "native/Cargo.lock").read_text()
    for crate in ("hyper", "axum", "tokio"):
        found.append(crate + " " + re.search(rf'name = "{crate}"\nversion = "(.*)"', lock)[1])
    return ", ".join(found)


if __name__ == "__main__":
    try:
        main()
    except ServerError as error:
        sys.exit(f"bench/run.py: {error}")
