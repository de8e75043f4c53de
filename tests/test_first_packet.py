"""When a fixture hands over a pair, the first packet gets through: many set-ups, one echo each, none lost.

100 set-ups by default; ``NETNS_SETUPS=2000 pytest tests/test_first_packet.py`` for the campaign. They are
spread over the twelve kinds of set-up.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from pace import seconds

from pytest_netns import Lab, ping

pytestmark = pytest.mark.kernel

SETUPS = int(os.environ.get("NETNS_SETUPS", "100"))
#: What is not ready drops the first packet, and ARP or neighbour discovery asks again after a second. An echo
#: that comes by such a second try is a lost first packet, so less than that is waited.
LOST_AFTER = min(0.9, seconds(0.5))
#: A few at a time live together, as the networks of a module and of a test do.
KEPT = 4


@contextlib.contextmanager
def _every_processor_busy() -> Iterator[None]:
    """One process for each processor that does nothing but calculate, and ends with us."""
    program = "import select\nwhile not select.select([0], [], [], 0)[0]:\n    sum(range(100000))\n"
    burners = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE)
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.communicate()


@contextlib.contextmanager
def _kernel_busy() -> Iterator[None]:
    """Others make and delete bridges all the time, each with the kernel's one lock for interfaces (RTNL) held.

    What makes our interfaces ready waits in the queue for it. Without that it is soon done, and mostly before the first
    packet is sent, whether that was waited for or not. Bridges and ports, since the end of each waits for RCU with the
    lock held (br_multicast_dev_del, netdev_rx_handler_unregister); with pairs of veth alone it is free most of the
    time.
    """
    # ip(8) remembers the index of "one" for the whole batch.
    lines = [
        "link add one index 99 group 7 type bridge",
        "link add two group 7 master one type veth peer name three",
        "link add four group 7 master one type veth peer name five",
        "link del group 7",
    ]
    work = "while :; do echo '" + "\n".join(lines) + "'; done | ip -batch -"
    with Lab() as lab:
        hosts = [lab.host(f"busy{number}") for number in range(8)]
        programs = [host.popen(["sh", "-c", work], stdin=subprocess.DEVNULL) for host in hosts]
        try:
            yield
        finally:
            lab.close()
            for program in programs:
                program.wait(seconds(20))


LOADS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "idle": contextlib.nullcontext,
    "loaded": _every_processor_busy,
    "kernel": _kernel_busy,
}


@pytest.mark.timeout(seconds(max(120, SETUPS)))
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("bridge", ["br0", False], ids=["bridge", "direct"])
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_the_first_packet_gets_through(family: str, bridge: str | bool, load: str) -> None:
    """The first packet of every new pair is answered, over both families, with processors or the kernel busy, too."""
    lost = []
    with LOADS[load]():
        kept: list[Lab] = []
        for number in range(max(1, SETUPS // 12)):
            # With both families, waiting for the one hides what the other needs.
            alone = {"subnet6" if family == "IPv4" else "subnet": None} if number % 4 < 2 else {}
            kept.append(Lab())
            pair = kept[-1].pair(bridge=bridge, **alone)
            # In turn from either side: the ends of a veth pair become ready in different ways.
            source, target = pair.hosts if number % 2 else pair.hosts[::-1]
            address = target.ip if family == "IPv4" else target.ip6
            assert address is not None
            result = ping(source, address, timeout=LOST_AFTER)
            if not result:
                lost.append((number, result))
            if len(kept) > KEPT:
                kept.pop(0).close()
        for lab in kept:
            lab.close()
    assert lost == []
