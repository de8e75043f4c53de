"""What pytest-netns costs, beside what the same work costs without it.

    python benchmarks/pair.py [--rounds N] [--pause SECONDS] [--json FILE]

Everything is measured in one run, ours and the rival's in turn and in alternating order. That matters here:
the kernel frees a network after it was dropped, and may hold the lock that the next one needs meanwhile.

The rival of a whole network is `floor.c`, next to this file; it is compiled with `cc`. Runs as root or not;
needs a C compiler and, for two rows, iputils' ping.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comparing import (
    Comparison,
    Goal,
    Sample,
    as_data,
    compare,
    difference_within,
    in_turn,
    median_within,
    p99_within,
    part,
    ratio_within,
    table,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout that this file is part of, whatever else is installed

MOST_ROUNDS = 300
# A whole process each: fewer rounds tell enough, and take long enough.
MOST_PROCESS_ROUNDS = 50


# ---------------------------------------------------------------------------------------------- the floor


class Floor:
    """`floor.c`, running, and doing a round whenever it is asked to."""

    def __init__(self, program: Path) -> None:
        self.rootless = False
        self._program = program
        self._process = self._start()
        try:
            self.round()
        except PermissionError:
            self.close()
            self.rootless = True
            self._process = self._start("--userns")
            self.round()

    def _start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._program, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def round(self) -> Sample:
        """Build, ping and drop one network."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "floor has died"}')
        if "error" in answer:
            not_permitted = answer["error"].endswith(os.strerror(1))
            raise (PermissionError if not_permitted else RuntimeError)(answer["error"])
        return {name.removesuffix("_us"): value for name, value in answer.items()}

    def close(self) -> None:
        """End the program, by the end of its input."""
        self._process.communicate(timeout=30)


@contextlib.contextmanager
def running_floor() -> Iterator[Floor]:
    """Compile the floor in a directory of its own and run it."""
    with tempfile.TemporaryDirectory(prefix="netns-floor-") as directory:
        program = Path(directory, "floor")
        subprocess.run(["cc", "-O2", "-o", program, ROOT / "benchmarks" / "floor.c"], check=True)
        floor = Floor(program)
        try:
            yield floor
        finally:
            floor.close()


# ---------------------------------------------------------------------------------------------- the work


@contextlib.contextmanager
def our_pair() -> Iterator[tuple[Any, Any]]:
    """Two hosts as the fixture `netns_pair` makes them."""
    from pytest_netns import Lab

    with Lab() as lab:
        beijing, shanghai = lab.pair()
        yield beijing, shanghai


def our_round() -> Sample:
    """Build, ping and drop one network: the same parts as the floor's."""
    from pytest_netns import ping

    times = [time.perf_counter()]
    with our_pair() as (beijing, shanghai):
        times.append(time.perf_counter())
        for _ in ("first", "warm"):
            assert ping(beijing, shanghai), "the first packet got lost"
            times.append(time.perf_counter())
    times.append(time.perf_counter())
    took = [(after - before) * 1e6 for before, after in itertools.pairwise(times)]
    return dict(zip(("setup", "echo", "warm_echo", "teardown"), took, strict=True))


def whole_networks(floor: Floor, rounds: int, pause: float) -> list[Comparison]:
    """Set-up, first packet and teardown, against the floor."""
    ours, theirs = in_turn(our_round, floor.round, rounds, pause)

    def comparison(work: str, name: str, *goals: Goal) -> Comparison:
        return Comparison(work, "C floor", part(ours, name), part(theirs, name), goals)

    return [
        comparison("`netns_pair` set-up, warm", "setup", ratio_within(1.5), p99_within(5)),
        comparison("its teardown, as the test waits for it", "teardown", median_within(0.3)),
        comparison("first `ping` after set-up, ARP included", "echo"),
        comparison("`ping`, warm, one echo", "warm_echo", median_within(0.6)),
    ]


def bare_fork() -> None:
    """Fork a child that does nothing, and wait for it."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def nothing() -> None:
    """Do nothing."""


def inside_a_host(rounds: int) -> list[Comparison]:
    """Calls, commands, sockets and echoes in a pair that stands."""
    with our_pair() as (beijing, shanghai):
        rows = [
            compare(
                "`host.call` of an empty function", f"bare fork + wait of this process, {resident_mb()} MB",
                lambda: beijing.call(nothing), bare_fork, rounds, ratio_within(1.5),
            ),
            compare(
                '`host.run(["true"])`', "`subprocess.run`",
                lambda: beijing.run(["true"]), lambda: subprocess.run(["true"], check=True), rounds,
                ratio_within(2),
            ),
            compare(
                "`host.socket()` and close", "`socket.socket()` and close",
                lambda: beijing.socket(socket.AF_INET, socket.SOCK_STREAM, 0).close(),
                lambda: socket.socket().close(), rounds, median_within(0.15),
            ),
        ]  # fmt: skip
        return rows + (against_iputils(beijing, shanghai, rounds) if shutil.which("ping") else [])


def against_iputils(beijing: Any, shanghai: Any, rounds: int) -> list[Comparison]:
    """Our ping against iputils', by the clock and by what each of them reports."""
    from pytest_netns import ping

    own_words: list[float] = []

    def iputils() -> None:
        command = ["ping", "-c1", "-n", str(shanghai.ip)]
        done = beijing.run(command, capture_output=True, text=True, check=True)
        own_words.append(reported_rtt(done.stdout))

    work, rival = "`ping`, warm, one echo", "`ping -c1` by `host.run`"
    row = compare(work, rival, lambda: ping(beijing, shanghai), iputils, rounds)
    return [row, Comparison(work, "`ping -c1`, the RTT it reports", row.ours, own_words[1:])]


