#!/usr/bin/env bash
# build.sh [NAME…]: builds the guests (all of them, or those named, e.g. `wasmedge/hello`) into the
# .wasm files beside their sources, and records them in MANIFEST.
#
# Needs cargo, a C linker for it, and python3 with venv. What the machine lacks of the wasm toolchains
# is unpacked, not installed, under .toolchain (ignored by git):
#   Rust   the rustc on PATH if it has both targets (`rustup target add wasm32-wasip1 wasm32-wasip2`),
#          else Debian's rustc and wasm standard library, linked by zig;
#   C      zig's clang and wasi-libc, from PyPI's `ziglang`; for a component, Debian's wasi-libc; for WASIX, Debian's
#          wasix-libc;
#   Go     the go on PATH if it is 1.21 or newer, else Debian's.
#
# MANIFEST has one line per .wasm, sorted (LC_ALL=C):
#   <name> <source digest> <wasm digest, or - for a .wasm that is not committed> <path of the .wasm>
# name and path are relative to this folder; a guest that is compiled several times has several lines.
# Digests are lower-case hex SHA-256. The source digest is the digest of the concatenation, for each
# source file of guests/<name> in LC_ALL=C (byte) order of its path relative to guests/<name>, of
#   <relative path> NUL <length in bytes, decimal> NUL <bytes>
# Source files are the regular files named *.rs *.c *.h *.go *.toml Cargo.lock go.mod go.sum, at any
# depth. So a test can tell, without a wasm toolchain, a .wasm older than its source.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")"
guests=$PWD
tools=$guests/.toolchain

# Pinned because a C guest is compiled by whatever libc and clang this brings.
ziglang=0.16.0
# Pinned to the rolling suite: the stable ones have no recent rustc for wasm.
suite=sid
# Its wasm-opt lets C fork.
binaryen=132.0.0
# Makes a component of what the linker made; rustup brings one, Debian does not.
wasm_component_ld=0.5.31
# Makes one component of two.
wac=0.12.0

rust_guests=(
  preview1/axum-fd3
  wasi-http-0.2/echo
  wasi-http-0.2/waki
  wasi-http-0.2/wstd
  wasi-http-0.3/echo
  wasi-sockets-0.2/axum
  wasi-sockets-0.2/behaviour
  wasi-sockets-0.2/echo
  wasi-sockets-0.2/probe
  wasi-sockets-0.3/behaviour
  wasi-sockets-0.3/hello
  wasi-sockets-0.3/probe
  wasmedge/hello
  wasmedge/hello-sync
  wasmedge/legacy-0.1.0
  wasmedge/legacy-0.3.3
  wasmedge/legacy-0.4.3
  wasmedge/mio
)
c_guests=(cgi command preview1/dotnet-like preview1/probe probe)
wasix_guests=(blocking cgi conform epollsrv evtest files fork jumps pollsrv pool prefork pthread sigsrv)
go_guests=(preview1/go-nethttp wasmedge/go-net)
# One source, compiled once for each dialect and way to wait: `<variant> <dialect file> <defines>`.
behaviour_variants=(
  "preview1 preview1.c"
  "preview1-blocking preview1.c -DBLOCKING"
  "wasmedge wasmedge.c"
  "wasmedge-blocking wasmedge.c -DBLOCKING"
  "wasix wasix.c"
  "wasix-blocking wasix.c -DBLOCKING"
  "sockets sockets.c -DSOCKETS"
  "sockets-blocking sockets.c -DSOCKETS -DBLOCKING"
)

main() {
  [ $# -gt 0 ] || set -- "${rust_guests[@]}" "${c_guests[@]}" "${go_guests[@]}" behaviour wasix
  for name; do build "${name%/}"; done
}

build() {
  local name=$1
  if listed "$name" "${rust_guests[@]}"; then build_rust "$name"
  elif listed "$name" "${go_guests[@]}"; then build_go "$name"
  elif listed "$name" "${c_guests[@]}"; then compile_c "$(output "$name")" "$name"/*.c
  elif [ "$name" = behaviour ]; then build_behaviour
  elif [ "$name" = wasix ]; then build_wasix
  elif [ "$name" = wasi-http-0.3/middleware ]; then build_middleware
  else die "no guest is called \`$name\`"
  fi
  record "$name"
  # It has this one in it.
  [ "$name" != wasi-http-0.3/echo ] || build wasi-http-0.3/middleware
}

# Some are no servers.
output() {
  case $1 in
    *probe) echo "$1/probe.wasm" ;;
    */behaviour) echo "$1/behaviour.wasm" ;;
    */middleware) echo "$1/middleware.wasm" ;;
    cgi | command) echo "$1/$1.wasm" ;;
    *) echo "$1/server.wasm" ;;
  esac
}

