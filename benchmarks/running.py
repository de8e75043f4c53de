"""What it costs to run something in a host, beside what the same costs without one.

Programs are compared with `subprocess.run` in the test process's own network and, as root where there is iproute2, with
`ip netns exec` into the same host; callables with a bare fork of the same process, of several sizes, as a fork copies
the tables of the memory that a process holds.

    python benchmarks/running.py LOADED ROUNDS

measures callables in a process with something loaded, and prints JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from comparing import OURS, Comparison, Finding, Missing, Scope, compare, in_turn, median_within, ratio_within, timed

if TYPE_CHECKING:
    from pytest_netns import Host

#: Modules, and bytes of memory in use.
LOADED: dict[str, tuple[tuple[str, ...], int]] = {
    "pytest alone": (("pytest",), 0),
    "scapy and pyroute2": (("pytest", "scapy.all", "pyroute2"), 0),
    "scapy, pyroute2 and 1 GB": (("pytest", "scapy.all", "pyroute2"), 1_000_000_000),
}
#: A process of a gigabyte is long in forking.
MOST_CALLS = 50
RUN = '`host.run(["true"])`'


def programs(host: Host, rounds: int) -> Iterator[Finding]:
    """Programs in the foreground and in the background."""
    yield compare(
        RUN, "`subprocess.run`",
        lambda: host.run(["true"], check=True), lambda: subprocess.run(["true"], check=True), rounds, ratio_within(2),
    )  # fmt: skip
    yield against_ip_netns_exec(host, rounds)
    yield compare(
        '`host.popen(["true"]).wait()`', "`subprocess.Popen` and `wait`",
        lambda: host.popen(["true"]).wait(), lambda: subprocess.Popen(["true"]).wait(), rounds,
    )  # fmt: skip


def against_ip_netns_exec(host: Host, rounds: int) -> Finding:
    """The same program by the usual way in; it needs root and a name for the host."""
    rival, name = "`ip netns exec` by `subprocess.run`", host.namespace.name
    if name is None or shutil.which("ip") is None:
        return Missing(RUN, rival, "it needs root, and iproute2")
    command = ["ip", "netns", "exec", name, "true"]
    return compare(
        RUN, rival,
        lambda: host.run(["true"], check=True), lambda: subprocess.run(command, check=True), rounds, ratio_within(1),
    )  # fmt: skip


def sockets(host: Host, rounds: int) -> Finding:
    """From the helper, beside the process's own."""
    return compare(
        "`host.socket()` and close", "`socket.socket()` and close",
        lambda: host.socket().close(), lambda: socket.socket().close(), rounds, median_within(0.15),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- callables


def callables(loaded: str, rounds: int) -> Iterator[Finding]:
    """In a process of its own, in which nothing else is loaded."""
    command = [sys.executable, __file__, loaded, str(rounds)]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    fork = f"bare fork + wait of the same process, {said['mb']:.0f} MB: {loaded}"
    yield Comparison("`host.call` of an empty function", fork, said["call"], said["fork"], (ratio_within(1.5),))
    # What it is at the least, for an ordinary user: setns(2) into a PID namespace counts for children only.
    forks = f"bare fork of a fork + waits, {said['mb']:.0f} MB"
    yield Comparison("`host.call` of an empty function", forks, said["call"], said["forks"])
    yield Comparison("`host.start` of one and `wait()`", fork, said["start"], said["fork"])


def measure_callables(loaded: str, rounds: int) -> dict[str, object]:
    """What each round took."""
    modules, size = LOADED[loaded]
    for module in modules:
        importlib.import_module(module)
    ballast = b"1" * size
    from pytest_netns import Lab

    with Lab() as lab:
        host = lab.host()
        start = timed(lambda: host.start(nothing).wait())
        ways = {OURS: timed(lambda: host.call(nothing)), "start": start}
        turns = in_turn({**ways, "fork": timed(bare_fork), "forks": timed(fork_of_a_fork)}, rounds)
    sides = {"call": OURS, "start": "start", "fork": "fork", "forks": "forks"}
    took = {name: [sample["call"] for sample in turns.samples[side] if sample] for name, side in sides.items()}
    assert len(ballast) == size  # and is still there
    return {**took, "mb": resident_mb()}


def bare_fork() -> None:
    """Fork a child that does nothing, and wait for it."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def fork_of_a_fork() -> None:
    """Fork a child that does so, and wait for it."""
    pid = os.fork()
    if pid == 0:
        bare_fork()
        os._exit(0)
    os.waitpid(pid, 0)


def nothing() -> None:
    """Do nothing."""


def resident_mb() -> float:
    """Return how much memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def compared(scope: Scope) -> Iterator[Finding]:
    """Programs, sockets, callables."""
    from pytest_netns import Lab

    with Lab(named=os.geteuid() == 0) as lab:
        host = lab.host()
        yield from programs(host, scope.rounds)
        yield sockets(host, scope.rounds)
    for loaded in LOADED:
        yield from callables(loaded, scope.at_most(MOST_CALLS))


if __name__ == "__main__":
    print(json.dumps(measure_callables(sys.argv[1], int(sys.argv[2]))))
