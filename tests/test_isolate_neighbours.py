"""Neighbours of ``--netns-isolate``, each in an inner suite of its own: pytest-timeout."""

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
