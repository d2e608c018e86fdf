#!/usr/bin/env python3
"""Measures containers of anyport's shim beside the guest's native twin under runc, on the same Docker Engine.

Needs root, `cargo build --release` for the shim, and `libc.a` (Debian's `libc6-dev`) for a twin that needs no files.
The engine is a node of its own (.ci/engine): nothing of it is on this machine's network, and it goes with this
process. The kinds of container take turns, so that a noisy machine is as unfair to one as to the other.

With a runwasi shim (bench/setup-runwasi.sh) and a component that answers as the guest does, all three are measured
once more with `--network host`: it is the only network that Docker and runwasi have in common.
"""

import argparse
import contextlib
import dataclasses
import http.client
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import run

ENGINE = run.ROOT / ".ci/engine"
GUEST = run.GUESTS["hyper"]
COMPONENT = run.ROOT / "guests/wasi-http-0.2/echo/server.wasm"
PORT = 8080
ANSWER_DEADLINE_S = 60
REST_S = 2.0  # before memory counts as idle
ANYPORT = "anyport"
TWIN = "native, runc"
RUNWASI = "wasmtime, runwasi"
RUNWASI_SHIM = "containerd-shim-wasmtime-v1"


@dataclasses.dataclass(frozen=True)
class Kind:
    image: str
    options: tuple[str, ...]
    listen: str  # the variable that says where it listens


KINDS = {
    ANYPORT: Kind("guest", ("--runtime=io.containerd.anyport.v1", "--platform=wasi/wasm32"), "PORT={}"),
    TWIN: Kind("twin", ("--runtime=io.containerd.runc.v2",), "PORT={}"),
    RUNWASI: Kind(
        "component",
        ("--runtime=io.containerd.wasmtime.v1", "--platform=wasi/wasm32"),
        "WASMTIME_HTTP_PROXY_SOCKET_ADDR=0.0.0.0:{}",
    ),
}


