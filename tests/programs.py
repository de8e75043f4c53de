"""The real programs that some tests run in hosts; .ci/run installs their packages."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["PACKAGES", "program"]

#: Debian's package of each.
PACKAGES = {
    "bird": "bird2",
    "birdc": "bird2",
    "curl": "curl",
    "dnsmasq": "dnsmasq-base",
    "iperf3": "iperf3",
    "keepalived": "keepalived",
    "nft": "nftables",
    "nginx": "nginx-light",
    "sshd": "openssh-server",
    "strace": "strace",
    "udhcpc": "udhcpc",
}


def program(name: str) -> str:
    """Its path; where it is not installed the test is skipped, but in CI, which installs it, that is a failure."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        words = f"{name} is not installed: apt-get install {PACKAGES[name]}"
        if os.environ.get("CI"):
            pytest.fail(words, pytrace=False)
        pytest.skip(words)
    return found
