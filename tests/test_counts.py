"""What a network costs, counted: exact, on a machine however busy. Whoever adds a round trip meets these numbers."""

from __future__ import annotations

import collections
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from counting import Counted
from programs import program

from pytest_netns import Lab, PairFactory

pytestmark = [pytest.mark.once, pytest.mark.netns(requires=["ipv6"])]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    counter = Counted(monkeypatch)
    yield counter
    assert counter.listening == 0


@pytest.mark.parametrize(
    ("keywords", "sends", "messages"),
    [
        # In the bridge's namespace: the bridge and two veth pairs; later the bridge and two ports read. In each host:
        # the loopback interface and eth0 up, eth0 read, an IPv4 and an IPv6 address.
        ({}, 4, 3 + 3 + 2 * 5),
        # In one host: the veth pair.
        ({"bridge": False}, 3, 1 + 2 * 5),
    ],
)
def test_what_a_pair_asks_for(
    counted: Counted, netns_pair_factory: PairFactory, keywords: dict[str, bool], sends: int, messages: int
) -> None:
    """All of a namespace in one send, and all namespaces in one request to the helper."""
    with netns_pair_factory(**keywords) as (first, _):
        first.run(["true"])  # from here on there may be somebody in a host
    counted.take()
    with netns_pair_factory(**keywords):
        assert counted.take() == (sends, messages, ["namespaces"])
    assert counted.take() == (0, 0, ["end"])


def test_each_host_more_costs_the_same(counted: Counted) -> None:
    """What is sent for a star grows by as much from 64 to 128 hosts as from 128 to 192.

    And few sockets listen at a time: the kernel looks at each of them with every announcement, in any namespace.
    """
    figures = []
    for size in (64, 128, 192):
        with Lab() as lab:
            lan = lab.bridge("lan")
            for number in range(size):
                lab.host(f"h{number}", lan)
            counted.take()
            lab.build()
            figures.append(counted.take())
    for before, after in itertools.pairwise(figures):
        # For a host a send of 5 messages, a veth pair, and a port read; the last two go 32 to a send.
        assert after[0] - before[0] == 64 + 2 + 2
        assert after[1] - before[1] == 64 * (5 + 1 + 1)
        assert after[2] == [*before[2], "namespaces"]
    assert counted.most_listening <= 32


WARM_AND_COUNTED = """
import os, sys
from pytest_netns import Lab
sys.path.insert(0, sys.argv[1])
from quarantine import Peephole
for mark, bridge in (("/warming", "br1"), ("/counted", "br0"), ("/again", "br0")):
    lab = Lab()
    os.access(mark, 0)
    pair = lab.pair(bridge=bridge)
    os.access("/built", 0)
    pair.hosts[0].namespace.broker.request("drain")
    os.access("/ready for more", 0)
    peephole = Peephole(pair.bridge)
    os.access("/closing", 0)
    lab.close()
    os.access("/closed", 0)
    pair.hosts[0].namespace.broker.request("drain")
    os.access("/heard", 0)
    peephole.wait_until_alone()
"""
#: What asks somebody else for something, or waits in any other way than for what comes by itself.
CALLS = "socket,sendto,sendmsg,recvmsg,setsockopt,unshare,setns,clone,clone3,fork,vfork,execve,mount,wait4,fsync"


def test_the_system_calls_of_a_pair(tmp_path: Path) -> None:
    """Those of the test process, and those of the helper for it; with a new bridge, and with one that was kept.

    The hosts' namespaces are there already: the helper makes others when it has answered.
    """
    trace = tmp_path / "trace"
    command = [program("strace"), "-f", "-qq", "-o", str(trace), "-e", f"trace={CALLS},access,faccessat2"]
    subprocess.run([*command, sys.executable, "-c", WARM_AND_COUNTED, str(Path(__file__).parent)], check=True)
    text = trace.read_text()
    # To the helper; to three namespaces, the bridge's twice. Two sockets listen for a while.
    ours = {"sendto": 1 + 4, "recvmsg": 1, "setsockopt": 4}
    assert collections.Counter(_between(text, "/counted", "/built")[0]) == ours
    assert collections.Counter(_between(text, "/again", "/built")[0]) == ours
    new = ["unshare", "socket"]  # that speaks rtnetlink
    # The answer is in two parts; between them ours are closed.
    answer, prepared, asked_again = ["sendmsg", "sendto"], [*new, *new, "setns"], ["recvmsg", "sendto"]
    helpers = ["recvmsg", *new, "setns", *answer, *prepared, *asked_again]
    assert _between(text, "/counted", "/ready for more")[1] == helpers
    # Into the bridge's namespace instead, to see who is there; it is switched off and read in one send.
    helpers = ["recvmsg", "setns", "socket", "sendto", "setns", *answer, *prepared, *asked_again]
    assert _between(text, "/again", "/ready for more")[1] == helpers
    # The bridge's namespace is for the helper to keep. Where nobody has been, nobody is looked for.
    assert _between(text, "/closing", "/closed")[0] == ["sendmsg"]
    assert _between(text, "/closing", "/heard")[1] == ["recvmsg", *asked_again]


def _between(trace: str, first: str, last: str) -> list[list[str]]:
    """The calls that were begun between two marks: by the process that has set them, by the others."""
    lines = re.findall(r"^(\d+) +(\w+)\((.*)$", trace, re.MULTILINE)
    start = max(number for number, (_, _, rest) in enumerate(lines) if f'"{first}"' in rest)
    end = next(number for number in range(start, len(lines)) if f'"{last}"' in lines[number][2])
    own = lines[start][0]
    found: list[list[str]] = [[], []]
    for pid, call, _ in lines[start + 1 : end]:
        found[pid != own].append(call)
    return found
