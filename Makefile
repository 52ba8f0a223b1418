# Every target is a call into Go; `make help` lists them.
SHELL := /bin/bash

# Libraries of podman that need C headers are left out, and its client is used
# over the socket alone. Every go command here sees the same tags, and paths and no debug
# information as a release has them, so that nothing is compiled twice.
export GOFLAGS := -trimpath -gcflags=all=-dwarf=false -tags=remote,containers_image_openpgp,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper
export GOTOOLCHAIN := local
export CGO_ENABLED ?= 0

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/harmony-fleet
GO_TEST := go test -vet=off -timeout 30m # lint has vetted all of it
# Packages tested at a time: they wait for their parts more than they compute.
AT_ONCE := -p 4
LINT_VERSION := v2.15.0
LINT := $(CACHE)/golangci-lint-$(LINT_VERSION)/golangci-lint

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the whole system on this machine, with a menu of commands to try; AUTH=1 with OpenID provider and OpenBao; AUTO=1 runs its regression and exits
	go run ./smoke/cmd/demo $(if $(AUTH),-auth) $(if $(AUTO),-auto)

.PHONY: test
test: prepare lint ## everything that proves the code
	CGO_ENABLED=1 $(GO_TEST) -race $(AT_ONCE) ./apis/... ./agent/... ./operator/... ./smoke/...
	$(GO_TEST) ./release/images # what the next ones would each compile
	$(GO_TEST) $(AT_ONCE) . ./gen/... ./release/...

.PHONY: prepare
prepare: ## install the Debian packages and build the tools that tests run
	go run ./smoke/cmd/prepare

.PHONY: lint
lint: $(LINT) ## static checks
	$(LINT) run ./...

$(LINT):
	GOFLAGS= GOBIN=$(dir $@) go install -trimpath -gcflags=all=-dwarf=false -ldflags "-s -w" github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

.PHONY: fuzz
fuzz: ## fuzz every decoder, FUZZTIME each (default 30s)
	go test -run '^$$' -fuzz '^FuzzDecode$$' -fuzztime $(or $(FUZZTIME),30s) ./apis/wire
	go test -run '^$$' -fuzz '^FuzzCanonicalState$$' -fuzztime $(or $(FUZZTIME),30s) ./apis/wire
	go test -run '^$$' -fuzz '^FuzzParseDeploymentKey$$' -fuzztime $(or $(FUZZTIME),30s) ./apis/wire
	go test -run '^$$' -fuzz '^FuzzDecode$$' -fuzztime $(or $(FUZZTIME),30s) ./apis/score

.PHONY: bench
bench: ## ratios that a performance claim stands on, in one run
	go run ./smoke/cmd/bench

.PHONY: load
load: ## the scale proof: DEVICES= DEPLOYMENTS= RATE= DURATION=
	go run ./smoke/cmd/load -devices $(or $(DEVICES),10000) -deployments $(or $(DEPLOYMENTS),1000) -rate $(or $(RATE),10000) -duration $(or $(DURATION),120s)

.PHONY: images
images: ## the container images as OCI layouts in dist/images
	go run ./release/cmd/release images

.PHONY: release
release: ## build, push and sign the images and the chart of a release: REGISTRY=host/path KEY=file, and BUILDER=URI TAG=tag in a workflow
	go run ./release/cmd/release push --registry "$(REGISTRY)" --key "$(KEY)" $(if $(BUILDER),--builder "$(BUILDER)") $(if $(TAG),--tag "$(TAG)")

.PHONY: packages
packages: ## the agent's packages, DEB and RPM for amd64 and arm64, in dist/packages
	go run ./release/cmd/release packages

.PHONY: repo
repo: ## a signed repository for apt and dnf in dist/repo: URL=where devices find it KEY=file
	go run ./release/cmd/release repo --url "$(URL)" --key "$(KEY)" $(if $(WITH),--with "$(WITH)")

.PHONY: smoke
smoke: ## what people do, on a real cluster; CLUSTER=source, kind, k3d or existing (KUBECONFIG=, LOAD=command for image archives), CLUSTERS=how many at a time, STORY=one alone, KEEP=1 leaves it up
	FLEET_SMOKE=$(or $(CLUSTER),auto) $(GO_TEST) -count=1 ./smoke/cluster
	go run ./smoke/cmd/smoke -cluster "$(CLUSTER)" -load "$(LOAD)" -clusters $(or $(CLUSTERS),3) -story "$(STORY)" $(if $(KEEP),-keep)

.PHONY: smoke-arm64
smoke-arm64: ## the story of a virtual machine, which is an arm64 one, on a cluster made from source
	DEVICE_ARCH=arm64 go run ./smoke/cmd/smoke -cluster source -story vm

.PHONY: vm
vm: ## a virtual machine with podman and the agent to try, with ssh, console and a menu: ARCH=amd64 or arm64 MACHINES=libvirt or qemu
	go run ./smoke/cmd/vm $(if $(ARCH),-arch $(ARCH))

.PHONY: generate
generate: ## write every generated file; `go run ./gen -check` tells what has drifted
	go run ./gen/types
	go run ./gen
