"""Runs nft(8) in a namespace; the one place that knows where it is."""

from __future__ import annotations

import os
import shutil
import subprocess

from ._entry import Entry
from ._errors import FeatureLacking, hide_own_frames
from ._namespace import Namespace
from ._process import Popen

__all__ = ["ask_nft", "find_nft", "run_nft"]

__tracebackhide__ = hide_own_frames

#: nft takes milliseconds; what it waits for is the kernel's lock.
_LIMIT = 60.0


def find_nft() -> str:
    """The path of nft.

    Raises:
        FeatureLacking: It is not installed; the message says what to type.
    """
    # Debian's ordinary users do not have /usr/sbin in their PATH.
    found = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise FeatureLacking(
            "NAT needs the program nft, which is not installed. Type: sudo apt-get install nftables "
            "(Fedora: sudo dnf install nftables; Alpine: apk add nftables)"
        )
    return found


def run_nft(namespace: Namespace, text: str) -> str:
    """Give rules to the kernel, in one transaction: all of them hold when this returns, or none.

    Returns:
        Nothing; or what nft says if it, or the kernel, refused them.
    """
    status, said = _run(namespace, text)
    return (said.strip()[:2000] or f"exit status {status}") if status else ""


def ask_nft(namespace: Namespace, text: str) -> str:
    """What nft lists, in numbers; nothing if there is no such thing."""
    status, said = _run(namespace, text, "-n")
    return "" if status else said


def _run(namespace: Namespace, text: str, *options: str) -> tuple[int, str]:
    held = namespace.broker
    with Popen(
        [find_nft(), *options, "-f", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        _entry=Entry(net=namespace.fileno(), pid=held.pid, user=None),
        _broker=held,
    ) as nft:
        try:
            said, _ = nft.communicate(text, timeout=_LIMIT)
        except BaseException:
            nft.kill()
            raise
    return nft.returncode, said
