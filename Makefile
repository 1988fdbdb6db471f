# The commands of this project: "make" without a target lists them. Each target installs the tools that it needs, with
# scripts/setup.

.DEFAULT_GOAL := help
.PHONY: help run build test soak check bench fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## build and start with demo data on http://127.0.0.1:8000, data in ./data
	@echo "make run: starting the server with demo data on http://127.0.0.1:8000. The data is in ./data; Ctrl-C stops it"
	target/release/posthaste serve --demo

build: ## build target/release/posthaste
	@scripts/setup build
	@echo "make build: compiling target/release/posthaste: about 6 minutes the first time on two cores, seconds if nothing has changed"
	cargo build --release --locked
	@scripts/split-debug target/release/posthaste

test: ## test everything on SQLite and on PostgreSQL
	@scripts/setup build test
	scripts/in-memory scripts/with-postgres scripts/with-s3 cargo test --locked

# One test at a time: the tests measure times, and share the cores of the machine with the servers that they measure.
soak: ## run the fault tests for longer: more seeds, reconnects, restarts, stalled readers
	@scripts/setup build test
	cargo build --release --locked
	POSTHASTE_SOAK=1 POSTHASTE_TEST_BIN=$(CURDIR)/target/release/posthaste timeout --foreground 25m \
		scripts/with-postgres cargo test --locked --lib --test api -- \
		--nocapture --test-threads=1 simulation live::transactions live::stalled outage takeover live::returns \
		faults::history faults::passing::cancelled

check: ## check formatting, lints, documentation, the server against its OpenAPI document, and generated clients
	@scripts/setup build check
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --locked
	scripts/schemathesis
	scripts/generators

bench: build ## measure throughput and latency on SQLite and on PostgreSQL
	@scripts/setup bench
	cargo bench --locked --bench load

fmt: ## format the code
	cargo fmt

clean: ## remove everything that was built; ./data stays
	cargo clean
