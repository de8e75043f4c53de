"""``user="root"``: uid 0 inside, for programs that insist on it; outside it stays the user who runs the test."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from marking import Inner
from programs import program

from pytest_netns import ChildDied, Lab, LabFactory, Pair, PairFactory, PlanError, _advice, ping
from pytest_netns._broker import broker

pytestmark = pytest.mark.kernel


@pytest.mark.netns(user="root")
def test_who_runs_inside_is_uid_0_and_what_it_writes_is_the_users(netns_pair: Pair, tmp_path: Path) -> None:
    """Programs and callables; ``install -o root`` refuses everybody else. The test process stays who it is."""
    me = os.getuid(), os.getgid()
    beijing, shanghai = netns_pair
    (tmp_path / "made").write_text("x")
    install = ["install", "-o", "root", "-g", "root", str(tmp_path / "made"), str(tmp_path / "installed")]
    shanghai.run(install, check=True)
    assert shanghai.call(lambda: (os.getresuid(), os.getresgid())) == ((0, 0, 0), (0, 0, 0))
    shanghai.call((tmp_path / "called").write_text, "x")
    for name in ("made", "installed", "called"):
        found = (tmp_path / name).stat()
        assert (found.st_uid, found.st_gid) == me
    assert (os.getuid(), os.getgid()) == me
    assert ping(beijing, shanghai)
    with shanghai.socket() as server, beijing.socket() as client:
        server.bind((shanghai.ip, 80))
        server.listen()
        client.connect((shanghai.ip, 80))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do all of this anyway")
class TestWithoutRoot:
    def test_root_inside_is_no_root_outside(self, tmp_path: Path) -> None:
        """What is not the user's stays shut, and nobody else can be become, as nobody else is there."""
        with Lab(user="root") as lab:
            host = lab.host()
            with pytest.raises(PermissionError):
                host.call(lambda: Path("/etc/shadow").read_bytes())
            with pytest.raises(PermissionError):
                host.call(os.open, "/etc/passwd", os.O_WRONLY)
            for become in (os.setuid, os.setgid):
                with pytest.raises(OSError, match="Invalid argument"):
                    host.call(become, 65534)
            assert host.run(["install", "-o", "nobody", "/dev/null", str(tmp_path / "x")], stderr=-3).returncode == 1

    def test_labs_of_both_kinds_live_side_by_side(self, netns_pair: Pair) -> None:
        """Each with its own networks and ends; the second kind's helper is another one."""
        beijing, _ = netns_pair
        with Lab(user="root") as lab:
            root, other = lab.pair()
            assert root.namespace.broker is not beijing.namespace.broker
            assert (root.ip, ping(root, other).received) == (beijing.ip, 1)
            assert (root.call(os.getuid), beijing.call(os.getuid)) == (0, os.getuid())
            program = root.popen(["sleep", "1000"])
            mine = beijing.popen(["sleep", "1000"])
        assert program.poll() == -15
        assert mine.poll() is None
        assert beijing.end_processes() == 1

    @pytest.mark.once
    @pytest.mark.netns(user="root")
    def test_a_daemon_that_drops_its_privileges_is_explained(self, netns_pair: Pair, tmp_path: Path) -> None:
        """Nobody is there whom it could become; the error says so, and what to do."""
        beijing, _ = netns_pair
        dnsmasq = [program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--port=0"]
        dnsmasq += ["--log-facility=-", f"--pid-file={tmp_path}/pid"]
        server = beijing.popen(dnsmasq)
        with pytest.raises(ChildDied, match=r"tell it not to change its user.*, or run it without user="):
            server.wait_output("started")
        with Lab() as lab:  # as the error says
            assert lab.host().popen(dnsmasq).wait_output("started")

    @pytest.mark.once
    def test_a_daemon_that_goes_on_without_its_workers_is_explained(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the report of the test that fails for it: nginx listens, and nobody of it answers."""
        result = Inner(pytester, monkeypatch).run(f"""
            import pytest

            @pytest.mark.netns(user="root")
            def test_it(netns, tmp_path):
                (tmp_path / "conf").write_text(
                    f"daemon off; error_log stderr; pid {{tmp_path}}/pid; user root nogroup; events {{{{}}}}"
                )
                nginx = netns.popen([{program("nginx")!r}, "-c", str(tmp_path / "conf"), "-e", "stderr"])
                nginx.wait_output("setgid.*failed")
                assert not "answers"
        """)
        result.assert_outcomes(failed=1)
        title = r"-+ netns: \S*nginx .* \(running\) -+\n"
        words = r"(?s:.)*setgid\(.*\n(?s:.)*tell it not to change its user.*, or run it"
        assert re.search(title + words, result.stdout.str())

    def test_the_capabilities_are_all_there_are(self) -> None:
        """Over what is in the lab: users of it may mount, and change owners, as root does."""
        with Lab(user="root") as lab:
            host = lab.host()
            host.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
            shown = host.run(["grep", "CapEff", "/proc/self/status"], stdout=subprocess.PIPE, text=True).stdout
            assert int(shown.split()[1], 16) & (1 << 41) - 1 > 1 << 37
        assert not os.path.ismount("/mnt")


@pytest.mark.parametrize(
    ("said", "by_this"),
    [
        ("nginx: [emerg] initgroups(root, 0) failed (1: Operation not permitted)", True),
        ('nginx: [emerg] chown("/run/x/body", 65534) failed (22: Invalid argument)', True),
        ("tcpdump: Couldn't change to 'root' uid=0 gid=0: Operation not permitted", True),
        ("su: cannot set groups: Operation not permitted", True),
        ("chroot: failed to set supplemental groups: Operation not permitted", True),
        ("install: cannot change ownership of 'x': Invalid argument", True),
        ("    os.setuid(1)\n    ~~~~^^^\nPermissionError: [Errno 1] Operation not permitted", True),
        ("    os.setuid(1)\nOSError: [Errno 22] Invalid argument", True),
        ("setuid: done\nmount: Operation not permitted", False),
        ("session of uid 1000\nOSError: [Errno 22] Invalid argument", False),
        ("worker gid=33\n  File x\nOSError: [Errno 22] Invalid argument: 'x'", False),
        ('{"uid": 1000, "error": "TypeError: x"}, ' * 1000, False),
        ("nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)", False),
        ("mount: /mnt: permission denied", False),
    ],
)
def test_what_programs_say_that_wanted_to_be_another_user(said: str, by_this: bool) -> None:
    """It is known by the calls that fail, and by how."""
    assert _advice.wants_another_user(said) is by_this


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
def test_for_root_it_is_what_it_was() -> None:
    """Who is uid 0 already has one helper only."""
    assert broker(as_root=True) is broker()


@pytest.mark.netns(inside=None, user="root")
def test_a_body_may_be_root() -> None:
    """With the marker's ``inside``, the body runs as root."""
    assert os.getuid() == 0
    assert "lo" in [name for _, name in socket.if_nameindex()]


def test_factories_take_it(netns_lab_factory: LabFactory, netns_pair_factory: PairFactory) -> None:
    """Labs and pairs of wider scopes."""
    with netns_lab_factory(user="root") as lab, netns_pair_factory(user="root") as pair:
        assert {host.call(os.getuid) for host in (lab.host(), *pair)} == {0}


@pytest.mark.parametrize("user", ["nobody", 0, ""])
def test_others_are_refused(user: object, pytester: pytest.Pytester) -> None:
    """Before anything is made, naming the value."""
    with pytest.raises(PlanError, match=f"user {user!r}: expected 'root', or None"):
        Lab(user=user)  # type: ignore[arg-type]
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.netns(user={user!r})
        def test_it(netns_pair):
            pass
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*test_it: user {user!r}: expected 'root', or None*"])


def test_an_isolated_test_may_be_root(pytester: pytest.Pytester) -> None:
    """With its fixtures; one of its fixtures may have a network of its own."""
    pytester.makepyfile("""
        import os, pytest

        @pytest.fixture
        def home():
            return os.getuid()

        @pytest.mark.netns(isolate=True, user="root")
        def test_it(home, netns_pair):
            assert home == os.getuid() == 0
            assert netns_pair["beijing"].call(os.getuid) == 0
    """)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
