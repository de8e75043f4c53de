"""Runs nft(8) in a namespace; the one place that knows where it is."""

from __future__ import annotations

import os
import shutil
import subprocess

from ._conntrack import flush_connections
from ._errors import NetnsError, hide_own_frames
from ._fork import Entry
from ._namespace import Namespace
from ._nat_rules import CLOSED, OPEN_AGAIN
from ._process import Popen

__all__ = ["find_nft", "load", "load_anew"]

__tracebackhide__ = hide_own_frames

_MODULES = "nft_masq nft_nat nft_ct nft_fib_inet nf_conntrack_netlink"
#: nft takes milliseconds; what it waits for is the kernel's lock.
_LIMIT = 60.0


def find_nft() -> str:
    """The path of nft.

    Raises:
        NetnsError: It is not installed; the message says what to type.
    """
    # Debian's ordinary users do not have /usr/sbin in their PATH.
    found = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise NetnsError(
            "NAT needs the program nft, which is not installed. Type: sudo apt-get install nftables "
            "(Fedora: sudo dnf install nftables; Alpine: apk add nftables)"
        )
    return found


def load(name: str, namespace: Namespace, text: str) -> None:
    """Give rules to the kernel, in one transaction: all of them hold when this returns, or none.

    Raises:
        NetnsError: nft or the kernel refused them; the message has their words, and the cure.
    """
    held = namespace.broker
    with Popen(
        [find_nft(), "-f", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        _entry=Entry(net=namespace.fileno(), pid=held.pid, user=None, where=name),
        _broker=held,
    ) as nft:
        try:
            said, _ = nft.communicate(text, timeout=_LIMIT)
        except BaseException:
            nft.kill()
            raise
    if nft.returncode:
        raise NetnsError(f"{name}: nft refused the rules of its NAT: {_explain(said)}")


def load_anew(name: str, namespace: Namespace, text: str) -> None:
    """Like :func:`load`, and forget every connection and mapping of before.

    Raises:
        NetnsError, KernelError: Rules or the forgetting were refused.
    """
    load(name, namespace, text + CLOSED)
    try:
        flush_connections(namespace)
    finally:
        load(name, namespace, OPEN_AGAIN)


def _explain(said: str) -> str:
    from ._features import lacking

    why = lacking(["nft"])
    said = said.strip()[:2000]
    if "No such file" in said or "not supported" in said:
        said += f"\nThe kernel may lack what they need; type: sudo modprobe -a {_MODULES}"
    return why[0] if why else said
