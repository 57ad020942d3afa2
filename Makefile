# `make demo` and `make test` do everything; `make` lists the rest.
# An environment of another Python: make PYTHON=python3.12 demo

PYTHON ?= python3
PIP_TOOLS = pip-tools==7.6.2
BIN = .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Both locks carry the hash of every file of a release, so one lock serves CPython 3.11 to 3.13 on any machine.
# Wheels only: building an sdist would fetch its build tools without a hash.
INSTALL_LOCK = $(PIP_INSTALL) --require-hashes --only-binary :all: --requirement
# The editable install comes from this directory alone: no dependency and no build tool outside the lock.
INSTALL_SELF = $(PIP_INSTALL) --no-deps --no-build-isolation --editable .

# SKIPS=forbid: a skipped or xfailed test is a failure (tests/conftest.py).
export INTERNAL_DNS_FORBID_SKIPS = $(if $(filter forbid,$(SKIPS)),1,)

.PHONY: help demo test quick unit live container litestream lint types fmt docs lock bench compare soak soak-follow fuzz prove dist sbom wheelhouse image \
	clean build-deps test-deps
# These share nothing, so they may use every core; the live tests share ports.
# Not even collected: all tests there are live, or of the container.
UNIT = $(BIN)/python -m pytest -q -n auto --ignore tests/live --ignore tests/container -m

.NOTPARALLEL:  # Two tests at once would share ports.

help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build-deps  ## Install, then serve the demo catalog on [::1]:1053
	@flock .install.lock $(MAKE) --no-print-directory --silent .venv/run.stamp
	$(BIN)/internal-dns dev

test: test-deps lint types  ## Everything: lint, types, unit, scenarios, live (SKIPS=forbid: no test may skip)
	ALL_EXAMPLES=1 $(UNIT) 'not live'
	$(BIN)/python -m pytest -q -m live

unit: .venv/dev.stamp  ## The tests that need no tool, root or real socket
	$(UNIT) 'not live'

quick: .venv/dev.stamp  ## What a change needs first: the unit tests that are not slow
	$(UNIT) 'not live and not slow'

live: test-deps .venv/dev.stamp  ## The tests with real sockets, tools and namespaces
	$(BIN)/python -m pytest -q -m live

container: .venv/dev.stamp  ## Build the image and run it: the tests of tests/container (root, Debian's podman)
	@tools/test-deps tests/container/debian-packages.txt
	@$(MAKE) --no-print-directory build/container/build-base.tar
	$(BIN)/python -m pytest -q -m container tests/container

lint: .venv/dev.stamp  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/dev.stamp  ## mypy --strict
	$(BIN)/mypy

fmt: .venv/dev.stamp  ## Format, and fix what ruff can fix
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: .venv/dev.stamp  ## Measure, beside other servers, in one run (BENCH=--short: three minutes)
	$(BIN)/python -m bench $(BENCH)

soak: .venv/dev.stamp  ## Ten minutes each: five million new names, memory stays; writes and kills, hosts and bucket end equal
	$(BIN)/python -m bench.soak
	$(BIN)/python -m tests.soak --seconds $(or $(SOAK_SECONDS),600) --seed $(or $(SEED),1)

soak-follow: .venv/dev.stamp  ## Nine minutes: apply beside follow, sources away; 200 real containers started and ended at random (root, podman)
	$(BIN)/python -m tests.soak.beside --seed $(or $(SEED),1)
	$(BIN)/python -m tests.container.follow_soak --seconds $(or $(SOAK_SECONDS),300) --seed $(or $(SEED),1)

compare: test-deps .venv/dev.stamp  ## What is forwarded against Unbound's own answers: 1,000 names, 10 types
	COMPARED_NAMES=1000 $(BIN)/python -m pytest -q -s tests/live/test_forward_real.py -k no_difference

fuzz: .venv/dev.stamp  ## Fuzz the parsers (tests/fuzz), and the C core under sanitizers (tests/native)
	$(BIN)/python -m tests.fuzz
	$(BIN)/python -m tests.native

prove: .venv/dev.stamp  ## Prove what can be proved about the C core (Debian's spin and frama-c-base; minutes)
	$(BIN)/python -m tests.native.proof

docs: .venv/dev.stamp  ## Write what docs/ has from the code: settings, columns, JSON Schemas, the man page
	$(BIN)/python tools/settings-doc > docs/settings.md
	$(BIN)/python tools/catalog-doc > docs/catalog.md
	$(BIN)/python -m internal_dns.store.declare.fields > docs/catalog.schema.json
	$(BIN)/python -m internal_dns.replicate.codec > docs/bucket.schema.json
	$(BIN)/python tools/man-page > docs/internal-dns.1

