"""Runs pytest on small test files; where asked, once with the bodies here and once with them inside."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from fresh import bare_names

#: The first lines of a file that is run twice: the same both times, so that line numbers agree.
HEAD = """
import os, sys, time, logging, warnings, subprocess, unittest
import pytest
pytestmark = [pytest.mark.netns] if os.environ["BODY"] == "inside" else []
logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of slow callbacks
"""

#: Notes for each body that it really ran where it was meant to.
WITNESS = """
import os, pytest

MACHINE = os.stat("/proc/self/ns/net").st_ino

@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    where = "outside" if os.stat("/proc/thread-self/ns/net").st_ino == MACHINE else "inside"
    with open(pyfuncitem.config.rootpath / "bodies", "a") as file:
        file.write(where + "\\n")
"""


class Runs(NamedTuple):
    """A test file's two runs."""

    outside: pytest.RunResult
    inside: pytest.RunResult


class Inner:
    """pytest below pytest, with only this plugin and those that a test asks for: each costs time."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("BARE", " ".join(bare_names()))
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        for name in ("CI", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTHONUNBUFFERED", "COVERAGE_PROCESS_START"):
            monkeypatch.delenv(name, raising=False)

    @property
    def path(self) -> Path:
        """The folder of the test file."""
        return self.pytester.path

    def arguments(self, *arguments: str) -> list[str]:
        """Arguments for pytest, with this plugin loaded."""
        return ["-p", "pytest_netns.plugin", "-p", "no:cacheprovider", *arguments]

    def run(self, source: str, *arguments: str) -> pytest.RunResult:
        """Run a test file."""
        path = self.pytester.makepyfile(test_small=source)
        return self.pytester.runpytest_subprocess(*self.arguments(*arguments), path)

    def run_body(self, body: str, source: str, *arguments: str) -> pytest.RunResult:
        """Run a test file, given without its head, with its bodies ``outside``, ``inside`` or ``isolated``."""
        self._monkeypatch.setenv("BODY", body)
        witnesses = self.path / "bodies"
        witnesses.unlink(missing_ok=True)
        if not (self.path / "conftest.py").exists():
            self.pytester.makeconftest(WITNESS)
        result = self.run(HEAD + source, *arguments)
        assert set(witnesses.read_text().split()) == {body if body == "outside" else "inside"}
        return result

    def run_twice(self, source: str, *arguments: str) -> Runs:
        """Run a test file, given without its head, with its bodies here and inside."""
        return Runs(*(self.run_body(body, source, *arguments) for body in Runs._fields))

    def run_isolated_too(self, source: str, *arguments: str) -> Runs:
        """Run a test file, given without its head, as it is and with ``--netns-isolate``."""
        options = ["--no-header", *arguments]
        return Runs(
            self.run_body("outside", source, *options),
            self.run_body("isolated", source, "--netns-isolate", *options),
        )


def readable(lines: list[str]) -> list[str]:
    """Output without what differs between any two runs: durations, addresses and process ids."""
    text = os.linesep.join(lines)
    text = re.sub(r"\b\d+\.\d+s( \(\d+:\d+:\d+\))?", "T", text)
    text = re.sub(r"=+( .* in T )=+", r"=\1=", text)
    return re.sub(r"0x[0-9a-f]+", "0x", text).splitlines()


def assert_same(runs: Runs) -> None:
    """Both runs read the same, from the first line to the last."""
    assert runs.inside.ret == runs.outside.ret
    for stream in ("outlines", "errlines"):
        outside, inside = (readable(getattr(run, stream)) for run in runs)
        difference = "\n".join(difflib.unified_diff(outside, inside, "outside", "inside", lineterm=""))
        assert not difference, difference
