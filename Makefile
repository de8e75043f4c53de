# Everything is installed into virtual environments inside the checkout: .venv, the newest Python's, and
# .venvs/X.Y, the others'. `make test` as root runs the suite twice, as root and as an unprivileged user.

# Only starts the tools, which find the Pythons to test with.
PYTHON ?= python3
# `default` (.venv's), `all` (every Python >= 3.10 of this machine), or a list of X.Y or interpreters.
PYTHONS ?= default
PYTEST_ARGS ?=
# A kernel of the distribution: oldest, stable, newest, or a series such as 6.12; the tests to run on it (default:
# those whose outcome the kernel decides); and a Python: default, all, newest (the distribution's), or an X.Y.
K ?= stable
T ?=
P ?= default
# --rounds N, --only pair,rivals,...; --publish puts what is measured into the documents. See benchmarks/README.md.
BENCH_ARGS ?=

.PHONY: demo test lint check check-all bench kernel kernels kernels-lacking kernels-check kernels-proof kernels-table format clean

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

# What it costs, beside floors and rivals: some twenty minutes, on a machine that does nothing else. Needs a C compiler.
bench:
	$(PYTHON) tools/venvs.py
	.venv/bin/python benchmarks/bench.py $(BENCH_ARGS)

# In virtual machines; nothing is installed, and no root is needed. Exit status 77 if that is not possible here.
kernel:
	$(PYTHON) tools/lane.py run --kernel $(K) --python $(P) -- $(T) $(PYTEST_ARGS)

kernels:
	$(PYTHON) tools/lane.py run --python default -- $(T) $(PYTEST_ARGS)
	$(PYTHON) tools/lane.py run --python newest --kernel newest -- $(T) $(PYTEST_ARGS)

# What this machine's own kernel cannot run.
kernels-lacking:
	$(PYTHON) tools/lane.py lacking

# That the tests of the first packet fail where nobody waits for it.
kernels-proof:
	$(PYTHON) tools/lane.py proof

# No test may have been skipped in every run, this machine's included.
kernels-check:
	$(PYTHON) tools/lane.py skipped

# The results of the last runs, as docs/kernels.md.
kernels-table:
	$(PYTHON) tools/lane.py table

format:
	$(PYTHON) tools/venvs.py
	.venv/bin/python -m ruff format .
	.venv/bin/python -m ruff check --fix .

clean:
	rm -rf .venv .venvs .kernels benchmarks/.rivals .pytest_cache .mypy_cache .ruff_cache .hypothesis
