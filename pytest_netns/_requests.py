"""rtnetlink requests as bytes, encoded by pyroute2.

Encoding one takes as long as the kernel takes for it, and thousands differ in a few bytes only. So each kind is
encoded once in a process, with a *blank* where something is to be filled in: a value that occurs nowhere else.
"""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "End",
    "Request",
    "add_address",
    "add_bridge",
    "add_link",
    "add_route",
    "add_veth",
    "delete_address",
    "delete_link",
    "delete_neighbour",
    "delete_route",
    "flush_learned",
    "get_link",
    "get_neighbour",
    "isolate_port",
    "move_link",
    "restore_route",
    "plug_in",
    "set_link",
    "set_master",
    "set_mtu",
    "set_vlan",
]

# linux/netlink.h, linux/rtnetlink.h, linux/if.h, linux/if_addr.h
_REQUEST, _EXCL_CREATE, _REPLACE_CREATE = 0x1, 0x600, 0x500
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 18, 20, 21, 24, 25
_SETLINK, _DELNEIGH, _GETNEIGH = 19, 29, 30
_IFF_UP = 0x1
_PVID_UNTAGGED = 0x2 | 0x4  # linux/if_bridge.h
_IFA_F_NODAD = 0x02
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_IFLA_IFNAME = 3

# The blanks.
_AN_INDEX, _ANOTHER_INDEX, _A_MASTER, _AN_MTU, _AN_FD = (0x0DE5C210 + number for number in range(5))
_A_MAC, _ANOTHER_MAC = "0e:a5:5a:a5:5a:01", "0e:a5:5a:a5:5a:02"
_AN_ADDRESS = {4: "198.51.100.77", 6: "2001:db8:5aa5::77"}
_ANOTHER_ADDRESS = {4: "198.51.100.78", 6: "2001:db8:5aa5::78"}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class Request(NamedTuple):
    """One encoded message, and the words that an error about it begins with."""

    data: bytes
    what: str


@dataclass(frozen=True)
class End:
    """One end of a veth pair, as the kernel is to make it."""

    name: str
    index: int
    mac: str
    master: int | None = None


def _encode(kind: str, number: int, how: int, /, **fields: object) -> bytes:
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    message = {"link": ifinfmsg, "address": ifaddrmsg, "route": rtmsg, "neighbour": ndmsg}[kind]()
    for name, value in fields.items():
        message[name] = value
    message["header"] = {"type": number, "flags": _REQUEST | how, "sequence_number": 0, "pid": 0}
    message.encode()
    return bytes(message.data)


class _Template:
    """An encoded message, and where its blanks are."""

    def __init__(self, data: bytes, blanks: dict[str, bytes]) -> None:
        self._data = data
        self._places = {name: _find(data, blank) for name, blank in blanks.items()}

    def fill(self, **values: bytes) -> bytes:
        """The message with these values in the blanks; each as long as its blank."""
        data = bytearray(self._data)
        for name, value in values.items():
            for place in self._places[name]:
                data[place : place + len(value)] = value
        return bytes(data)


def _find(data: bytes, blank: bytes) -> list[int]:
    found, place = [], data.find(blank)
    while place >= 0:
        found.append(place)
        place = data.find(blank, place + 1)
    return found


def _four(number: int) -> bytes:
    return struct.pack("=I", number)


def _six(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _packed(version: int, address: str) -> bytes:
    return socket.inet_pton(_FAMILY[version], address)


# Interfaces


@functools.cache
def _bridge_template(length: int, flags: int, *, stp: bool, vlan_filtering: bool) -> _Template:
    blank = "\1" * length
    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", "bridge")]
    # The shortest times that Linux takes, in hundredths of a second: 2 s to listen and 2 s to learn before a port
    # forwards, a hello each second, and 6 s until one that is missing counts (BR_MIN_…, net/bridge/br_private_stp.h).
    times = [("FORWARD_DELAY", 200), ("HELLO_TIME", 100), ("MAX_AGE", 600), ("STP_STATE", 1)] if stp else []
    if vlan_filtering:
        times.append(("VLAN_FILTERING", 1))
    if times:
        info.append(("IFLA_INFO_DATA", {"attrs": [(f"IFLA_BR_{word}", value) for word, value in times]}))
    attributes = [("IFLA_IFNAME", blank), ("IFLA_LINKINFO", {"attrs": info})]
    data = _encode("link", _NEWLINK, _EXCL_CREATE, index=_AN_INDEX, flags=flags, change=flags, attrs=attributes)
    return _Template(data, {"index": _four(_AN_INDEX), "name": _name(blank)})


def _name(text: str) -> bytes:
    """A name as an attribute: by itself it might be so short that it occurs elsewhere."""
    data = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(data), _IFLA_IFNAME) + data


