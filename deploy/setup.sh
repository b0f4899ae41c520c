#!/usr/bin/env bash
# Installs the Debian packages that building (and, with "test", testing) needs, if they are missing and this is root.
set -euo pipefail
packages=(librocksdb-dev libclang-dev clang protobuf-compiler pkg-config g++ make)
[ "${1:-build}" = test ] && packages+=(fio libnbd-bin qemu-utils e2fsprogs curl iproute2 nftables chromium chromium-driver)
command -v cargo >/dev/null || { echo "No Rust toolchain: install one first (rustup, or Debian's cargo from a recent release)." >&2; exit 1; }
command -v dpkg-query >/dev/null || exit 0
missing=()
for p in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "Missing Debian packages; as root, run: apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
