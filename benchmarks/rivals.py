"""The other ways to have two hosts on a bridge for a test, each as its own documentation does it.

    python benchmarks/rivals.py NAME

does a round for each line of its input: two hosts, a bridge, addresses, one ping from host to host, the end; it prints
a JSON object with microseconds for each part, or with an error. `pair.py` runs it so, and `sessions.py` takes the same
functions as fixtures. Both do it in the virtual environment of `places.py`, and in namespaces of its own, so that what
a rival leaves is gone with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comparing import parts

Ping = Callable[[], object]
"""Pings once from the first host to the second; raises if nothing comes back."""
Rival = Callable[[], contextlib.AbstractContextManager[Ping]]

PING = ["ping", "-n", "-c1", "10.0.0.2"]
CLONE_NEWNET = 0x40000000
#: In the second half of the commands of iproute2: what is to be done in each host.
ADDRESSES = {"h1": "10.0.0.1/24", "h2": "10.0.0.2/24"}
#: A namespace that is deleted keeps its veth for a while, and so the name of the other end is taken for the next test.
END = ("link del veth-h1", "link del veth-h2", "netns del h1", "netns del h2", "link del br0")


def _silently(command: list[str], **options: Any) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)


# ---------------------------------------------------------------------------------------------- iproute2


@contextlib.contextmanager
def ip_script() -> Iterator[Ping]:
    """One `ip` for each step, as in most tutorials."""
    steps = ["netns add h1", "netns add h2", "link add br0 type bridge", "link set br0 up"]
    for host, address in ADDRESSES.items():
        steps += [
            f"link add eth0-{host} type veth peer name veth-{host}",
            f"link set veth-{host} master br0",
            f"link set veth-{host} up",
            f"link set eth0-{host} netns {host}",
            f"-n {host} link set lo up",
            f"-n {host} link set eth0-{host} up",
            f"-n {host} addr add {address} dev eth0-{host}",
        ]
    for step in steps:
        _silently(["ip", *step.split()])
    yield lambda: _silently(["ip", "netns", "exec", "h1", *PING])
    for step in END:
        _silently(["ip", *step.split()])


@contextlib.contextmanager
def ip_batch() -> Iterator[Ping]:
    """`ip -batch` once for the bridge and once for each host; each veth end is made where it is to be."""
    outside = ["netns add h1", "netns add h2", "link add br0 type bridge", "link set br0 up"]
    outside += [f"link add veth-{host} up master br0 type veth peer name eth0 netns {host}" for host in ADDRESSES]
    _silently(["ip", "-batch", "-"], input="\n".join(outside), text=True)
    for host, address in ADDRESSES.items():
        inside = ["link set lo up", f"addr add {address} dev eth0", "link set eth0 up"]
        _silently(["ip", "-n", host, "-batch", "-"], input="\n".join(inside), text=True)
    # Asking for a link's state settles it (Linux 6.8 and later): without, every third first packet waits for a second.
    _silently(["ip", "link"])
    yield lambda: _silently(["ip", "netns", "exec", "h1", *PING])
    _silently(["ip", "-batch", "-"], input="\n".join(END), text=True)


# ---------------------------------------------------------------------------------------------- pyroute2


@contextlib.contextmanager
def pyroute2_naive() -> Iterator[Ping]:
    """Named namespaces, interfaces that are made and then moved, `NetNS` for each host."""
    from pyroute2 import IPRoute, NetNS, netns

    with IPRoute() as outside:
        outside.link("add", ifname="br0", kind="bridge", state="up")
        bridge = outside.link_lookup(ifname="br0")[0]
        for host, address in ADDRESSES.items():
            netns.create(host)
            outside.link("add", ifname=f"veth-{host}", kind="veth", peer=f"eth0-{host}")
            near, far = (outside.link_lookup(ifname=f"{end}-{host}")[0] for end in ("veth", "eth0"))
            outside.link("set", index=near, master=bridge, state="up")
            outside.link("set", index=far, net_ns_fd=host)
            with NetNS(host) as inside:
                inside.link("set", index=inside.link_lookup(ifname="lo")[0], state="up")
                index = inside.link_lookup(ifname=f"eth0-{host}")[0]
                where, _, bits = address.partition("/")
                inside.addr("add", index=index, address=where, prefixlen=int(bits))
                inside.link("set", index=index, state="up")
        yield lambda: _silently(["ip", "netns", "exec", "h1", *PING])
        for host in ADDRESSES:
            outside.link("del", ifname=f"veth-{host}")
            netns.remove(host)
        outside.link("del", index=bridge)


@contextlib.contextmanager
def pyroute2_well() -> Iterator[Ping]:
    """Nameless namespaces, a socket opened in each, interfaces made where they are to be, indexes that are known."""
    from pyroute2 import IPRoute

    with contextlib.ExitStack() as undo:

        def opened(path: str) -> int:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, fd)
            return fd

        home = opened("/proc/thread-self/ns/net")

        def new_namespace() -> tuple[int, Any]:
            _checked(_libc.unshare(CLONE_NEWNET))
            try:
                return opened("/proc/thread-self/ns/net"), undo.enter_context(IPRoute())
            finally:
                _checked(_libc.setns(home, CLONE_NEWNET))

        _, switch = new_namespace()
        switch.link("add", ifname="br0", kind="bridge", index=1000, state="up")
        hosts = [new_namespace() for _ in ADDRESSES]
        for number, ((fd, inside), address) in enumerate(zip(hosts, ADDRESSES.values(), strict=True)):
            peer = {"ifname": "eth0", "net_ns_fd": fd}
            near = 1001 + number
            switch.link("add", ifname=f"veth{number}", kind="veth", index=near, master=1000, state="up", peer=peer)
            far = inside.link_lookup(ifname="eth0")[0]
            where, _, bits = address.partition("/")
            inside.addr("add", index=far, address=where, prefixlen=int(bits))
            inside.link("set", index=1, state="up")
            inside.link("set", index=far, state="up")
        for number in range(len(hosts)):
            switch.link("get", index=1001 + number)  # settles it, see ip_batch

        def ping() -> None:
            _checked(_libc.setns(hosts[0][0], CLONE_NEWNET))
            try:
                _silently(PING)
            finally:
                _checked(_libc.setns(home, CLONE_NEWNET))

        yield ping


_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# ---------------------------------------------------------------------------------------------- test networks


@contextlib.contextmanager
def pytest_dummynet() -> Iterator[Ping]:
    """Its fixture's factory. It knows no bridges: one is made by its shell."""
    from pytest_dummynet import DummyNetFactory

    with DummyNetFactory(logging.getLogger("dummynet")).host() as net:
        net.run("ip link add br0 type bridge")
        net.up("br0")
        for host, address in ADDRESSES.items():
            inside = net.netns_add(host)
            net.link_veth_add(f"eth0-{host}", f"veth-{host}")
            net.link_set(host, f"eth0-{host}")
            net.run(f"ip link set veth-{host} master br0")
            net.up(f"veth-{host}")
            inside.addr_add(address, f"eth0-{host}")
            inside.up("lo")
            inside.up(f"eth0-{host}")
            if host == "h1":
                first = inside
        yield lambda: first.run(" ".join(PING))
        for host in ADDRESSES:
            net.link_delete(f"veth-{host}")
            net.netns_delete(host)
        net.link_delete("br0")


