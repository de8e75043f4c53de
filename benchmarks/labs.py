"""What a host costs in labs of 10, 100 and 1,000 hosts; in a star, beside what asks for as little as possible.

Each lab is built in a process of its own, a star in turn with its rivals: `star.c` and, for up to 100 hosts, iproute2.
Between two labs there is a pause: the kernel takes a lab apart in the background, and holds the lock that the next one
needs (RTNL) meanwhile.

    python benchmarks/labs.py SHAPE SIZE

builds one lab, and prints JSON.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from comparing import (
    OURS,
    Figures,
    Finding,
    Goal,
    Missing,
    RoundFailed,
    Sample,
    Scope,
    Side,
    Turns,
    in_turn,
    ratio_within,
)
from served import compiled, privilege

if TYPE_CHECKING:
    from pytest_netns import Host, Lab

#: Hosts, from which on the kernel needs more than a second to take a lab apart; and so long it is waited.
MANY, PAUSE, LONG_PAUSE = 500, 1, 4
#: A round of 1,000 hosts in all shapes takes a minute and more.
MOST_ROUNDS = 3
#: iproute2 takes a process for each host.
MOST_OF_IPROUTE2 = 100
FLOOR = "C floor"
MEMORY = "memory, KiB a host"
IPROUTE2 = "`ip -batch`, which waits for nothing"


# ---------------------------------------------------------------------------------------------- the shapes


def star(lab: Lab, size: int) -> list[Host]:
    """All on one bridge."""
    lan = lab.bridge("lan", "10.0.0.0/16")
    return [lab.host(f"h{number}", lan) for number in range(size)]


def chain(lab: Lab, size: int) -> list[Host]:
    """Routers in a row, one for 20 hosts; each with a bridge."""
    routers = [lab.router(f"r{number}") for number in range(max(2, size // 20))]
    for number in range(1, len(routers)):
        lab.link(routers[number - 1], routers[number])
    return _with_hosts(lab, routers, size - len(routers))


def grid(lab: Lab, size: int) -> list[Host]:
    """Routers in rows and columns, one for ten hosts; each with a bridge."""
    side = max(2, math.isqrt(size // 10))
    routers = {(x, y): lab.router(f"r{x}-{y}") for x in range(side) for y in range(side)}
    for (x, y), router in routers.items():
        for other in ((x + 1, y), (x, y + 1)):
            if other in routers:
                lab.link(router, routers[other])
    return _with_hosts(lab, list(routers.values()), size - len(routers))


def fat_tree(lab: Lab, size: int) -> list[Host]:
    """Al-Fares, Loukissas, Vahdat 2008: k pods of k / 2 routers at the edge, with hosts, and as many above them."""
    k = 2 if size < 50 else 4 if size < 500 else 8
    core = [lab.router(f"c{number}") for number in range((k // 2) ** 2)]
    edges: list[Host] = []
    for pod in range(k):
        upper = [lab.router(f"a{pod}-{number}") for number in range(k // 2)]
        lower = [lab.router(f"e{pod}-{number}") for number in range(k // 2)]
        edges += lower
        for number, router in enumerate(upper):
            for other in core[number * k // 2 : (number + 1) * k // 2]:
                lab.link(router, other)
            for other in lower:
                lab.link(router, other)
    return _with_hosts(lab, edges, size - len(core) - k * k)


def _with_hosts(lab: Lab, routers: Sequence[Host], size: int) -> list[Host]:
    bridges = []
    for number, router in enumerate(routers):
        bridges.append(lab.bridge(f"b{number}"))
        lab.connect(router, bridges[-1])
    return [lab.host(f"h{number}", bridges[number % len(bridges)]) for number in range(size)]


SHAPES = {"star": star, "chain": chain, "grid": grid, "fat-tree": fat_tree}


# ---------------------------------------------------------------------------------------------- one lab


def available_kib() -> int:
    """Memory that programs may still have, MemAvailable in proc_meminfo(5)."""
    return int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0])


def measured(shape: str, size: int) -> dict[str, float]:
    """Plan, build, use and close one lab; milliseconds, and KiB for each of its hosts and routers."""
    from pytest_netns import Lab, ping

    with Lab() as lab:  # the helper and all imports
        ping(*lab.pair())
    before = available_kib()
    start = time.perf_counter()
    lab = Lab()
    hosts = SHAPES[shape](lab, size)
    planned = time.perf_counter()
    lab.build()
    built = time.perf_counter()
    assert ping(hosts[0], hosts[-1], timeout=0.9), "the first packet got lost"
    used = before - available_kib()
    closing = time.perf_counter()
    lab.close()
    closed = time.perf_counter()
    each = len(lab.hosts)
    return {
        "whole_us": (built - start) * 1e6,
        "plan, ms a host": (planned - start) * 1000 / each,
        "build, ms a host": (built - planned) * 1000 / each,
        "close, ms a host": (closed - closing) * 1000 / each,
        MEMORY: used / each,
    }


def ours(shape: str, size: int) -> Sample:
    """Our lab, in a process of its own."""
    command = [sys.executable, __file__, shape, str(size)]
    found: Sample = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


# ---------------------------------------------------------------------------------------------- rivals of the star


def floor(program: Path, size: int) -> Sample:
    """The C floor."""
    command = [str(program), str(size), *privilege()]
    said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    if "error" in said:
        raise RoundFailed(said["error"])
    return {"whole_us": said["build_us"]}


def iproute2(directory: Path, size: int) -> Sample:
    """By ``ip -batch``, once for all and once for each host, where nobody else sees the names.

    Nothing is waited for, so the first packet may get lost.
    """
    names = [f"h{number}" for number in range(size)]
    all_of_it = ["netns add lan", *(f"netns add {name}" for name in names)]
    bridge = ["link add br0 type bridge", "link set br0 up"]
    for number, name in enumerate(names):
        bridge.append(f"link add veth-{name} type veth peer name eth0 netns /run/netns/{name}")
        bridge.append(f"link set veth-{name} master br0 up")
        address = f"{(number + 1) >> 8}.{(number + 1) & 255}"
        own = ["link set lo up", f"addr add 10.0.{address}/16 dev eth0", "link set eth0 up"]
        own.append(f"addr add fd00:10::{number + 1:x}/64 dev eth0 nodad")
        (directory / name).write_text("\n".join(own) + "\n")
    (directory / "all").write_text("\n".join(all_of_it) + "\n")
    (directory / "lan").write_text("\n".join(bridge) + "\n")
    script = "mount -t tmpfs none /run && cd $1 && date +%s%N && ip -batch all && ip -n lan -batch lan && "
    script += f"for n in $(seq 0 {size - 1}); do ip -n h$n -batch h$n; done && date +%s%N"
    command = ["unshare", "--mount", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    command += ["sh", "-ec", script, "sh", str(directory)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RoundFailed(done.stderr)
    start, end = map(int, done.stdout.split())
    return {"whole_us": (end - start) / 1000}


def stars(scope: Scope, program: Path, directory: Path, size: int) -> Iterator[Finding]:
    """One size of the star, ours and the others."""
    sides: dict[str, Side] = {OURS: lambda: ours("star", size), FLOOR: lambda: floor(program, size)}
    if shutil.which("ip") and size <= MOST_OF_IPROUTE2:
        sides[IPROUTE2] = lambda: iproute2(directory, size)
    turns = in_turn(sides, scope.at_most(MOST_ROUNDS), _pause(size), warm_up=False)
    work = f"a bridge with {size:,} hosts, planned and built"
    goals: tuple[Goal, ...] = (ratio_within(1.5),) if size >= 100 else ()
    yield turns.compared(work, FLOOR, "whole_us", *goals)
    if IPROUTE2 in sides:
        yield turns.compared(work, IPROUTE2, "whole_us")
    elif size <= MOST_OF_IPROUTE2:
        yield Missing(work, IPROUTE2, "no ip")
    yield _figures("star", size, turns)


def _figures(shape: str, size: int, turns: Turns) -> Figures:
    samples = [sample for sample in turns.samples[OURS] if sample]
    # What few hosts take is lost in what the rest of the machine takes and gives back.
    names = [name for name in samples[0] if name != "whole_us" and (size >= 100 or name != MEMORY)]
    medians = {name: statistics.median(sample[name] for sample in samples) for name in names}
    return Figures(f"{shape}, {size:,}", medians)


def _pause(size: int) -> float:
    return LONG_PAUSE if size >= MANY else PAUSE


def compared(scope: Scope) -> Iterator[Finding]:
    """Stars beside their rivals; the other shapes by themselves."""
    with compiled("star") as program, TemporaryDirectory(prefix="netns-star-") as directory:
        for size in scope.sizes:
            yield from stars(scope, program, Path(directory), size)
    for shape in SHAPES:
        for size in scope.sizes:
            if shape != "star":
                alone = {OURS: lambda shape=shape, size=size: ours(shape, size)}
                turns = in_turn(alone, scope.at_most(MOST_ROUNDS), _pause(size), warm_up=False)
                yield _figures(shape, size, turns)


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]))))
