"""Has the kernel translate: what a router is told takes the place of what it was told before."""

from __future__ import annotations

import contextlib

from ._conntrack import flush_connections
from ._errors import FeatureLacking, KernelError, NetnsError, hide_own_frames
from ._features import lacking
from ._namespace import Namespace
from ._nat_rules import CLOSED, OPEN_AGAIN
from ._nftables import run_nft

__all__ = ["load", "load_anew"]

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
