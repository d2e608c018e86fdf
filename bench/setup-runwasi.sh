#!/bin/sh
# Builds runwasi's shim for wasmtime, which bench/containers.py measures beside anyport's if it is there.
#
# setup-runwasi.sh [CHECKOUT]   CHECKOUT is a clone of github.com/containerd/runwasi; without one it is cloned, at the
# commit that the figures of docs/benchmarks.md are of. It is no crate of a registry, so it has to be built.
# Needs git, protoc, pkg-config and libseccomp (on Debian: protobuf-compiler pkg-config libseccomp-dev); takes half an
# hour on two cores. Everything is below bench/.peers/runwasi: delete that to undo it.
set -eu
cd "$(dirname "$0")"
commit=eb9967aae75bfc8ddf810590810f6962a8dc7c37
peer=$PWD/.peers/runwasi
die() { echo "bench/setup-runwasi.sh: $*" >&2; exit 1; }

for needed in git protoc pkg-config; do
  command -v $needed >/dev/null || die "\`$needed\` is missing: on Debian \`apt-get install git protobuf-compiler pkg-config\`"
done
pkg-config --exists libseccomp || die "libseccomp is missing: on Debian \`apt-get install libseccomp-dev\`"

# A copy, since it is changed.
rm -rf "$peer/source"
mkdir -p "$peer"
git clone --quiet "${1:-https://github.com/containerd/runwasi}" "$peer/source"
git -C "$peer/source" checkout --quiet $commit

# The shim for WAMR takes a dependency from a git repository that cargo would clone for all of them.
sed -i '/containerd-shim-wamr/d' "$peer/source/Cargo.toml"
# Not the older Rust that it is developed with: the one that builds anyport.
export RUSTUP_TOOLCHAIN="${RUSTUP_TOOLCHAIN:-$(cd .. && rustup show active-toolchain | cut -d' ' -f1)}"
cargo build --release --manifest-path "$peer/source/Cargo.toml" --target-dir "$peer/target" -p containerd-shim-wasmtime
ln -sf target/release/containerd-shim-wasmtime-v1 "$peer/containerd-shim-wasmtime-v1"
