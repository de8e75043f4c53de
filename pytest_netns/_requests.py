"""rtnetlink requests as bytes.

What every lab asks for is packed here, for the first test's sake: to import pyroute2 takes three times as long as all
else before its pair, and encoding a veth pair by it as long as the kernel takes to make one. The tests have pyroute2
read each of them. What few labs ask for, interfaces of other kinds and their many options, is encoded by pyroute2.

A message is a header, a struct of its kind and attributes; an attribute is length, kind and data, filled up to four
bytes, and its data may be attributes in turn: netlink(7), rtnetlink(7).
"""

from __future__ import annotations

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

# linux/netlink.h, linux/rtnetlink.h, linux/if.h
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port: the last two are the sender's
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST, _EXCL_CREATE, _REPLACE_CREATE = 0x1, 0x600, 0x500
_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _DELNEIGH, _GETNEIGH = 20, 21, 24, 25, 29, 30
_IFF_UP = 0x1

# Structs. An interface's is in linux/rtnetlink.h, an address's in linux/if_addr.h, a neighbour's in linux/neighbour.h.
_LINK = struct.Struct("=BxHiII")  # family, kind, index, flags, which of them
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, prefixes of destination and source, TOS, table, origin, scope, kind
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, kind
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 4, 0, 1

# Attributes, from linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/neighbour.h, linux/veth.h.
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_AF_SPEC, _IFLA_NET_NS_FD, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 26, 28, 31, 32
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5  # IFLA_INFO_…
_VETH_PEER = 1
_FORWARD_DELAY, _HELLO_TIME, _MAX_AGE, _STP_STATE, _VLAN_FILTERING, _FDB_FLUSH = 1, 2, 3, 5, 7, 21  # IFLA_BR_…
_PORT_ISOLATED = 33  # IFLA_BRPORT_…
_BRIDGE_VLAN_INFO, _PVID_UNTAGGED = 2, 0x2 | 0x4  # linux/if_bridge.h
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 0x02
_RTA_DST, _RTA_GATEWAY, _RTA_TABLE = 1, 5, 15
_NDA_DST = 1
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


def _message(number: int, how: int, head: bytes, *attributes: bytes) -> bytes:
    body = head + b"".join(attributes)
    return _HEADER.pack(_HEADER.size + len(body), number, _REQUEST | how, 0, 0) + body


def _attribute(kind: int, *data: bytes) -> bytes:
    inside = b"".join(data)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(inside), kind) + inside + bytes(-len(inside) % 4)


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack("=I", number))


def _byte(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack("=B", number))


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _mac(text: str) -> bytes:
    return _attribute(_IFLA_ADDRESS, bytes.fromhex(text.replace(":", "")))


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _packed(version: int, address: str) -> bytes:
    return socket.inet_pton(_FAMILY[version], address)


# Interfaces


def _link(number: int, how: int, index: int, *attributes: bytes, up: bool | None = None, family: int = 0) -> bytes:
    """Up, down, or as it is."""
    head = _LINK.pack(family, 0, index, _IFF_UP if up else 0, 0 if up is None else _IFF_UP)
    return _message(number, how, head, *attributes)


def add_bridge(name: str, index: int, *, up: bool = True, stp: bool = False, vlan_filtering: bool = False) -> Request:
    """A bridge; with STP in the shortest times there are."""
    options = []
    if stp:
        # The shortest times that Linux takes, in hundredths of a second: 2 s to listen and 2 s to learn before a port
        # forwards, a hello each second, and 6 s until one that is missing counts (BR_MIN_…,
        # net/bridge/br_private_stp.h).
        times = ((_FORWARD_DELAY, 200), (_HELLO_TIME, 100), (_MAX_AGE, 600), (_STP_STATE, 1))
        options = [_number(kind, value) for kind, value in times]
    if vlan_filtering:
        options.append(_byte(_VLAN_FILTERING, 1))
    info = [_text(_KIND, "bridge"), *([_attribute(_DATA, *options)] if options else ())]
    attributes = _text(_IFLA_IFNAME, name), _attribute(_IFLA_LINKINFO, *info)
    return Request(_link(_NEWLINK, _EXCL_CREATE, index, *attributes, up=up or None), f"create bridge {name}")


