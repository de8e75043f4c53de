"""Bridges that labs are done with are kept for later labs, which cannot tell, and hear nothing of the earlier ones."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fresh import OF_DRIVERS
from pace import seconds
from quarantine import MULTICAST, Peephole, bridge_of, inode

from pytest_netns import Bridge, Host, Lab, _requests, ping
from pytest_netns._netlink import Netlink
from pytest_netns._plan import NOTHING, Plan, add_end, add_node, add_segment
from pytest_netns._pool import _MOST_ALIKE, Pool
from pytest_netns._steps import steps

pytestmark = pytest.mark.kernel

PATIENT = seconds(20)
#: For experiments (IEEE 802), which no host sends by itself.
ETHERTYPE = 0x88B5


_numbers = itertools.count(1)
_name = ""
_labs: list[Lab] = []


@pytest.fixture(autouse=True)
def own_name() -> Iterator[None]:
    """Bridges are kept by name, too: what one test leaves is none of another's, nor of another file's."""
    global _name  # noqa: PLW0603 - for one test
    _name = f"kept{next(_numbers)}"
    yield
    while _labs:
        _labs.pop().close()


def pair(**words: Any) -> tuple[Lab, Host, Host]:
    """Two hosts on a bridge, of a lab that has been made."""
    lab = Lab()
    _labs.append(lab)
    lan = lab.bridge(_name, **words)
    hosts = lab.host("a", lan), lab.host("b", lan)
    lab.build()
    return lab, *hosts


def wait_until_another_would_get_it(lab: Lab) -> int:
    """Close a lab, wait until its bridge has no port, and return what that was in."""
    number = inode(lab)
    with Peephole(bridge_of(lab)) as peephole:
        lab.close()
        peephole.wait_until_alone()
    return number


def test_it_comes_back_as_new() -> None:
    """Options, ports, addresses, what it has learned, who listens to which group, who asks for that, and counts."""
    reference, *_ = pair()
    as_new = described(bridge_of(reference))
    wait_until_another_would_get_it(reference)  # the next does, so that there is one of this name only
    lab, a, b = pair(subnet="10.7.7.0/24")
    lab_number = inode(lab)
    with Peephole(bridge_of(lab)) as peephole:
        with contextlib.ExitStack() as used:
            listener = used.enter_context(b.socket(socket.AF_INET, socket.SOCK_DGRAM))
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, GROUP + socket.inet_aton(str(b.ip)))
            sender = used.enter_context(on_wire(a))
            for _ in range(300):
                sender.send(frame(0))
            sender.send(QUERY)
            assert ping(a, b, timeout=PATIENT)
            # All of it can be seen while the lab is there.
            peephole.wait_until(lambda: GROUP in peephole.multicast(), MULTICAST)
        assert STRANGER in peephole.learned()
        assert QUERIER in peephole.links()
        lab.close()
        peephole.wait_until_alone()
        assert STRANGER not in peephole.learned()
        assert GROUP not in peephole.multicast()
    lab, a, b = pair()
    assert inode(lab) == lab_number
    with Peephole(bridge_of(lab)) as peephole:
        assert QUERIER not in peephole.links()
    lan = bridge_of(lab)
    assert lan.state.rx_packets < 200
    for what, shown in described(lan).items():
        assert shown == as_new[what]
    assert set(lan.learned) <= {a.interfaces["eth0"].mac, b.interfaces["eth0"].mac}
    assert ping(a, b, timeout=PATIENT)
    lab.close()


def described(lan: Bridge) -> dict[str, Any]:
    """All that programs show of it, but for what tells of time, and what comes by itself from hosts that wake up."""
    with Peephole(lan) as peephole:
        peephole.wait_until_up()
    shown = {}
    for command in (
        "ip -d -j link",
        "ip -j addr",
        "bridge -d -j link",
        "bridge -j fdb show",
        "ip -j route show table all",
    ):
        answer = lan.run(command.split(), capture_output=True, text=True, check=True, timeout=PATIENT).stdout
        shown[command] = [
            each for each in json.loads(answer, object_hook=_timeless) if each.get("ifname") not in OF_DRIVERS
        ]
    shown["bridge -j fdb show"] = [each for each in shown["bridge -j fdb show"] if each["state"] == "permanent"]
    settings = lan.run(
        ["sh", "-c", "cd /proc/sys/net; grep -r . ipv4 ipv6 bridge netfilter 2>/dev/null | sort"],
        capture_output=True,
        text=True,
        timeout=PATIENT,
        check=False,
    ).stdout
    assert f"ipv4/conf/{_name}/forwarding" in settings
    shown["settings"] = [line for line in settings.splitlines() if OF_DRIVERS.isdisjoint(line.split("/"))]
    return shown


def _timeless(data: dict[str, Any]) -> dict[str, Any]:
    # How many addresses and groups it knows by now is told by later versions of iproute2.
    counts = ("fdb_n_learned", "mcast_n_groups")
    return {word: value for word, value in data.items() if not word.endswith("_timer") and word not in counts}


GROUP, QUERIER, STRANGER = socket.inet_aton("239.1.2.3"), socket.inet_aton("10.7.7.77"), bytes.fromhex("027777777777")


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


def query() -> bytes:
    """A frame in which 10.7.7.77 asks who listens to which group, at once (IGMPv2, RFC 2236; RFC 2113)."""
    igmp = b"\x11\x01" + checksum(b"\x11\x01" + bytes(6)) + bytes(4)
    start, end = b"\x46\xc0" + struct.pack("!HIBB", 32, 0, 1, 2), QUERIER + b"\xe0\0\0\1\x94\4\0\0"
    return b"\1\0\x5e\0\0\1" + STRANGER + b"\x08\0" + start + checksum(start + b"\0\0" + end) + end + igmp


QUERY = query()


def frame(number: int) -> bytes:
    """To all; says the number of its lab."""
    return b"\xff" * 6 + STRANGER + struct.pack("!HI", ETHERTYPE, number) + bytes(40)


def on_wire(place: Host | Bridge, interface: str = "eth0", kind: int = 0) -> socket.socket:
    """A socket that sends frames there, and sees those of a kind."""
    found = place.socket(socket.AF_PACKET, socket.SOCK_RAW)
    found.bind((interface, kind))
    found.setblocking(False)
    return found


def heard(capture: socket.socket) -> set[int]:
    """The numbers of the labs whose frames are in a capture."""
    numbers = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            numbers.add(struct.unpack_from("!I", capture.recv(2000), 14)[0])
    return numbers


class Flood:
    """Sends frames from hosts as fast as it can, whatever becomes of their labs, until it is over."""

    def __init__(self) -> None:
        self.senders: list[tuple[int, socket.socket]] = []
        self.rounds = 0
        self._turn = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        while not self._over:
            with self._turn:
                for number, sender in self.senders:
                    with contextlib.suppress(OSError):
                        sender.send(frame(number))
                self.rounds += 1
                self._turn.notify_all()
            time.sleep(0)

    def wait(self, rounds: int = 20) -> None:
        """Until each has sent so many frames more."""
        with self._turn:
            wanted = self.rounds + rounds
            assert self._turn.wait_for(lambda: self.rounds >= wanted, PATIENT)

    def end(self, number: int) -> None:
        """Of one host."""
        with self._turn:
            for each in [each for each in self.senders if each[0] == number]:
                self.senders.remove(each)
                each[1].close()

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        for each in self.senders:
            each[1].close()


def test_no_frame_of_an_earlier_lab_is_heard() -> None:
    """A host of a closed lab that something keeps alive goes on sending, to all: nobody hears it, on no interface."""
    with Flood() as flood:
        lab, a, b = pair()
        flood.senders.append((1, on_wire(a)))
        with on_wire(b, kind=ETHERTYPE) as capture:
            flood.wait()
            assert heard(capture) == {1}
        first = inode(lab)
        peephole = Peephole(bridge_of(lab))
        lab.close()
        # In its lab's bridge, which has a port left, it is heard no less now; nobody else gets that bridge.
        assert heard_by_three(flood, 2) == {2}
        assert b"veth-a\0" in peephole.links()
        with peephole:
            flood.end(1)
            peephole.wait_until_alone()
        # Now somebody does get it, and soon after its last frame.
        lab, *_ = pair()
        assert inode(lab) == first
        lab.close()
        assert heard_by_three(flood, 3) == {3}


def heard_by_three(flood: Flood, number: int) -> set[int]:
    """What is heard, in a lab of its own that floods, too, by both hosts and by the bridge."""
    lab, a, b = pair()
    try:
        captures = [on_wire(place, name, ETHERTYPE) for place, name in ((a, "eth0"), (b, "eth0"))]
        captures.append(on_wire(bridge_of(lab), _name, ETHERTYPE))
        flood.wait()  # of the others
        with flood._turn:
            flood.senders.append((number, on_wire(a)))
        flood.wait()
        found = [heard(capture) for capture in captures]
        for capture in captures:
            capture.close()
        flood.end(number)
    finally:
        lab.close()
    return set().union(*found)


@pytest.mark.once
def test_labs_one_after_the_other_hear_themselves_only() -> None:
    """Without a pause between them, and with hosts that flood on while the next three labs are there."""
    inodes = []
    with Flood() as flood:
        for number in range(1, 41):
            lab, a, b = pair()
            inodes.append(inode(lab))
            with on_wire(b, kind=ETHERTYPE) as capture:
                with flood._turn:
                    flood.senders.append((number, on_wire(a)))
                flood.wait(5)
                assert heard(capture) == {number}
            lab.close()
            flood.end(number - 3)
    assert len(set(inodes)) < len(inodes), "none came back"


def use_in_a_child(lab: Lab) -> None:
    lab["a"].call(bridge_of(lab).sysctl, "ipv4.ip_forward", 1)


def use_from_a_host(lab: Lab) -> None:
    lab["a"].call(make_elsewhere)


def make_elsewhere() -> None:
    """An interface where the other end of eth0 is: a host has a number for that, rtnetlink(7) IFLA_LINK_NETNSID."""
    told = subprocess.run(["ip", "-j", "link", "show", "eth0"], capture_output=True, check=True, timeout=PATIENT).stdout
    info = _requests._attribute(_requests._IFLA_LINKINFO, _requests._text(_requests._KIND, "bridge"))
    target = _requests._number(46, json.loads(told)[0]["link_netnsid"])  # IFLA_TARGET_NETNSID, linux/if_link.h
    name = _requests._text(_requests._IFLA_IFNAME, "other")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as own:
        netlink = Netlink(os.dup(own.fileno()))
    netlink.batch(
        [_requests.Request(_requests._link(16, 0x600, 0, target, name, info), "create an interface elsewhere")]
    )
    netlink.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda lab: bridge_of(lab).socket().close(),
        lambda lab: bridge_of(lab).run(["ip", "link", "set", _name, "type", "bridge", "ageing_time", "500"]),
        lambda lab: bridge_of(lab).namespace.fileno(),
        lambda lab: lab["a"]["eth0"].down(),
        lambda lab: lab.host("late", bridge_of(lab)),
        use_in_a_child,
        use_from_a_host,
    ],
    ids=["socket", "program", "descriptor", "port", "host", "child", "from a host"],
)
def test_one_that_others_had_to_do_with_is_kept_for_nobody(use: Callable[[Lab], object]) -> None:
    """It may be another, or somebody may listen in it still; the test process and its children alike."""
    lab, *_ = pair()
    number = wait_until_another_would_get_it(lab)
    lab, *_ = pair()
    assert inode(lab) == number
    use(lab)
    with Peephole(bridge_of(lab)) as peephole:  # keeps it alive: the number of one that is gone may be given again
        lab.close()
        peephole.wait_until_alone()
        lab, *_ = pair()
        assert inode(lab) != number
    lab.close()


#: Whether namespaces hold no interfaces of drivers, and the machine alone does.
ONLY_ON_THE_MACHINE = Path("/proc/sys/net/core/fb_tunnels_only_for_init_net")


@pytest.mark.skipif(
    ONLY_ON_THE_MACHINE.exists() and ONLY_ON_THE_MACHINE.read_text() != "0\n", reason="they are on the machine only"
)
@pytest.mark.netns(requires=["sit"])
def test_drivers_with_interfaces_everywhere_are_no_hindrance() -> None:
    """With the driver that this requires, every namespace holds sit0, and it is no port."""
    lab, *_ = pair()
    with Peephole(bridge_of(lab)) as peephole:
        assert b"sit0\0" in peephole.links()
    number = wait_until_another_would_get_it(lab)
    lab, *_ = pair()
    assert inode(lab) == number
    lab.close()


def test_only_plain_ones_with_ports_are_kept() -> None:
    """Of one that differs, more may be different later; and with many ports it is switched on last."""
    plan = add_segment(NOTHING, "lan")
    assert not steps(NOTHING, plan).like
    assert set(steps(NOTHING, with_hosts(plan, 32)).like) == {"lan"}
    assert not steps(NOTHING, with_hosts(plan, 33)).like
    for words in ({"mtu": 1400}, {"stp": True}, {"vlan_filtering": True}):
        assert not steps(NOTHING, with_hosts(add_segment(NOTHING, "lan", **words), 2)).like


def with_hosts(plan: Plan, count: int) -> Plan:
    """So many on its bridge."""
    for number in range(count):
        plan = add_end(add_node(plan, f"h{number}"), f"h{number}", "lan")
    return plan


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # xdist has a thread
def test_a_fork_gives_nothing_away() -> None:
    """A child that closes a lab of its parent's closes its own copy: the bridge stays the parent's."""
    lab, *hosts = pair()
    number = inode(lab)
    with Peephole(bridge_of(lab)) as peephole:
        child = os.fork()
        if child == 0:
            try:
                lab.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        lab.remove(*hosts)
        peephole.wait_until_alone()
    other, *_ = pair()
    assert inode(other) != number
    other.close()
    lab.close()


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    made = [os.memfd_create(f"{number}") for number in range(4 * _MOST_ALIKE)]
    yield made
    for fd in made:
        os.close(fd)


def test_there_is_a_bound(descriptors: list[int]) -> None:
    """Of a kind and of all; what is not kept is let go, and so is everything when the machine is out of something."""
    pool = Pool()
    before = len(os.listdir("/proc/self/fd"))
    for place, fd in enumerate(descriptors):
        pool.keep(b"never seen", fd)
        pool.add(fd)
        pool.keep(b"%d" % (place // 2 // _MOST_ALIKE), fd)
        pool.keep(b"twice", fd)
    held = len(os.listdir("/proc/self/fd")) - before
    assert held == len(pool.kept) == 2 * _MOST_ALIKE
    assert {kind for kind, _ in pool.kept} == {b"0", b"1"}
    pool.add(descriptors[0])
    pool.touch(descriptors[0])
    pool.keep(b"2", descriptors[0])
    assert not any(kind == b"2" for kind, _ in pool.kept)
    pool.clear()
    assert len(os.listdir("/proc/self/fd")) == before
