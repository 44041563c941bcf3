#!/bin/bash
# proto.sh: generates the Go code of every .proto file of the project.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/needs.sh protoc
gen=$(mktemp -d)
trap 'rm -rf "$gen"' EXIT
GOBIN=$gen go install -modfile=tools/go.mod google.golang.org/protobuf/cmd/protoc-gen-go
GOBIN=$gen go install -modfile=tools/go.mod github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto
for dir in $(git ls-files '*.proto' | xargs -n1 dirname | sort -u); do
  PATH=$gen:$PATH protoc --go_out=. --go_opt=module=eggsfs --go-vtproto_out=. \
    --go-vtproto_opt=module=eggsfs,features=marshal+unmarshal+size "$dir"/*.proto
done
