"""When a link fails: an address that moves to another host, and ways around."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest
from pace import seconds
from programs import program

from pytest_netns import Host, Lab, ping

pytestmark = pytest.mark.kernel

PATIENT = seconds(20)
ADDRESS = "10.0.0.100"
KEEPALIVED = """
global_defs {{
    vrrp_version 3
}}
vrrp_instance shared {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 0.2
    virtual_ipaddress {{
        {address}/24
    }}
}}
"""
_GROUP_NEIGHBOURS = 1 << 2  # RTMGRP_NEIGH, linux/rtnetlink.h


def wait_neighbour(news: socket.socket, holder: Host) -> None:
    """Return when the kernel announces that the address is at that host's hardware address."""
    mac = bytes.fromhex(holder.interfaces["eth0"].mac.replace(":", ""))
    while True:
        message = news.recv(65536)
        if socket.inet_aton(ADDRESS) in message and mac in message:
            return


@pytest.mark.once
def test_keepalived_moves_an_address(netns_lab: Lab, tmp_path: Path) -> None:
    """The backup takes it over when the master's link goes down, and the master takes it back."""
    keepalived = program("keepalived")
    lan = netns_lab.bridge("lan", subnet6=None)
    client, master, backup = (netns_lab.host(name, lan) for name in ("client", "master", "backup"))
    with client.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news:
        news.settimeout(PATIENT)
        for host, priority in ((master, 200), (backup, 100)):
            file = tmp_path / host.name
            file.write_text(KEEPALIVED.format(priority=priority, address=ADDRESS))
            words = [f"--use-file={file}", f"--pid={file}.pid", f"--vrrp_pid={file}.vrrp"]
            running = host.popen([keepalived, "--dont-fork", "--log-console", "--vrrp", *words])
            if host is master:
                running.wait_output("Entering MASTER STATE", timeout=PATIENT)
        running.wait_output("Entering BACKUP STATE", timeout=PATIENT)
        assert ping(client, ADDRESS, timeout=PATIENT)
        news.bind((0, _GROUP_NEIGHBOURS))
        for change, holder in ((master["eth0"].down, backup), (master["eth0"].up, master)):
            change()
            wait_neighbour(news, holder)
            assert ping(client, ADDRESS, timeout=PATIENT)
            assert f"{ADDRESS}/24" in holder.interfaces["eth0"].addresses
            if holder is master:
                running.wait_output("(?s)Entering MASTER STATE.*Entering BACKUP STATE", timeout=PATIENT)


def test_around_a_ring(netns_lab: Lab) -> None:
    """A link of it fails: by static routes the packets go the long way, and the short one again; a router goes."""
    lans = [netns_lab.bridge(f"lan{number}", f"192.168.{number}.0/24", None) for number in range(4)]
    hosts = [netns_lab.host(f"h{number}", lan) for number, lan in enumerate(lans)]
    routers = [netns_lab.router(f"r{number}", lan) for number, lan in enumerate(lans)]
    for one, other in zip(routers, routers[1:] + routers[:1], strict=True):
        netns_lab.link(one, other, subnet6=None)

    def hops(source: Host, target: Host) -> int | None:
        result = ping(source, target, timeout=PATIENT)
        return 65 - result.replies[0].ttl if result else None

    assert [hops(hosts[0], host) for host in hosts[1:]] == [3, 4, 3]
    routers[0]["eth1"].down()
    assert not ping(hosts[0], hosts[1], timeout=0.01)
    around = [*zip((0, 3), (3, 2), strict=True)], [*zip((1, 2), (2, 3), strict=True)]
    for lan, ways in zip(("192.168.1.0/24", "192.168.0.0/24"), around, strict=True):
        for router, via in ways:
            routers[router].set_route(lan, routers[via])
    assert hops(hosts[0], hosts[1]) == hops(hosts[1], hosts[0]) == 5
    routers[0]["eth1"].up()
    for lan, ways in zip(("192.168.1.0/24", "192.168.0.0/24"), around, strict=True):
        for router, _ in ways:
            routers[router].set_route(lan, "auto")
    assert hops(hosts[0], hosts[1]) == hops(hosts[1], hosts[0]) == 3
    routers[1].close()
    for source, target in itertools.permutations([hosts[0], *hosts[2:]], 2):
        assert ping(source, target, timeout=PATIENT)
    assert not ping(hosts[0], hosts[1], timeout=0.01)
