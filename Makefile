# Few targets, and each does what its comment says. `make help` lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
GO    ?= go
LDFLAGS := -s -w -X main.version=$(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# Everything that is not end to end; scripts/testrun runs it as a round of its own.
UNIT = $$($(GO) list ./... | grep -v /shoal/e2e)

# The registry against another one: a module of its own.
DIFFERENTIAL = -C e2e/differential ./...

.PHONY: help build demo test bench lint fuzz e2e sim gen gen-check mutants soak

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

build: ## bin/supernode, bin/dfagent and bin/dfget
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

demo: build ## one supernode and four agents on loopback pull one image (ONCE=1: report and stop)
	$(GO) run ./e2e/demo $(if $(ONCE),-once) -bin bin

test: build ## every test: units with the race detector, conformance, end to end with real clients
	scripts/install-parts test
	$(GO) run ./scripts/testrun -race $(UNIT) -- $(DIFFERENTIAL) -- -race -p 1 -timeout 40m ./e2e/...

e2e: build ## only the end-to-end tests (root)
	scripts/install-parts test
	$(GO) run ./scripts/testrun -p 1 -timeout 40m ./e2e/...

bench: build ## shaped links in network namespaces, three engines (root); writes docs/benchmarks.md
	scripts/install-parts bench
	$(GO) build -o bin/bench/ ./e2e/bench ./e2e/bench/torrentnode
	bin/bench/bench -bin bin $(or $(BENCH),-full -out docs/benchmarks.md)

sim: ## the swarm's decisions at HOSTS hosts (default 10000), in simulated time
	SHOAL_SIM_HOSTS=$(or $(HOSTS),10000) $(GO) test -count=1 -v -timeout 2h ./e2e/sim

lint: ## golangci-lint with .golangci.yml, pinned by scripts/tools/lint/go.mod
	scripts/lint

fuzz: ## each fuzz target for FUZZTIME (default 20s)
	scripts/fuzz $(or $(FUZZTIME),20s)

gen: ## wire types from proto/, with the pinned generators
	cd proto && $(GO) tool -modfile=../scripts/tools/go.mod buf generate

gen-check: gen ## fail when the committed wire types differ from what gen makes
	git diff --exit-code -- proto

mutants: ## break a defence at a time and see that a test notices
	scripts/mutants

soak: build ## the long runs: pulls while garbage is collected, the registry against another; each for SOAK (default 30m)
	SHOAL_SOAK=$(or $(SOAK),30m) $(GO) run ./scripts/testrun -race -timeout 3h -run Soak ./... -- $(DIFFERENTIAL) -timeout 3h -run Soak
