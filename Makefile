# Everything a developer does. Needs Python 3.11 or newer, make, and a package index; the rest comes with `install`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
SOURCES := nccid_fetch tests benchmarks docs

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(VENV)/.dev ## Make .venv with the package and all that development needs

.PHONY: demo
demo: $(VENV)/.demo ## Fetch a synthetic warehouse from an embedded S3 server, twice
	$(BIN)/nccid-fetch demo

.PHONY: test
test: $(VENV)/.dev $(VENV)/.docs ## Run the tests; ARGS="-k journal" for some of them
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

.PHONY: test-lowest
test-lowest: .venv-lowest/constraints.txt ## Run the tests with the lowest versions of what we depend on, in .venv-lowest
	DEPENDENCIES=lowest $(MAKE) test VENV=.venv-lowest CONSTRAINTS=$<

.PHONY: test-newest
test-newest: ## Run the tests with the newest versions of everything, in a new .venv-newest
	rm -rf .venv-newest
	DEPENDENCIES=newest $(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null

.PHONY: contract-ceph
contract-ceph: $(VENV)/.dev ## Run the contract suite on Ceph's gateway, where the system has it
	TESTS_CEPH=1 $(BIN)/python -m pytest -k ceph tests/test_store_contract.py $(ARGS)

.PHONY: faults
faults: $(VENV)/.dev ## Print the catalogue of faults, and the tests that show what becomes of each
	@$(BIN)/python -m tests.catalogue

.PHONY: mutants
mutants: $(VENV)/.dev ## Take each guard out of a copy, and see that its test fails; ARGS="If-Match" for some
	$(BIN)/python -m tests.mutants $(ARGS)

.PHONY: check
check: $(VENV)/.dev ## Lint, types, architecture; changes nothing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet --durations=0 tests/test_architecture.py

.PHONY: format
format: $(VENV)/.dev ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

.PHONY: kill
kill: $(VENV)/.dev ## Kill real runs at RUNS random moments, and see that each is made good; SEED=
	$(BIN)/python -m tests.kill --runs $(or $(RUNS),200) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: soak
soak: $(VENV)/.dev ## Run after run for SECONDS in bad weather: the right tree in the end, and flat memory; SEED=
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),3600) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: limits
limits: $(VENV)/.dev ## Show limits, hours and stops holding, measured by a server; SECONDS=60
	$(BIN)/python -m tests.limits --seconds $(or $(SECONDS),60) $(ARGS)

.PHONY: machine
machine: $(VENV)/.dev ## Run every command under limits of memory, threads, files and CPU time; minutes
	TESTS_LONG=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal tests/test_machine.py $(ARGS)

.PHONY: nth
nth: $(VENV)/.dev ## Fail each call to the disk and lose the power at each moment; many minutes
	TESTS_LONG=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal --timeout 0 tests/test_nth_call.py tests/test_power_loss.py $(ARGS)

.PHONY: simulate
simulate: $(VENV)/.dev ## Let simulated nights pass; SEED=1 RUNS=1000
	$(BIN)/python -m tests.simulate --seed $(or $(SEED),1) --runs $(or $(RUNS),1000)

.PHONY: screens
screens: $(VENV)/.dev ## Write what a run looks like in tmux to docs/screens/, at several sizes
	$(BIN)/python -m tests.screens $(ARGS)

.PHONY: bench
bench: $(VENV)/.bench ## Compare with s5cmd, rclone, aws and cp; ARGS=--quick for a short run
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-regression
bench-regression: $(VENV)/.bench ## Compare with another commit; BASE=origin/main
	$(BIN)/python -m benchmarks --against $(BASE) $(ARGS)

.PHONY: compare-faults
compare-faults: $(VENV)/.bench ## Meet faults with ours and with its peers, and write docs/faults-compared.md
	$(BIN)/python -m benchmarks.faults --output docs/faults-compared.md $(ARGS)

.PHONY: docs
docs: $(VENV)/.dev $(VENV)/.docs ## Rewrite what is taken from the code, and build the documentation in build/docs
	$(BIN)/python -m tests.reference
	PYTHONPATH=$(VENV)/docs $(BIN)/python -m sphinx --quiet --fail-on-warning --fresh-env docs build/docs
	@echo "The documentation begins at build/docs/index.html"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

.venv-lowest/constraints.txt: constraints-lowest.txt constraints.txt
	mkdir -p $(@D)
	awk -F == 'NR == FNR { lowest[$$1]; print; next } !($$1 in lowest)' $^ > $@

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

# In a folder of its own, which comes before all else while the documentation is built: see the file's first line. pip warns of it.
$(VENV)/.docs: $(VENV)/bin/python docs/requirements.txt
	rm -rf $(VENV)/docs
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --target $(VENV)/docs --requirement docs/requirements.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) --editable '.[bench]'
	@touch $@
