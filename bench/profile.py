#!/usr/bin/env python3
"""Shows where the time of a request goes: anyport under load, sampled by perf, each sample put down to who ran.

Needs perf and wrk. Of what the kernel does the system call says what for; of anyport's own process the function's
crate, as far as the compiler has left it one.
"""

import argparse
import collections
import contextlib
import pathlib
import re
import subprocess
import tempfile

import handlers
import run

# The first that fits. Of a kernel's sample any function of its stack may, of others the innermost.
KERNEL = [
    ("kernel: send", r"__sys_send|sys_writev|tcp_sendmsg"),
    ("kernel: receive", r"__sys_recv|sys_read\b|tcp_recvmsg"),
    ("kernel: wait and wake", r"epoll|futex|eventfd|__schedule|sched_"),
    ("kernel: memory of instances", r"pagemap|madvise|mprotect|mmap|munmap|page_fault"),
    ("kernel: the rest", r""),
]
USER = [
    ("hyper and what it parses with", r"^<?(hyper|http|httparse|h2|bytes|httpdate)\b"),
    ("tokio", r"^<?(tokio|mio|futures_\w+)\b"),
    ("anyport", r"^<?(anyport|&?mut anyport)\b|<anyport::|drop_in_place<anyport"),
    ("wasi and wasi:http of wasmtime", r"wasmtime_wasi"),
    ("wasmtime: instances and calls", r"wasmtime|wasmparser|cranelift"),
    ("libc: allocate and free", r"alloc|free|malloc|unlink_chunk"),
    ("libc: copy and clear", r"mem(move|set|cpy|cmp)"),
    ("the rest", r""),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guest", action="append", choices=handlers.GUESTS, help="only this; repeatable")
    parser.add_argument("--anyport", type=pathlib.Path, default=run.ROOT / "target/dist-trained/anyport")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    guests = [handlers.GUESTS[name] for name in options.guest or ("0.2", "0.3")]
    columns = [shares(options, guest) for guest in guests]
    names = [name for name, _ in KERNEL] + ["the guest"] + [name for name, _ in USER]
    print("| percent of the CPU time |" + "".join(f" {guest.title} |" for guest in guests))
    print("| --- |" + " --: |" * len(columns))
    for name in names:
        print(f"| {name} |" + "".join(f" {100 * column[name] / column.total():.0f} |" for column in columns))


def shares(options, guest):
    """How many samples fell to each."""
    command = handlers.anyport(options.anyport, run.ROOT / guest.module)
    with contextlib.closing(run.Server(command, guest)) as server:
        url = f"http://127.0.0.1:{server.port}{guest.path}"
        wrk = ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds + 2}s", url]
        with subprocess.Popen(wrk, stdout=subprocess.DEVNULL), tempfile.NamedTemporaryFile() as data:
            record = ["perf", "record", "--quiet", "-e", "cpu-clock", "-F", "2000", "-g", "-o", data.name]
            subprocess.run([*record, "-p", str(server.process.pid), "--", "sleep", str(options.seconds)], check=True)
            script = ["perf", "script", "-i", data.name, "-F", "ip,sym,dso"]
            text = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    return collections.Counter(owner(sample.splitlines()) for sample in text.split("\n\n") if sample.strip())


def owner(stack):
    """Who ran: its innermost function, and those that called it, as `ADDRESS NAME (FILE)`."""
    frames = [re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line) for line in stack]
    frames = [(frame[1], frame[2]) for frame in frames if frame]
    if not frames:
        return "the rest"
    name, file = frames[0]
    if file == "[kernel.kallsyms]":
        functions = "\n".join(name for name, file in frames if file == "[kernel.kallsyms]")
        return next(what for what, pattern in KERNEL if re.search(pattern, functions))
    if file.endswith(".cwasm"):
        return "the guest"
    return next(what for what, pattern in USER if re.search(pattern, name))


if __name__ == "__main__":
    main()
