#!/bin/sh
# Sets up what `just conformance` compares with, unless it is there: wasmtime 36, built by cargo, which takes ten
# minutes, and a checkout of WebAssembly/wasi-testsuite with its prebuilt tests. Both go to conformance/.peers;
# delete that to undo it. WASI_TESTSUITE=DIR names a checkout that is there already.
set -eu
cd "$(dirname "$0")"
peers=$PWD/.peers
# The branch `prod/testsuite-base`: main of 2026-08-18 with the tests compiled.
testsuite=9f80ca35444cfd9e63100725615140a346652e6c

if [ ! -x ../bench/.peers/wasmtime-36/bin/wasmtime ] && [ ! -x "$peers/wasmtime-36/bin/wasmtime" ]; then
  # Only what it takes to run a module; optimised as a release is.
  cargo install wasmtime-cli --version '^36' --locked --root "$peers/wasmtime-36" --no-default-features \
    --features run,compile,cranelift,parallel-compilation,pooling-allocator,wat,cache \
    --features component-model,threads,gc,gc-drc,demangle,logging,addr2line
fi

checkout=$peers/wasi-testsuite
if [ -z "${WASI_TESTSUITE:-}" ] && [ "$(cat "$checkout/.git/HEAD" 2>/dev/null)" != $testsuite ]; then
  rm -rf "$checkout"
  git init -q "$checkout"
  git -C "$checkout" fetch -q --depth 1 https://github.com/WebAssembly/wasi-testsuite $testsuite
  git -C "$checkout" -c advice.detachedHead=false checkout -q FETCH_HEAD
fi
