#!/usr/bin/env python3
"""Compares what anyport and wasmtime 36 answer to a guest's hostcalls, and prints where they differ.

wasmtime 36 is the last long-supported one with `--tcplisten`, so it is the oracle for what a server with a
preopened listener is told. The guests that ask are guests/preview1/probe, a scene at a time, whose client this
script plays, and guests/probe. differences.toml lists each difference that is known, with its reason. The exit
code is 1 if there is a difference that is not listed, or a listed one that is not there any more.

Run conformance/setup.sh once before, and `cargo build --release` for anyport itself. Needs Linux.
"""

import argparse
import fcntl
import json
import os
import pathlib
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CONFORMANCE = pathlib.Path(__file__).resolve().parent
ROOT = CONFORMANCE.parent

# For one answer. A first start may compile the guest.
DEADLINE_S = 60
# Between two looks at what the kernel tells and does not announce.
LOOK_S = 0.001
NOTHING = "-"


def main() -> int:
    options = parse_arguments()
    for program, how in (options.anyport, "cargo build --release"), (options.wasmtime, "sh conformance/setup.sh"):
        if not program.exists():
            sys.exit(f"there is no {program}: run `{how}`")
    runtimes = [
        Runtime("anyport", [options.anyport, "run"], ["--tcplisten", "127.0.0.1:0"]),
        # `preview2=n`: the implementation that has the listeners.
        Runtime("wasmtime", [options.wasmtime, "run", "-S", "preview2=n"], ["-S", "tcplisten=127.0.0.1:0"]),
    ]
    for runtime in runtimes:
        print(runtime.version())
    ours, theirs = [ask(runtime, options.scenes) for runtime in runtimes]
    pairs = paired(ours, theirs)
    if options.all:
        print(f"\n{table(pairs)}")
    return judge(pairs, known_differences(options), options)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--anyport", type=pathlib.Path, default=ROOT / "target/release/anyport")
    parser.add_argument("--wasmtime", type=pathlib.Path, default=oracle())
    parser.add_argument("--verbose", action="store_true", help="print the known differences with their reasons")
    parser.add_argument("--all", action="store_true", help="print every answer")
    parser.add_argument("--toml", action="store_true", help="print unknown differences as differences.toml has them")
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help="ask these scenes alone, such as `polling`")
    return parser.parse_args()


def oracle() -> pathlib.Path:
    """Where setup.sh, or the benchmarks', has put wasmtime 36."""
    of_benchmarks, ours = (ROOT / folder / ".peers/wasmtime-36/bin/wasmtime" for folder in ("bench", "conformance"))
    return of_benchmarks if of_benchmarks.exists() else ours


# ---- asking -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runtime:
    name: str
    command: list
    listening: list

    def version(self) -> str:
        words = subprocess.run([self.command[0], "--version"], capture_output=True, text=True, check=True).stdout
        return " ".join(words.split()[:2])

    def start(self, module: str, arguments: list[str], folder: str, *, listens: bool) -> "Guest":
        network = self.listening if listens else []
        # In one place for both: the guest sees the folder after the listener.
        words = [*self.command, *network, "--dir", f"{folder}::/data", ROOT / "guests" / module, *arguments]
        return Guest([str(word) for word in words])


Answers = dict[str, str]


def ask(runtime: Runtime, only: list[str]) -> Answers:
    """What a runtime answers in each scene: `SCENE: QUESTION` to its answer."""
    answers: Answers = {}
    for scene, play in scenes(runtime):
        if only and scene not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for question, answer in play(runtime, folder):
                key = f"{scene}: {question}"
                # A scene may ask the client for the same twice.
                count = 2
                while key in answers:
                    key, count = f"{scene}: {question} ({count})", count + 1
                answers[key] = answer
    return answers


def scenes(runtime: Runtime) -> Iterator[tuple[str, Callable]]:
    with runtime.start("preview1/probe/probe.wasm", [], str(CONFORMANCE), listens=False) as guest:
        names = list(guest.lines())
    for name in names:
        yield name, lambda runtime, folder, name=name: play_with_client(runtime, name, folder)
    yield "files", lambda runtime, folder: play_alone(runtime, [], folder)
    for name in ALONE:
        yield name, lambda runtime, folder, name=name: play_alone(runtime, [name], folder)


# What guests/probe asks only by its name.
ALONE = [
    *("cpu-clocks", "bad-clock", "poll-nothing", "poll-bad-fd", "poll-bad-fd-timer", "poll-bad-fd-stdout"),
    *("poll-cpu-clock", "poll-bad-clock", "poll-bad-type"),
]


