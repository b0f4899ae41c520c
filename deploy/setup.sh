#!/usr/bin/env bash
# Installs what is missing, if this is root: "build" what building needs, "run" also what the demo, the benchmarks and
# `make check` need, "test" also what tests of the page, the API and the metrics need.
set -euo pipefail
packages=(librocksdb-dev libclang-dev clang protobuf-compiler pkg-config g++ make)
mode=${1:-build}
[ "$mode" != build ] && packages+=(fio libnbd-bin qemu-utils e2fsprogs curl iproute2 nftables)
[ "$mode" = test ] && packages+=(chromium chromium-driver python3 python3-venv)
command -v cargo >/dev/null || { echo "No Rust toolchain: install one first (rustup, or Debian's cargo from a recent release)." >&2; exit 1; }
command -v dpkg-query >/dev/null || exit 0
missing=()
for p in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "Missing Debian packages; as root, run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "Installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
[ "$mode" = test ] || exit 0

# Of the package prometheus only promtool: installed, it would start a server on a public port at once.
tools=$HOME/.cache/holdfast/tools
if [ ! -x "$tools/promtool" ] && ! command -v promtool >/dev/null; then
    echo "Fetching promtool"
    mkdir -p "$tools"
    fetched=$(mktemp -d "$tools/fetch.XXXXXX")
    trap 'rm -rf "$fetched"' EXIT
    fetch() { (cd "$fetched" && apt-get download -qq prometheus 2>/dev/null); }
    if ! fetch; then
        [ "$(id -u)" -eq 0 ] && apt-get update -qq && fetch ||
            { echo "The Debian package prometheus cannot be fetched (promtool); as root, run: apt-get update" >&2; exit 1; }
    fi
    dpkg-deb --fsys-tarfile "$fetched"/prometheus_*.deb | tar -xO ./usr/bin/promtool >"$fetched/promtool"
    chmod +x "$fetched/promtool"
    mv "$fetched/promtool" "$tools/promtool"
fi

# Tools that hold the REST API against its description: in a directory of their own, anew when their list changes.
wanted=$(dirname "$0")/../tests/api/requirements.txt
if ! cmp -s "$wanted" "$tools/api/requirements.txt"; then
    echo "Fetching the tools that test the API (a minute)"
    mkdir -p "$tools"
    rm -rf "$tools/api"
    python3 -m venv "$tools/api"
    "$tools/api/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$tools/api/requirements.txt"
fi
