# Everything below sets up .venv first, once; a second run installs nothing.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH := .venv-bench

.PHONY: demo test test-fast check docs bench chaos fuzz setup clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## create .venv and install rawnind with its tools

$(READY): pyproject.toml constraints.txt
	@python3 -c 'import ensurepip' 2>/dev/null || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## a sample data set from nothing to 20 training steps, in out/demo
	$(BIN)/python jobs/demo.py

# Two processes, each with a Ray of its own; a file's tests stay together, for its fixtures. Files with Ray come first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY)  ## every test
	$(PYTEST)

test-fast: $(READY)  ## for the edit loop: no Ray, nothing slow, under a minute
	$(PYTEST) -m "not ray and not slow" tests rawnind

check: $(READY)  ## format, lint, types, layers, pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: $(READY)  ## the documentation as a site, in site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "to read it: $(BIN)/python -m http.server --directory site"

# The formats that the feed is measured beside want an older numpy and huggingface_hub than rawnind is tested with.
$(BENCH)/.ready: pyproject.toml constraints.txt
	python3 -m venv $(BENCH)
	grep -vE '^(numpy|huggingface_hub)==' constraints.txt > $(BENCH)/constraints.txt
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check -c $(BENCH)/constraints.txt -e '.[bench]'
	@touch $@

bench: $(READY) $(BENCH)/.ready  ## every benchmark, with its competitors
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only -s

chaos: $(READY)  ## a hundred runs to which accidents happen: killed processes, full disks, lost leases, S3 errors
	$(BIN)/python -m tests.chaos --runs 100

fuzz: $(READY)  ## five thousand damaged files of every kind, new ones each time
	$(BIN)/python -m tests.fuzz --inputs 5000

clean:  ## remove what make made
	rm -rf $(VENV) $(BENCH) out site
