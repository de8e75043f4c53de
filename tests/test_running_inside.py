"""Callables in a host: values, exceptions, ends, and what is left."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fresh import bare_names

from pytest_netns import ChildDied, Host, Pair, WaitTimeout

pytestmark = pytest.mark.kernel


class OddError(Exception):
    """Its constructor does not take what it passes on."""

    def __init__(self, first: int, *, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.both = (first, second)


class StubbornError(Exception):
    """Cannot be pickled with what it holds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def raising(error: BaseException) -> Callable[[], None]:
    """A function that raises."""

    def function() -> None:
        raise error

    return function


def test_values_closures_and_lambdas_come_back(netns: Host) -> None:
    """Arguments, keywords, closures over anything, and any value that can be pickled."""
    lock = threading.Lock()
    assert netns.call(lambda a, *, b: (a, b, lock.locked()), 1, b={"two"}) == (1, {"two"}, False)  # type: ignore[misc]
    assert netns.call(os.getpid) != os.getpid()


def test_a_large_result_comes_back(netns: Host) -> None:
    """Hundreds of megabytes, whole."""
    size = 300_000_000
    data = netns.call(bytes, size)
    assert len(data) == size


def test_exceptions_come_back_as_themselves(netns: Host) -> None:
    """Class, arguments and attributes; the cause shows the line that raised, in the child."""

    def fail() -> None:
        raise OSError(5, "the line that raised")

    with pytest.raises(OSError, match="the line that raised") as caught:
        netns.call(fail)
    assert caught.value.errno == 5
    assert 'raise OSError(5, "the line that raised")' in str(caught.value.__cause__)
    with pytest.raises(OddError, match="1 and 2") as odd:
        netns.call(raising(OddError(1, second=2)))
    assert odd.value.both == (1, 2)


def test_of_an_exception_what_cannot_travel_comes_as_words(netns: Host) -> None:
    """It is itself all the same; its attribute is the text of what it was."""
    with pytest.raises(StubbornError, match="no way") as caught:
        netns.call(raising(StubbornError("no way")))
    assert "lock" in str(caught.value.lock)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit("g")])
def test_exceptions_that_are_no_errors_pass_too(netns: Host, error: BaseException) -> None:
    """What would end a program comes back like any other exception."""
    with pytest.raises(type(error)):
        netns.call(raising(error))


def test_skipping_inside_skips_the_test(pytester: pytest.Pytester) -> None:
    """pytest's own outcomes raised in a callable are the test's."""
    pytester.makepyfile(
        """
        import pytest
        def test_skipped(netns):
            netns.call(lambda: pytest.skip("not today"))
        def test_failed(netns):
            netns.call(lambda: pytest.fail("by hand"))
        def test_xfailed(netns):
            netns.call(lambda: pytest.xfail("known"))
        """
    )
    result = pytester.runpytest_inprocess("-ra")
    result.assert_outcomes(skipped=1, failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["*not today*", "*by hand*"])


def test_a_result_that_cannot_travel_names_the_function(netns: Host) -> None:
    """A TypeError that says which function returned what."""
    with pytest.raises(TypeError, match=r"lock.*cannot be carried out of the host"):
        netns.call(threading.Lock)


def test_a_signal_and_an_exit_code_are_told(netns: Host) -> None:
    """A child that ends without returning is an error that says how."""
    with pytest.raises(ChildDied, match="was killed by SIGSEGV") as dead:
        netns.call(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    assert dead.value.returncode == -signal.SIGSEGV
    with pytest.raises(ChildDied, match="exit code 7") as left:
        netns.call(os._exit, 7)
    assert left.value.returncode == 7


def test_a_hanging_call_ends_and_shows_where_it_stood(netns: Host) -> None:
    """After the block's limit: an error with the child's stack, and the child is dead."""

    def hang_here() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()

    with (
        pytest.raises(WaitTimeout, match=r"within 0\.3 s(?s:.*)in hang_here"),
        netns.enter(timeout=0.3) as run,
    ):
        run(hang_here)
    assert netns.end_processes() == 0


def test_calls_nest(netns_pair: Pair) -> None:
    """A callable may call into its own host and another, run programs and open sockets there."""
    beijing, shanghai = netns_pair

    def inner() -> str:
        return str(os.stat("/proc/self/ns/net").st_ino)

    def outer() -> list[str]:
        with shanghai.socket() as server:
            server.bind((shanghai.ip, 80))
        program = shanghai.run(["stat", "-Lc%i", "/proc/self/ns/net"], stdout=subprocess.PIPE, text=True)
        return [inner(), beijing.call(inner), shanghai.call(inner), program.stdout.strip()]

    one, two = str(beijing.namespace.id), str(shanghai.namespace.id)
    assert beijing.call(outer) == [one, one, two, two]


def test_many_threads_call_at_once(netns_pair: Pair) -> None:
    """Eight threads, both hosts, no mix-up."""
    beijing, shanghai = netns_pair

    def ask(number: int) -> bool:
        host = (beijing, shanghai)[number % 2]
        value, inode = host.call(lambda: (number, os.stat("/proc/self/ns/net").st_ino))
        return bool(value == number and inode == host.namespace.id)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(40)))


def test_an_event_loop_goes_on_during_a_call(netns: Host) -> None:
    """The awaitable form: the loop serves the child that the call waits for. The plain form works too."""

    async def main() -> bytes:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"from the loop")
            writer.close()

        listening = netns.socket()
        listening.bind(("127.0.0.1", 80))

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", 80)) as client:
                return client.makefile("rb").read()

        async with await asyncio.start_server(answer, sock=listening):
            assert netns.call(len, "abc") == 3
            return await netns.acall(ask)

    assert asyncio.run(main()) == b"from the loop"


