# Short names for what one does here; `just` lists them (`cargo install just --locked`).

_list:
    @just --list --unsorted

# Serves an example: curl -d 'Bob Morane' -X POST http://127.0.0.1:8080/hello
run *ARGS='-p 8080:8080 -e PORT=8080 guests/wasmedge/hello/server.wasm':
    cargo build --release --locked
    target/release/anyport run {{ ARGS }}

# Builds the program as it is published, into target/dist-trained: for half an hour
dist:
    sh bench/dist.sh

# Runs the tests
test *ARGS:
    cargo test --workspace --locked {{ ARGS }}

# Runs the tests with containers of real engines alone; needs root
containers *ARGS:
    cargo test --workspace --locked --test docker --test ctr --test cri {{ ARGS }}

# Plays the random tests for so many seconds each: hostile calls, files, addresses and lists
fuzz SECONDS='300':
    ANYPORT_FUZZ_SECONDS={{ SECONDS }} cargo test --workspace --locked --lib properties
    ANYPORT_FUZZ_SECONDS={{ SECONDS }} cargo test --workspace --locked --test hostile -- --nocapture

# Checks the layout of the code, and lints it
lint:
    bash .ci/run fmt clippy

# Checks licences, duplicates and origins of the dependencies, and known vulnerabilities
deny:
    bash .ci/run deny

# Does all that must pass before a change lands
ci:
    bash .ci/run

# Writes DIALECTS.md anew, from the tables
dialects:
    UPDATE_DIALECTS=1 cargo test --workspace --locked --test dialects

# Builds the guests anew (all, or those named), and guests/MANIFEST
guests *NAMES:
    bash guests/build.sh {{ NAMES }}

# Builds the guests that are too large to commit, in Python and JavaScript, into target/guests
guests-large *NAMES:
    bash guests/large/build.sh {{ NAMES }}

# Measures against WasmEdge and native servers
bench *ARGS:
    [ -x bench/.peers/bin/wasmedge ] || sh bench/setup.sh
    cargo build --release --locked
    python3 bench/run.py {{ ARGS }}
    cargo build --release --locked --examples
    python3 bench/workers.py

# Measures handlers of wasi:http against wasmtime and a native server
bench-http *ARGS:
    [ -x bench/.peers/wasmtime-48/bin/wasmtime ] || sh bench/setup.sh
    cargo build --release --locked
    python3 bench/handlers.py {{ ARGS }}

# Measures servers of WASIX against Wasmer and native builds of their sources
bench-wasix *ARGS:
    [ -x bench/.peers/wasmer-7/bin/wasmer ] || sh bench/setup.sh
    cargo build --release --locked
    python3 bench/wasix.py {{ ARGS }}

# Measures containers against native ones under runc, and those of runwasi if its shim is built; needs root
bench-containers *ARGS:
    cargo build --release --locked
    python3 bench/containers.py {{ ARGS }}

# Compares preview1 with wasmtime 36, and runs WebAssembly/wasi-testsuite
conformance:
    sh conformance/setup.sh
    cargo build --release --locked
    python3 conformance/run.py
    python3 conformance/testsuite.py