def add_bridge(name: str, index: int, *, up: bool = True, stp: bool = False, vlan_filtering: bool = False) -> Request:
    """A bridge; with STP in the shortest times there are."""
    template = _bridge_template(len(name.encode()), _IFF_UP if up else 0, stp=stp, vlan_filtering=vlan_filtering)
    return Request(template.fill(index=_four(index), name=_name(name)), f"create bridge {name}")


def isolate_port(index: int, name: str) -> Request:
    """A port of a bridge that reaches only those that are not isolated."""
    data = {"attrs": [("IFLA_BRPORT_ISOLATED", 1)]}
    info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", data)]}
    return Request(_encode("link", _NEWLINK, 0, index=index, attrs=[("IFLA_LINKINFO", info)]), f"isolate {name}")


def set_vlan(index: int, number: int, *, there: bool = True, tagged: bool = False, what: str) -> Request:
    """A port of a bridge in a VLAN, or out of it; what has no tag belongs to the one that is not ``tagged``."""
    entry = {"flags": 0 if tagged or not there else _PVID_UNTAGGED, "vid": number}
    attributes = [("IFLA_AF_SPEC", {"attrs": [("IFLA_BRIDGE_VLAN_INFO", entry)]})]
    family, verb = int(socket.AF_BRIDGE), _SETLINK if there else _DELLINK
    return Request(_encode("link", verb, 0, family=family, index=index, attrs=attributes), what)


@functools.cache
def _veth_template(near: int, far: int, *, mastered: bool) -> _Template:
    """With names of these lengths, in bytes."""
    near_blank, far_blank = "\1" * near, "\2" * far
    # One queue: veth has one per processor by default, and setting those up waits for RCU.
    common = [("IFLA_MTU", _AN_MTU), ("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1)]
    peer = {
        "index": _ANOTHER_INDEX,
        "attrs": [("IFLA_IFNAME", far_blank), ("IFLA_ADDRESS", _ANOTHER_MAC), *common, ("IFLA_NET_NS_FD", _AN_FD)],
    }
    data = {"attrs": [("VETH_INFO_PEER", peer)]}
    attributes: list[tuple[str, Any]] = [("IFLA_IFNAME", near_blank), ("IFLA_ADDRESS", _A_MAC), *common]
    if mastered:
        attributes.append(("IFLA_MASTER", _A_MASTER))
    attributes.append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}))
    # Up on the near end only: the kernel refuses to open an end whose peer is not tied to it yet.
    return _Template(
        _encode("link", _NEWLINK, _EXCL_CREATE, index=_AN_INDEX, flags=_IFF_UP, change=_IFF_UP, attrs=attributes),
        {
            "index": _four(_AN_INDEX),
            "name": _name(near_blank),
            "mac": _six(_A_MAC),
            "master": _four(_A_MASTER),
            "far_index": _four(_ANOTHER_INDEX),
            "far_name": _name(far_blank),
            "far_mac": _six(_ANOTHER_MAC),
            "far_namespace": _four(_AN_FD),
            "mtu": _four(_AN_MTU),
        },
    )


