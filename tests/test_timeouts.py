"""A wait that is over shows what runs in the host, besides where a callable stood and what programs have written."""

from __future__ import annotations

import re
import time

import pytest
from calling import hang
from marking import Inner

from pytest_netns import Host, Pair, WaitTimeout, _fork


def test_the_hosts_processes_are_listed(netns_pair: Pair) -> None:
    """With their numbers, states and commands; those of other hosts, and the callable's own, are not."""
    beijing, shanghai = netns_pair
    stopped = beijing.popen(["sh", "-c", "echo started; kill -STOP $$; exit 0"])
    stopped.wait_output("started")
    shanghai.popen(["sleep", "1001"])

    listed = rf"\nprocesses in beijing:\n  {stopped.pid} T sh -c echo started; kill -STOP \$\$; exit 0$"
    with beijing.enter(timeout=0.2) as run, pytest.raises(WaitTimeout, match=f"was killed(?s:.*){listed}"):
        run(hang)
    for wait in (lambda: beijing.wait_listening(80, timeout=0.01), lambda: stopped.wait_output("x", timeout=0.01)):
        with pytest.raises(WaitTimeout, match=listed):
            wait()
    shanghai.end_processes()
    with shanghai.enter(timeout=0.1) as run, pytest.raises(WaitTimeout) as caught:
        run(hang)
    assert "processes" not in str(caught.value)


def test_a_callable_is_not_among_them_before_its_start_was_heard_of(
    netns: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be inside already when its time is over, and nobody know its number."""
    say = _fork._say

    def say_late(report: int, what: int, *numbers: int) -> None:
        time.sleep(0.5)
        say(report, what, *numbers)

    monkeypatch.setattr(_fork, "_say", say_late)
    with netns.enter(timeout=0.2) as run, pytest.raises(WaitTimeout, match="hang") as caught:
        run(hang)
    assert "processes" not in str(caught.value)


def test_of_a_body_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in the host of a body that its limit ends is in the report."""
    source = """
import time, pytest

@pytest.fixture
def sleeper(netns):
    netns.popen(["sleep", "1003"])

@pytest.mark.netns(timeout=0.5)
def test_hangs(sleeper):
    time.sleep(1000)
"""
    text = Inner(pytester, monkeypatch).run(source).stdout.str()
    assert re.search(r"within 0.5 s and was killed(?s:.*)\nprocesses in netns:\n  \d+ S sleep 1003\n", text)
