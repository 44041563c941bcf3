#!/bin/bash
# noskip.sh FILE: fails if the test run recorded in FILE (go test -json) skipped
# a test while root: what was skipped was not shown.
set -euo pipefail
[ "$(id -u)" = 0 ] || exit 0
[ -s "$1" ] || { echo "noskip.sh: no test run is recorded in $1" >&2; exit 1; }
if skipped=$(grep '"Action":"skip"' "$1" | grep '"Test":' | sed -E 's/.*"Package":"([^"]*)","Test":"([^"]*)".*/\1 \2/'); then
  echo "skipped, though root:" >&2
  echo "$skipped" >&2
  exit 1
fi
