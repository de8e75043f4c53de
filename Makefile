# Everything is installed into virtual environments inside the checkout: .venv, the newest Python's, and
# .venvs/X.Y, the others'. `make test` as root runs the suite twice, as root and as an unprivileged user.

# Only starts the tools, which find the Pythons to test with.
PYTHON ?= python3
# `default` (.venv's), `all` (every Python >= 3.10 of this machine), or a list of X.Y or interpreters.
PYTHONS ?= default
PYTEST_ARGS ?=

.PHONY: demo test lint check check-all format clean

demo:
	$(PYTHON) tools/venvs.py
	.venv/bin/python -m pytest -v -s examples/test_experiment.py

test:
	$(PYTHON) tools/run_tests.py $(PYTHONS) -- $(PYTEST_ARGS)

lint:
	$(PYTHON) tools/venvs.py
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy

check: lint test

check-all: PYTHONS = all
check-all: lint test

format:
	$(PYTHON) tools/venvs.py
	.venv/bin/python -m ruff format .
	.venv/bin/python -m ruff check --fix .

clean:
	rm -rf .venv .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis
