"""Bridges as switches: spanning tree, VLANs, isolated ports; from methods and from a description."""

from __future__ import annotations

import json
from typing import Any

import pytest
from changes import LINKS, Changes
from pace import seconds

from pytest_netns import KernelError, Lab, PlanError, ping
from pytest_netns._describe import as_dot, as_mermaid, as_text
from pytest_netns._features import lacking
from pytest_netns._reading import plan_from

pytestmark = pytest.mark.kernel

PATIENT = seconds(20)


def test_isolated_ports_reach_only_the_others(netns_lab: Lab) -> None:
    """Two guests do not see each other, and both see the router."""
    lan = netns_lab.bridge("lan")
    one, other = (netns_lab.host(name, lan, isolated=True) for name in ("one", "other"))
    home = netns_lab.router("home", lan)
    assert ping(one, home, timeout=PATIENT)
    assert ping(home, other, timeout=PATIENT)
    assert not ping(one, other, timeout=0.2)
    late = netns_lab.host("late")
    netns_lab.connect(late, lan, isolated=True)
    assert ping(late, home, timeout=PATIENT)
    assert not ping(late, one, timeout=0.2)


@pytest.mark.once
def test_a_loop_is_broken_and_the_first_packet_waits_for_no_port(netns_lab: Lab) -> None:
    """With STP a lab is ready when its ports forward; somebody's loop makes one of them block instead of a storm."""
    lan = netns_lab.bridge("lan", stp=True)
    one, other = netns_lab.host("one", lan), netns_lab.host("other", lan)
    switch = netns_lab.host("switch", lan, lan)
    netns_lab.build()
    assert lan.state.stp
    for address in (other.ip, other.ip6):
        assert address is not None
        result = ping(one, address, timeout=PATIENT)
        assert result
        assert result.max is not None
        assert result.max < seconds(0.7), result
    assert port_states(lan) == {"forwarding"}
    with Changes(lan, LINKS) as changes:
        switch.run(["ip", "-batch", "-"], input=LOOP, text=True, check=True, timeout=PATIENT)
        changes.wait_until(lambda: port_states(lan) == {"forwarding", "blocking"})  # by a hello, each second
    before = other.interfaces["eth0"].rx_packets
    one.run(["ip", "neigh", "flush", "all"], check=True)
    assert ping(one, other, timeout=PATIENT)
    assert other.interfaces["eth0"].rx_packets - before < 50  # in a storm it is thousands
    one["eth0"].down()
    one["eth0"].up()
    assert ping(one, other, timeout=PATIENT)


LOOP = """link add inner type bridge
link set eth0 master inner
link set eth1 master inner
link set inner up
"""


def port_states(lan: Any) -> set[str]:
    shown = lan.run(["bridge", "-json", "link"], capture_output=True, text=True, check=True, timeout=PATIENT)
    return {port["state"] for port in json.loads(shown.stdout)}


@pytest.mark.netns(requires=["vlan_filtering", "vlan"])
def test_vlans_are_kept_apart(netns_lab: Lab) -> None:
    """Ports without tags, one with tags for all of them, and one that says nothing, in VLAN 1."""
    lan = netns_lab.bridge("lan", "10.0.0.0/24", None, vlan_filtering=True)
    red, blue = (netns_lab.host(name, lan, vlan=number) for name, number in (("red", 10), ("blue", 20)))
    plain = netns_lab.host("plain", lan)
    trunk = netns_lab.host("trunk", lan, vlan=5, tagged=[10, 20])
    second = netns_lab.host("second")
    netns_lab.connect(second, lan, vlan=10)
    assert ping(red, second, timeout=PATIENT)
    for source, target in ((red, blue), (red, plain), (plain, trunk), (trunk, red)):
        assert not ping(source, target, timeout=0.2)
    for number, host in ((10, red), (20, blue)):
        trunk.add_vlan("eth0", number)
        trunk.add_address(f"eth0.{number}", f"192.0.{number}.1/24")
        host.add_address("eth0", f"192.0.{number}.2/24")
        assert ping(host, f"192.0.{number}.1", timeout=PATIENT)


