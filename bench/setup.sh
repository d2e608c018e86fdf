#!/bin/sh
# Sets up what `just bench`, `just bench-http` and `just bench-wasix` measure against: wrk, WasmEdge, wasmtime, Wasmer
# and the native twins of the guests.
#
# wasmtime 46 is the last that hands a guest a listener (`-S tcplisten`); wasmtime 48 serves components. cargo
# builds them, which takes ten minutes or more for each.
# WasmEdge comes from Debian sid and is unpacked under bench/.peers with its own libc and LLVM, never
# installed: the machine's packages and apt settings stay as they are. Its mirror is the machine's own.
# SUITE=NAME takes another suite. Run it again to refresh; delete bench/.peers to undo it.
set -eu
cd "$(dirname "$0")"
suite=${SUITE:-sid}
peers=$PWD/.peers
die() { echo "bench/setup.sh: $*" >&2; exit 1; }

if ! command -v wrk >/dev/null; then
  [ "$(id -u)" = 0 ] || die "\`wrk\` is missing: install it (on Debian \`sudo apt-get install wrk\`) and run this again"
  apt-get -qq update && apt-get -qq install -y --no-install-recommends wrk
fi

mirror=$(sed -n -e 's/^URIs: *\([^ ]*\).*/\1/p' -e 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).* main.*/\2/p' \
  /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)
[ -n "$mirror" ] || die "no Debian mirror in this machine's apt sources; put a \`wasmedge\` at $peers/bin/wasmedge yourself"

# An apt of its own: empty status, so that every dependency counts as missing and is downloaded.
apt=$peers/apt
rm -rf "$apt" "$peers/root" "$peers/bin" "$peers/aot"
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs" "$peers/root" "$peers/bin"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
: >"$apt/status"
set -- -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
  -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" -o Dir::State::status="$apt/status" \
  -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Sandbox::User=root
apt-get "$@" -qq update
packages=$(apt-cache "$@" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
  --no-replaces --no-enhances wasmedge | grep '^[a-z]' | sort -u)
# shellcheck disable=SC2086 # one word per package
(cd "$apt/debs" && apt-get "$@" -qq download $packages)
for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$peers/root"; done
rm -rf "$apt"

# Started through the unpacked loader, since sid's libc is newer than this machine's. The paths are
# written out: looking them up at every start would count as WasmEdge's own time.
lib=$(dirname "$(find "$peers/root/usr/lib" -name 'libwasmedge.so*' | head -n 1)")
loader=$(find "$lib" -name 'ld-linux*.so.*')
cat >"$peers/bin/wasmedge" <<W
#!/bin/sh
exec "$loader" --library-path "$lib" "$peers/root/usr/bin/wasmedge" "\$@"
W
chmod +x "$peers/bin/wasmedge"
"$peers/bin/wasmedge" --version

if [ ! -x "$peers/wasmtime-46/bin/wasmtime" ]; then
  # Only what it takes to run a module; optimised as a release is.
  cargo install wasmtime-cli --version '^46' --locked --root "$peers/wasmtime-46" --no-default-features \
    --features run,compile,cranelift,parallel-compilation,pooling-allocator,cache,component-model,threads,demangle,addr2line
fi
if [ ! -x "$peers/wasmtime-48/bin/wasmtime" ]; then
  # Likewise for components, and what they may import.
  cargo install wasmtime-cli --version 48.0.8 --locked --root "$peers/wasmtime-48" --no-default-features \
    --features run,serve,compile,cranelift,parallel-compilation,pooling-allocator,cache,component-model,component-model-async,threads,gc,gc-drc,demangle,addr2line,logging,wasi-http,wasi-config
fi
if [ ! -x "$peers/wasmer-7/bin/wasmer" ]; then
  # Likewise for WASIX.
  cargo install wasmer-cli --version 7.4.2 --locked --root "$peers/wasmer-7" --no-default-features \
    --features cranelift,sys,wat,journal,wasmer-artifact-create,static-artifact-create
fi
cargo build --release --locked --manifest-path native/Cargo.toml
