"""What whole pytest sessions cost: with a pair in each test, ours and rivals'; with isolated tests; with none of it.

Each session is a process of its own, with no plugins but those measured: others take longer, and vary by more, than
what is looked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import places
from comparing import (
    OURS,
    Comparison,
    Finding,
    Missing,
    RoundFailed,
    Sample,
    Scope,
    Side,
    compare,
    difference_within,
    in_turn,
    median_within,
    p99_within,
)
from rivals import RIVALS
from served import HERE

ROOT = HERE.parent
TESTS = 50
#: Sessions are whole processes.
MOST_SESSIONS = 5
#: Rivals whose sessions take a minute and more have one.
SLOW = ("dummynet", "munet")
MOST_PROCESSES = 50
#: Seconds: nobody pays for what the one before has left.
PAUSE = 1

EMPTY = f"""
import pytest

@pytest.mark.parametrize("number", range({TESTS}))
def test_empty(number):
    pass
"""

OUR_TEST = f"""
import pytest
from pytest_netns import ping

@pytest.mark.parametrize("number", range({TESTS}))
def test_pings(netns_pair, number):
    assert ping(*netns_pair)
"""

THEIR_TEST = f"""
import sys
import pytest
sys.path.insert(0, {str(HERE)!r})
import rivals

@pytest.fixture
def pair_ping():
    with rivals.RIVALS[NAME]() as ping:
        yield ping

@pytest.mark.parametrize("number", range({TESTS}))
def test_pings(pair_ping, number):
    pair_ping()
"""


@dataclasses.dataclass(frozen=True)
class Suite:
    """A directory with one file of tests, and how to run it."""

    directory: Path
    rival: bool = False

    def run(self, *options: str, **environment: str) -> str:
        """Run the session and return what it says.

        Raises:
            RoundFailed: Not all of it passed.
        """
        python = str(places.PYTHON) if self.rival else sys.executable
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        done = subprocess.run(
            places.apart(command) if self.rival else command, cwd=self.directory, check=False,
            env={**self.environment(), **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode not in (0, 5):  # 5: there are no tests
            raise RoundFailed(done.stdout)
        return done.stdout

    def environment(self) -> dict[str, str]:
        """What its processes get."""
        if self.rival:
            found = places.environment(self.directory)
        else:
            # Compiled modules are there in real life; here, after the first session, and none is left in the checkout.
            bytecode = str(self.directory / "bytecode")
            found = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": bytecode}
        found.pop("PYTHONDONTWRITEBYTECODE", None)
        return {**found, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@contextlib.contextmanager
def suite(tests: str, rival: bool = False) -> Iterator[Suite]:
    """Write the tests into a directory of their own, which is the last thing that is left of them."""
    with TemporaryDirectory(prefix="netns-session-") as directory:
        made = Suite(Path(directory), rival)
        (made.directory / "pytest.ini").write_text("[pytest]\n")
        (made.directory / "test_it.py").write_text(tests)
        yield made


OURS_LOADED = ("-p", "pytest_netns.plugin")


# ---------------------------------------------------------------------------------------------- a pair in each test

IN_EACH_TEST = f"a test that takes a pair and pings once, of a session of {TESTS}, start-up and imports included"
OVER_EMPTY = "what that is over the same session empty"


def pair_in_each_test(scope: Scope) -> Iterator[Finding]:
    """The whole session over the same one with empty tests, for each test; and so with the rivals."""
    _, missing = places.prepared()
    names = [name for name in RIVALS if name not in missing]
    with contextlib.ExitStack() as suites:
        ours = _session_side(suites, OUR_TEST, False, *OURS_LOADED)
        ours()  # compiles all modules
        theirs = {name: _session_side(suites, THEIR_TEST.replace("NAME", repr(name)), True) for name in names}
        quick = {OURS: ours, **{name: theirs[name] for name in names if name not in SLOW}}
        slow = {OURS: ours, **{name: theirs[name] for name in names if name in SLOW}}
        turns = in_turn(quick, scope.at_most(MOST_SESSIONS), warm_up=False)
        slow_turns = in_turn(slow, 1, warm_up=False)
    samples = [sample for sample in turns.samples[OURS] if sample]
    with_pair, empty = ([sample[part] for sample in samples] for part in ("with_pair", "empty"))
    yield Comparison(IN_EACH_TEST, "an empty test of such a session", with_pair, empty, (difference_within(6),))
    for name in RIVALS:
        if name in missing:
            yield Missing(OVER_EMPTY, name, missing[name])
        else:
            yield (slow_turns if name in SLOW else turns).compared(OVER_EMPTY, name, "over")


def _session_side(suites: contextlib.ExitStack, tests: str, rival: bool, *options: str) -> Side:
    empty, full = (suites.enter_context(suite(text, rival)) for text in (EMPTY, tests))

    def each_test(session: Suite) -> float:
        time.sleep(PAUSE)
        start = time.perf_counter()
        session.run(*options)
        return (time.perf_counter() - start) / TESTS * 1e6

    def sample() -> Sample:
        took = {"empty": each_test(empty), "with_pair": each_test(full)}
        return {**took, "over": took["with_pair"] - took["empty"]}

    return sample


#: With 100 rounds and more: ten of them are beyond the 99th percentile.
MANY_TESTS = 1000
#: What pytest says that each set-up took.
SET_UPS = """
took = []

