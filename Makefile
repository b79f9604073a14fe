# Any Python from 3.11 on: `make test PYTHON=python3.12`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FILE := latent_drift_trajectory.py

.PHONY: demo report test lint coverage bench bench-peers corpus clean

# Two tests at a time, each of them on one thread.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

# Which branches of the tool no test takes. What attacks the proof has to stay confined, so its boxes aren't counted; the
# few tests that look at what was imported, or that limit the size of files, fail while lines are counted.
HOSTILE := tests/prove/test_hostile.py tests/prove/test_confinement.py tests/prove/test_killed.py tests/torture
COVER := OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n 2
coverage: $(STAMP)
	$(BIN)/coverage erase
	-PYTHONPATH=$(CURDIR)/tests/measuring $(COVER) $(HOSTILE:%=--ignore=%)
	-$(COVER) $(HOSTILE)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# The three uses of the tool, on a copy of the bundled legacy file.
demo: $(STAMP)
	rm -rf build/demo
	mkdir -p build/demo
	cp fixtures/$(FILE) build/demo/
	$(BIN)/migrate build/demo/$(FILE) --phase 2 --dry-run
	$(BIN)/migrate build/demo/$(FILE) --phase 2
	$(BIN)/migrate build/demo/$(FILE) --phase 2 --check

# The bundled legacy file and what it becomes, measured side by side: build/report.html.
report: $(STAMP)
	mkdir -p build
	$(BIN)/migrate validate fixtures/$(FILE) --html build/report.html --json build/report.json || test $$? -eq 3

bench: $(STAMP)
	for name in commands check_tree memory decoding sampling; do $(BIN)/python -m bench.$$name || exit 1; done
	$(MAKE) bench-peers

# The runtime beside other libraries, in an environment of their own; writes the table of docs/performance.md.
# litgpt and torchtune ask for other versions of what is there already, and run with these.
bench-peers:
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install --quiet -c constraints.txt -e . -r bench/peers.txt
	build/peers/bin/python -m pip install --quiet -c constraints.txt --no-deps -r bench/peers-alone.txt
	build/peers/bin/python -m bench.peers --markdown docs/performance.md

# The tool on pinned packages that nobody here wrote; writes docs/coverage.md.
corpus: $(STAMP)
	$(BIN)/python -m tests.corpus.run

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache
