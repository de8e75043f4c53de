"""Namespaces that the helper makes before they are asked for; that it does so is counted in test_counts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_netns import KernelError, _fresh, _kernel, _supply
from pytest_netns._broker import Broker

pytestmark = pytest.mark.kernel

#: Of /proc/net: what there is in a namespace.
TABLES = ("dev", "if_inet6", "igmp", "igmp6", "route", "ipv6_route", "arp", "fib_trie", "tcp", "udp", "raw", "packet")


@pytest.fixture
def helper() -> Iterator[Broker]:
    """A helper that nobody has asked for anything."""
    broker = Broker()
    broker.greet()
    yield broker
    broker.close()


def namespaces(helper: Broker, hosts: int) -> list[int]:
    """Descriptors of new ones."""
    fds = helper.request("namespaces", hosts, 0, [])[1]
    for netlink in fds[::2]:
        os.close(netlink)
    return fds[1::2]


def described(helper: Broker, namespace: int) -> dict[str, bytes]:
    """What is in it, and what it is set to."""
    found = {}
    _, files = helper.request("tables", list(TABLES), fds=[namespace])
    for name, fd in zip(TABLES, files, strict=True):
        with open(fd, "rb") as file:
            found[name] = file.read()
    for folder, _, files_there in os.walk("/proc/sys/net"):
        for file_there in files_there:
            name = str(Path(folder, file_there).relative_to("/proc/sys/net"))
            with contextlib.suppress(KernelError):  # not to be read, or the machine's alone
                found[name] = helper.request("sysctl", name, None, fds=[namespace])[0]
    return found


def test_one_made_in_advance_is_as_new(helper: Broker) -> None:
    """No interface, address, route or socket in it differs from the first one's, which was not, nor does a setting."""
    (first,) = namespaces(helper, 1)
    as_new = described(helper, first)
    assert b" lo:" in as_new["dev"]
    assert len(as_new) > 100
    (second,) = namespaces(helper, 1)
    assert os.fstat(second).st_ino != os.fstat(first).st_ino
    assert described(helper, second) == as_new
    os.close(first)
    os.close(second)


def test_nobody_gets_the_same_as_another(helper: Broker) -> None:
    """However many are asked for, and however many there were in advance."""
    got: list[int] = []
    for hosts in (1, 2, 1, 8, 9, 3, 0, 2):
        got += namespaces(helper, hosts)
    assert len({os.fstat(fd).st_ino for fd in got}) == len(got) == 26
    for fd in got:
        os.close(fd)


FEW = """
import os, sys
from pytest_netns import KernelError, Lab, _kernel, ping
limit = int(sys.argv[1])
ids = os.geteuid(), os.getegid()
try:
    _kernel.unshare(_kernel.CLONE_NEWUSER, "CLONE_NEWUSER")
    _kernel.map_identity(*ids, as_root=True)
    with open("/proc/sys/user/max_net_namespaces", "w") as file:
        file.write(str(limit))
except OSError as error:
    sys.exit(f"skip: {error}")
with Lab() as lab:
    assert ping(*lab.pair())
    for number in range(limit - 4):  # the helper has one, and the pair three
        lab.bridge(f"more{number}")
    try:
        lab.bridge("toomany")
    except KernelError:
        pass
    else:
        sys.exit("there is no limit")
"""


@pytest.mark.parametrize("limit", [4, 5, 6, 7])
def test_none_is_kept_from_whoever_needs_it(limit: int) -> None:
    """Where user.max_net_namespaces leaves little room, nothing is made in advance, and all may be had."""
    command = [sys.executable, "-c", FEW, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stderr.startswith("skip"):
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", [OSError(12, "no memory"), MemoryError()])
def test_one_that_cannot_be_made_is_nobodys_loss(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Nobody has asked for it; those who ask get theirs, and it is not tried again."""
    tried: list[int] = []

    def make(*_: object) -> list[int]:
        tried.append(len(tried))
        if len(tried) == 3:
            raise error
        return [os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)]

    monkeypatch.setattr(_fresh, "new_namespace", make)
    monkeypatch.setattr(_kernel, "setns", lambda *_: None)
    before = set(os.listdir("/proc/self/fd"))
    supply = _supply.Supply(-1, {}, 5000)
    for expected in (1, 3, 4):  # one for who asks, one in advance; the third fails; one for who asks
        for fd in supply.hand_out(1, 0, [])[1]:
            os.close(fd)
        supply.prepare()
        supply.prepare()
        assert len(tried) == expected + (expected == 1)
    assert set(os.listdir("/proc/self/fd")) == before