def play_with_client(runtime: Runtime, scene: str, folder: str) -> Iterator[tuple[str, str]]:
    with runtime.start("preview1/probe/probe.wasm", [scene], folder, listens=True) as guest:
        clients: dict[str, Client] = {}
        for line in guest.lines():
            if not line.startswith("> "):
                question, _, answer = line.partition(": ")
                yield question, answer
                continue
            action, name, *rest = line[2:].split(" ", 2)
            # A guest that waits must be seen to wait before the client ends it.
            guest.await_rest()
            client = clients.get(name) or clients.setdefault(name, Client(guest.port()))
            outcome = getattr(client, action)(*rest)
            if outcome is not None:
                yield f"the client's {line[2:]}", outcome
            guest.tell()
        yield from guest.end()
        for client in clients.values():
            client.socket.close()


def play_alone(runtime: Runtime, arguments: list[str], folder: str) -> Iterator[tuple[str, str]]:
    with runtime.start("probe/probe.wasm", arguments, folder, listens=False) as guest:
        for line in guest.lines():
            question, answer = re.split(r"\s+(?=errno )|  +|(?<=, and told)\s+|(?<=read)\s+(?=\d)", line, maxsplit=1)
            yield question, answer
        yield from guest.end()


# ---- the guest --------------------------------------------------------------------------------------


class Guest:
    """A runtime's process that runs a probe."""

    def __init__(self, words: list[str]):
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.hung = False
        self.listens_on: int | None = None

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def lines(self) -> Iterator[str]:
        """The lines of its standard output, until it ends or hangs."""
        pending = b""
        output = self.process.stdout
        while True:
            if not select.select([output], [], [], DEADLINE_S)[0]:
                self.hung = True
                return
            block = os.read(output.fileno(), 65536)
            if not block:
                return
            *lines, pending = (pending + block).split(b"\n")
            yield from (line.decode() for line in lines)

    def tell(self):
        """Says that the client is done."""
        try:
            self.process.stdin.write(b"\n")
        except BrokenPipeError:
            pass  # it has ended, and lines() tells so

    def port(self) -> int:
        """The port it listens on, which nobody chose."""
        if self.listens_on is None:
            inodes = set(sockets_of(self.process.pid))
            [self.listens_on] = [end.local for end in connections() if end.inode in inodes and end.state == LISTENING]
        return self.listens_on

    def await_rest(self):
        """Until each thread of the process waits."""
        for _ in looks("the guest to wait"):
            if self.process.poll() is not None or all(state in "SZ" for state in threads_of(self.process.pid)):
                return

    def end(self) -> Iterator[tuple[str, str]]:
        """How it ended, if that is worth a word."""
        if self.hung:
            yield "how it ends", "never"
        elif self.process.wait() != 0:
            yield "how it ends", f"exit code {self.process.returncode}"


def looks(awaited: str) -> Iterator[None]:
    """One turn for each look at something that the kernel does not announce."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        yield
        time.sleep(LOOK_S)
    sys.exit(f"waited {DEADLINE_S} s for {awaited}")


# ---- the client -------------------------------------------------------------------------------------


class Client:
    """The other end of a connection. After each action, the kernel has brought it to the guest's end."""

    def __init__(self, port: int):
        self.port = port
        self.socket = socket.socket()
        self.socket.settimeout(DEADLINE_S)

    def connect(self) -> str | None:
        try:
            self.socket.connect(("127.0.0.1", self.port))
        except ConnectionRefusedError:
            return "refused"
        self.address = self.socket.getsockname()[1]
        self._await_guest_end(ESTABLISHED)
        return None

    def send(self, text: str) -> str | None:
        try:
            self.socket.sendall(text.encode())
        except OSError as error:
            return error_name(error)
        for _ in looks("bytes to be there"):
            if unacknowledged(self.socket) == 0:
                break
        return None

    def finish(self):
        """Says that nothing more comes."""
        self.socket.shutdown(socket.SHUT_WR)
        self._await_guest_end(None, CLOSE_WAIT, LAST_ACK, TIME_WAIT)

    def close(self):
        self.socket.close()
        self._await_guest_end(None, CLOSE_WAIT, LAST_ACK, TIME_WAIT)

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        self.settle()

    def settle(self):
        """Until a reset has reached the guest."""
        self._await_guest_end(None)

    def receive(self, what: str) -> str:
        """So many bytes, or `all` up to the end; what came, and how it ended if it did."""
        wanted = sys.maxsize if what == "all" else int(what)
        received, how = self._receive(wanted)
        return f"'{received.decode()}'{how}"

    def drain(self, count: str) -> str:
        received, how = self._receive(int(count))
        return f"{len(received)} bytes{how}"

    def _receive(self, wanted: int) -> tuple[bytes, str]:
        received = bytearray()
        while len(received) < wanted:
            try:
                block = self.socket.recv(min(wanted - len(received), 65536))
            except OSError as error:
                return bytes(received), f", {error_name(error)}"
            if not block:
                return bytes(received), ", the end"
            received += block
        return bytes(received), ""

    def _await_guest_end(self, *states: str | None):
        """Until the guest's end is in one of these states, or is not there any more (None)."""
        for _ in looks("the guest's end to hear of it"):
            ends = (entry for entry in connections() if (entry.local, entry.remote) == (self.port, self.address))
            if next((end.state for end in ends), None) in states:
                return