def add_veth(near: End, far: End, mtu: int, far_namespace: int) -> Request:
    """Both ends of a veth pair in place, the near one up: one message, no move, no rename."""
    template = _veth_template(len(near.name.encode()), len(far.name.encode()), mastered=near.master is not None)
    data = template.fill(
        index=_four(near.index),
        name=_name(near.name),
        mac=_six(near.mac),
        master=_four(near.master or 0),
        far_index=_four(far.index),
        far_name=_name(far.name),
        far_mac=_six(far.mac),
        far_namespace=_four(far_namespace),
        mtu=_four(mtu),
    )
    return Request(data, f"create veth pair {near.name} - {far.name}")


@functools.cache
def _link_template(number: int, flags: int, change: int) -> _Template:
    data = _encode("link", number, 0, index=_AN_INDEX, flags=flags, change=change)
    return _Template(data, {"index": _four(_AN_INDEX)})


def _link(number: int, index: int, flags: int = 0, change: int = 0) -> bytes:
    return _link_template(number, flags, change).fill(index=_four(index))


def set_link(index: int, *, up: bool, what: str) -> Request:
    """An interface up or down."""
    return Request(_link(_NEWLINK, index, _IFF_UP if up else 0, _IFF_UP), what)


def delete_link(index: int) -> Request:
    """An interface no longer; of a veth pair the other end goes, too."""
    return Request(_link(_DELLINK, index), f"delete interface {index}")


def get_link(index: int) -> Request:
    """One interface. By index, not as a dump: then Linux works off its pending link event first, and the
    interface passes its first packet (rtnl_getlink calls linkwatch_sync_dev, net/core/rtnetlink.c)."""
    return Request(_link(_GETLINK, index), f"read interface {index}")


def add_link(
    name: str, kind: str, data: Sequence[tuple[str, Any]] = (), *, parent: int | None = None, mac: str | None = None
) -> Request:
    """An interface of a kind, down; ``data`` are attributes of its kind, ``parent`` what it sits on."""
    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
    if data:
        info.append(("IFLA_INFO_DATA", {"attrs": list(data)}))
    attributes: list[tuple[str, Any]] = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": info})]
    if parent is not None:
        attributes.append(("IFLA_LINK", parent))
    if mac is not None:
        attributes.append(("IFLA_ADDRESS", mac))
    return Request(_encode("link", _NEWLINK, _EXCL_CREATE, attrs=attributes), f"create {kind} {name}")


def set_master(index: int, master: int, what: str) -> Request:
    """An interface as a part of another: a port of a bridge, a member of a bond or VRF."""
    return Request(_encode("link", _NEWLINK, 0, index=index, attrs=[("IFLA_MASTER", master)]), what)


def move_link(index: int, name: str, namespace: int, new_name: str | None = None) -> Request:
    """An existing interface into another namespace; takes the kernel a grace period (some 15 ms)."""
    attributes: list[tuple[str, Any]] = [("IFLA_NET_NS_FD", namespace)]
    if new_name is not None:
        attributes.append(("IFLA_IFNAME", new_name))
    return Request(_encode("link", _NEWLINK, 0, index=index, attrs=attributes), f"move {name}")


def plug_in(index: int, name: str, master: int) -> Request:
    """An interface into a bridge, and up."""
    data = _encode("link", _NEWLINK, 0, index=index, flags=_IFF_UP, change=_IFF_UP, attrs=[("IFLA_MASTER", master)])
    return Request(data, f"plug {name} into the bridge")


def set_mtu(index: int, name: str, mtu: int) -> Request:
    """An MTU, in bytes."""
    return Request(_encode("link", _NEWLINK, 0, index=index, attrs=[("IFLA_MTU", mtu)]), f"set mtu {mtu} of {name}")


def flush_learned(index: int) -> Request:
    """What a bridge has learned, no longer."""
    info = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_BR_FDB_FLUSH", None)]})]
    data = _encode("link", _NEWLINK, 0, index=index, attrs=[("IFLA_LINKINFO", {"attrs": info})])
    return Request(data, "forget what the bridge has learned")


# Addresses and routes