@contextlib.contextmanager
def dummynet() -> Iterator[Ping]:
    """The successor of pytest-dummynet, without fixtures of its own."""
    from dummynet import DummyNet, HostShell, ProcessMonitor

    log = logging.getLogger("dummynet")
    monitor = ProcessMonitor(log=log)
    with DummyNet(shell=HostShell(log=log, sudo=False, process_monitor=monitor)) as net:
        bridge = net.bridge_add("br0")
        net.up(bridge)
        hosts = []
        for host, address in ADDRESSES.items():
            inside = net.netns_add(host)
            far, near = net.link_veth_add(f"e-{host}", f"v-{host}")
            net.link_set(inside.namespace, far)
            net.bridge_set(bridge, near)
            net.up(near)
            inside.addr_add(address, far)
            inside.up("lo")
            inside.up(far)
            hosts.append(inside)
        yield lambda: hosts[0].run(" ".join(PING))


@contextlib.contextmanager
def mininet() -> Iterator[Ping]:
    """Mininet with its Linux bridge, and no controller."""
    from mininet.net import Mininet
    from mininet.nodelib import LinuxBridge
    from mininet.topo import SingleSwitchTopo

    net = Mininet(topo=SingleSwitchTopo(2), switch=LinuxBridge, controller=None)
    net.start()

    def ping() -> None:
        said = net.get("h1").cmd(" ".join(PING))
        assert " 0% packet loss" in said, said

    yield ping
    net.stop()


@contextlib.contextmanager
def munet() -> Iterator[Ping]:
    """Two hosts and a switch of `BaseMunet`."""
    from munet.base import BaseMunet

    logging.disable(logging.WARNING)
    rundir = Path(tempfile.gettempdir(), "munet")
    rundir.mkdir(exist_ok=True)
    net = BaseMunet("bench", rundir=str(rundir))
    switch = net.add_switch("br0")
    hosts = []
    for name, address in ADDRESSES.items():
        host = net.add_host(name)
        net.add_link(switch, host, f"v-{name}", "eth0")
        host.cmd_raises(f"ip addr add {address} dev eth0 && ip link set eth0 up")
        hosts.append(host)
    yield lambda: hosts[0].cmd_raises(" ".join(PING))
    net.delete()


#: By the names under which they are written of.
RIVALS: dict[str, Rival] = {
    "pyroute2, used well": pyroute2_well,
    "`ip -batch`": ip_batch,
    "pyroute2, naively": pyroute2_naive,
    "`ip` script": ip_script,
    "Mininet": mininet,
    "pytest-dummynet": pytest_dummynet,
    "dummynet": dummynet,
    "munet": munet,
}


# ---------------------------------------------------------------------------------------------- in turn with others


def timed_round(rival: Rival) -> dict[str, float]:
    """Build, ping and drop one network."""
    times = [time.perf_counter()]
    with rival() as ping:
        times.append(time.perf_counter())
        ping()
        times.append(time.perf_counter())
    times.append(time.perf_counter())
    return parts(("setup_us", "echo_us", "teardown_us"), times)


def main() -> None:
    """Do a round for each line."""
    rival = RIVALS[sys.argv[1]]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a rival prints is none
    os.chdir(Path("/"))
    for _ in sys.stdin:
        try:
            answer: dict[str, Any] = dict(timed_round(rival))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