lock: build/lock/bin/pip-compile  ## Pin the newest releases: requirements.lock, -extras.lock, -dev.lock
	$(PIP_COMPILE) --output-file requirements.lock pyproject.toml
	$(PIP_COMPILE) $(EXTRAS) --constraint requirements.lock --output-file requirements-extras.lock pyproject.toml
	$(PIP_COMPILE) $(EXTRAS) --extra dev --constraint requirements-extras.lock --output-file requirements-dev.lock \
		pyproject.toml

dist: .venv/dev.stamp  ## dist/: the sdist and the pure wheel; the same commit gives the same octets
	$(BIN)/python tools/dist

sbom: .venv/dev.stamp  ## dist/: what the image installs, as CycloneDX JSON
	$(BIN)/python tools/sbom

wheelhouse: build/wheelhouse.stamp .venv/dev.stamp
	@rm -rf build/dist build/wheelhouse/internal_dns-*
	$(BIN)/python tools/dist build/dist
	@cp build/dist/internal_dns-*.tar.gz build/wheelhouse/

ENGINE ?= docker
# podman keeps a HEALTHCHECK in Docker's format only.
IMAGE_FORMAT = $(if $(findstring podman,$(ENGINE)),--format docker)

# The release that docs/replication.md names; Go verifies its checksum.
LITESTREAM = v0.3.13

build/bin/litestream:
	GOBIN=$(CURDIR)/build/bin go install github.com/benbjohnson/litestream/cmd/litestream@$(LITESTREAM)

litestream: .venv/dev.stamp build/bin/litestream  ## Build Litestream with Go, and replicate and restore a catalog with it
	LITESTREAM=$(CURDIR)/build/bin/litestream $(BIN)/python -m pytest -q -m engines tests/live/test_litestream.py

image: wheelhouse  ## The container image `internal-dns` (ENGINE=podman: with podman; IMAGE_FLAGS: more flags of `build`)
	$(ENGINE) build $(IMAGE_FORMAT) --file Containerfile --tag internal-dns $(IMAGE_FLAGS) \
		--build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		--build-arg REVISION=$$(git rev-parse HEAD) .

clean:  ## Remove .venv, caches and build results
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

build-deps:
	@tools/check-build-deps $(PYTHON)

test-deps:
	@tools/test-deps

EXTRAS = --extra console --extra doh --extra nats --extra postgres

# Resolve with the oldest Python we support; `--all-build-deps` is what pins setuptools.
PIP_COMPILE = CUSTOM_COMPILE_COMMAND='make lock' build/lock/bin/pip-compile --quiet --upgrade --generate-hashes \
	--strip-extras --allow-unsafe --all-build-deps \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

# For the Python of the image's base, whatever the one here is.
build/wheelhouse.stamp: requirements-extras.lock .venv/bin/pip
	rm -rf build/wheelhouse
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps \
		--python-version 3.11 --dest build/wheelhouse --requirement requirements-extras.lock
	@touch $@

build/container/build-base.tar: tools/debian-bases
	@tools/debian-bases build/container

build/lock/bin/pip-compile: Makefile
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check '$(PIP_TOOLS)'

# pip is the last file `venv` writes: without it, start over.
.venv/bin/pip: | $(if $(wildcard .venv/bin/pip),,build-deps)
	@echo 'make     a virtual environment in .venv'
	$(PYTHON) -m venv --clear .venv

# The native UDP path, built by the install.
NATIVE = setup.py $(foreach part,transport forward,$(wildcard \
	internal_dns/$(part)/native/*.pyx internal_dns/$(part)/native/*.pxd internal_dns/$(part)/native/*.h))

# Stamps: a second run installs nothing. A development install includes the plain one.
.venv/run.stamp: .venv/bin/pip pyproject.toml requirements.lock $(NATIVE)
	@echo 'install  the dependencies of requirements.lock'
	$(INSTALL_LOCK) requirements.lock
	@echo 'build    internal-dns with its native UDP path'
	$(INSTALL_SELF)
	@touch $@

.venv/dev.stamp: .venv/bin/pip pyproject.toml requirements-dev.lock $(NATIVE)
	@echo 'install  the dependencies of requirements-dev.lock'
	$(INSTALL_LOCK) requirements-dev.lock
	@echo 'build    internal-dns with its native UDP path'
	$(INSTALL_SELF)
	@touch $@ .venv/run.stamp
