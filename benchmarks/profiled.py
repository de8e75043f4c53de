"""One kind of work for some seconds, for a profiler to look at: a pair, a call or a ping.

    perf record -F 2000 -g -a -- python benchmarks/profiled.py pair
    perf report --children --sort sym
    py-spy record -i -F -f raw -o pair.txt -- python benchmarks/profiled.py pair

What was seen is in docs/performance.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from pytest_netns import Lab, ping

#: Rounds that do not count: imports, the helper's start, bridges that can be kept.
WARM_UP = 20
SECONDS = 6


def pair() -> None:
    """Two hosts on a bridge, made and dropped."""
    with Lab() as lab:
        lab.pair()


def main() -> None:
    """Do it, and say how long each took."""
    with Lab() as lab:
        one, other = lab.pair()
        kinds: dict[str, Callable[[], object]] = {
            "pair": pair,
            "call": lambda: one.call(int),
            "ping": lambda: ping(one, other),
        }
        work = kinds[sys.argv[1]]
        for _ in range(WARM_UP):
            work()
        count, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < SECONDS:
            work()
            count += 1
        print(f"{count} times, {took / count * 1000:.3f} ms each")


if __name__ == "__main__":
    main()
