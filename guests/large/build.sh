#!/usr/bin/env bash
# build.sh [flask] [python-http] [hono]: builds the large guests (all of them, or those named) into
# target/guests/NAME.wasm. They bring a whole Python or JavaScript engine, so they are not committed.
#
# Needs cargo, whose crate `wasip2` has the interfaces, and
#   for Python       python3 with venv (Debian: `python3-venv`)
#   for JavaScript   node 20 or newer, and npm
# What is fetched from PyPI and npm stays under target/guests. A guest whose tools are missing is skipped,
# and that is said.
set -euo pipefail
cd "$(dirname "$0")"
out=$(cd ../.. && pwd)/target/guests

componentize_py=0.25.0
flask=3.1.3

main() {
  [ $# -gt 0 ] || set -- flask python-http hono
  command -v cargo > /dev/null || die "cargo is needed, any recent one: install Debian's \`cargo\` or rustup's"
  mkdir -p "$out"
  local name
  for name; do
    case $name in
      flask) build_python flask wasi:cli/command -p "$out/.python/flask" ;;
      python-http) build_python python-http wasi:http/proxy ;;
      hono) build_hono ;;
      *) die "no large guest is called \`$name\`" ;;
    esac
  done
}

build_python() {
  local name=$1 world=$2 venv=$out/.python libraries=("${@:3}")
  command -v python3 > /dev/null || { skip "$name" "no python3"; return; }
  if [ ! -e "$venv/$componentize_py-$flask" ]; then
    say "fetching componentize-py $componentize_py and Flask $flask"
    rm -rf "$venv"
    python3 -m venv "$venv" || { skip "$name" "python3 has no venv: install Debian's \`python3-venv\`"; return; }
    "$venv/bin/python3" -m pip install --quiet "componentize-py==$componentize_py"
    # Apart from the tool, which is no part of the guest.
    "$venv/bin/python3" -m pip install --quiet --target "$venv/flask" "flask==$flask"
    touch "$venv/$componentize_py-$flask"
  fi
  say "$name (Python)"
  SECONDS=0
  # The tool writes beside the sources.
  mkdir -p "$out/.$name"
  cp "$name/app.py" "$out/.$name/"
  "$venv/bin/componentize-py" -q -d "$(wit)" -w "$world@$(wit_version)" componentize \
    -p "$out/.$name" "${libraries[@]}" -o "$out/$name.wasm" app
  report "$name"
}

build_hono() {
  command -v node > /dev/null && command -v npm > /dev/null || { skip hono "no node and npm"; return; }
  local work=$out/.hono
  mkdir -p "$work/wit/deps" "$work/target"
  cp hono/* "$work"
  if ! cmp -s hono/package.json "$work/installed.json"; then
    say "fetching componentize-js, esbuild and Hono"
    (cd "$work" && npm install --no-audit --no-fund --no-save --loglevel=error)
    cp hono/package.json "$work/installed.json"
  fi
  say "hono (JavaScript)"
  SECONDS=0
  # The engine's own exports are of this version.
  local version=0.2.10 file
  for file in "$(wit)"/deps/*.wit; do
    sed "s/$(wit_version)/$version/g" "$file" > "$work/wit/deps/${file##*/}"
  done
  printf 'package local:server;\n\nworld server {\n  export wasi:http/incoming-handler@%s;\n}\n' $version > "$work/wit/server.wit"
  (cd "$work" && node --import ./shim.mjs build.mjs wit "$out/hono.wasm")
  report hono
}

# The interfaces of wasi 0.2, as the crate that the Rust guests use brings them.
wit() {
  cargo metadata --format-version 1 --locked --manifest-path ../wasi-http-0.2/echo/Cargo.toml |
    grep -o '"manifest_path":"[^"]*/wasip2-[^"]*/Cargo.toml"' | sed 's/^"manifest_path":"//; s/Cargo.toml"$/wit/'
}

wit_version() { sed -n 's/^package wasi:http@\(.*\);/\1/p' "$(wit)/deps/http.wit"; }

report() { echo "    target/guests/$1.wasm: $(stat -c %s "$out/$1.wasm") bytes, in $SECONDS s"; }
skip() { echo "==> $1 is SKIPPED: $2"; }
say() { echo "==> $*"; }
die() { echo "large/build.sh: $*" >&2; exit 1; }

main "$@"
