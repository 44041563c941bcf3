# EggsFS. `make` lists what there is.

GO        ?= go
BIN       := bin
TESTFLAGS ?= -count=1 -timeout=600s
PKG       ?= ./...
TOOL      := $(GO) run -modfile=tools/go.mod
VERSION   := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   := -X eggsfs/eggs.BuildVersion=$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help build cluster test e2e race lint golden fuzz grow jepsen jepsen-short soak bench bench-large bench-peers
.PHONY: proto needs clean

help: ## list the targets
	@echo "EggsFS: make TARGET"
	@echo
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1|\2/' | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo
	@echo "New here?  make cluster    a three-node cluster, mounted at run/mnt, until Ctrl-C"
	@echo "           make test       everything that must be green before a change lands"

build: ## build the binaries into bin/
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

cluster: build ## start three nodes on loopback under run/, mount at run/mnt, stop on Ctrl-C
	@tools/needs.sh fusermount3
	@$(BIN)/eggs dev --nodes 3 --data run --mount run/mnt

test: needs lint ## run every test that gates a change; a skipped test fails when root
	@mkdir -p $(BIN)
	$(TOOL) gotest.tools/gotestsum --format pkgname --jsonfile $(BIN)/test.json -- -p 2 $(TESTFLAGS) $(PKG)
	@tools/noskip.sh $(BIN)/test.json

e2e: needs ## copy whole trees in, kill nodes, compare byte by byte, remove, look for leftovers (minutes)
	$(GO) test -tags e2e ./jepsen -run 'FullTrees' -count=1 -timeout=3600s -v

race: needs ## run the tests under the race detector (minutes)
	$(GO) test -race -p 2 $(TESTFLAGS) $(PKG)

lint: ## vet, staticcheck, gofumpt
	@$(GO) vet ./... && $(GO) vet -tags e2e ./jepsen
	@$(TOOL) honnef.co/go/tools/cmd/staticcheck ./...
	@out=$$($(TOOL) mvdan.cc/gofumpt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); \
	  if [ -n "$$out" ]; then echo "not gofumpt-ed:"; echo "$$out"; exit 1; fi

golden: ## rewrite the golden files of the script tests; read the diff
	$(GO) test ./eggs ./wire ./raftshard ./cdc -run 'Golden|Script|Help' -update

fuzz: ## fuzz what reads bytes from a socket, a minute each
	@for t in $$(grep -rhoE 'func (Fuzz[A-Za-z]+)' wire --include=*_test.go | cut -d' ' -f2); do \
	  $(GO) test ./wire -run xxx -fuzz "^$$t$$" -fuzztime 60s || exit 1; done

bench: build ## measure against every target: a table, and bin/bench.json (11 minutes; BENCH_SHORT=1: 3)
	@tools/needs.sh fusermount3 ip
	@$(GO) build -o $(BIN)/bench ./jepsen/bench && $(BIN)/bench

bench-large: build ## 1,000,000 files against 10,000: create rate, memory of the servers (15 minutes)
	@$(GO) build -o $(BIN)/bench ./jepsen/bench && $(BIN)/bench --million

bench-peers: build ## SeaweedFS and JuiceFS, if they can be had, beside a mount and go-fuse loopback (20 minutes)
	@tools/needs.sh fusermount3
	@$(GO) build -o $(BIN)/bench ./jepsen/bench && $(BIN)/bench --peers

grow: build ## long tests of growing, shrinking and repair (about 20 minutes, as root)
	$(GO) test -tags grow ./jepsen -run 'Grow|Repair' -count=1 -v -timeout 3600s

jepsen: build ## five nodes, all workloads, mixed faults; report in run/jepsen (about 10 minutes, as root)
	@tools/needs.sh fusermount3 ip nft
	@$(BIN)/eggsjepsen run --nodes 5 --time 7m $(JEPSEN)

jepsen-short: build ## three nodes, half a minute of faults (two minutes in all, as root)
	@tools/needs.sh fusermount3 ip nft
	@$(BIN)/eggsjepsen run --nodes 3 --time 30s --nemesis kill-one,partition-leader,power-all,pause-one $(JEPSEN)

soak: build ## faults of all sorts by seed for SOAK (8h), until the first failure
	@tools/needs.sh fusermount3 ip nft
	@$(BIN)/eggsjepsen run --nodes 5 --time 2m --nemesis all --soak $(or $(SOAK),8h) --out run/soak $(JEPSEN)

proto: ## generate code from the .proto files (needs Debian's protobuf-compiler)
	@tools/proto.sh

needs: ## install what the tests need (Debian packages, only those missing)
	@tools/needs.sh fusermount3 rsync git tar setfattr ip nft

clean: ## remove bin/ and run/
	rm -rf $(BIN) run
