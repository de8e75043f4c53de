"""A lab's end: everything is released whatever fails on the way, and everything that failed is told."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from pace import seconds
from test_labs import descriptors

from pytest_netns import Host, Lab, _broker
from pytest_netns._netlink import Netlink
from pytest_netns._releasing import releasing

pytestmark = pytest.mark.kernel


class _Steps:
    """Counts the steps by which a lab lets go of what it owns; those that are named are done, and fail all the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, own: set[int], fails: Callable[[int], bool]) -> None:
        self.number = 0
        self._fails = fails
        close = os.close

        def close_one(fd: int) -> None:
            close(fd)
            if fd in own:
                self._step()

        def counted(method: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                value = method(*arguments)
                self._step()
                return value

            return run

        monkeypatch.setattr(os, "close", close_one)
        for owner, name in ((Netlink, "close"), (_broker.Broker, "end_processes")):
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))

    def _step(self) -> None:
        self.number += 1
        if self._fails(self.number):
            raise OSError(errno.EIO, f"injected at step {self.number}")


def _open() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def _lab() -> tuple[Lab, list[Host], subprocess.Popen[Any]]:
    """In use, with something of each kind that a lab owns."""
    lab = Lab()
    lan, wan = lab.bridge("lan"), lab.bridge("wan")
    hosts = [lab.host("one", lan), lab.host("other", wan), lab.router("r", lan, wan)]
    for host in hosts:
        host.run(["true"])
    return lab, hosts, hosts[0].popen(["sleep", "1000"], check=False)


@pytest.mark.parametrize("part", ["the lab", "a host"])
def test_a_failure_at_any_step_of_the_end_leaves_nothing(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step in turn fails: its error is told as it is, nothing is open, nothing runs."""
    _lab()[0].close()
    before = descriptors()
    for number in range(1, 100):
        had = _open()
        lab, hosts, program = _lab()
        close = lab.close if part == "the lab" else hosts[0].close
        with monkeypatch.context() as patch:
            steps = _Steps(patch, _open() - had, number.__eq__)
            met = _error(close)
        if part == "a host":
            assert hosts[1].run(["true"]).returncode == 0
            lab.close()
        assert program.wait(seconds(20)) < 0
        assert all(host.closed for host in hosts)
        assert descriptors() == before, number
        if met is None:
            assert steps.number == number - 1
            assert number > (20 if part == "the lab" else 5)
            return
        assert met.args == (errno.EIO, f"injected at step {number}")
    raise AssertionError("it has no end")


def test_all_failures_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one group, flat, in the order in which they happened."""
    had = _open()
    lab, _, _ = _lab()
    with monkeypatch.context() as patch:
        steps = _Steps(patch, _open() - had, lambda _: True)
        met: Any = _error(lab.close)
    assert str(met).startswith(f"the lab has been released, but {steps.number} steps of that failed")
    assert [error.args[1] for error in met.exceptions] == [
        f"injected at step {number}" for number in range(1, steps.number + 1)
    ]
    lab.close()


def _error(close: Callable[[], object]) -> Exception | None:
    try:
        close()
    except Exception as error:
        return error
    return None


def test_who_interrupts_is_heard_when_all_is_released() -> None:
    """Ctrl-C, or a time limit of pytest's: all else is tried first."""
    done = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    def fail() -> None:
        raise ValueError

    def end() -> None:
        with releasing("it") as release:
            for step in (fail, interrupt, lambda: done.append(1)):
                release(step)

    with pytest.raises(KeyboardInterrupt):
        end()
    assert done == [1]
