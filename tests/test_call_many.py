"""Many calls, at once and one after the other, from threads and event loops; and what their child is like."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from calling import LONG_ENOUGH, fifo, hang, nothing_left

from pytest_netns import ChildDied, Host, Pair, WaitTimeout, _fork

__all__ = ["fifo"]


class TestMany:
    def test_two_hundred_calls_leave_nothing(self, netns: Host) -> None:
        """No descriptor, thread or child more than before, by each way to call and each way to end."""
        netns.call(int)
        asyncio.run(netns.acall(int))
        with nothing_left():
            for number in range(50):
                assert netns.call(lambda: number) == number  # noqa: B023
            with netns.enter() as run:
                for number in range(100):
                    assert run(str, number) == f"{number}"
            for _ in range(25):
                with pytest.raises(ZeroDivisionError):
                    netns.call(lambda: 1 // 0)
                with pytest.raises(ChildDied):
                    netns.call(os._exit, 1)

    def test_threads_may_call_at_once(self, netns_pair: Pair) -> None:
        """Eight threads, ten calls each, in both hosts, in blocks of their own and in one that they share."""
        hosts = list(netns_pair)
        for host in hosts:
            host.call(int)
        with nothing_left(), hosts[0].enter() as shared, ThreadPoolExecutor(8) as pool:

            def look(*answer: int) -> tuple[object, ...]:
                return os.readlink("/proc/self/ns/net"), threading.active_count(), answer

            def work(number: int) -> None:
                host = hosts[number % 2]
                for turn in range(10):
                    assert host.call(look, number, turn) == (f"net:[{host.namespace.id}]", 1, (number, turn))
                    assert shared(look, turn) == (f"net:[{hosts[0].namespace.id}]", 1, (turn,))

            list(pool.map(work, range(8)))

    def test_filters_for_warnings_survive_threads(self, netns: Host) -> None:
        """Calls from many threads leave the filters for warnings as they were, but for one about this package."""
        import warnings

        before = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: netns.call(int), range(40)))
        assert [entry for entry in warnings.filters if entry != _fork._QUIET] == [
            entry for entry in before if entry != _fork._QUIET
        ]

    def test_threads_that_log_do_not_hang_calls(self, netns: Host, tmp_path: Path) -> None:
        """Log, print and flush in the child while four threads of the parent hammer the same file handlers."""
        handlers = [logging.FileHandler(tmp_path / name) for name in ("root", "named")]
        named = logging.getLogger("test_call_ends.named")
        loggers = (logging.getLogger(), named)
        stop = threading.Event()

        def hammer() -> None:
            while not stop.is_set():
                named.warning("x" * 500)  # pytest keeps them all, and each call copies a larger process
                sys.stdout.flush()

        def log() -> None:
            named.warning("inside")
            print("inside", flush=True)

        for logger, handler in zip(loggers, handlers, strict=True):
            logger.addHandler(handler)
        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            with netns.enter() as run:
                for _ in range(60):
                    run(log)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for logger, handler in zip(loggers, handlers, strict=True):
                logger.removeHandler(handler)
                handler.close()
        assert (tmp_path / "named").read_text().count("inside") == 60


class TestAsyncio:
    def test_a_running_loop_may_call(self, netns: Host) -> None:
        """The plain call works in a coroutine; the awaitable one lets the loop go on, also many at a time."""

        async def main() -> None:
            assert netns.call(int) == 0
            turns = 0
            with netns.enter() as run:
                ready, told = os.pipe()
                calls = [asyncio.ensure_future(run.acall(os.read, ready, 1)) for _ in range(10)]
                while turns < 10:
                    await asyncio.sleep(0)
                    turns += 1
                os.write(told, b"0123456789")
                assert sorted(await asyncio.gather(*calls)) == [b"%d" % number for number in range(10)]
                os.close(ready)
                os.close(told)
            with pytest.raises(ZeroDivisionError):
                await netns.acall(lambda: 1 // 0)
            assert len(await netns.acall(lambda: b"x" * (1 << 20))) == 1 << 20

        netns.call(int)
        with nothing_left():
            asyncio.run(main())

    def test_cancelling_kills_the_child(self, netns: Host, fifo: tuple[Path, Callable[[], bool]]) -> None:
        """When the cancelled call is over, so is its child; a limit shows the stacks as ever."""
        path, held = fifo
        ready, told = os.pipe()

        def body() -> None:
            os.open(path, os.O_WRONLY)
            os.write(told, b"x")
            hang()

        async def main() -> None:
            call = asyncio.ensure_future(netns.acall(body))
            await asyncio.get_running_loop().run_in_executor(None, os.read, ready, 1)
            assert held()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert not held()
            with netns.enter(timeout=LONG_ENOUGH) as run, pytest.raises(WaitTimeout, match="in hang"):
                await run.acall(hang)

        netns.call(int)
        with nothing_left():
            asyncio.run(main())
        os.close(ready)
        os.close(told)


def test_the_child_is_a_process_like_any_other(netns: Host) -> None:
    """Numbers agree, threads, subprocesses, signals, deep recursion and a loop work in it; it is its main thread."""

    def look() -> None:
        main = threading.main_thread()
        assert os.getpid() == int(os.readlink("/proc/self")) == threading.get_native_id() == main.native_id
        assert threading.current_thread() is main
        got: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
        thread = threading.Thread(target=lambda: signal.pthread_kill(main.ident or 0, signal.SIGUSR1))
        thread.start()
        thread.join()
        assert got == [signal.SIGUSR1]
        assert subprocess.run(["sh", "-c", "exit 5"], check=False).returncode == 5
        assert asyncio.run(asyncio.to_thread(os.getpid)) == os.getpid()
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        recursion = sys.getrecursionlimit()

        def dive(depth: int) -> int:
            return depth if depth == 0 else dive(depth - 1)

        assert dive(recursion // 2) == 0
        with pytest.raises(RecursionError):
            dive(recursion * 2)

    netns.call(look)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(netns.call, lambda: None).result()


def test_the_c_library_knows_where_the_child_runs(netns: Host) -> None:
    """Its registration for restartable sequences, rseq(2), from which it reads the CPU, holds in the child."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2 or not hasattr(ctypes.CDLL(None), "sched_getcpu"):
        pytest.skip("needs two CPUs and sched_getcpu(3)")

    def visit() -> list[int]:
        seen = []
        for cpu in cpus * 2:
            os.sched_setaffinity(0, {cpu})
            seen.append(ctypes.CDLL(None).sched_getcpu())
        return seen

    assert netns.call(visit) == cpus * 2


