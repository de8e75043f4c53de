"""Whole runs of pytest with named namespaces, and together with those of ``ip netns``.

On a /run of their own: what is listed can be told exactly, and nobody's names are near.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from pace import seconds

from pytest_netns import Host
from pytest_netns._broker import broker

needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="needs the program ip: apt install iproute2")

LISTED = """
import os, subprocess
import pytest

def listed():
    shown = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    names = sorted(line.split()[0] for line in shown.splitlines())
    assert names == sorted(os.listdir("/run/netns") if os.path.exists("/run/netns") else [])
    return names
"""


@pytest.fixture
def run_apart(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run pytest in a mount namespace with an empty /run, as root of a user namespace where need be."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]
    apart = ["unshare", *user, "--mount", "--propagation", "private", "sh", "-c"]
    if subprocess.run([*apart, "mount -t tmpfs none /run"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a /run of its own, even in a user namespace")
    script = 'mount -t tmpfs none /run && mount --make-$0 /run && "$@"; code=$?; echo "left: $(ls /run)"; exit $code'

    def run(*arguments: str, propagation: str = "private") -> pytest.RunResult:
        return pytester.run(*apart, script, propagation, sys.executable, "-m", "pytest", "-v", *arguments)

    return run


@needs_ip
def test_ip_netns_lists_exactly_the_names_of_the_running_test(
    pytester: pytest.Pytester, run_apart: Callable[..., pytest.RunResult]
) -> None:
    """With ``--netns-named`` the note's names are listed while a test has them, and nothing is left."""
    pytester.makepyfile(
        LISTED
        + """
def test_the_note(netns_pair):
    assert listed() == ["beijing", "br0", "shanghai"]
    for host in netns_pair:
        show = ["ip", "netns", "exec", host.name, "ip", "address", "show", "eth0"]
        assert host.ip in subprocess.run(show, capture_output=True, text=True, check=True).stdout

def test_only_what_this_test_has(netns):
    assert listed() == [netns.name]

@pytest.mark.netns(hosts=("berlin", "paris"), bridge=False)
def test_other_names(netns_pair):
    assert listed() == ["berlin", "paris"]

@pytest.mark.xfail(strict=True)
def test_one_that_fails(netns_pair):
    raise AssertionError

@pytest.mark.netns
def test_a_body_inside():
    pass

def test_none():
    assert listed() == []
"""
    )
    result = run_apart("--netns-named")
    result.assert_outcomes(passed=5, xfailed=1)
    result.stdout.fnmatch_lines(["netns: *named namespaces*", "left: "], consecutive=False)


@needs_ip
def test_workers_and_wider_scopes_share_the_names_by_number(
    pytester: pytest.Pytester, run_apart: Callable[..., pytest.RunResult]
) -> None:
    """With xdist and a session's pair, several beijings live at a time: each is listed under a name of its own."""
    pytest.importorskip("xdist")
    pytester.makepyfile(
        LISTED
        + """
@pytest.fixture(scope="session")
def shared(netns_pair_factory):
    return netns_pair_factory(subnet="10.7.0.0/24")

@pytest.mark.parametrize("number", range(10))
def test_pairs(netns_pair, shared, number):
    names = os.listdir("/run/netns")
    for pair in (netns_pair, shared):
        for place in (*pair.hosts, pair.bridge):
            assert place.namespace.name in names
            assert os.stat(f"/run/netns/{place.namespace.name}").st_ino == place.namespace.id
    own = {host.namespace.name for pair in (netns_pair, shared) for host in pair}
    assert len(own) == 4
"""
    )
    result = run_apart("--netns-named", "-n", "2")
    result.assert_outcomes(passed=10)
    assert result.outlines[-1] in ("left: ", "left: netns")  # the directory's maker may end before the other worker