def error_name(error: OSError) -> str:
    return "reset" if isinstance(error, ConnectionResetError) else type(error).__name__


# ---- the kernel -------------------------------------------------------------------------------------

# sockios(7).
SIOCOUTQ = 0x5411
# States of /proc/net/tcp.
ESTABLISHED, TIME_WAIT, CLOSE_WAIT, LAST_ACK, LISTENING = "01", "06", "08", "09", "0A"


@dataclass(frozen=True)
class Connection:
    local: int
    remote: int
    state: str
    inode: int


def connections() -> Iterator[Connection]:
    """The TCP sockets of this machine, by their ports."""
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        local, remote = (int(address.rpartition(":")[2], 16) for address in words[1:3])
        yield Connection(local, remote, words[3], int(words[9]))


def sockets_of(process: int) -> Iterator[int]:
    for descriptor in pathlib.Path(f"/proc/{process}/fd").glob("*"):
        try:
            link = os.readlink(descriptor)
        except FileNotFoundError:
            continue
        if found := re.fullmatch(r"socket:\[(\d+)\]", link):
            yield int(found[1])


def threads_of(process: int) -> Iterator[str]:
    """The state of each thread: S waits, R runs."""
    for stat in pathlib.Path(f"/proc/{process}/task").glob("*/stat"):
        try:
            yield stat.read_text().rpartition(") ")[2][0]
        except (FileNotFoundError, ProcessLookupError):
            continue


def unacknowledged(connection: socket.socket) -> int:
    """Bytes that were sent, and that the other end's kernel does not have yet."""
    return struct.unpack("i", fcntl.ioctl(connection, SIOCOUTQ, b"\0\0\0\0"))[0]


# ---- judging ----------------------------------------------------------------------------------------


Pairs = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Known:
    """A listed difference: why it is, who is right, and the two answers to each question that shows it."""

    name: str
    reason: str
    right: str
    answers: Pairs


def known_differences(options: argparse.Namespace) -> list[Known]:
    chosen = tuple(f"{scene}: " for scene in options.scenes) or ""
    listed = []
    for entry in tomllib.loads((CONFORMANCE / "differences.toml").read_text())["difference"]:
        answers = {question: tuple(pair) for question, pair in entry["answers"].items() if question.startswith(chosen)}
        listed.append(Known(**{**entry, "answers": answers}))
    return listed


def paired(ours: Answers, theirs: Answers) -> Pairs:
    """Both answers to each question, in the order of asking."""
    questions = list(ours) + [question for question in theirs if question not in ours]
    return {question: (ours.get(question, NOTHING), theirs.get(question, NOTHING)) for question in questions}


def judge(pairs: Pairs, listed: list[Known], options: argparse.Namespace) -> int:
    """Prints what differs; 1 if that is not what is listed."""
    differing = {question: pair for question, pair in pairs.items() if pair[0] != pair[1]}
    expected = {question: pair for known in listed for question, pair in known.answers.items()}
    unknown = {question: pair for question, pair in differing.items() if expected.get(question) != pair}
    gone = {question: pair for question, pair in expected.items() if differing.get(question) != pair}
    print(f"\n{len(pairs)} answers, {len(pairs) - len(differing)} the same\n")
    for known in listed:
        found = {question: pair for question, pair in known.answers.items() if question not in gone}
        if found and options.verbose:
            print(f"## {known.name}\n\nRight: {known.right}. {known.reason.strip()}\n\n{table(found)}\n")
        elif found:
            print(f"{len(found):4}  {known.name} (right: {known.right})")
    for title, some in ("Not listed", unknown), ("Listed, and not there any more", gone):
        if some:
            print(f"\n## {title}\n\n{entries(some) if options.toml else table(some)}")
    print(f"\n{len(differing) - len(unknown)} known differences, {len(unknown)} unknown, {len(gone)} gone")
    return 1 if unknown or gone else 0


def table(pairs: dict[str, tuple[str, str]]) -> str:
    rows = [("question", "anyport", "wasmtime"), *((question, *pair) for question, pair in pairs.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def entries(pairs: Pairs) -> str:
    return "\n".join(f"{json.dumps(question)} = {json.dumps(pair)}" for question, pair in pairs.items())


if __name__ == "__main__":
    sys.exit(main())
