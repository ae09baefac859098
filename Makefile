# make demo and make test set up all they need on a fresh Debian or Ubuntu.
VENV ?= .venv
SEEDS ?= 1-20
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
NPM := tests/interop/node_modules/.package-lock.json tests/browser/node_modules/.package-lock.json

.PHONY: demo test test-quick test-full simulate seeds bench check format lock clean

demo: $(STAMP)
	$(VENV)/bin/cairn demo

test: $(STAMP) $(NPM) check
	$(PY) -m pytest

test-quick: $(STAMP) check  ## the part that runs in about a minute
	$(PY) -m pytest -m "not swarm" --ignore=tests/interop --ignore=tests/browser --ignore=tests/simulations --ignore=tests/net

test-full: $(STAMP) $(NPM) check  ## the same tests with the large numbers
	CAIRN_TEST_FULL=1 $(PY) -m pytest

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

simulate: $(STAMP)  ## many seeds of every scenario; SEEDS=1-1000 for more
	$(VENV)/bin/cairn simulate all --seeds $(SEEDS)

seeds: $(STAMP)  ## after a change that moved the histories: the seed that shows each deliberate bug
	$(PY) -m tests.simulations.find_seeds

bench: $(STAMP)
	$(PY) -m benchmarks

$(STAMP): scripts/setup requirements.lock requirements-build.lock pyproject.toml
	scripts/setup $(VENV)

$(NPM) &: scripts/setup-node tests/interop/package-lock.json tests/browser/package-lock.json | $(STAMP)
	scripts/setup-node $(VENV)

lock: $(STAMP)  ## after a change of dependencies in pyproject.toml or requirements-build.in
	$(VENV)/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements-build.lock requirements-build.in
	$(VENV)/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
