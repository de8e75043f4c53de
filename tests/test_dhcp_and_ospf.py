"""Real daemons as their users run them: a lease from dnsmasq over the bridge, and bird's routes around a cut cable."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from changes import ROUTES, Changes
from pace import seconds
from programs import program

from pytest_netns import Host, Lab, Pair, ping

pytestmark = pytest.mark.once

PATIENT = seconds(20)
SCRIPT = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface" && ip route add default via "$router"
"""


@pytest.mark.netns(subnet=None, subnet6=None)
def test_a_lease_from_dnsmasq(netns_pair: Pair, tmp_path: Path) -> None:
    """Over the bridge, to a client that had no address; the test needs no root and port 67 is free."""
    server, client = netns_pair
    server.add_address("eth0", "10.0.0.1/24")
    command = [program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--log-facility=-", "--pid-file="]
    command += ["--user=root", "--port=0", "--interface=eth0", "--bind-interfaces", "--no-ping"]
    command += ["--dhcp-range=10.0.0.100,10.0.0.150,2m", f"--dhcp-leasefile={tmp_path}/leases"]
    script = tmp_path / "script"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    udhcpc = [program("udhcpc"), "-i", "eth0", "-f", "-q", "-n", "-s", str(script)]
    with server.popen(command, stderr=subprocess.PIPE, text=True) as dnsmasq:
        assert dnsmasq.stderr is not None
        assert any("sockets bound exclusively to interface eth0" in line for line in dnsmasq.stderr)
        client.run(udhcpc, check=True, capture_output=True, timeout=PATIENT)
        dnsmasq.terminate()
    (lease,) = (address for address in client["eth0"].state().addresses if ":" not in address)
    assert lease.startswith("10.0.0.1")
    assert ping(client, server, timeout=PATIENT)
    assert f"{client['eth0'].state().mac} {lease.removesuffix('/24')} " in (tmp_path / "leases").read_text()
    client.run(["ip", "route", "get", "192.0.2.1"], check=True, capture_output=True)


OSPF = """log stderr all;
router id 10.255.0.{number};
protocol device {{ }}
protocol kernel {{ ipv4 {{ export all; }}; }}
protocol ospf v2 {{
    ipv4 {{ import all; }};
    area 0 {{
        interface "eth0" {{ stub; }};
        interface "eth1", "eth2" {{ type ptp; hello 1; dead 3; }};
    }};
}}
"""


def way(router: Host, network: str) -> str:
    """By way of which neighbour a router reaches a network."""
    shown = router.run(["ip", "route", "show", network], capture_output=True, text=True, check=True, timeout=PATIENT)
    return str(shown.stdout).removeprefix(f"{network} via ").partition(" ")[0]


def test_bird_finds_a_way_around_a_cut_cable(netns_lab: Lab, tmp_path: Path) -> None:
    """OSPF among three routers to which the lab gives no routes: the short way, and when its link is cut, the long."""
    lans = [netns_lab.bridge(f"lan{number}") for number in (1, 2, 3)]
    first, second, third = (netns_lab.router(f"r{n}", lan, routes=False) for n, lan in enumerate(lans, 1))
    for one, other in ((first, second), (second, third), (third, first)):
        netns_lab.link(one, other)
    here, there = netns_lab.host("here", lans[0]), netns_lab.host("there", lans[2])
    assert "network unreachable" in str(ping(here, there, timeout=PATIENT).unexpected)
    with contextlib.ExitStack() as running, Changes(first, ROUTES) as there_ways, Changes(third, ROUTES) as back_ways:
        for number, router in enumerate((first, second, third), 1):
            config = tmp_path / f"{number}.conf"
            config.write_text(OSPF.format(number=number))
            command = [program("bird"), "-f", "-c", str(config), "-s", f"{tmp_path}/{number}.ctl"]
            bird = running.enter_context(router.popen(command, stderr=subprocess.DEVNULL))
            running.callback(bird.terminate)
        # The links have the networks after the bridges', in their order: 10.0.5.0/24 is that of the third.
        there_ways.wait_until(lambda: way(first, "10.0.2.0/24") == "10.0.5.1")
        back_ways.wait_until(lambda: way(third, "10.0.0.0/24") == "10.0.5.2")
        assert ping(here, there, timeout=PATIENT).replies[0].ttl == 62
        third["eth2"].down()
        there_ways.wait_until(lambda: way(first, "10.0.2.0/24") == "10.0.3.2")
        back_ways.wait_until(lambda: way(third, "10.0.0.0/24") == "10.0.4.1")
        assert ping(here, there, timeout=PATIENT).replies[0].ttl == 61