def test_hooks_at_fork_are_called_once(netns: Host) -> None:
    """In the child as after any fork, though there are two; by then it is single-threaded, and may be forked again."""
    before: list[int] = []
    hooked = before.append
    os.register_at_fork(after_in_child=lambda: hooked(1))

    def look() -> tuple[int, int]:
        pid = os.fork()
        if pid == 0:
            os._exit(len(before))
        return len(before), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    try:
        assert netns.call(look) == (1, 2)
        assert before == []
    finally:
        hooked = int  # type: ignore[assignment]


def test_a_block_that_has_left_nothing_asks_nothing_of_the_helper(netns: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag of the last block is used again, unless something may carry it."""
    netns.call(int)
    asked: list[str] = []
    request = type(netns.namespace.broker).request

    def note(self: Any, verb: str, *arguments: object, **keywords: Any) -> Any:
        asked.append(verb)
        return request(self, verb, *arguments, **keywords)

    monkeypatch.setattr(type(netns.namespace.broker), "request", note)
    for function in (int, lambda: 1 // 1, time.time):
        netns.call(function)
    assert asked == [] or not Path("/proc/sys/kernel/ns_last_pid").exists()
    asked.clear()
    netns.call(subprocess.run, ["true"])
    netns.call(lambda: threading.Thread(target=int).start())
    with pytest.raises(ChildDied):
        netns.call(os._exit, 1)
    assert asked == ["end"] * 3


def test_workers_of_xdist_may_call(pytester: pytest.Pytester) -> None:
    """In a worker, which has threads of its own, as anywhere."""
    pytester.makepyfile(
        textwrap.dedent(
            """
            import os, pytest

            @pytest.mark.parametrize("number", range(4))
            def test_call(netns, number):
                assert netns.call(os.getpid) != os.getpid()
                assert netns.run(["true"]).returncode == 0
            """
        )
    )
    result = pytester.runpytest_subprocess("-n2", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4)


def test_a_socket_and_a_listening_server_of_a_daemon_end_with_the_block(netns: Host) -> None:
    """A port that a callable's daemon listened on is free after the block."""

    def serve() -> None:
        server = socket.create_server(("127.0.0.1", 80))
        if os.fork() == 0:
            server.accept()
            os._exit(0)

    for _ in range(2):
        netns.call(serve)