# ---- one language each ------------------------------------------------------------------------

build_rust() {
  local name=$1 home=${CARGO_HOME:-$HOME/.cargo} out target=wasm32-wasip1
  out=$(output "$name")
  # That of wasi 0.2 serves for 0.3 too: it is the guest's own imports that are newer.
  case $name in wasi-*) target=wasm32-wasip2 ;; esac
  rust_toolchain
  say "$name (Rust)"
  # No path of the machine that built it may end up in a committed .wasm.
  (cd "$name" && "${rust_env[@]}" cargo build --release --locked --target "$target" \
    --target-dir "$guests/target/$name" \
    --config "target.$target.rustflags=['--remap-path-prefix=$home/registry/src=registry', '--remap-path-prefix=$guests/=']")
  install -m 644 "target/$name/$target/release/${out##*/}" "$out"
  report "$out"
}

# The middleware by itself, and composed with the handler that it asks, which is what can be served.
build_middleware() {
  local name=wasi-http-0.3/middleware
  wit_of_wasip3 "$name"
  build_rust "$name"
  compose "$name/middleware.wasm" wasi-http-0.3/echo/server.wasm "$name/server.wasm"
}

build_go() {
  local name=$1
  go_toolchain
  say "$name (Go)"
  (cd "$name" && "${go_env[@]}" GOOS=wasip1 GOARCH=wasm GOTOOLCHAIN=local GOFLAGS=-mod=mod GOPROXY=off \
    GOCACHE="$guests/target/go" go build -trimpath -buildvcs=false -ldflags=-s -o server.wasm .)
  report "$name/server.wasm"
}

build_behaviour() {
  local line compile
  for line in "${behaviour_variants[@]}"; do
    # shellcheck disable=SC2086 # a line is meant to be split
    set -- $line
    case $line in *-DSOCKETS*) compile=compile_c_component ;; *) compile=compile_c ;; esac
    $compile "behaviour/behaviour-$1.wasm" behaviour/behaviour.c "behaviour/$2" "${@:3}"
  done
}

build_wasix() {
  local guest
  for guest in "${wasix_guests[@]}"; do compile_wasix "wasix/$guest"; done
}

# compile_wasix PATH: PATH.c with threads, a shared memory, and WASIX's own libc; one that jumps with exceptions, as
# WASIX's own compiler makes them.
compile_wasix() {
  local cpu=generic+atomics+bulk_memory+mutable_globals jumping=() beside=()
  if [ "$1" = wasix/jumps ]; then
    cpu+=+exception_handling+multivalue+reference_types
    jumping=(-mllvm -wasm-enable-sjlj -mllvm -wasm-use-legacy-eh=false)
    beside=(wasix/jumps_libc.c)
  fi
  local exported=(__heap_base __stack_pointer __data_end __wasm_init_tls __wasm_signal __tls_size __tls_align __tls_base)
  wasix_toolchain
  say "$1.wasm (C)"
  mkdir -p target/wasix
  # The target's own clang gives `main` the name that its libc calls; this one's is told to.
  local source objects=()
  for source in "$1.c" "${beside[@]}"; do
    objects+=("target/${source%.c}.o")
    "${zig[@]}" cc -target wasm32-freestanding -mcpu="$cpu" -pthread "${jumping[@]}" \
      -ftls-model=local-exec -D__wasi__ -Dmain=__main_argc_argv -D_WASI_EMULATED_SIGNAL -D_WASI_EMULATED_PROCESS_CLOCKS \
      -nostdinc "${wasix_headers[@]}" \
      -std=gnu17 -O2 -c -o "${objects[-1]}" "$source"
  done
  "${zig[@]}" wasm-ld -o "$1.wasm" "$wasix_libs/crt1.o" "${objects[@]}" -L "$wasix_libs" -lc "$wasix_builtins" \
    --import-memory --shared-memory --max-memory=1073741824 --export-dynamic "${exported[@]/#/--export=}" --strip-debug
  case $1 in wasix/fork | wasix/prefork) asyncify "$1.wasm" ;; esac
  chmod 644 "$1.wasm"
  report "$1.wasm"
}

# compose SOCKET PLUG OUT: the component SOCKET with the imports that PLUG exports plugged.
compose() {
  local own=$tools/wac/bin/wac
  [ "$("$own" --version 2> /dev/null)" = "wac-cli $wac" ] \
    || cargo install --quiet --locked --force --root "$tools/wac" --version "$wac" --no-default-features wac-cli
  "$own" plug "$1" --plug "$2" -o "$3"
  chmod 644 "$3"
  report "$3"
}

