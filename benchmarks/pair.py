"""What a pair costs: two hosts on a bridge, addresses, the first ping, the end.

Beside `floor.c`, which asks the kernel for as little as possible; beside the rivals, which do what a test needs; and
beside itself, later: pairs without a pause, while the kernel takes the earlier ones apart.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import places
from comparing import (
    OURS,
    Comparison,
    Finding,
    Goal,
    Missing,
    Sample,
    Scope,
    in_turn,
    median_within,
    p99_within,
    parts,
    ratio_within,
)
from rivals import RIVALS
from served import HERE, Served, compiled, privilege

if TYPE_CHECKING:
    from pytest_netns import Host

FLOOR = "C floor"
#: Some rivals take seconds for a pair.
MOST_WITH_RIVALS = 12
#: Seconds: nobody waits for the kernel to take apart what a rival has left.
PAUSE = 0.3
#: Pairs without a pause: for so long, and in so many parts, of which the last is compared with the first.
MINUTE = 60
SECONDS_FOR_A_ROUND = 2
PARTS = 10


@contextlib.contextmanager
def our_pair() -> Iterator[tuple[Host, Host]]:
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
    return parts(("setup", "echo", "warm_echo", "teardown"), times)


def against_the_floor(scope: Scope) -> Iterator[Finding]:
    """Set-up, first packet and end, dual stack, as both do them.

    The floor ends its bridge each time, and whoever comes next may find the kernel at that: see :func:`without_a_pause`
    for how far ours vary when they are among themselves, as in a session.
    """
    rows: tuple[tuple[str, str, tuple[Goal, ...]], ...] = (
        ("`netns_pair` set-up, warm", "setup", (ratio_within(1.5),)),
        ("its end, as the test waits for it", "teardown", (median_within(0.3),)),
        ("first `ping` after set-up, ARP included", "echo", ()),
        ("`ping`, warm, one echo", "warm_echo", ()),
    )
    with compiled("floor") as program, contextlib.closing(Served([str(program), *privilege()])) as floor:
        turns = in_turn({OURS: our_round, FLOOR: floor.round}, scope.rounds)
    for work, part, goals in rows:
        yield turns.compared(work, FLOOR, part, *goals)


def without_a_pause(scope: Scope) -> Iterator[Comparison]:
    """Pairs one after the other, a minute long: if the last ones take longer than the first, it does not keep pace."""
    seconds = min(MINUTE, SECONDS_FOR_A_ROUND * scope.rounds)
    rounds, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        rounds.append(our_round())
    set_up = [sample["setup"] for sample in rounds]
    whole = [sum(sample.values()) for sample in rounds]
    some = len(rounds) // PARTS
    often = f"in {seconds:g} s without a pause"
    yield Comparison(f"a pair, start to end, {often}: the last tenth", "the first tenth", whole[-some:], whole[:some])
    yield Comparison(f"`netns_pair` set-up, warm, {often}", "the one before", set_up[1:], set_up[:-1], (p99_within(5),))


def compared(scope: Scope) -> Iterator[Finding]:
    """All but the rivals."""
    yield from against_the_floor(scope)
    yield from without_a_pause(scope)


UNTIL_PINGED = "two hosts on a bridge, until the first ping is answered"
END = "their end, as the test waits for it"


def compared_with_rivals(scope: Scope) -> Iterator[Finding]:
    """The same work by others; each pings in its own way, and all in the same rounds."""
    _, missing = places.prepared()
    with TemporaryDirectory(prefix="netns-rivals-") as temporary, contextlib.ExitStack() as running:
        sides = {OURS: _until_pinged}
        for name in RIVALS:
            if name not in missing:
                command = places.apart([str(places.PYTHON), str(HERE / "rivals.py"), name])
                served = Served(command, places.environment(Path(temporary)))
                running.callback(served.close)
                sides[name] = lambda served=served: _joined(served.round())  # type: ignore[misc]
        turns = in_turn(sides, scope.at_most(MOST_WITH_RIVALS), PAUSE)
    for work, part in ((UNTIL_PINGED, "pinged"), (END, "teardown")):
        for name in RIVALS:
            yield Missing(work, name, missing[name]) if name in missing else turns.compared(work, name, part)


def _until_pinged() -> Sample:
    return _joined(our_round())


def _joined(sample: Sample) -> Sample:
    return {"pinged": sample["setup"] + sample["echo"], "teardown": sample["teardown"]}
