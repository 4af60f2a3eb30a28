# TrafficMonitor. "make help" lists the targets; CI calls the same ones.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO       ?= go
TOOL     := $(GO) tool -modfile=internal/tools/go.mod
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 20s

ROOT_PKGS = $(shell scripts/packages.sh root)
UNIT_PKGS = $(shell scripts/packages.sh unit)

# They start no goroutine and compute much: the race detector finds nothing there and takes minutes.
LONE_PKGS = %/internal/scenario %/internal/signature %/policy

# The race detector needs a C compiler.
RACE := $(if $(shell command -v gcc || command -v cc),-race)

# How to become root for what needs it: nothing as root, else sudo. Test binaries are built as the user and only run as
# root, with a build cache of their own should they build something.
IS_ROOT := $(filter 0,$(shell id -u))
SUDO    := $(if $(IS_ROOT),,$(shell command -v sudo))
CAN_ROOT := $(IS_ROOT)$(SUDO)
ROOT_ENV = env PATH=$$PATH HOME=$$HOME CI=$(1) GOFLAGS=-buildvcs=false GOMODCACHE=$$($(GO) env GOMODCACHE) GOCACHE=$$($(GO) env GOCACHE)-root
AS_ROOT  = $(if $(IS_ROOT),,$(SUDO) $(call ROOT_ENV,$(CI)) KEEP=$${KEEP:-} RUNS=$${RUNS:-})

# A skipped test is a hidden one: where root can be had, CI=true turns each skip into a failure.
ROOT_TEST = $(if $(CAN_ROOT),CI=true )$(GO) test -count=1 -p 1 -timeout 15m $(if $(SUDO),-exec "$(SUDO) $(call ROOT_ENV,true)")

##@ Build

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/controller, bin/sensor and bin/tmctl, static and with their version
	CGO_ENABLED=0 $(GO) build -tags grpcnotrace -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: install
install: build ## Programs, systemd units and their user, onto this machine or into DESTDIR; starts nothing
	$(if $(DESTDIR),,$(if $(IS_ROOT),,$(SUDO))) scripts/install.sh bin $(DESTDIR)

.PHONY: generate
generate: generate-proto generate-vectors generate-bpf ## Write all generated code again

.PHONY: generate-proto
generate-proto: ## Go from api/*.proto
	$(TOOL) buf generate

.PHONY: generate-vectors
generate-vectors: ## The C header of the vector table
	$(GO) generate ./internal/vector

.PHONY: generate-bpf
generate-bpf: ## BPF objects and their Go wrappers, with the pinned clang
	@command -v clang-14 >/dev/null || { echo 'generate-bpf: the objects are made by clang-14: run "make deps"' >&2; exit 1; }
	$(GO) generate ./internal/sensor/...

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin build

##@ Check

.PHONY: deps
deps: ## Install the Debian packages that tests and demo need (once)
	scripts/deps.sh test demo kernels

.PHONY: lint
lint: ## go vet, staticcheck, gofumpt, buf, clang-format, shell syntax
	scripts/lint.sh

.PHONY: format
format: ## Format Go and C as lint wants it (after C: make generate-bpf)
	$(TOOL) gofumpt -w .
	clang-format-14 -i $(filter-out %/vectors.h,$(wildcard internal/sensor/bpf/*.[ch] internal/sensor/bpf/*/*.[ch]))

.PHONY: generate-check
generate-check: ## Generate into a copy and compare with what is committed
	scripts/generate-check.sh

.PHONY: test
test: deps generate-check lint test-unit mutate-safety test-root test-verifiers ## Everything: what CI runs

.PHONY: test-unit
test-unit: ## Tests that need neither root nor tools, with the race detector
	@$(if $(RACE),,echo "test-unit: no C compiler, so no race detector: run \"make deps\"")
	$(GO) test $(RACE) $(filter-out $(LONE_PKGS),$(UNIT_PKGS))
	$(GO) test $(filter $(LONE_PKGS),$(UNIT_PKGS))
	$(GO) test -run TestTuningIsTrue ./internal/tmctl

.PHONY: test-root
test-root: ## BPF, namespaces, real routers, end to end: as root, one package at a time
	@$(if $(CAN_ROOT),,echo "test-root: neither root nor sudo: privileged tests skip themselves"$(if $(CI),; exit 1))
	$(if $(ROOT_PKGS),$(ROOT_TEST) $(RACE) $(ROOT_PKGS))

# Part of test, so where there is no Debian it is left out, as tests are that lack a tool.
.PHONY: test-verifiers
test-verifiers: ## Do the verifiers of Debian's kernels, in qemu, walk what is on record?
	@if [ "$${CI:-}" = true ] || { [ "$$(uname -m)" = x86_64 ] && command -v qemu-system-x86_64 && command -v apt-get; } >/dev/null; \
	then $(GO) run ./test/kernels -run 'VerifierCounts$$'; else echo 'test-verifiers: left out: it needs x86-64, Debian and qemu'; fi

.PHONY: test-e2e
test-e2e: deps ## Only the end-to-end tests: real binaries, real routers
	$(ROOT_TEST) -v ./test/e2e

.PHONY: test-kernels
test-kernels: ## The datapath on Debian's kernels, in qemu (UPDATE=1 records the verifier's counts)
	scripts/deps.sh kernels
	$(GO) run ./test/kernels $(if $(UPDATE),-update) $(if $(KERNELS),-kernels '$(KERNELS)')

