# Holdfast. "make" lists the targets.

GO     ?= go
TOOL   := $(GO) tool -modfile=.ci/tools/go.mod
ROOT   := $(shell test "$$(id -u)" = 0 && echo yes)
# The race detector needs a C compiler.
RACE   = $(shell command -v cc >/dev/null 2>&1 && echo -race)
FUZZTIME ?= 10s
# The tests of the virtual-machine lane, which take a quarter of an hour under emulation.
VM     := VMLane
VMRUN  ?= $(VM)
# What needs images and downloads of its own: upgrades by apt, dnf and Ansible, fleets, the guides.
LONG    := /packaging/ansible|/packaging/guides|/vmtests/packages|/vmtests/fleet|/vmtests/cmd/try
LONGRUN ?= .
# Modules of their own: what they require is nothing that a user of Holdfast gets.
MODULES := reexec/reexectest/examples/grpc reexec/reexectest/examples/websocket vmtests/bench

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: demo-prepare ## upgrade, break and kill a service under load; DEMO=-on=stand-in chooses where
	@CGO_ENABLED=0 $(GO) run ./vmtests/cmd/demo $(DEMO)

.PHONY: demo-prepare
demo-prepare: ## fetch and build what the demo needs, and say how long it takes
	@CGO_ENABLED=0 $(GO) run ./vmtests/cmd/demo -prepare $(DEMO)

# One package at a time: their tests start many processes, and fill a small machine alone.
.PHONY: test
test: ## run all tests; as root also those on real systemd 247, 252, 257 and 262
ifeq ($(ROOT),yes)
	@sh .ci/install
	@sh vmtests/bench/install
	@sh packaging/prometheus/install
	@sh packaging/install
endif
	$(GO) build $(RACE) ./...
	@GO=$(GO) .ci/gotest -p 1 $(RACE) -timeout 20m -shuffle=on -- $$($(GO) list ./... | grep -vE '/vmtests|$(LONG)')
	@set -e; for dir in $(MODULES); do echo "cd $$dir && $(GO) test $(RACE) ./..."; (cd $$dir && GO=$(GO) $(CURDIR)/.ci/gotest $(RACE) -- ./...); done
ifeq ($(ROOT),yes)
	$(GO) run ./vmtests/cmd/prepare -lane=containers
	@GO=$(GO) .ci/gotest -p 1 -parallel 4 -timeout 60m -skip '$(VM)' -- $$($(GO) list ./vmtests/... | grep -vE '$(LONG)')
else
	$(GO) test ./vmtests/internal/... $$($(GO) list ./vmtests/cmd/... | grep -vE '$(LONG)')
	@echo
	@echo 'left out: the tests on real systemd in containers (package vmtests), because they need root: sudo make test'
	@test -n "$(RACE)" || echo 'left out: the race detector, because it needs a C compiler: apt-get install gcc libc6-dev'
endif

.PHONY: bench
bench: ## upgrade Holdfast and its peers under the same load (an hour); BENCH='-upgrades=5 -json=FILE -svg=DIR', -costs, -micro, -crash, -help
ifeq ($(ROOT),yes)
	@sh vmtests/bench/install
	$(GO) run ./vmtests/cmd/prepare -lane=containers
endif
	@$(GO) build -C vmtests/bench -o $(CURDIR)/.build/bench ./cmd/bench
	@.build/bench $(BENCH)

.PHONY: soak
soak: ## half an hour of mixed load and a change of version every second; SOAK='-for=2m -seed=N -dir=DIR', SOAK=-help
ifeq ($(ROOT),yes)
	$(GO) run ./vmtests/cmd/prepare -lane=containers
endif
	@$(GO) build -C vmtests/bench -o $(CURDIR)/.build/soak ./cmd/soak
	@.build/soak $(SOAK)

.PHONY: campaign
campaign: ## kill a service 2,000 times under load and bring about every fault (root; half an hour); CAMPAIGN='-seed=N -only=kill -dir=DIR', CAMPAIGN=-help
	$(GO) run ./vmtests/cmd/prepare -lane=containers
	@CGO_ENABLED=0 $(GO) build -o .build/campaign ./vmtests/cmd/campaign
	@.build/campaign $(CAMPAIGN)

.PHONY: agreement
agreement: ## compare the stand-in with real systemd in everything, and write the table of it (root; ten minutes and more)
	$(GO) run ./vmtests/cmd/prepare -lane=containers
	$(GO) test -count=1 -timeout 60m -v ./vmtests/agreement -all -sequences=300 -table=table.txt

.PHONY: test-vm
test-vm: ## run what needs a kernel of its own, limits and reboots, in virtual machines (root; long without KVM)
	$(GO) run ./vmtests/cmd/prepare -lane=vm
	@GO=$(GO) .ci/gotest -p 1 -timeout 60m -run '$(VMRUN)' -v -- ./vmtests ./vmtests/packages

.PHONY: test-packages
test-packages: ## upgrade by apt, dnf and Ansible, a fleet, and follow the guides (root; half an hour); LONGRUN='TestApt'
	@sh packaging/install
	$(GO) run ./vmtests/cmd/prepare -lane=containers
	@GO=$(GO) .ci/gotest -p 1 -parallel 4 -timeout 60m -run '$(LONGRUN)' -skip '$(VM)' -- $$($(GO) list ./... | grep -E '$(LONG)')

.PHONY: vmtests-prepare
vmtests-prepare: ## install and build what the tests on real systemd need (root)
	@$(GO) run ./vmtests/cmd/prepare

.PHONY: check
check: ## run go vet, staticcheck, gofumpt and go mod tidy
	$(GO) vet ./...
	$(GO) vet -tags damage ./packaging/...
	$(TOOL) staticcheck ./...
	@set -e; for dir in $(MODULES); do echo "cd $$dir && $(GO) vet ./... && staticcheck ./..."; \
		(cd $$dir && $(GO) vet ./... && $(subst .ci,$(CURDIR)/.ci,$(TOOL)) staticcheck ./... && $(GO) mod tidy -diff); done
	@out=$$($(TOOL) gofumpt -l .); test -z "$$out" || { echo "gofumpt would change:"; echo "$$out"; exit 1; }
	$(GO) mod tidy -diff

.PHONY: model
model: ## explore the protocol and print its tables
	$(GO) test -count=1 -v ./reexec/internal/model
	@cat reexec/internal/machine/testdata/table.txt

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s), or so often (10000x)
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x $$pkg; \
		done; \
	done

.PHONY: build
build: ## build holdfast and myapp into .build
	CGO_ENABLED=0 $(GO) build -trimpath -o .build/ ./units/cmd/holdfast ./packaging/myapp

.PHONY: packages
packages: ## build the packages holdfast and myapp, .deb and .rpm for amd64 and arm64, into .build/packages; PACKAGES='-version=1.2.3 -arch=amd64', PACKAGES=-help
	@$(GO) run ./packaging/cmd/packages $(PACKAGES)
