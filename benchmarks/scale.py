"""What a host costs in labs of 10, 100 and 1,000 hosts; in a star, beside what asks for as little as possible.

    python benchmarks/scale.py [--rounds N] [--sizes 10,100,1000] [--shapes star,chain,grid,fat-tree] [--json FILE]

Each lab is built in a process of its own, all sizes and shapes in turn in each round, and with each star its rivals:
`star.c`, next to this file, compiled with `cc`, and, for up to 100 hosts, iproute2. Who is first alternates. Between
two labs there is a pause: the kernel takes a lab apart in the background, and holds the lock that the next one needs
(RTNL) meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_netns import Host, Lab

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout that this file is part of, whatever else is installed

#: Seconds; the kernel needs one or two for 1,000 hosts.
PAUSE = 4
#: iproute2 takes a process for each host.
MOST_OF_IPROUTE2 = 100


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
    """Plan, build, use and close one lab; milliseconds and KiB for each of its hosts and routers."""
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
        "plan_ms": (planned - start) * 1000 / each,
        "build_ms": (built - planned) * 1000 / each,
        "close_ms": (closed - closing) * 1000 / each,
        "memory_kib": used / each,
    }


# ---------------------------------------------------------------------------------------------- rivals of the star


def compiled(directory: Path) -> Path:
    """Compile the floor."""
    program = directory / "star"
    subprocess.run(["cc", "-O2", "-o", program, ROOT / "benchmarks" / "star.c"], check=True)
    return program


def floor(program: Path, size: int) -> float:
    """The C floor; milliseconds for the whole star."""
    command = [program, str(size), *([] if os.geteuid() == 0 else ["--userns"])]
    said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout)
    if "error" in said:
        raise RuntimeError(said["error"])
    return float(said["build_us"]) / 1000


def iproute2(directory: Path, size: int) -> float:
    """By ``ip -batch``, once for all and once for each host, where nobody else sees the names; milliseconds.

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
    done = subprocess.run([*command, "sh", "-ec", script, "sh", directory], check=True, stdout=subprocess.PIPE)
    start, end = map(int, done.stdout.split())
    return (end - start) / 1e6


def ours(shape: str, size: int) -> dict[str, float]:
    """Our lab, in a process of its own."""
    command = [sys.executable, __file__, "--one", shape, str(size)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


class Found:
    """What has been measured so far."""

    def __init__(self, floor: Path) -> None:
        self._floor = floor
        #: By shape and size, of each round.
        self.labs: dict[str, dict[str, list[dict[str, float]]]] = {}
        #: Of stars, by size and side, of each round: milliseconds for the whole.
        self.stars: dict[int, dict[str, list[float]]] = {}

    def measure(self, shape: str, size: int, number: int) -> None:
        """Build one lab, and its rivals, the first one last in every second round."""
        sides: list[Callable[[str, int], None]] = [self._ours]
        if shape == "star":
            sides.append(self._by_floor)
            if shutil.which("ip") and size <= MOST_OF_IPROUTE2:
                sides.append(self._by_iproute2)
        for side in sides if number % 2 == 0 else sides[::-1]:
            time.sleep(PAUSE)
            side(shape, size)

    def _ours(self, shape: str, size: int) -> None:
        said = ours(shape, size)
        self.labs.setdefault(shape, {}).setdefault(str(size), []).append(said)
        if shape == "star":
            self._note(size, "ours", (said["plan_ms"] + said["build_ms"]) * size)

    def _by_floor(self, _: str, size: int) -> None:
        self._note(size, "floor", floor(self._floor, size))

    def _by_iproute2(self, _: str, size: int) -> None:
        self._note(size, "ip", iproute2(self._floor.parent, size))

    def _note(self, size: int, side: str, took: float) -> None:
        self.stars.setdefault(size, {}).setdefault(side, []).append(took)


# ---------------------------------------------------------------------------------------------- the report


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """Write the medians as a Markdown table."""
    lines = [
        "| lab | hosts | plan, ms a host | build, ms a host | close, ms a host | memory, KiB a host |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for shape, sizes in figures.items():
        for size, f in sizes.items():
            lines.append(
                f"| {shape} | {size} | {f['plan_ms']:.2f} | {f['build_ms']:.2f} | {f['close_ms']:.3f} "
                f"| {f['memory_kib']:.0f} |"
            )
    return "\n".join(lines)


def rival_table(stars: dict[int, dict[str, list[float]]]) -> str:
    """Write what a star takes, plan and all, beside its rivals, as a Markdown table."""
    lines = ["| star of | ours, ms | C floor, ms | ours / floor | `ip -batch`, ms |", "| --- | --- | --- | --- | --- |"]
    for size, sides in stars.items():
        ratio = statistics.median(one / other for one, other in zip(sides["ours"], sides["floor"], strict=True))
        middle = {side: f"{statistics.median(took):.0f}" for side, took in sides.items()}
        lines.append(f"| {size} | {middle['ours']} | {middle['floor']} | {ratio:.2f} | {middle.get('ip', '')} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=lambda text: [int(word) for word in text.split(",")], default=[10, 100, 1000])
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=list(SHAPES))
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measured(chosen.one[0], int(chosen.one[1]))))
        return
    about = f"{datetime.date.today().isoformat()}, Linux {platform.release()}, Python {platform.python_version()}"
    with tempfile.TemporaryDirectory(prefix="netns-star-") as directory:
        found = Found(compiled(Path(directory)))
        for number in range(chosen.rounds):
            for size in chosen.sizes:
                for shape in chosen.shapes:
                    found.measure(shape, size, number)
    medians = {
        shape: {
            size: {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
            for size, rounds in sizes.items()
        }
        for shape, sizes in found.labs.items()
    }
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{about}, {os.cpu_count()} processors, {chosen.rounds} rounds, load at the end {load}\n")
    print(table(medians))
    if found.stars:
        print(f"\n{rival_table(found.stars)}")
    if chosen.json:
        chosen.json.write_text(
            json.dumps({"about": about, "load": load, "figures": found.labs, "stars": found.stars}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
