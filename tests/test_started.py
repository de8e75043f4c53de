"""Callables in the background of a host: ready when they say so, ended with the host, and an error of theirs counts."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from calling import hang, own
from marking import Inner

from pytest_netns import ChildDied, Host, Lab, Pair, Started, WaitTimeout, _call, _started

Ready = Callable[[], object]


def ended(started: Started[Any]) -> None:
    """Return when it is over, without having asked how."""
    if started.running():
        poll = select.poll()
        poll.register(started.watched(), select.POLLIN)
        assert poll.poll(60_000)


def serve(port: int, ready: Ready) -> str:
    """Answer one client; return who it was."""
    with socket.create_server(("", port)) as listener:
        ready()
        connection, (address, _) = listener.accept()
        with connection:
            connection.sendall(connection.recv(100).upper())
        return str(address)


def ask(host: Host, server: Host, port: int) -> bytes:
    with host.socket() as client:
        client.settimeout(20)
        client.connect((server.ip, port))
        client.sendall(b"hello")
        return client.recv(100)


def test_it_is_ready_when_it_says_so(netns_pair: Pair) -> None:
    """The first client gets through, and the value comes back, as often as it is asked for."""
    beijing, shanghai = netns_pair
    server = shanghai.start(serve, 80)
    assert server.running()
    assert ask(beijing, shanghai, 80) == b"HELLO"
    assert server.wait(20) == server.wait() == beijing.ip
    assert not server.running()


def test_a_coroutine_function_is_run(netns_pair: Pair) -> None:
    """An asyncio server, in a loop of its own, while the test has one too."""
    beijing, shanghai = netns_pair

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(100)).upper())
        writer.close()

    async def serve_forever(ready: Ready) -> None:
        async with await asyncio.start_server(answer, "", 80) as server:
            ready()
            await server.serve_forever()

    shanghai.start(serve_forever)
    assert ask(beijing, shanghai, 80) == b"HELLO"


def test_without_ready_others_wait(netns_pair: Pair) -> None:
    """A callable that does not ask for the callback runs at once; one that is given something of its own has that."""
    beijing, shanghai = netns_pair
    shanghai.start(serve, 80, ready=bool)
    shanghai.wait_listening(80)
    assert ask(beijing, shanghai, 80) == b"HELLO"


def test_an_error_before_it_is_ready_is_the_starts(netns: Host) -> None:
    """As itself; and so is an end."""

    def fail(ready: Ready) -> None:  # noqa: ARG001
        raise KeyError("no such thing")

    def leave(ready: Ready) -> None:  # noqa: ARG001
        os._exit(3)

    def forget(ready: Ready) -> None:
        pass

    with pytest.raises(KeyError, match="no such thing"):
        netns.start(fail)
    with pytest.raises(ChildDied, match="left with exit code 3"):
        netns.start(leave)
    with pytest.raises(ChildDied, match=r"returned, and has not called ready\(\)"):
        netns.start(forget)


def test_who_ends_right_after_it_is_ready_was_ready(netns: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it rings and ends between the looks at whether it is ready and at whether it has ended."""
    look = _started._Child.look

    def look_when_it_has_ended(child: _started._Child) -> bool:
        assert select.select([child.ended_by], [], [], 60)[0]
        return look(child)

    monkeypatch.setattr(_started._Child, "look", look_when_it_has_ended)
    gate, opener = os.pipe()

    def rings_when_nobody_looks(ready: Ready) -> int:
        os.read(gate, 1)
        ready()
        return 7

    readable = _call.is_readable

    def is_readable(fd: int) -> bool:
        found = readable(fd)
        os.write(opener, b"x")
        return found

    monkeypatch.setattr(_started, "is_readable", is_readable)
    assert netns.start(rings_when_nobody_looks).wait() == 7
    os.close(gate)
    os.close(opener)


