# make up     starts Kiln on this machine (make up ONCE=1: builds the example and stops)
# make test   runs every test
# Both do all their own set-up. make help lists the rest.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION)
LINT     = $(GO) tool -modfile=.ci/tools/go.mod golangci-lint

.DEFAULT_GOAL := help
.PHONY: up test lint bench bench-phases fuzz e2e load conformance images build terraform-test setup clean help


## up: start the one-machine stack, build the bundled example and keep serving; ONCE=1 stops after the example, UP_FLAGS="…" goes to kiln up
up:
	@.ci/setup up
	@$(MAKE) --no-print-directory build
	bin/kiln up --executor bin/executor --example bundled $(if $(ONCE),--once) $(UP_FLAGS)

## test: run every test, with the race detector; TEST_FLAGS="…" goes to go test
test: setup
	$(GO) vet ./...
	@$(GO) run ./e2e/prepare
	$(GO) test -race -timeout 30m $(TEST_FLAGS) ./...

## lint: check form, style and rules of the source
lint:
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(LINT) run --allow-serial-runners ./...
	cd terraform/tests && $(GO) tool -modfile=../../.ci/tools/go.mod golangci-lint run --allow-serial-runners ./...

## bench: measure whole builds against BuildKit and buildah, half an hour; needs root; BENCH=pattern PAIRS=5 STORE=tmpfs|ext4|disk; BENCH_FLAGS="-write docs/performance.md" keeps the tables of what was measured
bench: PAIRS ?= 5
bench: STORE ?= tmpfs
bench:
	@.ci/setup bench
	@mkdir -p bin && $(GO) build -o bin/bench ./e2e/bench
	bin/bench -run '$(BENCH)' -pairs $(PAIRS) -store $(STORE) -json bin/bench.json -markdown bin/bench.md $(BENCH_FLAGS)

## bench-phases: run the Go benchmarks of every phase, a few minutes; BENCH=pattern takes some, BENCH_FLAGS="…" goes to go test
bench-phases:
	$(GO) test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem $(BENCH_FLAGS) ./...

## fuzz: run every fuzz target for FUZZTIME (30s), one after another; FUZZ="…" is a pattern of their names
fuzz: FUZZTIME ?= 30s
fuzz:
	@.ci/fuzz $(FUZZTIME) '$(FUZZ)'

## e2e: run the end-to-end tests only, with those on a Kubernetes node, and say what they do
e2e:
	@.ci/setup cluster
	@$(GO) run ./e2e/prepare
	KILN_CLUSTER=1 $(GO) test -count=1 -v -timeout 60m $(TEST_FLAGS) ./e2e/...

## conformance: compare the corpus of Dockerfiles with BuildKit and print the score by feature; TEST_FLAGS="-run …" takes a part
conformance: setup
	@$(GO) run ./e2e/prepare
	@mkdir -p bin && rm -f bin/conformance.txt
	@$(GO) test -count=1 -timeout 30m $(TEST_FLAGS) ./e2e/conformance -score=$(CURDIR)/bin/conformance.txt; \
	status=$$?; cat bin/conformance.txt && exit $$status

## terraform-test: check, plan and apply the Terraform modules offline, with a stand-in for Google's provider
terraform-test:
	cd terraform/tests && $(GO) vet ./...
	cd terraform/tests && KILN_REQUIRE_SERVERS=1 $(GO) test -count=1 -timeout 20m $(TEST_FLAGS) ./...

## load: send the dispatcher 50 and 500 webhooks a second for a minute each, and print the figures
load:
	KILN_LOAD=full $(GO) test -count=1 -v -timeout 20m -run TestLoad ./e2e/load

## images: build Kiln's own images with Kiln's executor, as OCI layouts below dist/; ARCHS="amd64 arm64" says for what
images: ARCHS ?= amd64 arm64
images:
	@.ci/setup images
	@$(MAKE) --no-print-directory build
	VERSION='$(VERSION)' infra/images/build dist $(ARCHS)

## build: compile bin/kiln, bin/executor and bin/warmer
build: export CGO_ENABLED = 0
build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/kiln ./infra/kiln
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/executor ./executor
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/warmer ./executor/warmer

## clean: remove what was built in this directory
clean:
	rm -rf bin dist

## help: list the targets
help:
	@sed -n 's/^## \([a-z0-9-]*\): /\1\t/p' Makefile | expand -t 16

setup:
	@.ci/setup test
