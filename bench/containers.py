#!/usr/bin/env python3
"""Measures containers of anyport's shim beside the guest's native twin under runc, on the same Docker Engine.

Needs root, `cargo build --release` for the shim, and `libc.a` (Debian's `libc6-dev`) for a twin that needs no files.
The engine is a node of its own (.ci/engine): nothing of it is on this machine's network, and it goes with this
process. Both kinds of container take turns, so that a noisy machine is as unfair to one as to the other.
"""

import argparse
import contextlib
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
PORT = 8080
ANSWER_DEADLINE_S = 60
REST_S = 1.0  # before memory counts as idle
TWIN = "native, runc"
OPTIONS = {
    "anyport": ["--runtime=io.containerd.anyport.v1", "--platform=wasi/wasm32"],
    TWIN: ["--runtime=io.containerd.runc.v2"],
}
IMAGES = {"anyport": "guest", TWIN: "twin"}


def main():
    options = parse_arguments()
    if options.inside:
        inside(options)
        return
    if not options.shim.exists():
        sys.exit(f"bench/containers.py: no `{options.shim}`: `cargo build --release`")
    print(run.machine(), flush=True)
    node = f"{options.suite}:bench"
    os.environ["ANYPORT_SHIM"] = str(options.shim)
    with tempfile.TemporaryDirectory() as folder:
        images = pathlib.Path(folder)
        make_images(images)
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
    parser.add_argument("--starts", type=int, default=20, help="of each kind of container")
    parser.add_argument("--containers", type=int, default=50, help="at once, for memory")
    parser.add_argument("--rounds", type=int, default=3, help="of so many containers of each kind")
    parser.add_argument("--inside", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_images(folder):
    """Two folders to build images from: the guest, and its twin without a library that it would need files for."""
    target = f"{platform.machine()}-unknown-linux-gnu"
    environment = os.environ | {"RUSTFLAGS": "-C target-feature=+crt-static"}
    manifest = run.BENCH / "native/Cargo.toml"
    command = ["cargo", "build", "--release", "--locked", "--target", target, "--manifest-path", manifest]
    subprocess.run([*command, "-p", GUEST.twin], check=True, env=environment)
    twin = run.BENCH / f"native/target/{target}/release" / GUEST.twin
    for image, program in (("guest", run.ROOT / GUEST.module), ("twin", twin)):
        (folder / image).mkdir()
        shutil.copy(program, folder / image / "server")
        text = 'FROM scratch\nCOPY --chmod=755 server /server\nENTRYPOINT ["/server"]\n'
        (folder / image / "Dockerfile").write_text(text)


# === within the node ===


def inside(options):
    print(versions(), flush=True)
    docker("buildx", "build", "-q", "--platform", "wasi/wasm32", "-t", "guest", "--load", options.inside / "guest")
    docker("buildx", "build", "-q", "-t", "twin", "--load", options.inside / "twin")
    figures = {kind: {} for kind in OPTIONS}
    for kind in OPTIONS:
        start(kind)  # compiles the guest, and fills caches
    for _ in range(options.starts):
        for kind in OPTIONS:
            for key, value in start(kind).items():
                figures[kind].setdefault(key, []).append(value)
    for _ in range(options.rounds):
        for count in (1, options.containers):
            for kind in OPTIONS:
                for key, value in memory(kind, count).items():
                    figures[kind].setdefault(key, []).append(value)
    print(f"\n## {GUEST.title}, as containers\n")
    print(table(figures))


def versions():
    engine = docker("version", "--format", "Docker {{.Server.Version}}")
    found = [engine, *(f"{name} {number(name)}" for name in ("containerd", "runc"))]
    return ", ".join(found)


def number(program):
    done = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return re.search(r"\d+\.\d+\.\d+", done.stdout)[0]


def start(kind):
    """From `docker run` to its own end, and to the first answer at the published port."""
    begin = time.perf_counter()
    name = docker("run", "-dp", f"{PORT}:{PORT}", *OPTIONS[kind], IMAGES[kind])
    returned = time.perf_counter()
    try:
        await_answer("127.0.0.1")
        answered = time.perf_counter()
    finally:
        docker("rm", "-f", name)
    return {
        "docker run returns, ms": (returned - begin) * 1e3,
        "docker run to the first answer, ms": (answered - begin) * 1e3,
    }


def memory(kind, count):
    """What each of so many containers takes: its server, and the shim that looks after it."""
    names = []
    try:
        for _ in range(count):
            names.append(docker("run", "-d", *OPTIONS[kind], IMAGES[kind]))
        form = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        lines = docker("inspect", "--format", form, *names).splitlines()
        for line in lines:
            await_answer(line.split()[1])
        time.sleep(REST_S)
        servers = {int(line.split()[0]) for line in lines}
        shims = {parent(pid) for pid in servers}
        # A shim may have helpers, which are its too.
        shims |= descendants(shims) - servers
        return {
            f"memory of each of {count}, MB": (pss_mb(servers) + pss_mb(shims)) / count,
            f"of that the shim, of {count}, MB": pss_mb(shims) / count,
        }
    finally:
        docker("rm", "-f", *names)


def await_answer(host):
    deadline = time.perf_counter() + ANSWER_DEADLINE_S
    while time.perf_counter() < deadline:
        # Docker's proxy accepts before the server does, and then hangs up.
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(host, PORT, timeout=5)
            connection.request(GUEST.method, GUEST.path, GUEST.body.encode())
            got = connection.getresponse().read()
            connection.close()
            if got != GUEST.answer.encode():
                raise run.ServerError(f"{host} answered {got}")
            return
        time.sleep(0.0005)
    raise run.ServerError(f"{host} gave no answer in {ANSWER_DEADLINE_S} s")


def docker(*words):
    done = subprocess.run(["docker", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise run.ServerError(f"`docker {' '.join(map(str, words))}` failed: {done.stderr}")
    return done.stdout.strip()


# === processes ===


def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


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
    rows = [["median of each", *figures, f"anyport : {TWIN}"], ["---"] + ["--:"] * (len(figures) + 1)]
    for title in figures["anyport"]:
        values = [statistics.median(of[title]) for of in figures.values()]
        rows.append([title, *map(run.rounded, [*values, values[0] / values[1]])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    try:
        main()
    except run.ServerError as error:
        sys.exit(f"bench/containers.py: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