def reported_rtt(output: str) -> float:
    """Return the RTT in an iputils report, in microseconds."""
    found = re.search(r"time=([0-9.]+) ms", output)
    assert found, output
    return float(found[1]) * 1000


# ---------------------------------------------------------------------------------------------- processes

FIRST_PAIR = """
import time; start = time.perf_counter()
from pytest_netns import Lab
with Lab() as lab:
    lab.pair()
    print(time.perf_counter() - start)
"""

IMPORT_PYROUTE2 = """
import time; start = time.perf_counter()
import pyroute2
print(time.perf_counter() - start)
"""


def said_by(program: str, environment: dict[str, str]) -> Sample:
    """Run a Python program that prints the seconds it measured."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return {"call": float(done.stdout.split()[0]) * 1e6}


def fresh_processes(rounds: int) -> list[Comparison]:
    """The first pair of a process, and what the plugin costs a session that does not need it."""
    with tempfile.TemporaryDirectory(prefix="netns-processes-") as directory:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            # Compiled modules are there in real life; here they leave nothing in the checkout.
            "PYTHONPYCACHEPREFIX": str(Path(directory, "bytecode")),
            # Other plugins of this environment take longer, and vary by more, than what is looked for.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return [first_pair(environment, rounds), session_cost(environment, Path(directory, "tests"), rounds)]


def first_pair(environment: dict[str, str], rounds: int) -> Comparison:
    """From nothing imported to a pair that can be used."""
    ours, theirs = in_turn(
        lambda: said_by(FIRST_PAIR, environment), lambda: said_by(IMPORT_PYROUTE2, environment), rounds
    )
    work, rival = "first pair of a fresh process, imports and helper included", "`import pyroute2` alone"
    return Comparison(work, rival, part(ours, "call"), part(theirs, "call"), (median_within(250),))


def session_cost(environment: dict[str, str], tests: Path, rounds: int) -> Comparison:
    """`pytest --collect-only` over one empty test, with the plugin and without."""
    tests.mkdir()
    (tests / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (tests / "test_empty.py").write_text("def test_empty():\n    pass\n")

    # Any -p makes pytest look through all installed packages first. A session does that once anyway, for the
    # plugins that are installed; so both sides do it here, the rival for a plugin with nothing in it.
    (tests / "empty_plugin.py").touch()

    def collect(plugin: str) -> None:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:netns", "-p", plugin]
        subprocess.run(command, check=True, cwd=tests, env=environment, stdout=subprocess.DEVNULL)

    return compare(
        "a session without netns tests, `pytest --collect-only`", "the same with an empty plugin",
        lambda: collect("pytest_netns.plugin"), lambda: collect("empty_plugin"), rounds, difference_within(5),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- the report


def resident_mb() -> int:
    """Return how much memory this process holds now: what a fork has to copy the tables of."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def machine(floor: Floor, rounds: int, pause: float) -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "date": datetime.date.today().isoformat(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "privilege": "rootless" if floor.rootless else "root",
        "rounds": rounds,
        "pause": pause,
        "order": "ours first in even rounds, the rival first in odd ones",
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help=f"at most {MOST_ROUNDS}; 100 unless told")
    # A pause shorter than the kernel's clean-up (some 0.1 s) makes every set-up run into the one before it.
    pause = "seconds before each network: 0, unless told, or 0.2 and more"
    parser.add_argument("--pause", type=float, default=0, help=pause)
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    chosen = parser.parse_args()
    if not 2 <= chosen.rounds <= MOST_ROUNDS:
        parser.error(f"--rounds must be between 2 and {MOST_ROUNDS}")
    return chosen


def main() -> None:
    """Measure, and print the table."""
    chosen = arguments()
    with running_floor() as floor:
        about = machine(floor, chosen.rounds, chosen.pause)
        rows = whole_networks(floor, chosen.rounds, chosen.pause)
        rows += inside_a_host(chosen.rounds)
        rows += fresh_processes(min(chosen.rounds, MOST_PROCESS_ROUNDS))
    print(", ".join(f"{name}: {value}" for name, value in about.items()))
    print()
    print(table(rows))
    if chosen.json:
        figures = {"machine": about, "comparisons": [as_data(row) for row in rows]}
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