def main():
    options = parse_arguments()
    if options.inside:
        inside(options)
        return
    if not options.shim.exists():
        sys.exit(f"bench/containers.py: no `{options.shim}`: `cargo build --release`")
    missing = [path for path in (options.runwasi, options.component) if not path.exists()]
    if missing:
        print(f"**{RUNWASI} is skipped: no `{missing[0]}` (bench/setup-runwasi.sh, --component)**", flush=True)
    print(run.machine(), flush=True)
    node = f"{options.suite}:bench"
    os.environ["ANYPORT_SHIM"] = str(options.shim)
    with tempfile.TemporaryDirectory() as folder:
        images = pathlib.Path(folder)
        make_images(images, options)
        try:
            subprocess.run([ENGINE, node, "up"], check=True)
            # Within the node, so that what reaches a container is not measured too.
            words = [sys.executable, __file__, "--inside", images, *sys.argv[1:]]
            subprocess.run([ENGINE, node, "sh", *words], check=True)
        finally:
            subprocess.run([ENGINE, node, "down"], check=False)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--suite", default="trixie", choices=("trixie", "sid"), help="the engine's Debian release")
    parser.add_argument("--shim", type=pathlib.Path, default=run.ROOT / "target/release/containerd-shim-anyport-v1")
    parser.add_argument("--runwasi", type=pathlib.Path, default=run.PEERS / "runwasi" / RUNWASI_SHIM, help="its shim")
    parser.add_argument("--component", type=pathlib.Path, default=COMPONENT, help="what it runs: wasi:http 0.2")
    parser.add_argument("--starts", type=int, default=20, help="of each kind of container")
    parser.add_argument("--containers", type=int, default=50, help="at once, for memory")
    parser.add_argument("--rounds", type=int, default=3, help="of so many containers of each kind")
    parser.add_argument("--inside", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_images(folder, options):
    """Folders to build images from: the guest, its twin without a library that it would need files for, and runwasi's
    component if both are there."""
    target = f"{platform.machine()}-unknown-linux-gnu"
    environment = os.environ | {"RUSTFLAGS": "-C target-feature=+crt-static"}
    manifest = run.BENCH / "native/Cargo.toml"
    command = ["cargo", "build", "--release", "--locked", "--target", target, "--manifest-path", manifest]
    subprocess.run([*command, "-p", GUEST.twin], check=True, env=environment)
    twin = run.BENCH / f"native/target/{target}/release" / GUEST.twin
    programs = {KINDS[ANYPORT].image: run.ROOT / GUEST.module, KINDS[TWIN].image: twin}
    if options.runwasi.exists() and options.component.exists():
        programs[KINDS[RUNWASI].image] = options.component
    for image, program in programs.items():
        (folder / image).mkdir()
        shutil.copy(program, folder / image / "server")
        text = 'FROM scratch\nCOPY --chmod=755 server /server\nENTRYPOINT ["/server"]\n'
        (folder / image / "Dockerfile").write_text(text)


# === within the node ===


def inside(options):
    print(versions(), flush=True)
    kinds = [name for name, kind in KINDS.items() if (options.inside / kind.image).exists()]
    for name in kinds:
        image = KINDS[name].image
        platform_of = [word for word in KINDS[name].options if word.startswith("--platform")]
        docker("buildx", "build", "-q", *platform_of, "-t", image, "--load", options.inside / image)
    own = [ANYPORT, TWIN]
    print(f"\n## {GUEST.title}, as containers\n")
    print(table(measure(own, "bridge", options)), flush=True)
    if RUNWASI in kinds:
        offer(options.runwasi)
        print("\n### With `--network host`, beside runwasi\n")
        print(table(measure(kinds, "host", options)))


def offer(shim):
    """Puts a shim beside anyport's, where containerd finds it."""
    link = pathlib.Path(shutil.which("containerd-shim-anyport-v1")).with_name(shim.name)
    link.unlink(missing_ok=True)
    link.symlink_to(shim.resolve())


def measure(kinds, network, options):
    """{kind: {figure: […]}}"""
    figures = {kind: {} for kind in kinds}
    for kind in kinds:
        start(kind, network)  # compiles the guest, and fills caches
    for _ in range(options.starts):
        for kind in kinds:
            for key, value in start(kind, network).items():
                figures[kind].setdefault(key, []).append(value)
    for _ in range(options.rounds):
        for count in (1, options.containers):
            for kind in kinds:
                for key, value in memory(kind, network, count).items():
                    figures[kind].setdefault(key, []).append(value)
    return figures


def versions():
    engine = docker("version", "--format", "Docker {{.Server.Version}}")
    found = [engine, *(f"{name} {number(name)}" for name in ("containerd", "runc"))]
    return ", ".join(found)


def number(program):
    done = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return re.search(r"\d+\.\d+\.\d+", done.stdout)[0]


def run_container(kind, network, port, *options):
    words = [*KINDS[kind].options, f"--network={network}", "-e", KINDS[kind].listen.format(port)]
    return docker("run", "-d", *words, *options, KINDS[kind].image)


def start(kind, network):
    """From `docker run` to its own end, and to the first answer at the published port."""
    publish = ["-p", f"{PORT}:{PORT}"] if network == "bridge" else []
    begin = time.perf_counter()
    name = run_container(kind, network, PORT, *publish)
    returned = time.perf_counter()
    try:
        await_answer("127.0.0.1", PORT)
        answered = time.perf_counter()
    finally:
        docker("rm", "-f", name)
    return {
        "docker run returns, ms": (returned - begin) * 1e3,
        "docker run to the first answer, ms": (answered - begin) * 1e3,
    }


def memory(kind, network, count):
    """What each of so many containers takes that have answered: its server, and the shim that looks after it."""
    names = []
    try:
        # On the host's network each needs a port of its own.
        ports = [PORT + (index if network == "host" else 0) for index in range(count)]
        for port in ports:
            names.append(run_container(kind, network, port))
        form = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        lines = [line.split() for line in docker("inspect", "--format", form, *names).splitlines()]
        addresses = [address[0] if address else "127.0.0.1" for _, *address in lines]
        # Twice: a start that has been forgotten meanwhile is no part of what it takes to answer.
        for _ in range(2):
            for address, port in zip(addresses, ports, strict=True):
                await_answer(address, port)
            time.sleep(REST_S)
        servers = {int(pid) for pid, *_ in lines}
        shims = set().union(*map(shims_of, servers))
        # A shim may have helpers, which are its too.
        shims |= descendants(shims) - servers
        return {
            f"memory of each of {count}, MB": (pss_mb(servers) + pss_mb(shims)) / count,
            f"of that the shim, of {count}, MB": pss_mb(shims) / count,
        }
    finally:
        docker("rm", "-f", *names)


def await_answer(host, port):
    deadline = time.perf_counter() + ANSWER_DEADLINE_S
    while time.perf_counter() < deadline:
        # Docker's proxy accepts before the server does, and then hangs up.
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(host, port, timeout=5)
            connection.request(GUEST.method, GUEST.path, GUEST.body.encode())
            got = connection.getresponse().read()
            connection.close()
            if got != GUEST.answer.encode():
                raise run.ServerError(f"{host}:{port} answered {got}")
            return
        time.sleep(0.0005)
    raise run.ServerError(f"{host}:{port} gave no answer in {ANSWER_DEADLINE_S} s")


def docker(*words):
    done = subprocess.run(["docker", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise run.ServerError(f"`docker {' '.join(map(str, words))}` failed: {done.stderr}")
    return done.stdout.strip()


# === processes ===


def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def shims_of(pid):
    """The processes above this one that are a shim's; some have several for a container."""
    found = set()
    while os.path.basename(os.readlink(f"/proc/{(pid := parent(pid))}/exe")).startswith("containerd-shim"):
        found.add(pid)
    return found


def descendants(pids):
    parents = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = parent(int(folder.name))
    found = set()
    while new := {pid for pid, of in parents.items() if of in pids | found} - found:
        found |= new
    return found


def pss_mb(pids):
    """Memory of these processes; of what they share with others, their share."""
    total_kb = 0
    for pid in pids:
        total_kb += int(re.search(r"(?m)^Pss: +(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text())[1])
    return total_kb / 1024


def table(figures):
    others = [kind for kind in figures if kind != ANYPORT]
    rows = [["median of each", *figures, *(f"{ANYPORT} : {other}" for other in others)]]
    rows.append(["---"] + ["--:"] * (len(rows[0]) - 1))
    for title in figures[ANYPORT]:
        medians = {kind: statistics.median(of[title]) for kind, of in figures.items()}
        ratios = [medians[ANYPORT] / medians[other] for other in others]
        rows.append([title, *map(run.rounded, [*medians.values(), *ratios])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    try:
        main()
    except run.ServerError as error:
        sys.exit(f"bench/containers.py: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
