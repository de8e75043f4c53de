"""How calls end, well or badly, alone or many at once; and that nothing of them is left."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import logging
import operator
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from calling import LONG_ENOUGH, crash, fifo, hang, nothing_left, own, start_daemon
from pace import seconds

from pytest_netns import ChildDied, Host, KernelError, Pair, WaitTimeout, _call, _child, _entry, _fork

__all__ = ["fifo"]


class TestBadEnds:
    @pytest.mark.parametrize(
        ("end", "code", "words"),
        [
            (lambda: os._exit(7), 7, "left with exit code 7"),
            (lambda: os._exit(0), 0, "left with exit code 0"),
            (lambda: os.execvp("false", ["false"]), 1, "left with exit code 1"),
            (lambda: os.kill(os.getpid(), signal.SIGKILL), -9, "was killed by SIGKILL"),
            (crash, -11, "was killed by SIGSEGV"),
            (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 3), -37, "was killed by signal 37"),
        ],
        ids=["exit", "exit well", "exec", "kill", "crash", "real-time signal"],
    )
    def test_a_child_that_does_not_return_is_an_error(
        self, netns: Host, end: Callable[[], None], code: int, words: str
    ) -> None:
        """The error names the function, the host and how it went; ``returncode`` is as subprocess has it."""
        netns.call(int)
        with nothing_left(), pytest.raises(ChildDied, match=f"{end.__name__} in {netns.name} {words}") as caught:
            netns.call(end)
        assert caught.value.returncode == code

    def test_a_child_that_has_closed_everything_says_so(self, netns: Host, tmp_path: Path) -> None:
        """Its answer is not written into what it has opened instead."""

        def close_all() -> None:
            os.closerange(0, 4096)
            for number in range(100):
                os.open(tmp_path / f"{number}", os.O_RDWR | os.O_CREAT)

        netns.call(int)
        with nothing_left(), pytest.raises(ChildDied, match="closed the descriptor"):
            netns.call(close_all)
        assert {path.stat().st_size for path in tmp_path.iterdir()} == {0}

    def test_a_limit_that_passes_shows_where_the_child_stood(self, netns: Host) -> None:
        """The stacks of all its threads, the callable's frames only; it is dead, though it ignores signals."""

        def stand_here() -> None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            threading.Thread(target=hang).start()
            while True:
                pass

        netns.call(int)
        with nothing_left(), netns.enter(timeout=LONG_ENOUGH) as run:
            with pytest.raises(WaitTimeout) as caught:
                run(stand_here)
            assert run(int) == 0
        text = str(caught.value)
        assert f"stand_here in {netns.name} did not return within {LONG_ENOUGH:g} s and was killed" in text
        assert "in stand_here" in text
        assert "in hang" in text
        assert "_child.py" not in text
        assert isinstance(caught.value, TimeoutError)

    def test_a_stopped_child_is_killed_all_the_same(self, netns: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that cannot even show its stacks."""
        monkeypatch.setattr(_call, "_STACKS_LIMIT", 0.2)
        netns.call(int)
        with nothing_left(), netns.enter(timeout=0.5) as run, pytest.raises(WaitTimeout):
            run(_stop)

    def test_an_interrupt_while_waiting_leaves_nothing(self, netns: Host) -> None:
        """Ctrl-C in the test process: the child is gone when KeyboardInterrupt arrives."""
        ready, told = os.pipe()

        def body() -> None:
            os.write(told, b"x")
            hang()

        def interrupt() -> None:
            os.read(ready, 1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        netns.call(int)
        # It may be ignored, as it is in a job that a shell runs in the background.
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with nothing_left():
                thread = threading.Thread(target=interrupt)
                thread.start()
                with pytest.raises(KeyboardInterrupt):
                    netns.call(body)
                thread.join()
        finally:
            signal.signal(signal.SIGINT, previous)
        os.close(ready)
        os.close(told)

    def test_an_interrupt_at_any_point_leaves_nobody(self, netns: Host) -> None:
        """A signal's handler may raise after any call: the one, for instance, that has read that the child is there."""
        netns.call(int)
        before = own()["children"]
        with netns.enter() as run:
            for point in itertools.count(1):
                with bell_of_one() as (rung, ring):
                    child = _call.Child(run.entry(), functools.partial(os.read, rung, 1), "f")
                    with interrupted_at(point, ring, functools.partial(has_started, child)) as reached:
                        child.wait(None)
                    assert own()["children"] == before, f"left after {reached}"
                if not reached:
                    break
        assert point > 100, "it takes more calls than that"

    def test_an_interrupted_close_can_be_made_good(self, netns: Host) -> None:
        """A callable in the background whose end was interrupted is not forgotten."""
        before = own()["children"]
        for point in itertools.count(1):
            started = netns.start(hang)
            with interrupted_at(point) as reached:
                started.close()
            started.close()
            assert own()["children"] == before, f"left after {reached}"
            if not reached:
                break
        assert point > 30, "it takes more calls than that"

    def test_an_interrupt_before_the_start_arrives_as_one(self, netns: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was not started yet can be ended, too."""
        broker = netns.namespace.broker
        request = broker.request

        def interrupted(verb: str, *arguments: object, fds: Sequence[int] = ()) -> tuple[Any, list[int]]:
            if verb == "keep":
                raise KeyboardInterrupt
            return request(verb, *arguments, fds=fds)

        netns.start(int).wait()
        monkeypatch.setattr(broker, "request", interrupted)
        with nothing_left(), pytest.raises(KeyboardInterrupt):
            netns.start(int)

    def test_an_interrupt_just_before_signals_wait_leaves_none_blocked(
        self, netns: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What blocks them heeds, when it has done so, those that have come before."""
        send = ctypes.PyDLL(None)["raise"]  # which, other than Python's, does not look for signals
        sent = map(operator.add, map(send, [signal.SIGINT]), [signal.SIGUSR1])
        monkeypatch.setattr(_call, "_EVERY_SIGNAL", itertools.chain(signal.valid_signals(), sent))
        own_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            with pytest.raises(KeyboardInterrupt):
                netns.call(int)
        finally:
            signal.signal(signal.SIGINT, own_handler)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before

    def test_a_child_that_somebody_else_reaps_still_answers(self, netns: Host) -> None:
        """SIGCHLD ignored in the test process costs the exit status, not the result."""
        previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            assert netns.call(lambda: 5) == 5
            with pytest.raises(ChildDied):
                netns.call(os._exit, 3)
        finally:
            signal.signal(signal.SIGCHLD, previous)

    def test_a_namespace_that_cannot_be_entered_is_named(self, netns: Host) -> None:
        """The error says which one, of which host, and why."""
        netns.call(int)
        entry = _entry.Entry(net=0, pid=None, user=None, where="nowhere")
        with nothing_left(), pytest.raises(KernelError, match=r"int could not enter the network namespace of nowhere"):
            _call.Child(entry, int, "int").wait(60)

    def test_a_fork_that_fails_says_why(self) -> None:
        """A limit of processes is not the end of the helper."""
        entry = _entry.Entry(net=0, pid=None, user=None, where="shanghai")
        refused = _fork.entry_error(entry, "f", errno.EAGAIN, -1)
        assert "f could not start in shanghai: the fork failed (Resource temporarily unavailable)" in str(refused)
        assert "helper process has ended" in str(_fork.entry_error(entry, "f", errno.ENOMEM, -1))


@contextlib.contextmanager
def bell_of_one() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe."""
    rung, ring = os.pipe()
    yield rung, ring
    os.close(rung)
    os.close(ring)


@contextlib.contextmanager
def interrupted_at(
    point: int, ring: int | None = None, let_go: Callable[[], bool] = lambda: False
) -> Iterator[list[str]]:
    """Have Ctrl-C come after so many calls of ours; tell where that was.

    The child waits for ``ring``, until the test process waits for it and may ``let_go``; or until it should have been
    ended long ago.
    """
    owner, calls, hung = os.getpid(), 0, threading.Event()
    reached: list[str] = []

    def free() -> None:
        hung.set()
        assert ring is not None
        os.write(ring, b".")

    limit = threading.Timer(seconds(30), free)

    def watch(frame: FrameType, event: str, function: Any) -> None:
        nonlocal calls
        if os.getpid() != owner:
            sys.setprofile(None)
            return
        if event == "c_call" and function.__name__ == "poll" and let_go():
            os.write(ring or 0, b".")
        if event not in ("call", "c_return") or not is_ours(frame):  # the others are no places to look for signals
            return
        calls += 1
        if calls == point:
            sys.setprofile(None)
            reached.append(f"{event} {getattr(function, '__name__', '')} in {frame.f_code.co_name}")
            if ring is not None:
                limit.start()
            signal.raise_signal(signal.SIGINT)

    own_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.setprofile(watch)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield reached
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGINT, own_handler)
        if limit.ident is not None:
            limit.cancel()
            limit.join()
    assert not hung.is_set(), f"hung after {reached}"


def has_started(child: _call.Child) -> bool:
    return child._pid is not None


def is_ours(frame: FrameType | None) -> bool:
    """Whether a frame is of the package, or what it calls of the standard library's context managers."""
    name = frame.f_globals.get("__name__", "") if frame is not None else ""
    if name == "contextlib" and frame is not None:
        return is_ours(frame.f_back)
    return str(name).startswith("pytest_netns.")


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def interrupt(number: int) -> None:
    """The main thread, and no other: only what is sent to it waits where it does not want to be interrupted."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)


class TestOnceADebuggerWasEntered:
    """What holds for whoever waits; the debugger itself is in test_marker_debugging."""

    @pytest.fixture
    def bell(self) -> Iterator[Callable[[Callable[[], None]], None]]:
        """Has something be done while the main thread waits for a child that has rung; and a child may ring."""
        self.rung, self.ring = os.pipe()
        threads: list[threading.Thread] = []

        def when_rung(step: Callable[[], None]) -> None:
            def wait() -> None:
                if os.read(self.rung, 1) == b".":
                    step()

            threads.append(threading.Thread(target=wait))
            threads[-1].start()

        yield when_rung
        os.write(self.ring, b"!")  # where nobody has
        for thread in threads:
            thread.join()
        os.close(self.rung)
        os.close(self.ring)

    def debug(self, then: Callable[[], Any]) -> Any:
        _child.enters_debugger()
        os.write(self.ring, b".")
        return then()

    def after_ringing(self, end: int) -> None:
        os.write(self.ring, b".")
        os.read(end, 1)

    def test_whoever_ends_it_sees_where_it_stood(self, netns: Host, capfd: pytest.CaptureFixture[str]) -> None:
        """The stacks, and nothing else of the file that they are in."""
        waiting = os.getpid()

        class Ends(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
                if os.getpid() == waiting:
                    raise TimeoutError

        def logs() -> None:
            _child.enters_debugger()
            logging.getLogger().warning("here")
            hang()

        logging.getLogger().addHandler(handler := Ends())
        try:
            with pytest.raises(TimeoutError):
                netns.call(logs)
        finally:
            logging.getLogger().removeHandler(handler)
        told = capfd.readouterr().err
        assert "in hang" in told
        assert "\0" not in told

    @pytest.mark.parametrize("limit", [0, 1])
    def test_a_limit_for_files_is_none_for_it(self, netns: Host, bell: Callable[..., None], limit: int) -> None:
        """A callable that may write no file may be debugged."""
        bell(lambda: None)

        def limited() -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return int(self.debug(lambda: 5))

        assert netns.call(limited) == 5

    def test_a_handler_that_was_changed_meanwhile_stays(self, netns: Host, bell: Callable[..., None]) -> None:
        """Such as one that has the first Ctrl-C be heeded gently, and the second one not."""
        end, ended = os.pipe()

        def first(*_: object) -> None:
            signal.signal(signal.SIGINT, second)
            os.write(ended, b".")

        def second(*_: object) -> None: ...

        own = signal.signal(signal.SIGINT, first)
        bell(lambda: interrupt(signal.SIGINT))
        try:
            netns.call(self.after_ringing, end)
            assert signal.getsignal(signal.SIGINT) is second
            signal.signal(signal.SIGINT, first)
            netns.call(int)
            assert signal.getsignal(signal.SIGINT) is first
        finally:
            signal.signal(signal.SIGINT, own)
            os.close(end)
            os.close(ended)

    def test_another_child_is_interrupted_as_ever(self, netns: Host, bell: Callable[..., None]) -> None:
        """One that a thread has called while the main thread waits for the one with the debugger."""
        end, ended = os.pipe()
        came: list[str] = []

        def interrupted() -> str:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                return "nothing"
            except KeyboardInterrupt:
                return "Ctrl-C"

        def call_too() -> None:
            came.append(netns.call(interrupted))
            os.write(ended, b".")

        bell(call_too)
        netns.call(self.debug, lambda: os.read(end, 1) and None)
        assert came == ["Ctrl-C"]
        os.close(end)
        os.close(ended)


class TestEndOfABlock:
    def test_daemons_live_as_long_as_the_block(self, netns: Host, fifo: tuple[Path, Callable[[], bool]]) -> None:
        """Detached, in a session of its own, deaf to signals: it outlives the call that made it, not the block."""
        path, held = fifo
        program = netns.popen(["sleep", "1000"])
        netns.call(int)
        with nothing_left():
            with netns.enter() as run:
                run(start_daemon, path)
                assert held()
                assert run(int) == 0
                assert held()
            assert not held()
        netns.call(start_daemon, path)
        assert not held()
        assert program.poll() is None
        program.kill()
        program.wait()

    def test_programs_started_in_a_callable_are_of_its_block(
        self, netns: Host, fifo: tuple[Path, Callable[[], bool]]
    ) -> None:
        """By subprocess or by host.popen: both are over with the block."""
        path, held = fifo
        command = ["sh", "-c", f"exec 3>{path}; echo; exec sleep 1000"]

        def start(popen: Callable[..., subprocess.Popen[Any]]) -> None:
            process = popen(command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.read(1)
            process.returncode = 0  # no warning: it is to live on

        for popen in (subprocess.Popen, netns.popen):
            with netns.enter() as run:
                run(start, popen)
                assert held()
            assert not held()

    def test_a_block_ends_only_its_own(self, netns_pair: Pair, tmp_path: Path) -> None:
        """Two blocks at a time, in one host: the end of one leaves the other's processes alone."""
        beijing, _ = netns_pair
        readers, paths = [], [tmp_path / "one", tmp_path / "two"]
        for path in paths:
            os.mkfifo(path)
            readers.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        with beijing.enter() as first:
            first(start_daemon, paths[0])
            with beijing.enter() as second:
                second(start_daemon, paths[1])
            poll = select.poll()
            for reader in readers:
                poll.register(reader, 0)
            assert [fd for fd, _ in poll.poll(0)] == [readers[1]]
        for reader in readers:
            os.close(reader)