def test_a_kernel_without_vlan_filtering_is_told_of(netns_lab: Lab) -> None:
    """Linux would take the bridge and ignore its VLANs: it is refused, or it has them."""
    if lacking(["vlan_filtering"]):
        with pytest.raises(KernelError, match=r"vlan_filtering is lacking: .* CONFIG_BRIDGE_VLAN_FILTERING"):
            netns_lab.bridge("lan", vlan_filtering=True)
        assert not netns_lab.bridges
    else:
        lan = netns_lab.bridge("lan", vlan_filtering=True)
        netns_lab.host("red", lan, vlan=10)
        shown = lan.run(["bridge", "-json", "vlan"], capture_output=True, text=True, check=True).stdout
        vlans = {port["ifname"]: [vlan["vlan"] for vlan in port["vlans"]] for port in json.loads(shown)}
        assert vlans["veth-red"] == [10]


DESCRIPTION: dict[str, Any] = {
    "bridges": {"lan": {"subnet": "10.0.0.0/24", "subnet6": False, "stp": True, "vlan_filtering": True}},
    "hosts": {
        "red": {"bridges": ["lan"], "vlan": 10},
        "guest": {"interfaces": [{"bridge": "lan", "isolated": True, "tagged": [20, 30]}]},
    },
    "routers": {"bird": {"bridges": ["lan"], "routes": False}},
}


def test_a_description_says_and_shows_it() -> None:
    """In the words of the methods, and in text and drawings."""
    plan = plan_from(DESCRIPTION)
    text = as_text(plan)
    assert "bridge lan: 10.0.0.0/24, mtu 1500, stp, vlan filtering" in text
    assert "  red eth0 10.0.0.1/24 02:00:00:00:01:00 vlan 10" in text
    assert "02:00:00:00:02:00 isolated tagged 20,30" in text
    assert "  bird (router, without routes) eth0" in text
    assert '(["lan<br/>10.0.0.0/24<br/>stp<br/>vlan filtering"])' in as_mermaid(plan)
    assert "|eth0<br/>10.0.0.1/24<br/>vlan 10|" in as_mermaid(plan).replace('"', "")
    assert "10.0.0.2/24\\nisolated tagged 20,30" in as_dot(plan)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"vlan": 4095}, "vlan 4095: expected VLAN numbers from 1 to 4094"),
        ({"tagged": 20}, "tagged 20: expected a list of VLAN numbers"),
        ({"tagged": [10], "vlan": 10}, r"vlan 10 is among tagged \[10\]"),
        ({"isolated": "yes"}, "isolated 'yes': expected True or False"),
        ({"vlan": 10}, "vlan 10: lan knows no VLANs; it does with bridge"),
    ],
    ids=str,
)
def test_what_a_port_cannot_be_is_refused(words: dict[str, Any], message: str) -> None:
    """By value and what was expected."""
    with pytest.raises(PlanError, match=rf"hosts\.red: {message}"):
        plan_from({"bridges": {"lan": {}}, "hosts": {"red": {"bridges": ["lan"], **words}}})


def test_what_a_bridge_cannot_be_is_refused(netns_lab: Lab) -> None:
    """A word with a value, a port without its bridge, a link that would be a switch."""
    with pytest.raises(PlanError, match="stp 'on': expected True or False"):
        netns_lab.bridge("lan", stp="on")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="ip, ip6, mac, isolated, vlan and tagged need a bridge"):
        netns_lab.host("alone", isolated=True)
    with pytest.raises(PlanError, match="unknown word 'stp'"):
        plan_from({"hosts": {"a": {}, "b": {}}, "links": [{"hosts": ["a", "b"], "stp": True}]})
