"""Waits for what programs in a host do end with the event, the program or the time, and say what they saw."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_netns import ChildDied, Host, Lab, Pair, PlanError, WaitTimeout

pytestmark = pytest.mark.kernel

SHORT = 0.1
LISTEN = """
import socket, sys
family, kind, address = eval(sys.stdin.readline())
sock = socket.socket(family, kind)
sock.bind(address)
if kind != socket.SOCK_DGRAM:
    sock.listen()
sys.stdin.read()
"""
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
V4, V6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX


@pytest.mark.parametrize(
    ("server", "wanted", "shown"),
    [
        ((V4, TCP, ("127.0.0.1", 80)), {"port": 80}, "tcp 127.0.0.1:80"),
        ((V6, TCP, ("::", 80)), {"port": 80, "family": V6}, "tcp [::]:80"),
        ((V4, UDP, ("0.0.0.0", 53)), {"port": 53, "proto": "udp"}, "udp 0.0.0.0:53"),
        ((V6, UDP, ("::1", 53)), {"port": 53, "proto": "udp"}, "udp [::1]:53"),
        ((UNIX, TCP, "{folder}/a b.sock"), {"port": "{folder}/a b.sock"}, "unix {folder}/a b.sock"),
        ((UNIX, UDP, "{folder}/log"), {"port": "{folder}/log"}, "unix {folder}/log"),
        ((UNIX, TCP, "relative"), {"port": "{folder}/relative"}, "unix relative"),
        ((UNIX, TCP, "\0abstract"), {"port": "@abstract"}, "unix @abstract"),
    ],
    ids=["tcp", "tcp6", "udp", "udp6", "unix", "unix datagrams", "unix relative", "unix abstract"],
)
def test_whatever_listens_is_waited_for(
    netns: Host, tmp_path: Path, server: tuple[int, int, Any], wanted: dict[str, Any], shown: str
) -> None:
    """And it is listed by a wait for another one, which ends with its time."""
    folder = str(tmp_path)
    family, kind, address = server
    wanted = {key: value.format(folder=folder) if isinstance(value, str) else value for key, value in wanted.items()}
    address = address.format(folder=folder) if isinstance(address, str) else address
    program = netns.popen([sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, cwd=folder, text=True)
    words = f"not within {SHORT:g} s; it has nobody who listens\n.*: running; it has written nothing"
    with pytest.raises(WaitTimeout, match=words):
        netns.wait_listening(**wanted, timeout=SHORT)
    assert program.stdin is not None
    program.stdin.write(repr((int(family), int(kind), address)) + "\n")
    program.stdin.flush()
    netns.wait_listening(**wanted)
    with pytest.raises(WaitTimeout) as caught:
        netns.wait_listening(81, timeout=SHORT)
    assert f"it has {shown.format(folder=folder)}\n" in str(caught.value)
    program.stdin.close()


def test_only_the_hosts_own_count(netns_pair: Pair) -> None:
    """Neither the machine's nor another host's, nor a connection, nor the other family or protocol."""
    beijing, shanghai = netns_pair
    with socket.create_server(("127.0.0.1", 0)) as machines, shanghai.socket() as server, beijing.socket() as client:
        server.bind((shanghai.ip, 80))
        server.listen()
        shanghai.wait_listening(80)
        client.connect((shanghai.ip, 80))
        for host, wanted in (
            (shanghai, {"port": machines.getsockname()[1]}),
            (beijing, {"port": 80}),
            (beijing, {"port": client.getsockname()[1]}),
            (shanghai, {"port": 80, "proto": "udp"}),
            (shanghai, {"port": 80, "family": V6}),
        ):
            with pytest.raises(WaitTimeout):
                host.wait_listening(**wanted, timeout=0.01)


def test_a_server_that_dies_ends_the_wait(netns: Host) -> None:
    """At once, with its status and its last words; one that may die does not."""
    netns.popen(["false"], check=False)
    netns.popen(["sh", "-c", "echo no such option >&2; exit 2"])
    with pytest.raises(ChildDied, match=r"(?s)tcp port 80: .* ended with exit status 2; .* no such option") as caught:
        netns.wait_listening(80)
    assert caught.value.returncode == 2
    with pytest.raises(WaitTimeout, match="no such option"):  # which has been told
        netns.wait_listening(80, timeout=SHORT)


def test_a_server_that_has_ended_well_is_told_of(netns: Host) -> None:
    """It may have left a daemon, which is waited for; where nothing runs any more, the message says that, too."""
    started = netns.popen("echo in the background; sleep 1000 & exit 0", shell=True)
    started.wait(60)
    ended = r"exit 0 in netns: ended with exit status 0; its output:\n  [\d:.]+ in the background\n"
    with pytest.raises(WaitTimeout, match=ended + r"processes in netns:\n  \d+ \w .*sleep 1000"):
        netns.wait_listening(80, timeout=SHORT)
    netns.end_processes()
    with pytest.raises(WaitTimeout, match=ended + "nothing runs in netns any more$"):
        netns.wait_listening(80, timeout=SHORT)


def test_a_path_is_waited_for(netns: Host, tmp_path: Path) -> None:
    """A folder's content is told where it is not there in time."""
    (tmp_path / "other").touch()
    program = netns.popen(
        "read line; echo $$ > my.pid; read line; exit 0", shell=True, stdin=subprocess.PIPE, cwd=tmp_path
    )
    with pytest.raises(WaitTimeout, match=rf"my.pid was to be there: not within {SHORT:g} s; .* has other\n"):
        netns.wait_path(tmp_path / "my.pid", timeout=SHORT)
    with pytest.raises(WaitTimeout, match="No such file or directory"):
        netns.wait_path(tmp_path / "no" / "my.pid", timeout=SHORT)
    assert program.stdin is not None
    program.stdin.write(b"\n")
    program.stdin.flush()
    netns.wait_path(tmp_path / "my.pid")
    program.stdin.close()


def test_nothing_is_kept() -> None:
    """No descriptor of a table stays: it would keep the host's namespace."""
    with Lab() as lab, lab.host() as host:
        host.namespace.fileno()
        before = os.listdir("/proc/self/fd")
        with pytest.raises(WaitTimeout):
            host.wait_listening(80, timeout=0.01)
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"port": 0}, "port 0: expected 1 to 65535"),
        ({"port": ""}, "port '': expected a number, or the path"),
        ({"port": True}, "port True: expected a number, or the path"),
        ({"port": 80, "proto": "sctp"}, "proto 'sctp'"),
        ({"port": 80, "family": UNIX}, "expected 'tcp' or 'udp', and AF_INET, AF_INET6 or None"),
        ({"port": 80, "timeout": -1}, "timeout -1: expected seconds above 0"),
    ],
)
def test_what_cannot_be_waited_for_is_refused(netns: Host, wanted: dict[str, Any], words: str) -> None:
    """Before anybody waits."""
    with pytest.raises(PlanError, match=words):
        netns.wait_listening(**wanted)
