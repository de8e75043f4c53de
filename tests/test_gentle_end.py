"""The end of a block, host, lab or session: SIGTERM for those who listen, time for them, SIGKILL for the rest."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calling import fifo, start_daemon
from pace import seconds

from pytest_netns import Host, Lab, Pair, _ending

__all__ = ["fifo"]

pytestmark = pytest.mark.kernel

#: Longer than anybody is to wait here.
LONG = seconds(60)

#: Says when it listens, and on SIGTERM does as it is told before it ends.
LISTENER = """
import os, signal, subprocess, sys, time

def heard(*_):
    exec(sys.argv[1])
    os._exit(7)

signal.signal(signal.SIGTERM, heard)
print("ready", flush=True)
while True:
    signal.pause()
"""
#: A process of its own does it, which is not to be ended by the same signal.
SAY_BYE = "subprocess.run(['sh', '-c', 'echo bye >{}'])"


def listener(does: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", LISTENER, does]


def start_listener(host: Host, does: str) -> subprocess.Popen[Any]:
    program = host.popen(listener(does), stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    program.stdout.close()
    return program


def leave_listener(does: str) -> None:
    """Leave one behind that has detached: another parent, another session."""
    inside, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.dup2(told, 1)
            os.execv(sys.executable, listener(does))
        os._exit(0)
    assert os.read(inside, 10)


class TestWhoListens:
    """Has time to say good-bye."""

    @pytest.mark.parametrize(
        "end",
        [lambda lab, _: lab.close(), lambda _, host: host.close(), lambda _, host: host.end_processes()],
        ids=["lab", "host", "end_processes"],
    )
    def test_a_program_does_what_it_does_on_sigterm(self, tmp_path: Path, end: Callable[[Lab, Host], None]) -> None:
        """With the help of further processes, which are not ended by the same signal."""
        with Lab() as lab:
            host = lab.host()
            program = start_listener(host, SAY_BYE.format(tmp_path / "said"))
            end(lab, host)
            assert program.poll() == 7
            assert (tmp_path / "said").read_text() == "bye\n"

    def test_a_daemon_of_a_block_is_a_listener_too(self, netns: Host, tmp_path: Path) -> None:
        """One that a callable has left, detached; a program of the host is not meant, and goes on."""
        program = netns.popen(["sleep", "1000"])
        netns.call(leave_listener, SAY_BYE.format(tmp_path / "said"))
        assert (tmp_path / "said").read_text() == "bye\n"
        assert program.poll() is None
        assert netns.end_processes() == 1
        assert program.poll() == -signal.SIGTERM

    def test_one_that_was_stopped_hears_it(self, netns: Host) -> None:
        """It is made to go on, for until then it would not get the signal."""
        program = start_listener(netns, "")
        program.send_signal(signal.SIGSTOP)
        netns.end_processes()
        assert program.poll() == 7

    def test_one_that_waits_for_the_signal_hears_it(self, netns: Host) -> None:
        """SIGTERM that is blocked, to be taken by sigwait(3), as some daemons do."""
        code = """
            import signal
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            print("ready", flush=True)
            raise SystemExit(signal.sigwait([signal.SIGTERM]) == signal.SIGTERM and 7)
        """
        with netns.popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            netns.end_processes()
        assert program.returncode == 7

    def test_other_threads_are_served_meanwhile(
        self, netns_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While one thread waits for a program, others start programs and make networks."""
        monkeypatch.setattr(_ending, "GRACE", LONG)
        beijing, shanghai = netns_pair
        for name in ("heard", "go"):
            os.mkfifo(tmp_path / name)
        program = start_listener(beijing, f"open('{tmp_path}/heard', 'w').close(); open('{tmp_path}/go').read()")
        closing = threading.Thread(target=beijing.end_processes)
        closing.start()
        (tmp_path / "heard").read_bytes()
        with Lab() as lab:
            lab.pair()
        assert closing.is_alive()
        shanghai.run(["sh", "-c", f"echo >{tmp_path}/go"], check=True)
        closing.join()
        assert program.poll() == 7


class TestWhoDoesNot:
    """Is not waited for."""

    def test_one_that_ignores_the_signal_costs_no_time(
        self, netns: Host, fifo: tuple[Path, Callable[[], bool]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor does one that ends by it at once."""
        path, held = fifo
        monkeypatch.setattr(_ending, "GRACE", LONG)
        begun = time.monotonic()
        with netns.enter() as run:
            run(start_daemon, path)
            assert held()
        assert not held()
        program = netns.popen(["sleep", "1000"])
        assert netns.end_processes() == 1
        assert program.poll() == -signal.SIGTERM
        assert time.monotonic() - begun < LONG / 2

    def test_one_that_takes_too_long_is_killed(self, netns: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """With all that it has started."""
        monkeypatch.setattr(_ending, "GRACE", 0.2)
        program = start_listener(netns, "subprocess.run(['sleep', '1000'])")
        assert netns.end_processes() == 2
        assert program.poll() == -signal.SIGKILL
        assert netns.end_processes() == 0

    def test_an_interrupt_ends_the_wait_and_them(
        self, netns: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C while programs have their time: KeyboardInterrupt arrives when they have been killed."""
        monkeypatch.setattr(_ending, "GRACE", LONG)
        os.mkfifo(tmp_path / "heard")
        program = start_listener(netns, f"open('{tmp_path}/heard', 'w').close(); time.sleep(1000)")

        def interrupt() -> None:
            (tmp_path / "heard").read_bytes()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                netns.end_processes()
            thread.join()
        finally:
            signal.signal(signal.SIGINT, previous)
        assert program.poll() == -signal.SIGKILL
        assert netns.end_processes() == 0


@pytest.mark.parametrize(
    ("end", "others"),
    [("os.kill(os.getpid(), signal.SIGKILL)", ["time.sleep(1000)"]), ("sys.exit()", [])],
    ids=["kill -9", "exit"],
)
def test_the_end_of_the_test_process_is_one_for_all_inside(tmp_path: Path, end: str, others: list[str]) -> None:
    """Whichever way it goes, and though no lab was closed: SIGTERM, time to remove what is theirs, SIGKILL."""
    script = f"""
        import os, signal, subprocess, sys
        from pytest_netns import Lab
        host = Lab().host()
        for does in sys.argv[1:]:
            program = host.popen([sys.executable, "-I", "-S", "-c", {LISTENER!r}, does], stdout=subprocess.PIPE)
            assert program.stdout.readline()
            print(program.pid, flush=True)
        sys.stdin.readline()
        {end}
    """
    python = [sys.executable, "-W", "ignore::ResourceWarning", "-c", textwrap.dedent(script)]
    does = [SAY_BYE.format(tmp_path / "said"), *others]
    with subprocess.Popen([*python, *does], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        watches = [os.pidfd_open(int(session.stdout.readline())) for _ in does]
        session.communicate("\n")
    for watch in watches:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        assert poll.poll(LONG * 1000)
        os.close(watch)
    assert (tmp_path / "said").read_text() == "bye\n"
