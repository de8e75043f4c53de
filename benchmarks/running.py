"""What it costs to run something in a host, beside what the same costs without one.

    python benchmarks/running.py [--rounds N] [--json FILE]

Programs are compared with `subprocess.run` in the test process's own network and, as root where there is iproute2,
with `ip netns exec` into the same host; callables with a bare fork of this process; an empty test that is isolated
with the same test that is not. Each round does both, in alternating order.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from comparing import Comparison, Sample, as_data, compare, in_turn, part, table
from pair import MOST_ROUNDS, ROOT, bare_fork, nothing, resident_mb

#: A whole session each: fewer rounds tell enough, and take long enough.
MOST_SESSIONS = 10
TESTS_IN_A_SESSION = 51

#: Notes the seconds from the end of the first test, which starts the helper, to that of the last, for each of them.
CONFTEST = """
import time
ends = []

def pytest_runtest_logfinish():
    ends.append(time.perf_counter())

def pytest_sessionfinish(session):
    (session.config.rootpath / "took").write_text(str((ends[-1] - ends[0]) / (len(ends) - 1)))
"""

EMPTY = f"""
import pytest

@pytest.mark.parametrize("number", range({TESTS_IN_A_SESSION}))
def test_empty(number):
    pass
"""


def programs(host: Any, rounds: int) -> list[Comparison]:
    """Programs in the foreground and in the background."""
    return [
        compare(
            '`host.run(["true"])`', "`subprocess.run`",
            lambda: host.run(["true"], check=True), lambda: subprocess.run(["true"], check=True), rounds,
        ),
        *against_ip_netns_exec(host, rounds),
        compare(
            '`host.popen(["true"]).wait()`', "`subprocess.Popen` and `wait`",
            lambda: host.popen(["true"]).wait(), lambda: subprocess.Popen(["true"]).wait(), rounds,
        ),
    ]  # fmt: skip


def against_ip_netns_exec(host: Any, rounds: int) -> list[Comparison]:
    """The same program by the usual way in; it needs root and a name for the host."""
    name = host.namespace.name
    if name is None or shutil.which("ip") is None:
        return []
    command = ["ip", "netns", "exec", name, "true"]
    return [
        compare(
            '`host.run(["true"])`', "`ip netns exec` by `subprocess.run`",
            lambda: host.run(["true"], check=True), lambda: subprocess.run(command, check=True), rounds,
        )
    ]  # fmt: skip


def callables(host: Any, rounds: int) -> list[Comparison]:
    """Callables in the foreground and in the background, and sockets."""
    fork = f"bare fork + wait of this process, {resident_mb()} MB"
    return [
        compare("`host.call` of an empty function", fork, lambda: host.call(nothing), bare_fork, rounds),
        compare("`host.start` of one and `wait()`", fork, lambda: host.start(nothing).wait(), bare_fork, rounds),
        compare(
            "`host.socket()` and close", "`socket.socket()` and close",
            lambda: host.socket().close(), lambda: socket.socket().close(), rounds,
        ),
    ]  # fmt: skip


def isolated_tests(rounds: int) -> Comparison:
    """One of 50 empty tests of a session with `--netns-isolate`, and of one without."""
    with tempfile.TemporaryDirectory(prefix="netns-running-") as directory:
        tests = Path(directory)
        (tests / "pytest.ini").write_text("[pytest]\n")
        (tests / "conftest.py").write_text(CONFTEST)
        (tests / "test_empty.py").write_text(EMPTY)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

        def session(*options: str) -> Sample:
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_netns.plugin"]
            subprocess.run([*command, *options], check=True, cwd=tests, env=environment, stdout=subprocess.DEVNULL)
            return {"test": float((tests / "took").read_text()) * 1e6}

        ours, theirs = in_turn(lambda: session("--netns-isolate"), session, rounds)
    return Comparison("an empty isolated test", "an empty test", part(ours, "test"), part(theirs, "test"))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help=f"at most {MOST_ROUNDS}; 100 unless told")
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    chosen = parser.parse_args()
    if not 2 <= chosen.rounds <= MOST_ROUNDS:
        parser.error(f"--rounds must be between 2 and {MOST_ROUNDS}")
    return chosen


def main() -> None:
    """Measure, and print the table."""
    from pytest_netns import Lab

    chosen = arguments()
    load = os.getloadavg()[0]
    with Lab(named=os.geteuid() == 0) as lab:
        host = lab.host()
        rows = programs(host, chosen.rounds) + callables(host, chosen.rounds)
    rows.append(isolated_tests(min(chosen.rounds, MOST_SESSIONS)))
    about = {
        "date": datetime.date.today().isoformat(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "rounds": chosen.rounds,
        "load before and after": f"{load:.1f}, {os.getloadavg()[0]:.1f}",
    }
    print(", ".join(f"{name}: {value}" for name, value in about.items()))
    print()
    print(table(rows))
    if chosen.json:
        figures = {"machine": about, "comparisons": [as_data(row) for row in rows]}
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
