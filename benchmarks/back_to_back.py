"""What networks cost that come one after the other, without a pause: the kernel takes the earlier ones apart meanwhile.

    python benchmarks/back_to_back.py [--seconds 60] [--tests 50] [--package DIRECTORY]

First a loop of nothing but pairs that are made, pinged once and dropped, in five parts: if the last takes longer than
the first, it does not keep pace. Then sessions of so many tests that each do the same, and of as many empty ones, in
turn. ``--package`` is another checkout to measure, for a comparison.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = 5
SESSIONS = 5

WITH_A_PAIR = """
    def test(netns_pair, number):
        beijing, shanghai = netns_pair
        assert ping(beijing, shanghai)
"""
EMPTY = """
    def test(number):
        pass
"""


def turns(seconds: float) -> list[float]:
    """What each pair took, in ms, of those that fit into the time."""
    from pytest_netns import Lab, ping

    took = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        with Lab() as lab:
            beijing, shanghai = lab.pair()
            assert ping(beijing, shanghai), "the first packet got lost"
        took.append((time.perf_counter() - start) * 1e3)
    return took


def session(body: str, tests: int) -> float:
    """Seconds of a whole pytest session."""
    with tempfile.TemporaryDirectory(prefix="netns-back-to-back-") as directory:
        head = f"import pytest\nfrom pytest_netns import ping\n\n@pytest.mark.parametrize('number', range({tests}))\n"
        lines = [line.removeprefix("    ") for line in body.strip("\n").splitlines()]
        Path(directory, "test_it.py").write_text(head + "\n".join(lines) + "\n")
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tests", type=int, default=50)
    parser.add_argument("--package", type=Path, default=ROOT)
    chosen = parser.parse_args()
    package = str(chosen.package.resolve())
    sys.path.insert(0, package)
    os.environ["PYTHONPATH"] = package
    turns(0.1)
    for part in range(PARTS):
        took = turns(chosen.seconds / PARTS)
        print(
            f"part {part + 1}: {len(took)} pairs, ms each: mean {statistics.mean(took):.1f}, "
            f"median {statistics.median(took):.1f}, max {max(took):.0f}",
            flush=True,
        )
    seconds: dict[str, list[float]] = {WITH_A_PAIR: [], EMPTY: []}
    for _ in range(SESSIONS):
        for body, found in seconds.items():
            time.sleep(1)  # nobody pays for what the one before has left
            found.append(session(body, chosen.tests))
    medians = {body: statistics.median(found) for body, found in seconds.items()}
    more = (medians[WITH_A_PAIR] - medians[EMPTY]) / chosen.tests * 1e3
    print(
        f"{chosen.tests} tests with a pair: {medians[WITH_A_PAIR]:.2f} s; empty: {medians[EMPTY]:.2f} s; "
        f"for each test, the helper's start and all imports included: {more:.1f} ms"
    )


if __name__ == "__main__":
    main()
