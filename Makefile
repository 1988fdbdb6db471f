# The front door: a bare "make" lists what there is. Each target installs what it needs (scripts/setup).

.DEFAULT_GOAL := help
.PHONY: help run build test check bench fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## build and start with demo data on http://127.0.0.1:8000, data in ./data
	target/release/posthaste serve --demo

build: ## build target/release/posthaste
	@scripts/setup build
	cargo build --release --locked

test: ## test everything on SQLite and on PostgreSQL
	@scripts/setup build test
	scripts/with-postgres cargo test --locked

check: ## formatting, lints, documentation, and the server against its OpenAPI document
	@scripts/setup build check
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --locked
	scripts/schemathesis

bench: build ## measure throughput and latency on SQLite and on PostgreSQL
	@scripts/setup bench
	cargo bench --locked --bench load

fmt: ## format the code
	cargo fmt

clean: ## remove what was built; ./data stays
	cargo clean
