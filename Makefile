# svc-wallet. `make run` and `make test` are all that a newcomer needs; `make check` is what CI runs.

GO        ?= go
TOOL       = $(GO) tool -modfile=tools.mod
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION  ?= $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS    = -X main.version=$(VERSION) -X main.revision=$(REVISION)
FUZZTIME  ?= 60s
BASE      ?= HEAD^
SLOTIME   ?= 1m
PERF_BASE ?= $(shell cat bench/baselines/revision)
# What is shipped has no C in it, and neither has what is tested; only the race detector needs cgo,
# where this tag keeps Pebble's store on the same zstd as everywhere else. Tests link without DWARF, which
# is half of the time that linking takes.
export CGO_ENABLED = 0
RACE       = CGO_ENABLED=1 $(GO) test -race -tags pebblegozstd -ldflags=-w
PACKAGES   = ./...
COVERED    = ./wallet ./filters/... ./ledger ./ledger/node ./config ./proxy ./xds ./xds/control
COVER_MIN  = 90

.PHONY: run test check build lint generate generated fuzz cover live clients bench bench-xds bench-compare bench-refusals bench-peers bench-grow bench-data load-programs slo perf-gate perf-prove profile chaos chaos-test help

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## the main job on an embedded ledger, ready in seconds, with lines to paste
	@bin/svc-wallet dev

build: ## bin/svc-wallet, static
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/svc-wallet ./cmd/svc-wallet

test: ## every test, with the race detector; lint runs vet; six at once, because most wait for programs
	$(RACE) -vet=off -parallel 6 -timeout 30m $(PACKAGES)

check: lint generated cover test live clients ## what CI runs: lint, generated files, coverage, tests

lint: ## formatting, vet, linters
	$(TOOL) golangci-lint run

generate: ## everything generated: protobuf code, docs/errors.md, docs/configuration.md
	$(TOOL) buf generate
	$(TOOL) buf generate --template buf.gen.ledger.yaml
	$(GO) test ./wallet -run TestErrorsDoc -update
	$(GO) test ./config -run TestReference -update

generated: generate ## fails where a generated file is stale
	@git diff --exit-code --stat -- ledger/ledgerpb xds/xdspb docs

cover: ## statement coverage, at least COVER_MIN % a package; without the race detector, so the allocation tests run here
	@$(GO) test -vet=off -cover $(COVERED) | awk '{print} /^FAIL|^panic:/{failed=1} /coverage:/{for(i=1;i<=NF;i++) if($$i ~ /%$$/ && $$i+0<$(COVER_MIN)) bad=bad" "$$2} END{if(bad)print "below $(COVER_MIN) %:"bad; if(bad||failed)exit 1}'

fuzz: ## every fuzz target, FUZZTIME each
	@set -e; for dir in $$($(GO) list -f '{{.Dir}}' $(PACKAGES)); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go 2>/dev/null | cut -c6-); do \
	    echo "$$f ($$dir)"; $(GO) test $$dir -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x; \
	  done; done

live: ## limits pushed at full load, go-control-plane's own test server, strangers in 256 MiB; without the race detector
	$(GO) test -vet=off -count=1 -tags interop -run 'TestPushesUnderLoad|TestInterop|TestMemoryOfStrangers' ./e2e

clients: ## clients that are generated from docs/openapi.yaml pay, and other libraries mint tokens; needs node and npm
	cd e2e/clients/go && mkdir -p wallet && $(GO) tool oapi-codegen -generate types,client -package wallet -o wallet/wallet.gen.go ../../../docs/openapi.yaml \
	  && $(GO) build -o ../../../bin/clients/ ./pay ./mint
	cd e2e/clients/ts && npm ci --silent --no-audit --no-fund && npm run --silent build
	$(GO) test -vet=off -count=1 -tags clients -run 'TestClients' ./e2e

bench-xds: build ## push to enforced, on 10, 100 and 1,000 sidecars
	@$(GO) run ./bench/xds -bin bin/svc-wallet

bench-compare: build ## this build against that of BASE (a revision), in turn: reads, payments, CPU
	@set -e; tmp=$$(mktemp -d); trap 'git worktree remove --force $$tmp/src; rm -r $$tmp' EXIT; \
	  git worktree add --quiet --detach $$tmp/src $(BASE); $(MAKE) -s -C $$tmp/src build; \
	  $(GO) run ./bench/compare -before $$tmp/src/bin/svc-wallet -after bin/svc-wallet

bench-refusals: build ## what each kind of refused request costs, against a payment
	@$(GO) run ./bench/refusals -bin bin/svc-wallet

profile: build ## CPU, memory, contention, trace and flame graph of each process under a scenario, into bin/profiles
	@$(GO) run ./bench/svc-wallet-bench profile $(PERF_FLAGS)

perf-gate: build ## this build against that of PERF_BASE, in turn, by the gates of the performance contract
	@set -e; tmp=$$(mktemp -d); trap 'git worktree remove --force $$tmp/src; rm -r $$tmp' EXIT; \
	  git worktree add --quiet --detach $$tmp/src $(PERF_BASE); $(MAKE) -s -C $$tmp/src build; \
	  $(GO) run ./bench/svc-wallet-bench gate -base $$tmp/src/bin/svc-wallet -duration 20s -rounds 8 -most 16 $(PERF_FLAGS)

perf-prove: build ## the gate itself: it finds planted regressions, and passes a build against itself
	@$(GO) run ./bench/svc-wallet-bench prove $(PERF_FLAGS)

bench-peers: build ## svc-wallet, a bare handler, nginx, HAProxy and PostgreSQL in turn; what is not installed is left out
	@$(GO) build -o bin/svc-wallet-bench ./bench/svc-wallet-bench && bin/svc-wallet-bench peers $(PERF_FLAGS)

bench-data: ## makes bench/data: 10,000 accounts and idempotency keys, for other load programs
	@mkdir -p bench/data; seq -f 'acc_%g' 10000 >bench/data/accounts_10k.txt; seq -f 'key-%g' 10000 >bench/data/idempotency_keys.txt

load-programs: build ## the lines of docs/performance.md for k6, wrk, vegeta and bombardier; needs them
	$(GO) test -vet=off -count=1 -tags loadprograms -run TestLoadPrograms -v ./e2e

slo: build ## every figure of the performance contract against its target, SLOTIME each
	@$(GO) run ./bench/svc-wallet-bench slo -duration $(SLOTIME)

bench-grow: build ## what payments and reads cost as accounts, connections, batches and the history grow; half an hour
	@$(GO) build -o bin/svc-wallet-bench ./bench/svc-wallet-bench && for by in accounts connections batch history; do \
	  bin/svc-wallet-bench grow -by $$by $(PERF_FLAGS) || exit 1; done

chaos: build ## the write mix over a network that is slow, lossy and cut, between sidecar and node; takes root, no netem
	@$(GO) run ./bench/svc-wallet-bench chaos $(PERF_FLAGS)

chaos-test: ## its short form; skipped where no network can be made
	$(GO) test -vet=off -count=1 -tags chaos -run TestChaos -v ./bench/svc-wallet-bench

bench: ## the benchmarks
	$(GO) test -run '^$$' -bench . -benchmem $(PACKAGES)
