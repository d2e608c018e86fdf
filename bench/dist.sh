#!/bin/sh
# Builds anyport as it is published, into target/dist-trained: with the profile `dist`, and once more with what the
# compiler learns of a first build that serves the guests of the benchmarks (PGO).
#
# Needs wrk (bench/setup.sh) and rustup, for its llvm-tools. Takes about as long as two builds of `dist`.
set -eu
cd "$(dirname "$0")/.."
die() { echo "bench/dist.sh: $*" >&2; exit 1; }

host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || rustup component add llvm-tools || die "\`llvm-profdata\` is missing: it comes with rustup"
command -v wrk > /dev/null || die "\`wrk\` is missing: run bench/setup.sh, or install it (on Debian \`sudo apt-get install wrk\`)"

# A target that is named, so that what only builds (macros, scripts) is not instrumented.
build() { cargo build --profile dist --locked --target "$host" --target-dir "target/$1" --bin anyport; }

profiles=$PWD/target/pgo/raw
rm -rf "$profiles"
RUSTFLAGS="-Cprofile-generate=$profiles" build pgo
python3 bench/train.py "$PWD/target/pgo/$host/dist/anyport"
"$profdata" merge -o target/pgo/anyport.profdata "$profiles"

# Where its dynamic linker knows the short form, what it has to write at a start is in that (RATIONALE.md).
packed=
libc=$(getconf GNU_LIBC_VERSION 2> /dev/null | cut -d ' ' -f 2)
if [ -n "$libc" ] && printf '2.36\n%s\n' "$libc" | sort -VC; then
  packed=" -Clink-arg=-Wl,-z,pack-relative-relocs"
fi
RUSTFLAGS="-Cprofile-use=$PWD/target/pgo/anyport.profdata$packed" build pgo-use
mkdir -p target/dist-trained
cp "target/pgo-use/$host/dist/anyport" target/dist-trained/
