"""What is packed by hand: requests are those that pyroute2 makes of the same words, checksums those of scapy."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import scapy.utils
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pytest_netns import _requests
from pytest_netns._echo import _checksum
from pytest_netns._requests import End, Request

REQUEST, CREATE, REPLACE = 0x1, 0x600, 0x500  # NLM_F_…, with those that belong to them
UP = {"flags": 1, "change": 1}
NEAR, FAR = End("port", 5, "02:00:00:00:00:01", master=7), End("eth0", 2, "02:00:00:00:00:02")
ONE_QUEUE = [("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1)]


def encoded(kind: type, number: int, how: int, /, **fields: Any) -> bytes:
    """What pyroute2 makes of a message's fields and attributes."""
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["header"] = {"type": number, "flags": REQUEST | how, "sequence_number": 0, "pid": 0}
    message.encode()
    return bytes(message.data)


def link(number: int, how: int = 0, /, **fields: Any) -> bytes:
    return encoded(ifinfmsg, number, how, **fields)


def nested(*attributes: tuple[str, Any]) -> dict[str, Any]:
    return {"attrs": list(attributes)}


def of_kind(kind: str, *options: tuple[str, Any]) -> tuple[str, Any]:
    data = [("IFLA_INFO_DATA", nested(*options))] if options else []
    return "IFLA_LINKINFO", nested(("IFLA_INFO_KIND", kind), *data)


def veth(master: list[tuple[str, Any]]) -> bytes:
    peer = {
        "index": 2,
        "attrs": [
            ("IFLA_IFNAME", "eth0"),
            ("IFLA_ADDRESS", FAR.mac),
            ("IFLA_MTU", 1400),
            *ONE_QUEUE,
            ("IFLA_NET_NS_FD", 9),
        ],
    }
    own: list[tuple[str, Any]] = [("IFLA_IFNAME", "port"), ("IFLA_ADDRESS", NEAR.mac), ("IFLA_MTU", 1400), *ONE_QUEUE]
    return link(16, CREATE, index=5, **UP, attrs=[*own, *master, of_kind("veth", ("VETH_INFO_PEER", peer))])


def vlan(number: int, flags: int, vid: int) -> bytes:
    words = nested(("IFLA_BRIDGE_VLAN_INFO", {"flags": flags, "vid": vid}))
    return link(number, family=int(socket.AF_BRIDGE), index=3, attrs=[("IFLA_AF_SPEC", words)])


LINKS = {
    "a bridge": (
        _requests.add_bridge("lan", 3),
        link(16, CREATE, index=3, **UP, attrs=[("IFLA_IFNAME", "lan"), of_kind("bridge")]),
    ),
    "a bridge that is down": (
        _requests.add_bridge("of_many_letters", 3, up=False),
        link(16, CREATE, index=3, attrs=[("IFLA_IFNAME", "of_many_letters"), of_kind("bridge")]),
    ),
    "a bridge with STP and VLANs": (
        _requests.add_bridge("lan", 3, stp=True, vlan_filtering=True),
        link(
            16,
            CREATE,
            index=3,
            **UP,
            attrs=[
                ("IFLA_IFNAME", "lan"),
                of_kind(
                    "bridge",
                    ("IFLA_BR_FORWARD_DELAY", 200),
                    ("IFLA_BR_HELLO_TIME", 100),
                    ("IFLA_BR_MAX_AGE", 600),
                    ("IFLA_BR_STP_STATE", 1),
                    ("IFLA_BR_VLAN_FILTERING", 1),
                ),
            ],
        ),
    ),
    "a bridge with VLANs": (
        _requests.add_bridge("lan", 3, vlan_filtering=True),
        link(
            16,
            CREATE,
            index=3,
            **UP,
            attrs=[("IFLA_IFNAME", "lan"), of_kind("bridge", ("IFLA_BR_VLAN_FILTERING", 1))],
        ),
    ),
    "an isolated port": (
        _requests.isolate_port(3, "port"),
        link(
            16,
            index=3,
            attrs=[
                (
                    "IFLA_LINKINFO",
                    nested(
                        ("IFLA_INFO_SLAVE_KIND", "bridge"),
                        ("IFLA_INFO_SLAVE_DATA", nested(("IFLA_BRPORT_ISOLATED", 1))),
                    ),
                )
            ],
        ),
    ),
    "a port's own VLAN": (_requests.set_vlan(3, 10, what=""), vlan(19, 6, 10)),
    "a tagged VLAN": (_requests.set_vlan(3, 4094, tagged=True, what=""), vlan(19, 0, 4094)),
    "a VLAN no longer": (_requests.set_vlan(3, 1, there=False, what=""), vlan(17, 0, 1)),
    "a veth pair on a bridge": (_requests.add_veth(NEAR, FAR, 1400, 9), veth([("IFLA_MASTER", 7)])),
    "a veth pair": (_requests.add_veth(End("port", 5, NEAR.mac), FAR, 1400, 9), veth([])),
    "up": (_requests.set_link(3, up=True, what=""), link(16, index=3, **UP)),
    "down": (_requests.set_link(3, up=False, what=""), link(16, index=3, change=1)),
    "no longer": (_requests.delete_link(3), link(17, index=3)),
    "read": (_requests.get_link(3), link(18, index=3)),
    "master": (_requests.set_master(3, 4, ""), link(16, index=3, attrs=[("IFLA_MASTER", 4)])),
    "plugged in": (_requests.plug_in(3, "", 4), link(16, index=3, **UP, attrs=[("IFLA_MASTER", 4)])),
    "moved": (_requests.move_link(3, "", 9), link(16, index=3, attrs=[("IFLA_NET_NS_FD", 9)])),
    "moved and renamed": (
        _requests.move_link(3, "", 9, "eth0"),
        link(16, index=3, attrs=[("IFLA_NET_NS_FD", 9), ("IFLA_IFNAME", "eth0")]),
    ),
    "an MTU": (_requests.set_mtu(3, "", 65535), link(16, index=3, attrs=[("IFLA_MTU", 65535)])),
    "learned": (
        _requests.flush_learned(3),
        link(16, index=3, attrs=[of_kind("bridge", ("IFLA_BR_FDB_FLUSH", None))]),
    ),
}