@functools.cache
def _address_template(version: int, prefix: int) -> _Template:
    blank = _AN_ADDRESS[version]
    data = _encode(
        "address",
        _NEWADDR,
        _EXCL_CREATE,
        index=_AN_INDEX,
        family=int(_FAMILY[version]),
        prefixlen=prefix,
        flags=_IFA_F_NODAD if version == 6 else 0,
        attrs=[("IFA_LOCAL", blank), ("IFA_ADDRESS", blank)],
    )
    return _Template(data, {"index": _four(_AN_INDEX), "address": _packed(version, blank)})


def add_address(index: int, address: str, prefix: int) -> Request:
    """An address; an IPv6 one without duplicate address detection."""
    version = 6 if ":" in address else 4
    data = _address_template(version, prefix).fill(index=_four(index), address=_packed(version, address))
    return Request(data, f"add address {address}/{prefix}")


def delete_address(index: int, address: str, prefix: int) -> Request:
    """That address no longer."""
    family = _FAMILY[6 if ":" in address else 4]
    attributes = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    data = _encode("address", _DELADDR, 0, index=index, family=int(family), prefixlen=prefix, flags=0, attrs=attributes)
    return Request(data, f"delete address {address}/{prefix}")


@functools.cache
def _route_template(number: int, how: int, version: int, prefix: int | None, table: int | None = None) -> _Template:
    destination, gateway = _AN_ADDRESS[version], _ANOTHER_ADDRESS[version]
    attributes: list[tuple[str, Any]] = [("RTA_DST", destination)] * (prefix is not None)
    attributes += [("RTA_GATEWAY", gateway)] + [("RTA_TABLE", table)] * (table is not None)
    data = _encode(
        "route",
        number,
        how,
        family=int(_FAMILY[version]),
        dst_len=prefix or 0,
        table=_RT_TABLE_MAIN if table is None else 0,
        proto=_RTPROT_STATIC,
        type=_RTN_UNICAST,
        attrs=attributes,
    )
    return _Template(data, {"destination": _packed(version, destination), "gateway": _packed(version, gateway)})


def _route(verb: str, version: int, destination: str | None, via: str, table: int | None = None) -> Request:
    kind = {"add": (_NEWROUTE, _EXCL_CREATE), "restore": (_NEWROUTE, _REPLACE_CREATE), "delete": (_DELROUTE, 0)}[verb]
    what = f"{verb} route {destination or 'default'} via {via}"
    if destination is None:
        template = _route_template(*kind, version, None, table)
        return Request(template.fill(gateway=_packed(version, via)), what)
    address, _, length = destination.partition("/")
    template = _route_template(*kind, version, int(length), table)
    return Request(template.fill(destination=_packed(version, address), gateway=_packed(version, via)), what)


def add_route(version: int, destination: str | None, via: str, table: int | None = None) -> Request:
    """A route by way of a neighbour; ``destination`` None is the default route, ``table`` None the main one."""
    return _route("add", version, destination, via, table)


def restore_route(version: int, destination: str | None, via: str, table: int | None = None) -> Request:
    """That route, whether it is there or not."""
    return _route("restore", version, destination, via, table)


def delete_route(version: int, destination: str | None, via: str, table: int | None = None) -> Request:
    """That route no longer."""
    return _route("delete", version, destination, via, table)


@functools.cache
def _neighbour_template(number: int, version: int) -> _Template:
    blank = _AN_ADDRESS[version]
    family = int(_FAMILY[version])
    data = _encode("neighbour", number, 0, family=family, ifindex=_AN_INDEX, attrs=[("NDA_DST", blank)])
    return _Template(data, {"index": _four(_AN_INDEX), "address": _packed(version, blank)})


def _neighbour(number: int, index: int, address: str) -> bytes:
    version = 6 if ":" in address else 4
    return _neighbour_template(number, version).fill(index=_four(index), address=_packed(version, address))


def get_neighbour(index: int, address: str) -> Request:
    """What is known of a neighbour."""
    return Request(_neighbour(_GETNEIGH, index, address), f"read neighbour {address}")


def delete_neighbour(index: int, address: str) -> Request:
    """What is known of a neighbour, no longer."""
    return Request(_neighbour(_DELNEIGH, index, address), f"forget neighbour {address}")
