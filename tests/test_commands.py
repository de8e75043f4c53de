"""What the table in ``test_subprocess_contract`` cannot say of programs in a host: pipes, identity, ends, leftovers."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_netns import Host, Lab, _exec, _process

try:
    import fcntl
    import resource
except ImportError:  # not on Linux: nothing here runs
    pytest.skip("Linux only", allow_module_level=True)

Keywords = dict[str, Any]


@pytest.fixture
def other_limits() -> Iterator[None]:
    """Limits that are not those that the helper was started with."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture(params=["spawned", "forked"])
def way(request: pytest.FixtureRequest, netns: Host) -> str:
    """Both ways to start a program: from the helper itself, and by a fork of it, which other limits take."""
    netns.run(["true"])  # the helper has the limits of now
    if request.param == "forked":
        request.getfixturevalue("other_limits")
    return str(request.param)


WAYS = pytest.mark.usefixtures("way")


def show(host: Host, script: str, **keywords: Any) -> str:
    return str(host.run(script, shell=True, stdout=-1, text=True, check=True, **keywords).stdout)


def environment() -> dict[str, str]:
    """For other interpreters, so that they find this package where it is."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def runners(host: Host) -> tuple[Callable[..., Any], ...]:
    return host.run, subprocess.run


class TestStart:
    def test_a_group_of_its_own_can_be_asked_for(self, netns: Host) -> None:
        """``process_group=0`` as with subprocess; with ``start_new_session`` both refuse it alike."""
        if sys.version_info < (3, 11):
            pytest.skip("process_group is new in Python 3.11")
        script = ["sh", "-c", "test $$ = $(cut -d' ' -f5 /proc/$$/stat)"]
        assert netns.run(script, process_group=0).returncode == 0
        for run in runners(netns):
            with pytest.raises(PermissionError):
                run(script, process_group=0, start_new_session=True)

    def test_a_program_leads_its_session(self, netns: Host) -> None:
        """``kill 0`` in it ends it and what it has started, and nobody else."""
        other = netns.popen(["sleep", "1000"])
        assert netns.run(["sh", "-c", "sleep 1000 & kill -KILL 0"]).returncode == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
        other.wait()

    @WAYS
    def test_descriptors_keep_their_numbers(self, netns: Host) -> None:
        """Many of them, whatever numbers the helper uses itself."""
        pipes = [os.pipe() for _ in range(50)]
        targets = [write for _, write in pipes]
        try:
            listing = show(netns, "ls -l /proc/self/fd", pass_fds=targets)
            for read, write in pipes:
                assert f" {write} -> {os.readlink(f'/proc/self/fd/{write}')}\n" in listing
                assert f" {read} -> pipe" not in listing
        finally:
            for fd in sum(pipes, ()):
                os.close(fd)

    def test_nothing_of_the_helper_leaks_into_a_program(self, netns: Host) -> None:
        """A program has the three usual descriptors and an empty signal mask."""
        assert show(netns, "ls /proc/self/fd").split() == ["0", "1", "2", "3"]  # 3 is ls's own
        assert "SigBlk:\t0000000000000000" in show(netns, "cat /proc/self/status")

    @WAYS
    def test_closed_standard_descriptors_stay_closed(self, netns: Host) -> None:
        """A test process without stdin has programs without."""
        netns.run(["true"])
        saved = os.dup(0)
        os.close(0)  # the next descriptor that is opened is 0, and none of the program's business
        try:
            assert show(netns, "test -e /proc/$$/fd/0 || echo closed") == "closed\n"
        finally:
            os.dup2(saved, 0)
            os.close(saved)

    def test_the_callers_signal_mask_is_inherited(self, netns: Host) -> None:
        """As it is by subprocess."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        try:
            masks = [run(["grep", "SigBlk", "/proc/self/status"], stdout=-1).stdout for run in runners(netns)]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        assert masks[0] == masks[1]

    @WAYS
    def test_directories_and_programs_are_opened_as_the_user(self, netns: Host, tmp_path: Path) -> None:
        """A directory or a program that the user may not enter or run is refused, rootless as without namespaces."""
        closed, program = tmp_path / "closed", tmp_path / "program"
        closed.mkdir(mode=0)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o011)
        calls: list[tuple[list[Any], Keywords]] = [(["true"], {"cwd": closed}), ([program], {})]
        for arguments, options in calls:
            outcomes: list[object] = []
            for run in runners(netns):
                try:
                    outcomes.append(run(arguments, **options).returncode)
                except OSError as error:
                    # Python 3.13 starts some by posix_spawn, and has the name as text then.
                    outcomes.append((type(error), error.errno, os.fspath(error.filename)))
            assert outcomes[0] == outcomes[1]

    @WAYS
    def test_the_network_may_be_configured(self, netns: Host) -> None:
        """By a program, and by one that it starts in turn."""
        netns.run(["sh", "-c", "ip link set lo down; sh -c 'ip link set lo mtu 1400 up'"], check=True)
        assert netns.interfaces["lo"].mtu == 1400
        assert show(netns, "id -u") == f"{os.getuid()}\n"

    def test_the_helper_is_itself_again_afterwards(self, netns: Host, tmp_path: Path) -> None:
        """Directory, umask and capabilities of one program are not those of the next, or of a namespace."""
        with pytest.raises(FileNotFoundError):
            netns.run(["no-such-program"], cwd=tmp_path, umask=0o777)
        with pytest.raises(FileNotFoundError):
            netns.run(["true"], cwd=tmp_path / "missing", umask=0o777)
        assert show(netns, "pwd; umask", umask=0o27) == f"{os.getcwd()}\n0027\n"
        with Lab() as lab:
            first, _ = lab.pair()
            assert first.sysctl("ipv4.ip_forward", 1) == "1"
            first.socket().close()

    def test_limits_are_the_callers(self, netns: Host) -> None:
        """As with subprocess, and as they are now; callables have them too. Other programs have their own."""
        netns.run(["true"])
        command = ["cat", "/proc/self/limits"]
        usual = show(netns, "ulimit -n")
        limits = {
            resource.RLIMIT_NOFILE: (200, 300),
            resource.RLIMIT_CORE: (0, 0),
            resource.RLIMIT_FSIZE: (1 << 20, resource.RLIM_INFINITY),
        }

        def run_with_limits() -> tuple[bytes, ...]:
            for number, limit in limits.items():
                resource.setrlimit(number, limit)
            return tuple(run(command, stdout=-1).stdout for run in runners(netns))

        ours, theirs = netns.call(run_with_limits)
        assert ours == theirs
        assert ours != netns.run(command, stdout=-1).stdout
        assert show(netns, "ulimit -n") == usual

    def test_a_limit_of_files_that_was_raised_later_counts(self) -> None:
        """Descriptors of numbers that the helper may not have are a program's as with subprocess."""
        code = """if True:
            import os, resource, sys
            from pytest_netns import Lab
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
            with Lab() as lab:
                host = lab.host()
                host.run(["true"], check=True)
                resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
                os.dup2(1, 300)
                host.run("echo $(ulimit -n) >&300", shell=True, executable="/bin/bash", pass_fds=[300], check=True)
        """
        done = subprocess.run([sys.executable, "-c", code], stdout=-1, text=True, check=True, env=environment())
        assert done.stdout == "400\n"

    @pytest.mark.usefixtures("other_limits")
    def test_a_callable_has_the_limits_of_now(self, netns: Host) -> None:
        """It is a fork of the test process."""
        assert netns.call(resource.getrlimit, resource.RLIMIT_NOFILE) == resource.getrlimit(resource.RLIMIT_NOFILE)

    def test_a_system_that_cannot_spawn_so_forks(self, netns: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where posix_spawn(3) has no setsid, say: the same happens by a fork. (Inside, as it changes directory.)"""

        def refuse(*_: Any, **__: Any) -> int:
            raise NotImplementedError

        def start() -> tuple[int, object, bool, bytes]:
            monkeypatch.setattr(os, "posix_spawn", refuse)
            read, write = os.pipe()
            nothing: dict[str, Any] = dict.fromkeys(("cwd", "process_group", "groups", "gid", "uid", "limits"))
            spec = {
                **nothing,
                **{"argv": [b"sh", b"-c", b"ps -o sid= -p $$; exit 3"], "paths": [b"/no/sh", b"/bin/sh"]},
                **{"env": {b"PATH": os.fsencode(os.environ["PATH"])}, "directory": b"/", "targets": [1]},
                **{"mask": [], "ignored": [], "restore_signals": True, "new_session": False},
                **{"umask": 0o22, "simple": True},
            }
            place = _exec.Place([None] * 4, [None] * 4, confined=False)
            pid, failure = _exec.start(spec, [write], place)
            os.close(write)
            output = b""
            while piece := os.read(read, 100):
                output += piece
            missing = _exec.start({**spec, "paths": [b"/no/sh"]}, [0], place)[1]
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), failure, int(output) == pid, repr(missing).encode()

        code, failure, leads, missing = netns.call(start)
        assert (code, failure, leads) == (3, None, True)
        assert missing == b"('exec', 2, '')"

    def test_nul_bytes_are_refused_wherever_they_are(self, netns: Host) -> None:
        """ValueError as with subprocess, and the helper survives it."""
        calls: list[tuple[list[str], Keywords]] = [
            (["a\0b"], {}),
            (["true"], {"cwd": "a\0b"}),
            (["true"], {"env": {"a": "b\0"}}),
            (["true"], {"executable": "a\0"}),
        ]
        for arguments, options in calls:
            for run in runners(netns):
                with pytest.raises(ValueError, match="null byte"):
                    run(arguments, **options)
        netns.run(["true"], check=True)


class TestPipes:
    def test_much_goes_both_ways(self, netns: Host) -> None:
        """20 MB in, 20 MB out, at the same time."""
        data = os.urandom(1 << 20) * 20
        assert netns.run(["cat"], input=data, stdout=-1).stdout == data

    def test_lines_are_iterated_over(self, netns: Host) -> None:
        """While the program runs; and Popen is a context manager."""
        with netns.popen(["seq", "3"], stdout=-1, text=True) as program:
            assert program.stdout is not None
            assert list(program.stdout) == ["1\n", "2\n", "3\n"]
        assert program.returncode == 0

    def test_a_pipes_size_can_be_asked_for(self, netns: Host) -> None:
        """``pipesize`` as with subprocess."""
        with netns.popen(["true"], stdout=-1, pipesize=8192) as program:
            assert program.stdout is not None
            assert fcntl.fcntl(program.stdout, 1032) == 8192  # F_GETPIPE_SZ

    def test_a_limit_gives_what_came_so_far(self, netns: Host) -> None:
        """TimeoutExpired holds it; communicate may go on after it."""
        gate, opener = os.pipe()
        script = f"echo one; read line </proc/self/fd/{gate}; echo two"
        with netns.popen(script, shell=True, stdout=-1, text=True, pass_fds=[gate]) as program:
            assert program.stdout is not None
            select.select([program.stdout], [], [])
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                program.communicate(timeout=0.2)
            assert caught.value.output == b"one\n"
            os.write(opener, b"\n")
            assert program.communicate()[0] == "one\ntwo\n"
        os.close(gate)
        os.close(opener)


class TestEnds:
    def test_the_number_of_one_that_is_over_is_nobodys(self) -> None:
        """Also where it is over before it could be looked up; kill(2) would take the kernel's -1 for everybody."""
        program = subprocess.Popen(["true"])
        watch = os.pidfd_open(program.pid)
        try:
            assert _process._pid_of(watch) == program.pid
            program.wait()
            with pytest.raises(ProcessLookupError):
                os.kill(_process._pid_of(watch), 0)
        finally:
            os.close(watch)

    def test_signals_reach_the_program(self, netns: Host) -> None:
        """Any signal by number, and none after its end; one that does not exist is refused."""
        script = "trap 'echo got; exit 9' USR1; sleep 1000 & echo ready; wait"
        with netns.popen(["sh", "-c", script], stdout=-1) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            with pytest.raises(OSError, match="Invalid argument"):
                program.send_signal(1000)
            program.send_signal(signal.SIGUSR1)
            assert program.stdout.readline() == b"got\n"
            assert program.wait(60) == 9
            program.send_signal(signal.SIGUSR1)

    def test_threads_may_wait_for_the_same_program(self, netns: Host) -> None:
        """All of them get its code, and so does a fork of the test process, or a callable."""
        program = netns.popen(["cat"], stdin=-1)
        with ThreadPoolExecutor(5) as pool:
            waits = [pool.submit(program.wait, 60) for _ in range(4)]
            waits.append(pool.submit(netns.call, program.wait, 60))
            assert program.stdin is not None
            program.kill()
            assert [wait.result() for wait in waits] == [-signal.SIGKILL] * 5
        program.stdin.close()
        assert program.returncode == -signal.SIGKILL

    def test_a_fork_that_polls_takes_nothing_from_us(self, netns: Host) -> None:
        """The code of a program is there for everybody who asks."""
        program = netns.popen(["sh", "-c", "exit 4"])
        assert netns.call(program.wait) == 4
        assert program.wait() == 4

    def test_a_program_of_which_nobody_keeps_the_popen_is_its_hosts(self, netns: Host) -> None:
        """No ResourceWarning, unlike with subprocess: it lives as long as its host, and leaves no descriptor."""
        netns.run(["true"])
        before = sorted(os.listdir("/proc/self/fd"))
        with Lab() as lab:
            watch = os.pidfd_open(lab.host().popen(["sleep", "1000"]).pid)
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            gc.collect()
            assert not poll.poll(0)
        assert poll.poll(60_000)
        os.close(watch)
        assert sorted(os.listdir("/proc/self/fd")) == before

    def test_a_program_that_has_ended_is_not_warned_of(self, netns: Host) -> None:
        """Once its code was taken; nor is one that could not be started."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            netns.popen(["true"]).wait()
            with pytest.raises(FileNotFoundError):
                netns.popen(["no-such-program"])
            gc.collect()

    def test_threads_may_run_programs_at_once(self, netns: Host) -> None:
        """Eight threads, ten programs each, some that cannot be started: no mix-up, and nothing left."""
        netns.run(["true"])
        before = sorted(os.listdir("/proc/self/fd")), threading.active_count()

        def work(number: int) -> None:
            for turn in range(10):
                words = f"{number} {turn}\n"
                assert netns.run(["cat"], input=words, stdout=-1, text=True).stdout == words
                with pytest.raises(FileNotFoundError):
                    netns.run(["no-such-program"])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before