def isolate_port(index: int, name: str) -> Request:
    """A port of a bridge that reaches only those that are not isolated."""
    data = _attribute(_SLAVE_DATA, _byte(_PORT_ISOLATED, 1))
    info = _attribute(_IFLA_LINKINFO, _text(_SLAVE_KIND, "bridge"), data)
    return Request(_link(_NEWLINK, 0, index, info), f"isolate {name}")


def set_vlan(index: int, number: int, *, there: bool = True, tagged: bool = False, what: str) -> Request:
    """A port of a bridge in a VLAN, or out of it; what has no tag belongs to the one that is not ``tagged``."""
    entry = struct.pack("=HH", 0 if tagged or not there else _PVID_UNTAGGED, number)
    attribute = _attribute(_IFLA_AF_SPEC, _attribute(_BRIDGE_VLAN_INFO, entry))
    return Request(_link(_SETLINK if there else _DELLINK, 0, index, attribute, family=socket.AF_BRIDGE), what)


def add_veth(near: End, far: End, mtu: int, far_namespace: int) -> Request:
    """Both ends of a veth pair in place, the near one up: one message, no move, no rename."""
    # One queue: veth has one per processor by default, and setting those up waits for RCU.
    common = _number(_IFLA_MTU, mtu) + _number(_IFLA_NUM_TX_QUEUES, 1) + _number(_IFLA_NUM_RX_QUEUES, 1)
    peer = _attribute(
        _VETH_PEER,
        _LINK.pack(0, 0, far.index, 0, 0),
        _text(_IFLA_IFNAME, far.name),
        _mac(far.mac),
        common,
        _number(_IFLA_NET_NS_FD, far_namespace),
    )
    # Up on the near end only: the kernel refuses to open an end whose peer is not tied to it yet.
    data = _link(
        _NEWLINK,
        _EXCL_CREATE,
        near.index,
        _text(_IFLA_IFNAME, near.name),
        _mac(near.mac),
        common,
        b"" if near.master is None else _number(_IFLA_MASTER, near.master),
        _attribute(_IFLA_LINKINFO, _text(_KIND, "veth"), _attribute(_DATA, peer)),
        up=True,
    )
    return Request(data, f"create veth pair {near.name} - {far.name}")


def set_link(index: int, *, up: bool, what: str) -> Request:
    """An interface up or down."""
    return Request(_link(_NEWLINK, 0, index, up=up), what)


def delete_link(index: int) -> Request:
    """An interface no longer; of a veth pair the other end goes, too."""
    return Request(_link(_DELLINK, 0, index), f"delete interface {index}")


def get_link(index: int) -> Request:
    """One interface. By index, not as a dump: then Linux works off its pending link event first, and the
    interface passes its first packet (rtnl_getlink calls linkwatch_sync_dev, net/core/rtnetlink.c)."""
    return Request(_link(_GETLINK, 0, index), f"read interface {index}")