def test_cancelling_an_awaited_call_kills_its_child(netns: Host) -> None:
    """Nothing goes on after the cancellation."""

    async def main() -> None:
        read, write = os.pipe()

        def hang() -> None:
            os.write(write, b"x")
            threading.Event().wait()

        started = asyncio.get_running_loop().run_in_executor(None, os.read, read, 1)
        with netns.enter() as run:
            task = asyncio.create_task(run.acall(hang))
            await started
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert netns.end_processes() == 0
        os.close(read)
        os.close(write)

    asyncio.run(main())


def start_daemon() -> int:
    """Fork twice, leave the session, ignore signals; return the daemon's pid, as seen inside."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            time.sleep(1000)
        os._exit(0)
    return int(os.read(read, 20))


def runs(pid: int) -> bool:
    """Whether there is such a process, as seen inside."""
    return Path(f"/proc/{pid}").exists()


def test_what_a_block_started_is_over_with_it(netns: Host) -> None:
    """A daemon lives from one call of the block to the next, and not longer."""
    with netns.enter() as run:
        pid = run(start_daemon)
        assert run(runs, pid)
    assert not netns.call(runs, pid)


def test_a_block_ends_only_what_is_its_own(netns: Host) -> None:
    """Programs started outside of the block, and another block's, go on."""
    with netns.popen(["sleep", "1000"]) as program, netns.enter() as other:
        pid = other(start_daemon)
        with netns.enter() as run:
            run(start_daemon)
        assert program.poll() is None
        assert other(runs, pid)
        program.kill()


def test_logs_and_warnings_reach_the_parent(netns: Host, caplog: pytest.LogCaptureFixture) -> None:
    """As if the callable had run here."""

    def talk() -> None:
        logging.getLogger("inside").warning("hello %s", "there")
        warnings.warn("careful", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="careful"):
        netns.call(talk)
    assert ("inside", logging.WARNING, "hello there") in caplog.record_tuples


def test_output_is_kept(netns: Host, capfd: pytest.CaptureFixture[str]) -> None:
    """What a callable and its programs print is captured as always."""

    def talk() -> None:
        print("one")
        subprocess.run(["echo", "two"], check=True)
        print("three", file=sys.stderr)

    netns.call(talk)
    out, err = capfd.readouterr()
    assert sorted(out.split()) == ["one", "two"]
    assert err == "three\n"


def test_in_memory_output_is_kept(netns: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the stream is only memory."""
    netns.call(print, "one")
    assert capsys.readouterr().out == "one\n"


def test_the_kernel_shows_the_hosts_own_trees(netns_pair: Pair, tmp_path: Path, monkeypatch: Any) -> None:
    """/sys/class/net, /proc/net and the processes are the host's; the working directory stays."""
    beijing, _ = netns_pair
    monkeypatch.chdir(tmp_path)

    def look() -> Any:
        names = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
        return (
            sorted(set(os.listdir("/sys/class/net")) - {"bonding_masters"}),  # a file
            sorted(names),
            os.readlink("/proc/self"),
            os.getpid(),
            os.getcwd(),
        )

    sys_names, proc_names, own, pid, directory = beijing.call(look)
    assert sys_names == proc_names == sorted(["eth0", *bare_names()])
    assert own == str(pid)
    assert directory == str(tmp_path)


def test_settings_land_in_the_host(netns: Host) -> None:
    """Writes below /proc/sys/net change the host and not the machine."""
    path = Path("/proc/sys/net/ipv4/ip_default_ttl")
    before = path.read_text()
    netns.call(path.write_text, "99")
    assert netns.call(path.read_text) == "99\n"
    assert netns.sysctl("ipv4.ip_default_ttl") == "99"
    assert netns.sysctl("net.ipv4.ip_default_ttl", 98) == "98"
    assert path.read_text() == before
    with pytest.raises(FileNotFoundError):
        netns.sysctl("ipv4.no_such_setting")
    with pytest.raises(OSError, match="Invalid argument"):
        netns.sysctl("ipv4.ip_default_ttl", "warm")


def test_nothing_grows(netns: Host) -> None:
    """Two hundred calls, a tenth of which fail: descriptors, threads and children as before."""

    def state() -> Any:
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
        return sorted(os.listdir("/proc/self/fd")), children

    netns.call(int)
    threads = set(threading.enumerate())  # that of an earlier test may end meanwhile
    before = state()
    for number in range(200):
        if number % 10 == 0:
            with pytest.raises(ZeroDivisionError):
                netns.call(lambda: 1 // 0)
        netns.call(int)
    assert state() == before
    assert set(threading.enumerate()) <= threads


def test_forking_amid_logging_never_hangs(netns: Host, tmp_path: Path) -> None:
    """A thread that hammers a log file may hold its lock at the fork; the child must not wait for it."""
    handler = logging.FileHandler(tmp_path / "log")
    root = logging.getLogger()
    root.addHandler(handler)
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            root.warning("x" * 200)

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        with netns.enter(timeout=20) as run:
            for _ in range(60):
                run(logging.getLogger("child").warning, "from the child")
    finally:
        stop.set()
        thread.join()
        root.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text().count("from the child") == 60


def test_a_closed_host_says_so(netns_pair: Pair) -> None:
    """Using what has been closed is an error of its own; closing twice is none."""
    beijing, _ = netns_pair
    netns_pair.close()
    netns_pair.close()
    for use in (lambda: beijing.call(int), lambda: beijing.run(["true"]), beijing.socket):
        with pytest.raises(ValueError, match="is closed"):
            use()