def test_who_never_is_ready_is_killed(netns: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message shows where it stood, and what it has written."""

    def work(ready: Ready) -> None:  # noqa: ARG001
        print("working")
        hang()

    monkeypatch.setattr(_started, "CALL_LIMIT", 0.3)
    with pytest.raises(WaitTimeout, match=r"(?s)not called ready\(\) within 0.3 s .* in hang.*output:\n.* working$"):
        netns.start(work)


def test_a_wait_has_a_limit(netns: Host) -> None:
    """After which it is killed, as with a call."""
    started = netns.start(hang)
    with pytest.raises(WaitTimeout, match=r"(?s)did not return within 0.2 s and was killed.* in hang"):
        started.wait(0.2)
    with pytest.raises(ChildDied):
        started.wait()


def test_an_error_of_which_nobody_has_been_told_counts() -> None:
    """It is the host's at its end; also the end by a signal."""
    with pytest.raises(ChildDied, match=r"(?s)fail\(\) in web raised ValueError: late; its output:\n.*Traceback"):
        with_a_late_error(tell=False)
    with_a_late_error(tell=True)
    lab = Lab()
    with pytest.raises(ChildDied, match=r"crash\(\) in web was killed by SIGKILL"), lab:
        ended(lab.host("web").start(crash))


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def with_a_late_error(*, tell: bool) -> None:
    def fail(ready: Ready) -> None:
        ready()
        raise ValueError("late")

    with Lab() as lab:
        started = lab.host("web").start(fail)
        ended(started)
        if tell:
            with pytest.raises(ValueError, match="late"):
                started.wait()


def test_whatever_it_says_is_kept(netns: Host) -> None:
    """Of Python, of programs that it starts, of logging and of warnings, far more than a pipe holds."""

    def talk() -> str:
        print("printed", file=sys.stderr)
        logging.getLogger("mine").warning("logged %s", 1)
        warnings.warn("warned", UserWarning, stacklevel=1)
        os.system("echo echoed")
        print(300_000 * "x")
        return 300_000 * "y"

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        started = netns.start(talk)
        assert started.wait(20) == 300_000 * "y"
    lines = started.output.splitlines()
    assert lines[:2] == ["printed", "WARNING mine: logged 1"]
    assert "UserWarning: warned" in lines[2]
    assert lines[-2:] == ["echoed", 300_000 * "x"]


def test_log_records_and_warnings_reach_the_test(netns: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Once each, when the test looks: by output, a wait for it, or the value; as soon as they can be seen there."""

    def talk(ready: Ready) -> None:
        for number in range(3):
            logging.getLogger("mine").warning("record %s", number)
            warnings.warn(f"warning {number}", UserWarning, stacklevel=1)
            ready()
            if number < 2:
                os.read(gates[number], 1)

    gates, openers = zip(os.pipe(), os.pipe(), strict=True)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        started = netns.start(talk)
        looks: list[Callable[[], object]] = [
            lambda: started.output,
            lambda: started.wait_output(b"warning 1\n"),
            started.wait,
        ]
        for number, look in enumerate(looks):
            assert len(caplog.messages) == len(warned) == number
            look()
            assert caplog.messages[-1] == f"record {number}"
            assert str(warned[-1].message) == f"warning {number}"
            if number < 2:
                os.write(openers[number], b"x")
    assert len(caplog.messages) == len(warned) == 3
    for fd in (*gates, *openers):
        os.close(fd)


def test_warnings_and_records_of_which_nobody_asked_are_not_lost(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the summary of warnings, and in a log that is shown as it grows."""
    result = Inner(pytester, monkeypatch).run(
        """
        import logging, warnings

        def work(ready):
            logging.getLogger("mine").warning("a-record")
            warnings.warn("a-warning")
            ready()

        def test_it(netns):
            netns.start(work)
        """,
        "--log-cli-level=WARNING",
    )
    text = result.stdout.str()
    assert result.parseoutcomes() == {"passed": 1, "warnings": 1}
    assert "test_small.py::test_it\n" in text
    assert "UserWarning: a-warning" in text
    assert text.count("a-record") == 1


STRICT = """
import logging
import pytest

class Strict(logging.Handler):
    def emit(self, record):
        if record.getMessage() == "plain":
            raise OSError("plain")
        if record.getMessage() == "bad":
            pytest.fail("logged: bad")

@pytest.fixture(autouse=True, scope="module")
def no_errors_logged():
    handler = Strict(logging.ERROR)
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)

@pytest.fixture(scope="module")
def shared(netns_lab_factory):
    with netns_lab_factory() as lab:
        yield lab.host("shared")

def says(*words, ready):
    for handler in list(logging.root.handlers):
        if isinstance(handler, Strict):
            logging.root.removeHandler(handler)
    for word in words:
        logging.getLogger("server").error(word)
    ready()
"""


def test_a_handler_that_raises_fails_the_phase_and_loses_no_record(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session goes on, and whatever comes after that record is heard all the same, in that test."""
    result = Inner(pytester, monkeypatch).run(
        STRICT
        + """
@pytest.fixture
def server(shared):
    shared.start(says, "before", "bad", "between", "plain", "after")

def test_fails(shared):
    shared.start(says, "before", "bad", "between", "plain", "after")
    shared.start(says, "another")

def test_fails_by_an_exception(shared):
    shared.start(says, "plain")

def test_error_of_the_setup(server):
    pass

def test_fails_by_itself(shared):
    shared.start(says, "plain")
    assert 0, "by itself"

@pytest.mark.netns
def test_inside(netns):
    netns.start(says, "one", "bad", "two")

@pytest.mark.netns
def test_inside_by_itself(netns):
    netns.start(says, "bad")
    assert 0, "by itself inside"

def test_passes():
    pass
""",
        "--log-cli-level=WARNING",
        "-rfE",
    )
    assert result.parseoutcomes() == {"failed": 5, "errors": 1, "passed": 1}
    text = result.stdout.str()
    for words in (
        "FAILED test_small.py::test_fails - Failed: logged: bad",
        "FAILED test_small.py::test_fails_by_an_exception - OSError: plain",
        "ERROR test_small.py::test_error_of_the_setup - Failed: logged: bad",
        "FAILED test_small.py::test_fails_by_itself - AssertionError: by itself",
        "FAILED test_small.py::test_inside - Failed: logged: bad",
        "FAILED test_small.py::test_inside_by_itself - AssertionError: by itself inside",
    ):
        assert words in text
    title = "- while log records and warnings of callables were heard -"
    assert text.count(title) == 2
    log = text.partition("= FAILURES =")[0].splitlines()
    live = [line.split()[-1] for line in log if "server:test_small.py" in line]
    for word, times in {"before": 2, "between": 2, "after": 2, "another": 1, "one": 1, "two": 1}.items():
        assert live.count(word) == times, word


def test_a_record_of_a_body_inside_is_heard_at_its_end(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a body outside is, though what the body has started ends with it."""
    result = Inner(pytester, monkeypatch).run(
        """
        import logging, warnings
        import pytest

        def work(ready):
            logging.getLogger("mine").warning("a-record")
            warnings.warn("a-warning")
            ready()

        @pytest.mark.netns
        def test_it(netns):
            netns.start(work)
        """,
        "--log-cli-level=WARNING",
    )
    text = result.stdout.str()
    assert result.parseoutcomes() == {"passed": 1, "warnings": 1}
    assert "UserWarning: a-warning" in text
    assert text.count("a-record") == 1


def logs_until_it_is_told(ready: Ready) -> None:
    logger = logging.getLogger("mine")
    told = []

    def end(*_: object) -> None:
        logger.warning("told")
        told.append(True)

    signal.signal(signal.SIGTERM, end)
    ready()
    while not told:
        logger.warning("goes on")


def test_who_is_told_to_end_in_the_midst_of_a_record_can_log(netns: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A signal's handler that logs waits for no record that it has interrupted, and what it has logged is heard."""
    for _ in range(20):
        started = netns.start(logs_until_it_is_told)
        netns.end_processes()
        caplog.clear()
        started.wait()
        assert "told" in caplog.messages[-2:]


def test_nothing_is_left() -> None:
    """Of those that ran on, returned, failed or were closed: no process, no descriptor."""

    def run() -> None:
        with Lab() as lab:
            host = lab.host()
            host.start(time.sleep, 1000)
            host.start(len, "abc").wait(20)
            started = host.start(hang)
            started.close()
            started.close()
            with pytest.raises(TypeError):
                host.start(len, None).wait(20)

    run()
    before = own()
    run()
    assert own() == before


def test_a_failed_test_shows_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it shows programs, inside as outside; and an error of its fails the test."""
    source = """
        import pytest, select

        def work(ready):
            print("working")
            ready()
            raise KeyError("late")

        @pytest.mark.parametrize("n", [0, pytest.param(1, marks=pytest.mark.netns)])
        def test_late(netns_pair, n):
            started = netns_pair["beijing"].start(work)
            while started.running():
                select.select([started.watched()], [], [], 10)

        @pytest.fixture
        def started(netns_pair):
            return netns_pair["beijing"].start(__import__("time").sleep, 1000)

        @pytest.mark.netns
        def test_fine(started):
            assert started.running()
    """
    result = Inner(pytester, monkeypatch).run("if True:\n" + source)
    result.assert_outcomes(failed=2, passed=1)
    text = result.stdout.str()
    assert text.count("work() in beijing raised KeyError: 'late'; its output:") >= 2
    assert text.count("- beijing: work() (raised KeyError: 'late') -") == 2


def test_what_the_test_closes_ends_whatever_is_started_meanwhile(netns: Host) -> None:
    """A program in the background hears the end of its input, and is not in the process group of the test."""

    def stay(ready: Ready) -> None:
        print(os.getpgrp() == os.getpid(), flush=True)
        ready()
        hang()

    cat = netns.popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started = netns.start(stay)
    assert cat.communicate(b"all of it", timeout=60) == (b"all of it", None)
    assert started.output == "True\n"
    started.close()


def test_what_it_writes_is_waited_for(netns: Host) -> None:
    """As with programs: a match, an end with an error, an end without one, and the time that is over."""

    def work(ready: Ready) -> None:
        ready()
        print("listening on 80")
        hang()

    def fail() -> None:
        raise RuntimeError("no luck")

    started = netns.start(work)
    assert started.wait_output(r"on (\d+)", timeout=60)[1] == "80"
    with pytest.raises(WaitTimeout, match=r"work\(\) in netns was to write 'never': not within 0.01 s"):
        started.wait_output("never", timeout=0.01)
    started.close()
    with pytest.raises(ChildDied, match="it raised RuntimeError: no luck"):
        netns.start(fail).wait_output("never", timeout=60)
    with pytest.raises(ChildDied, match="it has returned"):
        netns.start(os.getpid).wait_output("never", timeout=60)
