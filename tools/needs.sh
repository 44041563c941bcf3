#!/bin/bash
# needs.sh COMMAND...: installs the Debian package of each command that is missing.
# It says what is missing, and fails, where it cannot install.
set -euo pipefail
declare -A package=(
  [fusermount3]=fuse3 [rsync]=rsync [git]=git [tar]=tar [setfattr]=attr
  [protoc]=protobuf-compiler [ip]=iproute2 [nft]=nftables [curl]=curl
)
missing=()
for c in "$@"; do
  command -v "$c" >/dev/null 2>&1 || missing+=("${package[$c]:-$c}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "missing: ${missing[*]}. Install with: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