def pytest_runtest_logreport(report):
    if report.when == "setup":
        took.append(report.duration)

def pytest_sessionfinish(session):
    print("\\ntook", *took)
"""


def set_up_in_each_test(scope: Scope) -> Finding:
    """How far the set-ups of a session vary, whose tests do no more than ping; see `pair.without_a_pause`, too."""
    tests = max(TESTS, min(MANY_TESTS, MANY_TESTS // 100 * scope.rounds))
    with suite(OUR_TEST.replace(f"range({TESTS})", f"range({tests})")) as place:
        (place.directory / "conftest.py").write_text(SET_UPS)
        found = re.search(r"^took (.+)", place.run(*OURS_LOADED), re.MULTILINE)
    assert found
    # Without the first one, which starts the helper.
    took = [float(seconds) * 1e6 for seconds in found[1].split()][1:]
    work = f"set-up of `netns_pair` in each of {tests} tests, as pytest tells"
    return Comparison(work, "the one before", took[1:], took[:-1], (p99_within(5),))


# ---------------------------------------------------------------------------------------------- isolated tests

#: Notes the seconds from the end of the first test, which starts the helper, to that of the last, for each of them.
CONFTEST = """
import time
ends = []

def pytest_runtest_logfinish():
    ends.append(time.perf_counter())

def pytest_sessionfinish(session):
    print("\\ntook", (ends[-1] - ends[0]) / (len(ends) - 1))
"""


def isolated_tests(scope: Scope) -> Finding:
    """One of the empty tests of a session with `--netns-isolate`, and of one without."""
    with suite(EMPTY) as empty:
        (empty.directory / "conftest.py").write_text(CONFTEST)

        def session(*options: str) -> Sample:
            found = re.search(r"^took (\S+)", empty.run(*OURS_LOADED, *options), re.MULTILINE)
            assert found
            return {"test": float(found[1]) * 1e6}

        sides = {OURS: lambda: session("--netns-isolate"), "an empty test": session}
        turns = in_turn(sides, scope.at_most(MOST_SESSIONS))
    return turns.compared("an empty test, isolated, in a session of others", "an empty test", "test")


# ---------------------------------------------------------------------------------------------- the start of a session

#: pytest itself has loaded much of what is needed when the plugin begins.
FIRST_PAIR = """
import time, pytest; start = time.perf_counter()
from pytest_netns import Lab
with Lab() as lab:
    lab.pair()
    print(time.perf_counter() - start)
"""

IMPORT_PYROUTE2 = """
import time, pytest; start = time.perf_counter()
import pyroute2
print(time.perf_counter() - start)
"""


def first_pair(scope: Scope) -> Finding:
    """From pytest imported to a pair that can be used."""
    with suite(EMPTY) as place:

        def said_by(program: str) -> Sample:
            command = [sys.executable, "-c", program]
            done = subprocess.run(command, check=True, env=place.environment(), stdout=subprocess.PIPE, text=True)
            return {"call": float(done.stdout.split()[0]) * 1e6}

        work, rival = "first pair of a session, imports and helper included", "`import pyroute2` alone"
        sides = {OURS: lambda: said_by(FIRST_PAIR), rival: lambda: said_by(IMPORT_PYROUTE2)}
        return in_turn(sides, scope.at_most(MOST_PROCESSES)).compared(work, rival, "call", median_within(250))


def without_netns_tests(scope: Scope, tests: str, *options: str) -> Finding:
    """A session with the plugin, and one with an empty plugin.

    Any -p makes pytest look through all installed packages first. A session does that once anyway, for the plugins
    that are installed; so both sides do it here.
    """
    with suite(tests) as place:
        (place.directory / "empty_plugin.py").touch()
        what = "with one test" if tests else "without tests"
        return compare(
            f"a session {what}, `pytest {' '.join(options)}`".replace(" `pytest `", " `pytest`"), "bare pytest",
            lambda: place.run(*options, *OURS_LOADED), lambda: place.run(*options, "-p", "empty_plugin"),
            scope.at_most(MOST_PROCESSES), difference_within(5),
        )  # fmt: skip


def compared(scope: Scope) -> Iterator[Finding]:
    """All of it."""
    yield from pair_in_each_test(scope)
    yield set_up_in_each_test(scope)
    yield isolated_tests(scope)
    yield first_pair(scope)
    yield without_netns_tests(scope, "def test_empty():\n    pass\n")
    yield without_netns_tests(scope, "", "--collect-only")