# asyncify FILE: makes a module ready to fork, as WASIX's own compiler does.
asyncify() {
  local wasm_opt=$tools/binaryen/node_modules/.bin/wasm-opt
  if [ ! -x "$wasm_opt" ]; then
    say "fetching binaryen $binaryen"
    npm install --silent --no-audit --no-fund --prefix "$tools/binaryen" "binaryen@$binaryen" > /dev/null
  fi
  "$wasm_opt" --enable-threads --enable-bulk-memory --enable-mutable-globals --enable-sign-ext \
    --enable-nontrapping-float-to-int --enable-multivalue --enable-reference-types -O2 --asyncify "$1" -o "$1"
}

compile_c() {
  local out=$1
  shift
  c_toolchain
  say "$out (C)"
  "${zig[@]}" cc -target wasm32-wasi -std=gnu17 -Os -g -Wall -Wextra -Werror -o "$out" "$@"
  strip_debug "$out"
  chmod 644 "$out"
  report "$out"
}

# compile_c_component OUT FILE.c… [-D…]: for wasi 0.2, whose libc zig does not have.
compile_c_component() {
  local out=$1 argument objects=() defines=()
  shift
  c_component_toolchain
  say "$out (C)"
  mkdir -p "target/$out.d"
  for argument; do case $argument in -D*) defines+=("$argument") ;; esac; done
  for argument; do
    case $argument in -D*) continue ;; esac
    objects+=("target/$out.d/$(basename "$argument" .c).o")
    "${zig[@]}" cc -target wasm32-freestanding -D__wasi__ -nostdinc "${c_component_headers[@]}" "${defines[@]}" \
      -std=gnu17 -Os -g -Wall -Wextra -Werror -c -o "${objects[-1]}" "$argument"
  done
  "$tools/bin/wasm-component-ld" -o "$out" "$c_component_libs/crt1-command.o" "${objects[@]}" -L "$c_component_libs" \
    -lc "$c_component_builtins" --strip-debug
  chmod 644 "$out"
  report "$out"
}

