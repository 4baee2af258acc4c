# Bare `make` prints the targets. Everything that the tests need is kept in .cache, which may be deleted at any time.

SHELL       := /bin/bash
.DEFAULT_GOAL := help

# Builds run two packages at a time, so that a small machine stays usable.
P           ?= 2
CACHE       := $(CURDIR)/.cache
BIN         := bin
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# grpcnotrace leaves out gRPC's trace pages: their templates keep the linker from dropping unused methods, 9 MB of the sidecar.
GOBUILD     := CGO_ENABLED=0 go build -p $(P) -tags grpcnotrace -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
LINT        := $(CACHE)/bin/golangci-lint
# Time that one package's tests may take.
TESTTIME    ?= 20m

.PHONY: help build shop demo autobahn test test-deps test-run test-fuzz test-fresh check lint archtest generated tidy fmt generate bench fuzz soak clean

help: ## print these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/outrigger, bin/outrigger-sidecar, bin/outrigger-runner (static) and the example shop in bin/shop
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/ ./cmd/outrigger ./cmd/outrigger-sidecar ./cmd/outrigger-runner
	@$(MAKE) --no-print-directory shop

shop: ## the example shop's services and its demo, in bin/shop
	@mkdir -p $(BIN)/shop
	$(GOBUILD) -o $(BIN)/shop/ ./examples/shop/services/... ./examples/shop/demo

demo: build ## run the example shop with a little load and a tour; without a terminal it ends by itself
	$(BIN)/shop/demo -outrigger $(BIN)/outrigger -f examples/shop

test: ## install what the tests need, check, run all tests with the race detector, fuzz
	@$(MAKE) --no-print-directory test-deps
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory test-run
	@$(MAKE) --no-print-directory test-fuzz

test-deps: ## install what the tests need (Debian packages, Envoy, Consul, golangci-lint), as far as it is missing
	@tools/deps.sh

# Whole meshes come last and alone: some of what they show is a matter of time.
test-run: export OUTRIGGER_BIN := $(CURDIR)/$(BIN)
test-run: export PATH := $(CACHE)/bin:$(PATH)
test-run: ## all tests, with the race detector
	go test -p $(P) -race -timeout $(TESTTIME) $$(go list ./... | grep -v '/test/e2e$$')
	go test -p 1 -race -timeout $(TESTTIME) ./test/e2e

test-fuzz: ## every fuzz target for 20 s, two at a time
	FUZZTIME=20s FUZZJOBS=$(P) tools/fuzz.sh

autobahn: build ## the Autobahn test suite through one sidecar and through two (needs Python 2.7)
	wstest=$$(tools/autobahn/install.sh) && OUTRIGGER_BIN=$(CURDIR)/$(BIN) OUTRIGGER_WSTEST="$$wstest" go test -count 1 -v -timeout $(TESTTIME) ./test/autobahn

test-fresh: ## README's two commands in a Debian root with nothing but Go (needs root and debootstrap)
	test/fresh/run.sh

check: lint archtest generated tidy ## format, vet, lint, import rules, generated files, go.mod

lint: $(LINT)
	go vet ./...
	$(LINT) fmt --diff
	$(LINT) run

archtest:
	go test ./internal/archtest

generated:
	tools/generate.sh --check

tidy:
	go mod tidy -diff

$(LINT): tools/lint/go.mod tools/lint/go.sum
	@mkdir -p $(dir $@)
	cd tools/lint && go build -p $(P) -trimpath -ldflags "-s -w" -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

fmt: $(LINT) ## format the Go code
	$(LINT) fmt

generate: ## write the generated files anew
	tools/generate.sh

bench: ## measure a sidecar beside nginx, HAProxy, nghttpx and Envoy (25 minutes; CASES=s1,s3 for some) and write docs/benchmarks.md
	bench/run.sh

fuzz: ## every fuzz target, FUZZTOTAL (1h) in all, or FUZZTIME each
	@$(if $(FUZZTIME),,FUZZTOTAL=$${FUZZTOTAL:-1h}) FUZZJOBS=$(P) tools/fuzz.sh

soak: build ## one sidecar under everything at once for SOAK (10m): operations, failures, and what it holds
	OUTRIGGER_BIN=$(CURDIR)/$(BIN) SOAK=$${SOAK:-10m} go test -count=1 -timeout 24h -v -run TestSoak ./test/soak

clean: ## remove bin and .cache
	rm -rf $(BIN) $(CACHE)