@needs_ip
def test_what_ip_netns_made_is_used_and_left_alone(
    pytester: pytest.Pytester, run_apart: Callable[..., pytest.RunResult]
) -> None:
    """A namespace of ``ip netns add`` is attached to by name and path, takes interfaces, and stays."""
    pytester.makepyfile(
        LISTED
        + """
from pytest_netns import Host, Namespace, ping

def ip(command):
    subprocess.run(["ip", *command.split()], check=True)

def test_attach(netns):
    ip("netns add made-by-ip")
    identity = os.stat("/run/netns/made-by-ip").st_ino
    ip("-n made-by-ip link set lo up")
    for host in (
        Host.attach("made-by-ip"),
        Host.attach("/run/netns/made-by-ip"),
        Host.attach(path="/run/netns/made-by-ip"),
    ):
        with host:
            assert host.namespace.id == identity
            assert host.call(os.readlink, "/proc/self/ns/net") == f"net:[{identity}]"
            assert ping(host, "127.0.0.1", timeout=20)
    with Host.attach("made-by-ip") as host:
        assert host.name == "made-by-ip"
        netns.run("ip link add end-a type veth peer name end-b".split(), check=True)
        host.adopt(netns["end-a"])
        ip("-n made-by-ip link show end-a")
        host["end-a"].up()
        host.add_address("end-a", "10.7.0.1/24")
        assert host.ip == "10.7.0.1"
    assert listed() == ["made-by-ip"]
    ip("netns del made-by-ip")

def test_a_name_that_has_passed_to_somebody_else_is_theirs():
    with Namespace("passed-on"):
        ip("netns del passed-on")
        ip("netns add passed-on")
        identity = os.stat("/run/netns/passed-on").st_ino
    assert os.stat("/run/netns/passed-on").st_ino == identity
    ip("netns del passed-on")
"""
    )
    run_apart().assert_outcomes(passed=2)


@needs_ip
@pytest.mark.parametrize("propagation", ["private", "shared"])
def test_the_first_ip_netns_add_of_a_machine_does_not_keep_our_names(
    pytester: pytest.Pytester,
    run_apart: Callable[..., pytest.RunResult],
    propagation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It mounts /run/netns over itself, so that our name is there twice; both go, closed or killed."""
    monkeypatch.setenv("PATIENT", str(seconds(60)))
    pytester.makepyfile(
        """
import os, signal, subprocess, sys, time
import pytest
from pytest_netns import Namespace

PATIENT = float(os.environ["PATIENT"])

@pytest.mark.parametrize("end", ["close", "kill", "deleted"])
def test_mounted_twice(end):
    subprocess.run("umount -l /run/netns; rmdir /run/netns", shell=True)
    shown, told = os.pipe()
    child = os.fork()
    if child == 0:
        held = Namespace("ours")
        subprocess.run(["ip", "netns", "add", "theirs"], check=True)
        mounts = open("/proc/self/mountinfo").read()
        assert " /run/netns/theirs " in mounts and mounts.count(" /run/netns/ours ") == 2
        if end == "deleted":
            subprocess.run(["ip", "netns", "del", "ours"])
        os.write(told, b"x")
        if end == "kill":
            time.sleep(1000)
        held.close()
        os._exit(0)
    os.read(shown, 1)
    if end == "kill":
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + PATIENT
    while os.listdir("/run/netns") != ["theirs"] or "/ours " in open("/proc/self/mountinfo").read():
        assert time.monotonic() < deadline, os.listdir("/run/netns")
        time.sleep(0.01)
    subprocess.run(["ip", "netns", "del", "theirs"], check=True)
"""
    )
    result = run_apart("-p", "no:warnings", propagation=propagation)
    result.assert_outcomes(passed=3)


def test_without_root_named_runs_are_refused(pytester: pytest.Pytester, netns: Host) -> None:  # noqa: ARG001
    """Without root ``--netns-named`` is an error of each test that asks for a network, with the cure."""
    if not broker().rootless:
        pytest.skip("root may give names")
    pytester.makepyfile("def test_one(netns): pass\ndef test_two(netns_pair): pass\ndef test_none(): pass")
    result = pytester.runpytest_subprocess("--netns-named")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*'beijing' in /run/netns needs root*run as root: sudo env*"])
