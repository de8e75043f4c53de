"""Has the kernel translate: what a router is told takes the place of what it was told before."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable

from ._conntrack import flush_connections, forget_translated
from ._errors import FeatureLacking, KernelError, NetnsError, hide_own_frames
from ._features import lacking
from ._namespace import Namespace
from ._nat_rules import CLOSED, OPEN_AGAIN, Forwarded
from ._nftables import ask_nft, run_nft

__all__ = ["free", "load", "load_anew"]

#: Seconds that the kernel remembers UDP packets, so that what comes back late still gets in (RFC 4787, REQ-5).
_REMEMBERED = b"300"

__tracebackhide__ = hide_own_frames


def load(name: str, namespace: Namespace, text: str) -> None:
    """Give rules to a router.

    Raises:
        FeatureLacking: The machine lacks what NAT needs; the message says what to type.
        NetnsError: They were refused all the same; the message has nft's words.
    """
    said = run_nft(namespace, text)
    if said:
        reasons = lacking(["nat"])
        if reasons:
            raise FeatureLacking(f"{name}: {reasons[0]}")
        raise NetnsError(f"{name}: nft refused the rules of its NAT: {said}")
    for setting in ("udp_timeout", "udp_timeout_stream"):
        with contextlib.suppress(KernelError):  # older kernels refuse it in user namespaces: 30 and 120 s then
            path = f"netfilter/nf_conntrack_{setting}"
            namespace.broker.request("sysctl", path, _REMEMBERED, fds=[namespace.fileno()])


def load_anew(name: str, namespace: Namespace, text: str, before: str) -> None:
    """Like :func:`load`, and forget every connection and mapping of before; where that fails, ``before`` holds again.

    Raises:
        FeatureLacking, NetnsError: As :func:`load`; or KernelError, connections could not be forgotten.
    """
    load(name, namespace, text + CLOSED)
    try:
        flush_connections(namespace)
    except BaseException:
        load(name, namespace, before + OPEN_AGAIN)
        raise
    load(name, namespace, OPEN_AGAIN)


#: ``192.168.1.2 . 17 . 5000 timeout 5m expires 4m59s : 5000``; with the remote address, if the mapping depends on that.
_MAPPED = re.compile(r"((\S+) \. (\d+) \. (\d+)(?: \. [\d.]+)?) [^:,{}]*: (\d+)")
_NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


def free(namespace: Namespace, forwarded: Iterable[Forwarded]) -> None:
    """Have whoever has one of these ports outside get another with its next packet; whom it leads to keeps it.

    The rules already see to it that nobody else gets one from now on.
    """
    leads = {(_NUMBERS[each.protocol], each.port): (each.address, each.to_port) for each in forwarded}
    if not leads:
        return
    gone = []
    for key, address, number, inner, port in _MAPPED.findall(ask_nft(namespace, "list map inet netns mapped\n")):
        wanted = leads.get((int(number), int(port)))
        if wanted not in (None, (address, int(inner))):
            gone.append(f"delete element inet netns mapped {{ {key} }}\n")
            gone.append(f"delete element inet netns ports {{ {number} . {port} }}\n")
    for text in gone:  # one by one: one may have run out meanwhile, and not every kind of NAT has ports
        run_nft(namespace, text)
    forget_translated(namespace, leads)