@pytest.mark.parametrize(("request_", "expected"), LINKS.values(), ids=LINKS)
def test_of_interfaces(request_: Request, expected: bytes) -> None:
    assert request_.data == expected


@pytest.mark.parametrize(("address", "prefix"), [("10.0.0.1", 24), ("fd00::1", 64)])
def test_of_addresses_and_neighbours(address: str, prefix: int) -> None:
    family = int(socket.AF_INET6 if ":" in address else socket.AF_INET)
    attributes = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    common = {"family": family, "prefixlen": prefix, "index": 3, "attrs": attributes}
    nodad = 2 if ":" in address else 0
    assert _requests.add_address(3, address, prefix).data == encoded(ifaddrmsg, 20, CREATE, flags=nodad, **common)
    assert _requests.delete_address(3, address, prefix).data == encoded(ifaddrmsg, 21, 0, flags=0, **common)
    neighbour = {"family": family, "ifindex": 3, "attrs": [("NDA_DST", address)]}
    assert _requests.get_neighbour(3, address).data == encoded(ndmsg, 30, 0, **neighbour)
    assert _requests.delete_neighbour(3, address).data == encoded(ndmsg, 29, 0, **neighbour)


@pytest.mark.parametrize("table", [None, 7, 1000])
@pytest.mark.parametrize(
    ("version", "destination", "via"),
    [
        (4, "10.1.0.0/16", "10.0.0.1"),
        (4, "10.1.2.3/32", "10.0.0.1"),
        (4, None, "10.0.0.1"),
        (6, "fd01::/48", "fd00::1"),
        (6, None, "fe80::1"),
    ],
)
def test_of_routes(version: int, destination: str | None, via: str, table: int | None) -> None:
    attributes: list[tuple[str, Any]] = [("RTA_GATEWAY", via)]
    prefix = 0
    if destination is not None:
        network, _, length = destination.partition("/")
        attributes.insert(0, ("RTA_DST", network))
        prefix = int(length)
    if table is not None:
        attributes.append(("RTA_TABLE", table))
    fields = {
        "family": int(socket.AF_INET6 if version == 6 else socket.AF_INET),
        "dst_len": prefix,
        "table": 254 if table is None else 0,
        "proto": 4,  # RTPROT_STATIC
        "type": 1,  # RTN_UNICAST
        "attrs": attributes,
    }
    for make, number, how in (
        (_requests.add_route, 24, CREATE),
        (_requests.restore_route, 24, REPLACE),
        (_requests.delete_route, 25, 0),
    ):
        assert make(version, destination, via, table).data == encoded(rtmsg, number, how, **fields)


@settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.binary(min_size=8, max_size=1500).filter(any))
@example(b"\xff" * 8)
@example(b"\x08" + bytes(8))
def test_of_checksums(data: bytes) -> None:
    assert _checksum(data) == scapy.utils.checksum(data)