def add_link(
    name: str, kind: str, data: Sequence[tuple[str, Any]] = (), *, parent: int | None = None, mac: str | None = None
) -> Request:
    """An interface of a kind, down; ``data`` are attributes of its kind, ``parent`` what it sits on."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
    if data:
        info.append(("IFLA_INFO_DATA", {"attrs": list(data)}))
    attributes: list[tuple[str, Any]] = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": info})]
    if parent is not None:
        attributes.append(("IFLA_LINK", parent))
    if mac is not None:
        attributes.append(("IFLA_ADDRESS", mac))
    message = ifinfmsg()
    message["attrs"] = attributes
    message["header"] = {"type": _NEWLINK, "flags": _REQUEST | _EXCL_CREATE, "sequence_number": 0, "pid": 0}
    message.encode()
    return Request(bytes(message.data), f"create {kind} {name}")


def set_master(index: int, master: int, what: str) -> Request:
    """An interface as a part of another: a port of a bridge, a member of a bond or VRF."""
    return Request(_link(_NEWLINK, 0, index, _number(_IFLA_MASTER, master)), what)


def move_link(index: int, name: str, namespace: int, new_name: str | None = None) -> Request:
    """An existing interface into another namespace; takes the kernel a grace period (some 15 ms)."""
    renamed = b"" if new_name is None else _text(_IFLA_IFNAME, new_name)
    return Request(_link(_NEWLINK, 0, index, _number(_IFLA_NET_NS_FD, namespace), renamed), f"move {name}")


def plug_in(index: int, name: str, master: int) -> Request:
    """An interface into a bridge, and up."""
    return Request(_link(_NEWLINK, 0, index, _number(_IFLA_MASTER, master), up=True), f"plug {name} into the bridge")


def set_mtu(index: int, name: str, mtu: int) -> Request:
    """An MTU, in bytes."""
    return Request(_link(_NEWLINK, 0, index, _number(_IFLA_MTU, mtu)), f"set mtu {mtu} of {name}")


def flush_learned(index: int) -> Request:
    """What a bridge has learned, no longer."""
    info = _attribute(_IFLA_LINKINFO, _text(_KIND, "bridge"), _attribute(_DATA, _attribute(_FDB_FLUSH)))
    return Request(_link(_NEWLINK, 0, index, info), "forget what the bridge has learned")


# Addresses, routes and neighbours


def _address(number: int, how: int, index: int, address: str, prefix: int, *, flags: int = 0) -> bytes:
    version = _version(address)
    packed = _packed(version, address)
    head = _ADDRESS.pack(_FAMILY[version], prefix, flags, 0, index)
    return _message(number, how, head, _attribute(_IFA_LOCAL, packed), _attribute(_IFA_ADDRESS, packed))


def add_address(index: int, address: str, prefix: int) -> Request:
    """An address; an IPv6 one without duplicate address detection."""
    flags = _IFA_F_NODAD if _version(address) == 6 else 0
    data = _address(_NEWADDR, _EXCL_CREATE, index, address, prefix, flags=flags)
    return Request(data, f"add address {address}/{prefix}")


def delete_address(index: int, address: str, prefix: int) -> Request:
    """That address no longer."""
    return Request(_address(_DELADDR, 0, index, address, prefix), f"delete address {address}/{prefix}")


def _route(verb: str, version: int, destination: str | None, via: str, table: int | None) -> Request:
    number, how = {
        "add": (_NEWROUTE, _EXCL_CREATE),
        "restore": (_NEWROUTE, _REPLACE_CREATE),
        "delete": (_DELROUTE, 0),
    }[verb]
    attributes, prefix = [_attribute(_RTA_GATEWAY, _packed(version, via))], 0
    if destination is not None:
        network, _, length = destination.partition("/")
        prefix = int(length)
        attributes.insert(0, _attribute(_RTA_DST, _packed(version, network)))
    if table is not None:  # there are more than fit into the byte
        attributes.append(_number(_RTA_TABLE, table))
    main = _RT_TABLE_MAIN if table is None else 0
    head = _ROUTE.pack(_FAMILY[version], prefix, 0, 0, main, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
    return Request(_message(number, how, head, *attributes), f"{verb} route {destination or 'default'} via {via}")


def add_route(version: int, destination: str | None, via: str, table: int | None = None) -> Request:
    """A route by way of a neighbour; ``destination`` None is the default route, ``table`` None the main one."""
    return _route("add", version, destination, via, table)


def restore_route(version: int, destination: str | None, via: str, table: int | None = None) -> Request:
    """That route, whether it is there or not."""
    return _route("restore", version, destination, via, table)


def delete_route(version: int, destination: str | None, via: str, table: int | None = None) -> Request:
    """That route no longer."""
    return _route("delete", version, destination, via, table)


def _neighbour(number: int, index: int, address: str) -> bytes:
    version = _version(address)
    head = _NEIGHBOUR.pack(_FAMILY[version], index, 0, 0, 0)
    return _message(number, 0, head, _attribute(_NDA_DST, _packed(version, address)))


def get_neighbour(index: int, address: str) -> Request:
    """What is known of a neighbour."""
    return Request(_neighbour(_GETNEIGH, index, address), f"read neighbour {address}")


def delete_neighbour(index: int, address: str) -> Request:
    """What is known of a neighbour, no longer."""
    return Request(_neighbour(_DELNEIGH, index, address), f"forget neighbour {address}")
