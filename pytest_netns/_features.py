"""Which kernel features there are, found by trying each in a namespace that is thrown away.

Neither the kernel's configuration nor ``lsmod`` tell: a module may be there and not loaded, loaded and forbidden, or
not be there though the configuration file says so. Asking for the feature has the kernel load what it needs, as the
test's own request would.

The requests are a few plain bytes each; encoding them here saves importing pyroute2, for a test that is skipped.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ._errors import FeatureLacking, PlanError
from ._namespace import Namespace
from ._requests import End, Request, add_veth

__all__ = ["FEATURES", "Feature", "check_names", "lacking"]

#: Tries the feature in a namespace that has the veth ends ``_ENDS``; raises OSError where it is lacking.
Try = Callable[[Namespace], None]

# linux/rtnetlink.h, linux/if_link.h, linux/if_tunnel.h, linux/pkt_sched.h, linux/pkt_cls.h
_NEWLINK, _SETLINK, _NEWQDISC, _NEWTFILTER = 16, 19, 36, 44
_REQUEST_CREATE = 0x1 | 0x200 | 0x400  # NLM_F_REQUEST, _EXCL, _CREATE
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO, _INFO_KIND, _INFO_DATA, _IFLA_AF_SPEC = 3, 5, 18, 1, 2, 26
_TCA_KIND, _TCA_OPTIONS = 1, 2
_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_ENDS = (101, 102)
_FOUR, _SIX = socket.inet_aton("192.0.2.1"), socket.inet_pton(socket.AF_INET6, "2001:db8::1")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_CREATE, 0, 0) + body


def _link(kind: str, *attributes: tuple[int, bytes], parent: bool = False) -> Try:
    """An interface of this kind."""
    data = b"".join(_attribute(*attribute) for attribute in attributes)
    info = _attribute(_INFO_KIND, kind.encode()) + (_attribute(_INFO_DATA, data) if data else b"")
    body = bytes(16) + _attribute(_IFLA_IFNAME, b"tried\0") + _attribute(_IFLA_LINKINFO, info)
    if parent:
        body += _attribute(_IFLA_LINK, struct.pack("=I", _ENDS[0]))
    return _requests(_message(_NEWLINK, body))


def _traffic_control(kind: int, name: str, place: tuple[int, int, int], options: bytes | None) -> bytes:
    """``place``: parent, handle, and what tcmsg calls info."""
    parent, handle, info = place
    body = struct.pack("=BxxxiIII", 0, _ENDS[0], handle, parent, info) + _attribute(_TCA_KIND, name.encode() + b"\0")
    return _message(kind, body if options is None else body + _attribute(_TCA_OPTIONS, options))


def _qdisc(name: str, options: bytes | None = None, parent: int = _ROOT) -> Try:
    """A queueing discipline at an interface."""
    handle = 0xFFFF0000 if parent == _INGRESS else 0x10000
    return _requests(_traffic_control(_NEWQDISC, name, (parent, handle, 0), options))


def _filter(name: str, options: bytes = b"") -> Try:
    """A classifier, of what comes in."""
    every_protocol = 1 << 16 | socket.htons(0x0003)  # priority 1, ETH_P_ALL
    return _requests(
        _traffic_control(_NEWQDISC, "ingress", (_INGRESS, 0xFFFF0000, 0), None),
        _traffic_control(_NEWTFILTER, name, (0xFFFF0000, 0, every_protocol), options),
    )


def _filter_vlans() -> Try:
    """A bridge with VLANs. One that has none takes the word for it and does nothing; but not a VLAN."""
    index = 103
    info = _attribute(_INFO_KIND, b"bridge")
    bridge = struct.pack("=BxHiII", 0, 0, index, 0, 0)
    bridge += _attribute(_IFLA_IFNAME, b"tried\0") + _attribute(_IFLA_LINKINFO, info)
    # linux/if_bridge.h: IFLA_BRIDGE_FLAGS (the bridge itself), IFLA_BRIDGE_VLAN_INFO (flags, number)
    vlan = _attribute(0, struct.pack("=H", 2)) + _attribute(2, struct.pack("=HH", 0, 7))
    told = struct.pack("=BxHiII", socket.AF_BRIDGE, 0, index, 0, 0) + _attribute(_IFLA_AF_SPEC, vlan)
    return _requests(_message(_NEWLINK, bridge), _message(_SETLINK, told))


def _requests(*messages: bytes) -> Try:
    def send(namespace: Namespace) -> None:
        namespace.netlink.batch([Request(message, "try") for message in messages])

    return send


def _socket(family: int, kind: int, protocol: int) -> Try:
    """A socket of this protocol."""

    def make(namespace: Namespace) -> None:
        os.close(_open_socket(namespace, family, kind, protocol))

    return make


def _open_socket(namespace: Namespace, family: int, kind: int, protocol: int) -> int:
    _, (fd,) = namespace.broker.request("socket", int(family), int(kind), protocol, fds=[namespace.fileno()])
    return fd


def _make_nft_table(namespace: Namespace) -> None:
    # linux/netfilter/nfnetlink.h: a batch, of which only the request for a table asks for an answer
    begin, end, table = 0x10, 0x11, 10 << 8
    subsystem = struct.pack(">BBH", 0, 0, 10)
    named = _attribute(1, b"tried\0")  # NFTA_TABLE_NAME
    parts = [(begin, 0x1, subsystem), (table, 0x1 | 0x4, struct.pack(">BBH", 1, 0, 0) + named), (end, 0x1, subsystem)]
    request = b"".join(
        struct.pack("=IHHII", 16 + len(body), kind, flags, number, 0) + body
        for number, (kind, flags, body) in enumerate(parts, 1)
    )
    with socket.socket(fileno=_open_socket(namespace, socket.AF_NETLINK, socket.SOCK_RAW, 12)) as asking:
        asking.settimeout(60)
        asking.send(request)
        code = -struct.unpack_from("=i", asking.recv(8192), 16)[0]
    if code:
        raise OSError(code, os.strerror(code))


def _translate(namespace: Namespace) -> None:
    """All that NAT may need: the program, and the parts of nftables that its rules are made of."""
    from ._nat import Nat, set_nat
    from ._nat_rules import nat_rules
    from ._nftables import run_nft
    from ._plan import NOTHING, add_end, add_node, add_segment

    plan = add_node(add_segment(NOTHING, "wan"), "tried", forwards=True)
    plan = set_nat(add_end(plan, "tried", "wan"), "tried", Nat("wan", filtering="address-dependent"))
    rules = nat_rules(plan, "tried")
    assert rules is not None
    said = run_nft(namespace, rules.table)
    if said:
        modules = "nf_tables nft_masq nft_nat nft_ct nft_fib_inet nft_reject_inet"
        raise FeatureLacking(
            f"this kernel, {os.uname().release}, lacks a part of nftables; nft says {said!r}. Type: sudo modprobe -a "
            f"{modules}; or take a kernel that is built with CONFIG_{modules.upper().replace(' ', ', CONFIG_')}"
        )


def _open_tun(_: Namespace) -> None:
    os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))


@dataclass(frozen=True)
class Feature:
    """Something that a kernel may have or lack.

    Attributes:
        module: The kernel module that brings it, for modprobe(8).
        option: The option that a kernel is built with for it.
        try_it: Raises OSError where it is lacking.
    """

    module: str
    option: str
    try_it: Try


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


_RATE = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, 125_000)  # tc_ratespec: Ethernet, 1 Mbit/s
_TBF = _attribute(1, _RATE + bytes(12) + struct.pack("=III", 10_000, 10_000, 0)) + _attribute(6, _u32(10_000))

#: By the name that a test asks for it.
FEATURES = {
    # Interfaces
    "bond": Feature("bonding", "BONDING", _link("bond")),
    "dummy": Feature("dummy", "DUMMY", _link("dummy")),
    "geneve": Feature("geneve", "GENEVE", _link("geneve", (1, _u32(1)), (2, _FOUR))),
    "gre": Feature("ip_gre", "NET_IPGRE", _link("gre", (7, _FOUR))),
    "gretap": Feature("ip_gre", "NET_IPGRE", _link("gretap", (7, _FOUR))),
    "hsr": Feature("hsr", "HSR", _link("hsr", (1, _u32(_ENDS[0])), (2, _u32(_ENDS[1])))),
    "ifb": Feature("ifb", "IFB", _link("ifb")),
    "ip6gre": Feature("ip6_gre", "IPV6_GRE", _link("ip6gre", (7, _SIX))),
    "ip6tnl": Feature("ip6_tunnel", "IPV6_TUNNEL", _link("ip6tnl", (3, _SIX), (9, b"\x29"))),
    "ipip": Feature("ipip", "NET_IPIP", _link("ipip", (3, _FOUR))),
    "ipvlan": Feature("ipvlan", "IPVLAN", _link("ipvlan", (1, struct.pack("=H", 0)), parent=True)),
    "macsec": Feature("macsec", "MACSEC", _link("macsec", parent=True)),
    "macvlan": Feature("macvlan", "MACVLAN", _link("macvlan", (1, _u32(4)), parent=True)),
    "macvtap": Feature("macvtap", "MACVTAP", _link("macvtap", (1, _u32(4)), parent=True)),
    "netkit": Feature("netkit", "NETKIT", _link("netkit")),
    "sit": Feature("sit", "IPV6_SIT", _link("sit", (3, _FOUR))),
    "team": Feature("team", "NET_TEAM", _link("team")),
    "tun": Feature("tun", "TUN", _open_tun),
    "vcan": Feature("vcan", "CAN_VCAN", _link("vcan")),
    "vlan": Feature("8021q", "VLAN_8021Q", _link("vlan", (1, struct.pack("=H", 7)), parent=True)),
    "vrf": Feature("vrf", "NET_VRF", _link("vrf", (1, _u32(10)))),
    "vxlan": Feature("vxlan", "VXLAN", _link("vxlan", (1, _u32(1)))),
    "wireguard": Feature("wireguard", "WIREGUARD", _link("wireguard")),
    "xfrm": Feature("xfrm_interface", "XFRM_INTERFACE", _link("xfrm", (2, _u32(1)))),
    # Queueing disciplines
    "cake": Feature("sch_cake", "NET_SCH_CAKE", _qdisc("cake")),
    "clsact": Feature("sch_ingress", "NET_SCH_INGRESS", _qdisc("clsact", parent=_INGRESS)),
    "fq": Feature("sch_fq", "NET_SCH_FQ", _qdisc("fq")),
    "fq_codel": Feature("sch_fq_codel", "NET_SCH_FQ_CODEL", _qdisc("fq_codel")),
    "htb": Feature("sch_htb", "NET_SCH_HTB", _qdisc("htb", _attribute(2, struct.pack("=5I", 3, 10, 0, 0, 0)))),
    "netem": Feature("sch_netem", "NET_SCH_NETEM", _qdisc("netem", struct.pack("=6I", 0, 1000, 0, 0, 0, 0))),
    "tbf": Feature("sch_tbf", "NET_SCH_TBF", _qdisc("tbf", _TBF)),
    # Classifiers
    "flower": Feature("cls_flower", "NET_CLS_FLOWER", _filter("flower")),
    "matchall": Feature("cls_matchall", "NET_CLS_MATCHALL", _filter("matchall")),
    "u32": Feature("cls_u32", "NET_CLS_U32", _filter("u32", _attribute(5, bytes(16)))),
    # Protocols and the rest
    "ipv6": Feature("ipv6", "IPV6", _socket(socket.AF_INET6, socket.SOCK_DGRAM, 0)),
    "mptcp": Feature("mptcp", "MPTCP", _socket(socket.AF_INET, socket.SOCK_STREAM, 262)),
    "nat": Feature("nft_masq", "NFT_MASQ", _translate),
    "nft": Feature("nf_tables", "NF_TABLES", _make_nft_table),
    "sctp": Feature("sctp", "IP_SCTP", _socket(socket.AF_INET, socket.SOCK_STREAM, 132)),
    "vlan_filtering": Feature("bridge", "BRIDGE_VLAN_FILTERING", _filter_vlans()),
}

#: What has been tried: why it is lacking, or None.
_tried: dict[str, str | None] = {}


def check_names(names: Sequence[str]) -> None:
    """Refuse what is no feature.

    Raises:
        PlanError: It lists the legal names.
    """
    for name in names:
        if name not in FEATURES:
            close = difflib.get_close_matches(str(name), FEATURES, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise PlanError(f"requires: unknown kernel feature {name!r}{hint}; there are {', '.join(sorted(FEATURES))}")


def lacking(names: Iterable[str]) -> list[str]:
    """One sentence for each of these features that this machine lacks: which, why, and what to type.

    Each is tried once in the life of the process.

    Raises:
        NamespacesUnavailable: There can be no namespace to try in.
    """
    wanted = list(names)
    for name in wanted:
        if name not in _tried:
            _tried[name] = _try(name)
    return [why for why in map(_tried.get, wanted) if why is not None]


def _try(name: str) -> str | None:
    feature = FEATURES[name]
    namespace = Namespace()
    with contextlib.closing(namespace):
        ends = [End(f"end{index}", index, f"02:00:00:00:00:{index:02x}") for index in _ENDS]
        namespace.netlink.batch([add_veth(ends[0], ends[1], 1500, namespace.fileno())])
        try:
            feature.try_it(namespace)
        except OSError as error:
            return _explain(name, feature, error)
        except FeatureLacking as error:
            return f"{name} is lacking: {error}"
    return None


def _explain(name: str, feature: Feature, error: OSError) -> str:
    if name == "tun" and isinstance(error, PermissionError):
        return (
            "tun is lacking: this user may not open /dev/net/tun. Type: sudo chmod a+rw /dev/net/tun; "
            "what may be done with it the kernel still decides for each network"
        )
    return (
        f"{name} is lacking: this kernel, {os.uname().release}, says {os.strerror(error.errno or 0)!r}. "
        f"Type: sudo modprobe {feature.module}; where there is no such module, install the kernel's further modules "
        f"(Ubuntu: linux-modules-extra-{os.uname().release}, Fedora: kernel-modules-extra; not a cloud kernel), "
        f"or take a kernel that is built with CONFIG_{feature.option}"
    )
