"""Lines that run in a body count, however coverage is run."""

from __future__ import annotations

import subprocess
import sys

import coverage
import pytest
from marking import Inner

COVERED = """
def classify(number):
    if number > 100:
        return "large"
    if number > 10:
        return "medium"
    return "small"
"""

COVERING = """
import pytest
from covered import classify

@pytest.mark.netns
def test_medium():
    assert classify(50) == "medium"

@pytest.mark.netns
def test_large():
    assert classify(500) == "large"

def test_outside():
    pass
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


def missing_lines(inner: Inner) -> str:
    """What ``coverage report`` lists as missing for the module; lines and branches."""
    command = [sys.executable, "-m", "coverage", "report", "-m", "--include=*covered.py"]
    report = subprocess.run(command, cwd=inner.path, capture_output=True, text=True, check=True).stdout
    return next(line for line in report.splitlines() if line.startswith("covered.py")).split("%")[1].strip()


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("way", ["coverage run", "pytest-cov", "pytest-cov with xdist"])
def test_lines_run_inside_count(inner: Inner, way: str, branch: bool) -> None:
    """coverage counts what runs in bodies, with nothing configured, and what was never run stays missing."""
    inner.pytester.makepyfile(covered=COVERED, test_covering=COVERING)
    options = inner.arguments("test_covering.py")
    branches = ["--branch"] if branch else []
    if way == "coverage run":
        command = [sys.executable, "-m", "coverage", "run", *branches, "-m", "pytest", *options]
    else:
        flags = ["--cov=covered", "--cov-report=", *(["--cov-branch"] if branch else [])]
        workers = ["-p", "xdist", "-n2"] if "xdist" in way else []
        command = [sys.executable, "-m", "pytest", *options, "-p", "pytest_cov", *flags, *workers]
    result = inner.pytester.run(*command)
    result.assert_outcomes(passed=3)
    assert missing_lines(inner) == "6"


def test_coverage_contexts_name_the_test_inside(inner: Inner) -> None:
    """With ``--cov-context=test`` a line run in a body belongs to that body's test."""
    inner.pytester.makepyfile(covered=COVERED, test_covering=COVERING)
    options = inner.arguments("test_covering.py", "-p", "pytest_cov", "--cov=covered", "--cov-context=test")
    inner.pytester.runpytest_subprocess(*options).assert_outcomes(passed=3)
    data = coverage.CoverageData(str(inner.path / ".coverage"))
    data.read()
    (file,) = data.measured_files()
    assert data.contexts_by_lineno(file)[3] == ["test_covering.py::test_large|run"]
    data.close()


CALLABLES = """
import time
from covered import *
import pytest
from pytest_netns import ChildDied

INSIDE = [[], [pytest.mark.netns], [pytest.mark.netns(isolate=True)]]
WHERE = [pytest.param(where, marks=marks) for where, marks in enumerate(INSIDE)]

@pytest.mark.parametrize("where", WHERE)
def test_call(netns, where):
    assert netns.call(call, where) == where

@pytest.mark.parametrize("where", WHERE)
def test_raises(netns, where):
    with pytest.raises(KeyError):
        netns.call(fail, where)

@pytest.mark.parametrize("where", WHERE)
def test_start(netns, where):
    assert netns.start(start, where).wait() == where

@pytest.mark.parametrize("where", [WHERE[0], WHERE[2]])  # of one that a body inside has started, nobody hears the end
def test_server(netns, where):
    netns.start(serve, where)

def test_logs(netns):
    with pytest.raises(ChildDied, match="SIGTERM"):
        netns.start(logs).wait(timeout=20)

@pytest.mark.parametrize("number", range(60))
def test_many(netns, number):
    netns.call(many, number)
"""

LOGS = """
def logs():
    def write_and_be_ended(*arguments):
        os.write = write
        return os.kill(os.getpid(), signal.SIGTERM) or write(*arguments)
    write, os.write = os.write, write_and_be_ended
    logging.getLogger("covered").warning("one")
"""


def test_lines_of_callables_count(inner: Inner) -> None:
    """Those called and those started, also one that ends with its host, in the midst of a record, wherever that is."""
    functions = {"call": "return where", "fail": "raise KeyError", "start": "return where", "many": "return where"}
    functions["serve"] = "ready(); [time.sleep(1000) for _ in range(10)]"
    covered = ["import logging, os, signal, time"]
    for name, end in functions.items():
        ready = ", ready" if name == "serve" else ""
        numbers = range(60) if name == "many" else range(4)
        covered += [f"def {name}(where{ready}):"]
        for number in numbers:
            covered += [f"    if where == {number}:", f"        number = {number}"]
        covered += [f"    {end}"]
    covered += LOGS.splitlines()
    inner.pytester.makepyfile(covered="\n".join(covered), test_covering=CALLABLES)
    options = inner.arguments("test_covering.py", "-p", "pytest_cov", "--cov=covered", "--cov-report=")
    inner.pytester.runpytest_subprocess(*options).assert_outcomes(passed=72, warnings=0)
    never = [str(number) for number, line in enumerate(covered, 1) if line == "        number = 3"]
    del never[3]  # that of many
    never.insert(3, str(covered.index("def serve(where, ready):") + 5))
    assert missing_lines(inner) == ", ".join(never)
