"""Programs in the background: what they write is kept and shown, and an end with an error that nobody expects fails."""

from __future__ import annotations

import os
import re
import select
import subprocess

import pytest
from marking import Inner

from pytest_netns import ChildDied, Host, Lab, NetnsError, PlanError, WaitTimeout
from pytest_netns._process import Popen


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


def ended(program: Popen) -> None:
    """Return when it is over, without having asked how."""
    poll = select.poll()
    if program.running():
        poll.register(program.watched(), select.POLLIN)
        assert poll.poll(60_000)


class TestOutput:
    def test_both_streams_are_kept_whole_and_in_order(self, netns: Host) -> None:
        """Whatever bytes, and also where a script opens /dev/stderr anew, which would cut off a file."""
        script = "echo one; echo two >&2; echo three >/dev/stderr; printf '\\377\\n'; head -c 3000000 /dev/zero"
        program = netns.popen(["sh", "-c", script])
        program.wait(60)
        assert program.output == "one\ntwo\nthree\n\\xff\n" + 3_000_000 * "\0"
        assert program.wait_output(b"\xff").start() == 14

    def test_only_what_is_not_given_is_kept(self, netns: Host) -> None:
        """A pipe stays a pipe, and who has given all is told where to read."""
        with netns.popen(["sh", "-c", "echo a; echo b >&2"], stdout=subprocess.PIPE) as program:
            assert program.communicate() == (b"a\n", None)
            assert program.output == "b\n"
        merged = netns.popen(["sh", "-c", "echo a; echo b >&2"], stderr=subprocess.STDOUT)
        merged.wait(60)
        assert merged.output == "a\nb\n"
        latin = netns.popen(["printf", "\\351"], encoding="latin-1")
        latin.wait(60)
        assert latin.output == "é"
        given = netns.popen(["true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with pytest.raises(NetnsError, match="stdout and stderr were given"):
            _ = given.output

    def test_a_wait_for_output_ends_with_it(self, netns: Host) -> None:
        """With the match; with an error as soon as there is no more hope; at the latest when the time is over."""
        program = netns.popen(["sh", "-c", "echo port 80; read line; echo gone; exit 3"], stdin=subprocess.PIPE)
        assert program.wait_output(r"port (\d+)").group(1) == "80"
        with pytest.raises(
            WaitTimeout, match=r"(?s)'ready': not within 0.05 s; its output:\n  [\d:.]+ port 80\nprocesses in netns:"
        ):
            program.wait_output("ready", timeout=0.05)
        assert program.stdin is not None
        program.stdin.close()
        with pytest.raises(ChildDied, match=r"(?s)'ready': it ended with exit status 3; .*gone$") as caught:
            program.wait_output("ready")
        assert caught.value.returncode == 3
        with pytest.raises(PlanError, match="timeout 0"):
            program.wait_output("ready", timeout=0)

    def test_a_daemons_output_is_that_of_its_program(self, netns: Host) -> None:
        """What writes on after the program that started it has ended is waited for, until nobody can write."""
        gate, opener = os.pipe()
        program = netns.popen(f"(read line </proc/self/fd/{gate}; echo later) & exit 0", shell=True, pass_fds=[gate])
        assert program.wait(60) == 0
        os.write(opener, b"\n")
        program.wait_output("later")
        with pytest.raises(ChildDied, match="it ended with exit status 0"):
            program.wait_output("never")
        os.close(gate)
        os.close(opener)

    def test_nothing_grows(self, netns: Host) -> None:
        """Of those that have ended only a few hold descriptors, and with the host none."""
        netns.run(["true"])
        before = len(os.listdir("/proc/self/fd"))
        with Lab() as lab:
            host = lab.host()
            for _ in range(150):
                host.popen(["echo", "a"]).wait(60)
            assert len(os.listdir("/proc/self/fd")) < before + 150
        assert len(os.listdir("/proc/self/fd")) == before


class TestEnds:
    def test_an_end_with_an_error_is_an_error_of_the_host(self) -> None:
        """Without pytest: at the end of the block, once, and not where another error is under way."""
        lab = Lab()
        with (
            pytest.raises(ChildDied, match=r"(?s)exit 3 in web ended with exit status 3; its output:\n  .* why\n"),
            lab,
        ):
            ended(lab.host("web").popen(["sh", "-c", "echo why; exit 3"]))
        lab.close()
        other = Lab()
        with pytest.raises(KeyError), other:  # noqa: PT012 - the error is that of the block
            ended(other.host("web").popen(["sh", "-c", "echo why; exit 3"]))
            raise KeyError

    def test_expected_ends_are_none(self) -> None:
        """By wait, poll or a signal of ours, by the host's end, and with ``check=False``."""
        with Lab() as lab:
            host = lab.host()
            host.popen(["false"]).wait(60)
            asked = host.popen(["false"])
            ended(asked)
            assert asked.poll() == 1
            stopped = host.popen("trap 'exit 5' TERM; echo ready; while true; do sleep 0.01; done", shell=True)
            stopped.wait_output("ready")
            stopped.terminate()
            ended(stopped)
            ended(host.popen(["false"], check=False))
            host.run(["false"])
            host.popen(["sleep", "1000"])
        assert stopped.wait(60) == 5

    def test_a_signal_from_elsewhere_is_an_error(self) -> None:
        """Such as a crash."""
        with pytest.raises(ChildDied, match="was killed by SIGSEGV; it has written nothing"), Lab() as lab:
            ended(lab.host().popen(["sh", "-c", "kill -SEGV $$"]))


SMALL = """
import os, select, pytest
from pytest_netns import Host

def ended(program):
    poll = select.poll()
    if program.running():
        poll.register(program.watched(), select.POLLIN)
        assert poll.poll(60_000)

@pytest.fixture
def server(netns_pair):
    return netns_pair["shanghai"].popen(["sh", "-c", "echo listening; exec sleep 1000"])

@pytest.fixture
def broken(netns_pair):
    return netns_pair["shanghai"].popen(["sh", "-c", "echo oops; exit 3"])

INSIDE = [pytest.param(where, marks=[pytest.mark.netns] * where) for where in (0, 1)]

@pytest.mark.parametrize("inside", INSIDE)
def test_fails(server, inside):
    server.wait_output("listening")
    assert not "failed"

@pytest.mark.parametrize("inside", INSIDE)
def test_broken(broken, inside):
    ended(broken)

@pytest.mark.parametrize("inside", INSIDE)
def test_known(broken, inside):
    assert broken.wait() == 3

@pytest.mark.parametrize("inside", INSIDE)
def test_own(netns_pair, inside):
    netns_pair["beijing"].popen(["echo", "mine"]).wait()
    assert not inside

def test_fine(server):
    server.wait_output("listening")
"""


class TestReport:
    def test_a_failed_test_shows_them(self, inner: Inner) -> None:
        """Per host and program, with times, wherever the body runs; what ended badly has failed its test."""
        result = inner.run(SMALL, "-rA", "--netns-artifacts=kept")
        result.assert_outcomes(passed=4, failed=5)
        text = result.stdout.str()
        of_server = (
            r"-+ shanghai: sh -c echo listening; exec sleep 1000 \(running\) -+\n\d\d:\d\d:\d\d\.\d{3} listening\n"
        )
        assert len(re.findall(of_server, text)) == 2
        for where in (0, 1):
            title = rf"_+ test_broken\[{where}\] _+\n"
            words = "sh -c echo oops; exit 3 in shanghai ended with exit status 3; its output:\n  [\\d:.]+ oops\n"
            assert re.search(title + words + "nobody has asked", text)
        assert text.count("beijing: echo mine (ended with exit status 0)") == 1
        folders = {folder.name for folder in (inner.path / "kept").iterdir()}
        names = [f"test_{name}-{where}" for name in ("fails", "broken", "known", "own") for where in (0, 1)]
        assert folders == {f"test_small.py-{name}" for name in [*names, "test_fine"]}
        (log,) = (inner.path / "kept" / "test_small.py-test_own-1").iterdir()
        assert log.name == "beijing-1-echo.log"
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} mine\n", log.read_text())
        inner.run(SMALL, "-k", "fine", "--netns-artifacts=kept")
        assert (inner.path / "kept" / "test_small.py-test_fine-2" / "shanghai-1-sh.log").exists()

    def test_they_are_seen_at_once_without_capture(self, inner: Inner) -> None:
        """With ``-s``, as the rest; else only where they are shown."""
        source = "def test_a(netns):\n    netns.popen(['echo', 'a-word']).wait()"
        assert "a-word" in inner.run(source, "-s").stdout.str()
        assert "a-word" not in inner.run(source, "-rA").stdout.str()


def test_a_bad_end_is_told_by_a_test_that_can_tell_it(inner: Inner) -> None:
    """A test that skips would swallow it."""
    result = inner.run(
        """
        import pytest

        @pytest.fixture(scope="module")
        def host(netns_lab_factory):
            return netns_lab_factory().host("served")

        def test_skips(host):
            program = host.popen(["sh", "-c", "exit 3"])
            while program.running():
                pass
            pytest.skip("for a reason")

        def test_tells(host):
            pass
        """
    )
    assert result.parseoutcomes() == {"skipped": 1, "failed": 1}