# zig strips all custom sections or none. The names stay: a trap shows them.
strip_debug() {
  python3 - "$1" <<'PYTHON'
import sys

def number(at):
    value = shift = 0
    while True:
        byte = wasm[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at

with open(sys.argv[1], "rb") as file:
    wasm = file.read()
kept, at = wasm[:8], 8
while at < len(wasm):
    length, content = number(at + 1)
    name_length, name = number(content)
    debug = wasm[at] == 0 and wasm[name : name + name_length].startswith(b".debug")
    kept += b"" if debug else wasm[at : content + length]
    at = content + length
with open(sys.argv[1], "wb") as file:
    file.write(kept)
PYTHON
}

# ---- MANIFEST ---------------------------------------------------------------------------------

# Only what was built is recorded anew: another guest's line must go on saying what it was built from.
record() {
  local name=$1 source wasm digest
  source=$(source_digest "$name")
  touch MANIFEST
  {
    awk -v name="$name" '$1 != name' MANIFEST
    for wasm in "$name"/*.wasm; do
      digest=-
      listed "$name" "${go_guests[@]}" || digest=$(sha256sum < "$wasm" | cut -d' ' -f1)
      echo "$name $source $digest $wasm"
    done
  } | sort > MANIFEST.new
  mv MANIFEST.new MANIFEST
}

source_digest() (
  cd "$1"
  find . -type f \( -name '*.rs' -o -name '*.c' -o -name '*.h' -o -name '*.go' -o -name '*.toml' \
    -o -name Cargo.lock -o -name go.mod -o -name go.sum \) -printf '%P\n' | sort |
    while IFS= read -r file; do
      printf '%s\0%s\0' "$file" "$(stat -c %s "$file")"
      cat "$file"
    done | sha256sum | cut -d' ' -f1
)

# ---- toolchains -------------------------------------------------------------------------------

# Sets rust_env: the environment in which cargo finds a rustc and a linker for both targets.
rust_toolchain() {
  [ -z "${rust_env+set}" ] || return 0
  command -v cargo > /dev/null || die "cargo is needed, any recent one: install Debian's \`cargo\` or rustup's"
  if has_target wasm32-wasip1 && has_target wasm32-wasip2; then
    rust_env=(env)
    return
  fi
  local root=$tools/rust
  if [ ! -e "$root/unpacked" ]; then
    # rustc with everything it links to. Of the standard libraries, the host's (build scripts and
    # macros run here) and wasm's, without the C compilers that Debian's packages depend on.
    unpack "$root" "$(newest_dependency libstd-rust-dev 'libstd-rust-[0-9][.0-9]*')" -- \
      rustc libstd-rust-dev libstd-rust-dev-wasm32
  fi
  # Debian's rustc wants the C library of its own suite, so it is started with that one's loader.
  local loader libs
  loader=$(find "$root/" -name 'ld-linux*.so.*' | sort | head -1)
  libs=$(dirname "$(find "$root/usr/lib" -name libc.so.6 | head -1)")
  script rustc "exec '$loader' --library-path '$libs' --argv0 rustc '$root/usr/bin/rustc' --sysroot '$root/usr' \"\$@\""
  component_scripts
  rust_env=(env RUSTC="$tools/bin/rustc" CARGO_TARGET_WASM32_WASIP1_LINKER="$tools/bin/wasm-ld"
    CARGO_TARGET_WASM32_WASIP2_LINKER="$tools/bin/wasm-component-ld")
}

# Makes the linkers that .toolchain/bin has for components.
component_scripts() {
  # Debian ships no rust-lld; zig has the same linker. rustc says `-flavor wasm`, which only lld's
  # own many-named binary understands.
  c_toolchain
  script wasm-ld "[ \"\$1\" != -flavor ] || shift 2" "exec ${zig[*]@Q} wasm-ld \"\$@\""
  local component_ld
  component_ld=$(component_linker)
  script wasm-component-ld "exec '$component_ld' \"\$@\" --wasm-ld-path '$tools/bin/wasm-ld'"
}

# wit_of_wasip3 NAME: unpacks into NAME/wit the interfaces that the crate wasip3 of its Cargo.lock was made from. For a
# guest that needs one of which the crate has no bindings.
wit_of_wasip3() {
  local crate
  rust_toolchain
  crate=$("${rust_env[@]}" cargo metadata --locked --format-version 1 --manifest-path "$1/Cargo.toml" |
    python3 -c 'import json, sys; print(*(package["manifest_path"] for package in json.load(sys.stdin)["packages"]
      if package["name"] == "wasip3"))')
  rm -rf "$1/wit"
  cp -r "$(dirname "$crate")/wit" "$1/wit"
}

has_target() {
  command -v rustc > /dev/null && [ -d "$(rustc --print target-libdir --target "$1" 2> /dev/null)" ]
}

# The wasm-component-ld that came with the rustc on PATH, or our own.
component_linker() {
  local own=$tools/component-ld/bin/wasm-component-ld theirs
  theirs=$(dirname "$(rustc --print target-libdir 2> /dev/null)")/bin/wasm-component-ld
  if [ -x "$theirs" ]; then
    echo "$theirs"
    return
  fi
  [ -x "$own" ] || cargo install --quiet --locked --root "$tools/component-ld" --version "$wasm_component_ld" wasm-component-ld
  echo "$own"
}

# Sets zig: the command that runs zig.
c_toolchain() {
  [ -z "${zig+set}" ] || return 0
  local venv=$tools/zig-$ziglang
  if [ ! -x "$venv/bin/python3" ] || ! "$venv/bin/python3" -c 'import ziglang' 2> /dev/null; then
    say "fetching ziglang $ziglang"
    python3 -m venv "$venv" || die "python3 has no venv: install Debian's \`python3-venv\`"
    "$venv/bin/python3" -m pip install --quiet --only-binary=:all: "ziglang==$ziglang"
  fi
  export ZIG_GLOBAL_CACHE_DIR=$guests/target/zig ZIG_LOCAL_CACHE_DIR=$guests/target/zig
  zig=("$venv/bin/python3" -m ziglang)
}

# Sets what compile_c_component needs besides zig.
c_component_toolchain() {
  [ -z "${c_component_libs+set}" ] || return 0
  c_toolchain
  component_scripts
  local root=$tools/wasi-libc clang
  if [ ! -e "$root/unpacked" ]; then
    unpack "$root" -- wasi-libc "$(newest_dependency libclang-rt-dev-wasm32 'libclang-rt-[0-9]*-dev-wasm32')"
  fi
  clang=$(dirname "$("${zig[@]}" env | sed -n 's/.*std_dir *= *"\(.*\)".*/\1/p')")/include
  c_component_headers=(-isystem "$root/usr/include/wasm32-wasip2" -isystem "$clang")
  c_component_libs=$root/usr/lib/wasm32-wasip2
  c_component_builtins=$(find "$root" -name 'libclang_rt.builtins-wasm32.a' | head -1)
}

# Sets wasix_headers, wasix_libs and wasix_builtins: Debian's wasix-libc, which cannot be installed beside wasi-libc.
wasix_toolchain() {
  [ -z "${wasix_libs+set}" ] || return 0
  c_toolchain
  local root=$tools/wasix-libc clang
  if [ ! -e "$root/unpacked" ]; then
    unpack "$root" -- wasix-libc "$(newest_dependency libclang-rt-dev-wasm32 'libclang-rt-[0-9]*-dev-wasm32')"
  fi
  clang=$(dirname "$("${zig[@]}" env | sed -n 's/.*std_dir *= *"\(.*\)".*/\1/p')")/include
  wasix_headers=(-isystem "$root/usr/include/wasm32-wasi" -isystem "$clang")
  wasix_libs=$root/usr/lib/wasm32-wasi
  wasix_builtins=$(find "$root" -name 'libclang_rt.builtins-wasm32.a' | head -1)
}

# Sets go_env: the environment in which `go` is 1.21 or newer, the first that can target wasip1.
go_toolchain() {
  [ -z "${go_env+set}" ] || return 0
  if command -v go > /dev/null && GOTOOLCHAIN=local go tool dist list 2> /dev/null | grep -qx wasip1/wasm; then
    go_env=(env)
    return
  fi
  local root=$tools/go go
  if [ ! -e "$root/unpacked" ]; then
    go=$(newest_dependency golang-go 'golang-[0-9][.0-9]*-go')
    unpack "$root" -- "$go" "${go%-go}-src"
  fi
  go=$(find "$root/usr/lib" -maxdepth 1 -name 'go-*' | sort -V | tail -1)
  go_env=(env PATH="$go/bin:$PATH" GOROOT="$go")
}

# unpack ROOT CLOSED… -- PLAIN…: unpacks Debian packages under ROOT: the CLOSED ones with all they
# depend on, the PLAIN ones alone. The machine's packages and apt's settings stay as they are.
unpack() {
  local root=$1 closed=() packages=()
  shift
  while [ "$1" != -- ]; do closed+=("$1"); shift; done
  shift
  packages=("$@")
  if [ ${#closed[@]} -gt 0 ]; then
    mapfile -t -O "${#packages[@]}" packages < <(
      debian apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "${closed[@]}" | grep '^[a-z]' | grep -v -e '^gcc-' -e '^libgcc-s1-' | sort -u)
  fi
  say "fetching ${packages[*]}"
  rm -rf "$root"
  mkdir -p "$root/debs"
  (cd "$root/debs" && debian apt-get -qq download "${packages[@]}")
  local deb
  for deb in "$root"/debs/*.deb; do dpkg -x "$deb" "$root"; done
  rm -rf "$root/debs"
  touch "$root/unpacked"
}

# newest_dependency PACKAGE PATTERN: the package that a Debian meta package stands for today.
newest_dependency() {
  debian apt-cache depends "$1" | sed -n "s/^ *Depends: \($2\)\$/\1/p" | head -1
}

# Runs an apt command on $suite, from the mirror the machine uses, with lists and cache of our own.
debian() {
  local apt=$tools/apt command=$1 mirror options
  shift
  options=(-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" -o Dir::State::status="$apt/status"
    -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=)
  if [ ! -e "$apt/updated" ]; then
    command -v apt-get > /dev/null || die "not a Debian machine: put rustc with wasm32-wasip1 and go 1.21 on PATH"
    # shellcheck disable=SC2016 # apt expands it
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/*$' | head -1)
    [ -n "$mirror" ] || die "apt knows no Debian mirror"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    : > "$apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$apt/sources.list"
    apt-get "${options[@]}" -qq update
    touch "$apt/updated"
  fi
  "$command" "${options[@]}" "$@"
}

# script NAME LINE…: writes an executable shell script into .toolchain/bin.
script() {
  mkdir -p "$tools/bin"
  printf '%s\n' '#!/bin/sh' "${@:2}" > "$tools/bin/$1"
  chmod +x "$tools/bin/$1"
}

# ---- small helpers ----------------------------------------------------------------------------

listed() {
  local wanted=$1 item
  shift
  for item; do [ "$item" != "$wanted" ] || return 0; done
  return 1
}

report() { echo "    $1: $(stat -c %s "$1") bytes"; }
say() { echo "==> $*"; }
die() { echo "build.sh: $*" >&2; exit 1; }

main "$@"
