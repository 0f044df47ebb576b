# plumbline: every target explains itself with `make help`.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules

# Tools are pinned and built by Go itself; nothing needs to be installed.
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOTESTSUM   := go run gotest.tools/gotestsum@v1.13.0
GOCYCLO     := go run github.com/fzipp/gocyclo/cmd/gocyclo@v0.6.0

# Extra flags for a target, e.g. make bench ARGS='--profile smoke'. Every flag
# of plumbline also reads an environment variable: PLUMBLINE_PROFILE=smoke.
ARGS ?=
# The DAG Manager that make bench-diff measures; {kafka} and {neo4j} are the
# addresses of servers that live as long as the measurement, {neo4j} is empty
# where PLUMBLINE_PROVIDER has none. DAGMANAGER=bin/dagmanager: all in memory.
# GOGC is that of the reference's descriptor (harness/sut/reference.yaml).
DAGMANAGER ?= env GOGC=400 bin/dagmanager --replication=1 --kafka={kafka} --neo4j={neo4j}
# How long make fuzz tries each target, and which of them (a regular expression).
FUZZTIME ?= 60s
FUZZ ?= .
# Why a record is accepted as the baseline: make accept REASON='new disk'.
REASON ?=
# The run that report and accept read.
RUN ?= .artifacts/latest

.PHONY: help
help: ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: build
build: ## build plumbline, its k6, diffload, floor, crowd and offer, and the reference gateway and DAG Manager into bin/
	@mkdir -p bin
	go build -o bin/ ./harness/cmd/plumbline ./ref/cmd/gateway ./ref/cmd/dagmanager ./bench/cmd/k6 ./bench/cmd/diffload ./bench/cmd/floor ./bench/cmd/crowd ./bench/cmd/offer

.PHONY: bench
bench: build ## the whole gate: contract, load, audit, fidelity, complexity, comparison, verdict
	@if [ "$${PLUMBLINE_PROVIDER:-auto}" = auto ] && [[ '$(ARGS)' != *--provider* ]] && docker version >/dev/null 2>&1 \
	  && ! bin/plumbline doctor --provider containers --only-backends >/dev/null; then \
	  echo 'bench: Docker answers but images are missing; building them (make images), which takes some minutes once' >&2; \
	  $(MAKE) --no-print-directory images >&2 || echo 'bench: the images could not be built; embedded servers serve instead' >&2; \
	fi
	bin/plumbline bench $(ARGS)

.PHONY: bench-diff
bench-diff: build ## diffs over gRPC, 100 to 10,000 nodes and 50/s, against their limits: PLUMBLINE_PROVIDER=containers make bench-diff
	bin/plumbline with -- bin/diffload --max-p95 1000=15ms,10000=300ms --max-rate-p95 40ms $(ARGS) $(DAGMANAGER)

.PHONY: test
test: build ## all tests; those that need containers skip with a counted reason where Docker is absent
	@mkdir -p .artifacts
	bin/plumbline with -- \
	  $(GOTESTSUM) --format pkgname --jsonfile .artifacts/test.json -- -timeout 15m ./...

.PHONY: fuzz
fuzz: ## try new inputs on every fuzz target, FUZZTIME each; FUZZ='Fill|Token' for some of them
	@git grep -E '^func Fuzz[A-Za-z]+\(f \*testing\.F\)' -- '*_test.go' | sed -E 's|^(.*)/[^/]*:func (Fuzz[A-Za-z]+).*|\1 \2|' | { grep -E '$(FUZZ)' || true; } | \
	  while read -r dir target; do \
	    printf '\n=== %s in %s for %s\n' "$$target" "$$dir" '$(FUZZTIME)'; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime '$(FUZZTIME)' "./$$dir"; \
	  done

.PHONY: mutants
mutants: build ## blind the gate in every way we know, and ask that it turns red each time
	go run ./harness/cmd/mutants --bin-dir bin

.PHONY: floor
floor: build ## hold the reference gateway against the least that a gateway can do, in turns
	bin/plumbline floor $(ARGS)

.PHONY: instrument
instrument: ## print how late the load generator is, beside Go's timers; on an idle machine
	go test -run '^$$' -bench Lag -benchtime 1x ./bench/load

.PHONY: check
check: ## what must hold before a change lands: format, vet, staticcheck, complexity, walls, generated files, races
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'not formatted (run gofmt -w):'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go mod verify
	go vet ./...
	$(STATICCHECK) ./...
	$(GOCYCLO) -over 10 -ignore '\.pb\.go$$|/testdata/' .
	go test -count=1 . ./scenarios/contract
	go test -race -short -skip ReferenceKeepsTheContract -timeout 15m ./ref/... ./bench/load ./bench/workload ./bench/turns ./harness/duet ./harness/backend ./harness/sut ./harness/probe ./harness/scenario ./harness/audit

.PHONY: up
up: build ## start backends and the reference in the background and print their addresses
	@bin/plumbline up --detach $(ARGS)

.PHONY: down
down: ## end what make up started
	@[ -x bin/plumbline ] || $(MAKE) --no-print-directory build
	@bin/plumbline down

.PHONY: images
images: ## build the images of Kafka, Redis and Neo4j locally, from Debian packages and Maven artifacts
	harness/backend/containers/images/build.sh

.PHONY: accept
accept: build ## accept RUN as the baseline of this machine class: make accept REASON='…'
	bin/plumbline accept --reason '$(REASON)' $(RUN) $(ARGS)

.PHONY: report
report: build ## render RUN again in every format
	bin/plumbline report $(RUN) $(ARGS)

.PHONY: generate
generate: ## regenerate the gRPC code from scenarios/contract/dagmanager.proto (needs protoc)
	GOBIN=$(CURDIR)/bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(CURDIR)/bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
	PATH="$(CURDIR)/bin:$$PATH" protoc -I scenarios/contract \
	  --go_out=scenarios/contract/dagmanagerpb --go_opt=paths=source_relative \
	  --go-grpc_out=scenarios/contract/dagmanagerpb --go-grpc_opt=paths=source_relative dagmanager.proto

.PHONY: clean
clean: ## remove built binaries and runs; accepted baselines stay
	rm -rf bin
	find .artifacts -mindepth 1 -maxdepth 1 ! -name README.md ! -name baselines -exec rm -rf {} +
