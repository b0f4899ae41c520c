# Two commands: `make demo` and `make test`; `make check` is the everyday part of the tests. Each
# sets the machine up itself.
SHELL := /bin/bash
export CARGO_TARGET_DIR := $(or $(HOLDFAST_TARGET_DIR),$(HOME)/.cache/holdfast/target)
# RocksDB: Debian's library if it is there, else the bundled C++ (slow to compile).
ifneq ($(wildcard /usr/include/rocksdb/c.h),)
export ROCKSDB_LIB_DIR ?= $(dir $(firstword $(wildcard /usr/lib/*/librocksdb.so /usr/lib/librocksdb.so)))
export ROCKSDB_INCLUDE_DIR ?= /usr/include
endif
HOLDFAST := $(CARGO_TARGET_DIR)/debug/holdfast

.PHONY: demo test check lint bench soak fuzz setup build setup-run setup-test

setup:
	@deploy/setup.sh build

setup-run:
	@deploy/setup.sh run

setup-test:
	@deploy/setup.sh test

# The setup may have brought RocksDB: ask a fresh make, so that its variables are set.
build: setup
	@$(MAKE) --no-print-directory build-now
.PHONY: build-now
build-now:
	cargo build --locked --workspace --all-targets

demo: setup-run
	@$(MAKE) --no-print-directory demo-now
.PHONY: demo-now
demo-now:
	cargo build --locked -p holdfast
	@HOLDFAST=$(HOLDFAST) tests/demo.sh

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; else echo "cargo-deny is not installed: skipped (cargo install cargo-deny)"; fi

# TESTS=words: only the tests whose names contain one of them.
test: setup-test
	@$(MAKE) --no-print-directory test-now
.PHONY: test-now
test-now: lint build-now
	HOLDFAST=$(HOLDFAST) $(CARGO_TARGET_DIR)/debug/hf-run $(TESTS)

# For every change: style, unit and golden tests, 1,000 seeds of the simulator; no test of real
# daemons, no rules broken on purpose.
check: setup-run
	@$(MAKE) --no-print-directory check-now
.PHONY: check-now
check-now:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --no-run --lib --bins --test all --test pure --test tidy
	$(CARGO_TARGET_DIR)/debug/hf-run --check $(TESTS)

# AGAINST=path: beside another build of the daemon, job by job in turn.
bench: setup-run
	@$(MAKE) --no-print-directory bench-now
.PHONY: bench-now
bench-now:
	cargo build --locked -p holdfast -p hf-bench
	@HOLDFAST=$(HOLDFAST) $(CARGO_TARGET_DIR)/debug/hf-bench $(if $(AGAINST),against $(AGAINST))

# Longer runs of what `make test` runs short, with a verdict; MINUTES=20 by default.
soak: setup-test
	@$(MAKE) --no-print-directory soak-now
.PHONY: soak-now
soak-now: build-now
	@HOLDFAST=$(HOLDFAST) tests/soak.sh

# Coverage-guided fuzzing of every parser; SECONDS_EACH=600 by default.
fuzz: setup
	@tests/fuzz.sh

# The formal model of the replication protocol: the true one holds, each broken rule is noticed. Needs spin and gcc.
.PHONY: model
model:
	@docs/model/check.sh
