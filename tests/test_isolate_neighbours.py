"""Neighbours of ``--netns-isolate`` and of hosts, each in an inner suite: pytest-timeout, pytest-cov, hypothesis."""

from __future__ import annotations

import pytest
from marking import Inner


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


HANGS = """
import select

def test_hangs():
    print("before the hang")
    select.select([], [], [], 1000)

def test_lives():
    pass
"""

#: The first namespace takes longer to make than a test may take.
SLOW = """
import select
from pytest_netns import plugin

own = plugin._new_lab

def slow(*arguments):
    plugin._new_lab = own
    select.select([], [], [], 2.5)
    return own(*arguments)

plugin._new_lab = slow
"""


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_pytest_timeout_ends_an_isolated_test(inner: Inner, method: str) -> None:
    """With either method the hung test fails, its stack is shown, and the session goes on; set-up is not its time."""
    inner.pytester.makeconftest(SLOW)
    options = ["-p", "pytest_timeout", "--timeout=2", f"--timeout-method={method}"]
    result = inner.run(HANGS, "--netns-isolate", *options)
    result.assert_outcomes(failed=1, passed=1)
    text = result.stdout.str() + result.stderr.str()
    assert "select.select([], [], [], 1000)" in text
    assert "Timeout" in text
    assert "before the hang" in text


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

@pytest.fixture(scope="session")
def large():
    return classify(500)

def test_medium():
    assert classify(50) == "medium"

def test_large(large):
    assert large == "large"
"""


def test_lines_of_isolated_tests_count(inner: Inner) -> None:
    """With pytest-cov: those of fixtures and of bodies; what was never run stays missing."""
    inner.pytester.makepyfile(covered=COVERED)
    options = ["-p", "pytest_cov", "--cov=covered", "--cov-branch", "--cov-report=term-missing"]
    result = inner.run(COVERING, "--netns-isolate", *options)
    result.assert_outcomes(passed=2)
    (row,) = (line.split("%")[1].split() for line in result.outlines if line.startswith("covered.py"))
    assert row == ["6"]


GIVEN = """
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

one_network = settings(
    max_examples=10, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

@given(st.integers())
def test_is_warned_of(netns_pair, number): ...

@one_network
@given(st.integers())
def test_call(netns_pair, number):
    assert netns_pair["beijing"].call(abs, number) == abs(number)

@one_network
@given(st.text("abc"))
def test_run(netns_pair, text):
    done = netns_pair["beijing"].run(["printf", "%s", text], capture_output=True, text=True)
    assert done.stdout == text

@one_network
@given(st.integers())
def test_is_told_the_smallest(netns_pair, number):
    assert netns_pair["beijing"].call(lambda: number < 7)

def test_all_examples_in_one_call(netns):
    @settings(one_network, max_examples=20)
    @given(st.integers())
    def check(number):
        assert number < 7
    netns.call(check)
"""


@pytest.mark.once
def test_hypothesis_examples_share_a_host(inner: Inner) -> None:
    """hypothesis says that a fixture is not made anew for each example; told that this is meant, all works.

    A failing example is made as small as elsewhere, whether each example is a call or all of them are in one.
    """
    result = inner.run(GIVEN, "-p", "_hypothesis_pytestplugin", "-rf")
    result.assert_outcomes(passed=2, failed=3)
    text = result.stdout.str()
    assert "uses a function-scoped fixture 'netns_pair'" in text
    assert text.count("number=7,") >= 2