# Its own programs, for the nodes of the containerlab topologies.
.PHONY: build-clab
build-clab: build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/lab/ ./test/e2e/clab ./test/e2e/clab/labnode

.PHONY: test-clab
test-clab: build-clab ## The containerlab topologies end to end, with a docker of its own where none runs (TOPOLOGY=fabric KEEP=1)
	scripts/deps.sh clab
	containerlab=$$(scripts/containerlab.sh); exec $(AS_ROOT) bin/lab/clab -containerlab "$$containerlab" -base '$(CLAB_BASE)' $(if $(KEEP),-keep) $(TOPOLOGY)

.PHONY: clab-images
clab-images: build-clab ## Images and certificates of the topologies, for your docker (CLAB_BASE=debian:bookworm-slim)
	$(AS_ROOT) bin/lab/clab -prepare -base '$(CLAB_BASE)'

.PHONY: clab-down
clab-down: build-clab ## Take away what test-clab KEEP=1, or a run that was killed, left
	containerlab=$$(scripts/containerlab.sh); $(AS_ROOT) bin/lab/clab -containerlab "$$containerlab" -down

.PHONY: soak-sensor
soak-sensor: export TM_SOAK_PACKETS ?= 5000000
soak-sensor: export TM_SOAK_PPS ?= 100000
soak-sensor: ROOT_ENV += TM_SOAK_PACKETS=$(TM_SOAK_PACKETS) TM_SOAK_PPS=$(TM_SOAK_PPS)
soak-sensor: ## 5 million numbered packets across restarts, upgrades, kill -9 and controller outages of the sensor
	$(ROOT_TEST) -v -run TestContinuity ./test/e2e

.PHONY: soak
soak: build ## The whole system under churn for SOAK (10m): does any process not give back what it took? Writes build/soak.json
	scripts/deps.sh demo
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/lab/ ./test/soak
	$(AS_ROOT) bin/lab/soak -for $(or $(SOAK),10m)

.PHONY: interop
interop: build ## Every rule at FRR, BIRD, gobgpd, ExaBGP and OpenBGPD (INTEROP="-routers FRR"); writes docs/interop.md, build/interop.json
	scripts/deps.sh interop
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/lab/ ./test/interop
	$(AS_ROOT) bin/lab/interop $(INTEROP)

.PHONY: interop-fuzz
interop-fuzz: INTEROP = -fuzz $(or $(COUNT),5000) -seed $(or $(SEED),1) -results build/interop-fuzz.json
interop-fuzz: build ## Random rules through the speaker to the five routers and back (SEED=7 COUNT=5000); writes build/interop-fuzz.json
	scripts/deps.sh interop
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/lab/ ./test/interop
	$(AS_ROOT) bin/lab/interop $(INTEROP)

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME (20s)
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: mutate-safety
mutate-safety: ## Remove each safety invariant in turn and demand that its test goes red
	$(GO) run ./scripts/mutate $(MUTATE)

##@ See it work

.PHONY: demo
demo: deps build ## An attack from first packet to withdrawal, on this machine (KEEP=1 leaves it running)
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/lab/ ./test/demo
	$(AS_ROOT) bin/lab/demo

.PHONY: bench
bench: build ## Time to mitigation beside FastNetMon (RUNS=20); writes build/bench.json
	scripts/deps.sh test demo bench
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/lab/ ./test/bench
	$(AS_ROOT) bin/lab/bench

.PHONY: bench-sensor
bench-sensor: build ## What the sensor costs, beside a floor and FastNetMon (BENCH="-only ns"); writes build/bench-sensor.json
	scripts/deps.sh bench
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/lab/ ./test/benchsensor
	$(AS_ROOT) bin/lab/benchsensor $(BENCH)

.PHONY: eval
eval: ## Detection and signatures judged on generated traffic (EVAL="-run carpet"); writes build/eval.json, fails below test/eval/floor.json
	$(GO) run ./test/eval $(EVAL)

.PHONY: bench-bgp
bench-bgp: build ## How fast rules reach routers, beside a bare GoBGP (BENCH="-rounds 5"); writes build/bench-bgp.json
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/lab/ ./test/benchbgp
	bin/lab/benchbgp $(BENCH)

.PHONY: bench-ingest
bench-ingest: ## What 10,000 sensors cost one controller, and how long a trigger waits, with the circuit breaker and without
	$(GO) test -run '^$$' -bench Ingest10kSensors -benchtime 1x ./internal/engine

.PHONY: bench-lifecycle
bench-lifecycle: ## What many mitigations at once cost: each start, each look, and looks until a hundred ladders have taken their step
	$(GO) test -run '^$$' -bench ManyMitigations -benchtime 1x ./internal/engine

.PHONY: eval-parse
eval-parse: ## Our classification of every packet beside tshark's: CAPTURES=dir (EVAL="--decapsulate gre,ipip")
	@[ -n "$(CAPTURES)" ] || { echo 'eval-parse: say where the captures are: make eval-parse CAPTURES=dir' >&2; exit 2; }
	scripts/deps.sh eval
	$(GO) run ./test/evalparse $(EVAL) $(CAPTURES)

.PHONY: bench-go
bench-go: ## Every Go benchmark once
	$(GO) test -run '^$$' -bench . -benchtime 1x $(UNIT_PKGS)
