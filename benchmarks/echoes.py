"""What a ping costs, beside iputils': one, a burst of 1,000, and with eight workers of pytest-xdist at a time.

What each of the two reports as the round-trip time is compared, too.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import sessions
from comparing import OURS, Comparison, Finding, Missing, Scope, compare, in_turn, median_within
from pair import our_pair

if TYPE_CHECKING:
    from pytest_netns import Host

ONE = "`ping`, warm, one echo"
BURST = 1000
MOST_BURSTS = 10
WORKERS = 8
BY_RUN = "`ping -c1` by `host.run`"
MANY = f"`ping`, warm, one echo, with `-n {WORKERS}`"


def alone(scope: Scope) -> Iterator[Finding]:
    """With nothing else on the machine."""
    from pytest_netns import ping

    with our_pair() as (beijing, shanghai):
        yield compare(
            ONE, BY_RUN, lambda: ping(beijing, shanghai), lambda: iputils(beijing, shanghai, "-c1"),
            scope.rounds, median_within(0.6),
        )  # fmt: skip
        yield reported(beijing, shanghai, scope.rounds)
        yield burst(beijing, shanghai, scope.at_most(MOST_BURSTS))


def burst(source: Host, target: Host, rounds: int) -> Finding:
    """Many echoes, each sent when the one before is answered."""
    from pytest_netns import ping

    work, rival = f"`ping` of {BURST:,} echoes", f"`ping -A -c{BURST}` by `host.run`"
    if os.geteuid() != 0:
        return Missing(work, rival, "iputils lets nobody but root send without pauses")
    theirs = functools.partial(iputils, source, target, "-A", f"-c{BURST}")
    return compare(work, rival, lambda: ping(source, target, BURST), theirs, rounds)


def iputils(source: Host, target: Host, *options: str) -> str:
    """Ping by the program, and return what it prints."""
    command = ["ping", "-n", *options, str(target.ip)]
    return str(source.run(command, capture_output=True, text=True, check=True).stdout)


def reported(source: Host, target: Host, rounds: int) -> Finding:
    """The round-trip time in the words of both."""
    from pytest_netns import ping

    def ours() -> dict[str, float]:
        return {"rtt": statistics.median(ping(source, target).rtts) * 1e6}

    def theirs() -> dict[str, float]:
        found = re.search(r"time=([0-9.]+) ms", said := iputils(source, target, "-c1"))
        assert found, said
        return {"rtt": float(found[1]) * 1000}

    turns = in_turn({OURS: ours, "iputils": theirs}, rounds)
    return turns.compared("the round-trip time that `ping` reports", "iputils", "rtt")


# ---------------------------------------------------------------------------------------------- eight at a time

#: Every worker runs it, all of them at the same time.
TEST = f"""
import json, os, pathlib, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from comparing import OURS, in_turn, timed
from echoes import iputils
from pytest_netns import ping

def test_pings(netns_pair):
    sides = {{
        OURS: timed(lambda: ping(*netns_pair)),
        "iputils": timed(lambda: iputils(*netns_pair, "-c1")),
    }}
    turns = in_turn(sides, int(os.environ["ROUNDS"]))
    took = {{side: [sample["call"] for sample in samples] for side, samples in turns.samples.items()}}
    pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).write_text(json.dumps(took))
"""


def crowded(scope: Scope) -> Finding:
    """More processes than processors, each with a network of its own."""
    if importlib.util.find_spec("xdist") is None:
        return Missing(MANY, BY_RUN, "pytest-xdist is not installed")
    with sessions.suite(TEST) as suite:
        rounds = {"ROUNDS": str(max(2, scope.rounds // WORKERS))}
        suite.run(*sessions.OURS_LOADED, "-p", "xdist", "-n", str(WORKERS), "--dist", "each", **rounds)
        took = [json.loads(path.read_text()) for path in sorted(suite.directory.glob("gw*"))]
    assert len(took) == WORKERS
    ours, theirs = ([value for each in took for value in each[side]] for side in (OURS, "iputils"))
    return Comparison(MANY, BY_RUN, ours, theirs)


def compared(scope: Scope) -> Iterator[Finding]:
    """All of it, where there is iputils."""
    if shutil.which("ping") is None:
        for work in (ONE, MANY):
            yield Missing(work, BY_RUN, "no ping")
        return
    yield from alone(scope)
    yield crowded(scope)
