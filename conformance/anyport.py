"""The adapter with which the runner of WebAssembly/wasi-testsuite runs its tests of preview1 and of WASI 0.3 on anyport.

conformance/testsuite.py uses it, and so does the suite's own `run-tests --runtime-adapter`. $ANYPORT is the
command to start, with options of anyport's own if there are any; else the `anyport` on PATH is.
"""

import os
import shlex
import subprocess

ANYPORT = shlex.split(os.environ.get("ANYPORT", "anyport"))

# The default of 5 s is short for a test that a busy machine compiles first.
TIMEOUT_S = 60


def get_name() -> str:
    return "anyport"


def get_version() -> str:
    told = subprocess.run([ANYPORT[0], "--version"], capture_output=True, text=True, check=True).stdout
    return told.split()[1]


def get_wasi_versions() -> list[str]:
    return ["wasm32-wasip1", "wasm32-wasip3"]


def get_wasi_worlds() -> list[str]:
    return ["wasi:cli/command", "wasi:http/service"]


def get_timeout_seconds() -> float:
    return TIMEOUT_S


def compute_argv(
    test_path: str,
    args_env_root: tuple[list[str], dict[str, str], str | None],
    proposals: list[str],
    wasi_world: str,
    wasi_version: str,
) -> list[str]:
    arguments, environment, root = args_env_root
    variables = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
    folder = ["--dir", f"{root}:/"] if root else []
    # The runner reads from stderr where a service listens.
    network = ["-p", "0:8080"] if wasi_world == "wasi:http/service" else []
    # What the tests connect to is on this machine.
    network += ["--allow-net", "127.0.0.0/8", "--allow-net", "::1"] if proposals else []
    return [*ANYPORT, "run", "--restart=no", *network, *variables, *folder, test_path, *arguments]
