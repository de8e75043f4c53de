"""Debugging a body: pdb stands inside the host, on a terminal of the user's."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fresh import bare_names
from marking import Inner
from pace import seconds

#: Makes the terminal on descriptor 0 that of the new session, so that Ctrl-C becomes a signal.
LAUNCHER = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
PATIENCE = seconds(60)
#: Seconds: time enough to get to the first prompt, and no more than a test may wait for.
LIMIT = seconds(4)

SAY = """
def say(words):
    with open("/dev/tty", "w") as terminal:
        terminal.write(words)
"""

SOURCE = (
    SAY
    + """
import os, socket
import pytest

@pytest.fixture
def around(tmp_path_factory):
    yield
    (tmp_path_factory.getbasetemp() / "torn-down").touch()

@pytest.mark.netns(timeout=60)
def test_fails(around):
    secret = 6 * 7
    print("printed before")
    assert secret == 41

@pytest.mark.netns(timeout=60)
def test_stops(around):
    secret = 6 * 7
    breakpoint()
    assert secret == 42

@pytest.mark.netns
@pytest.mark.xfail
def test_expected(around):
    assert False
"""
)


class Terminal:
    """A program on a terminal of its own, and what its user types and sees."""

    def __init__(self, command: list[str], directory: Path) -> None:
        self._fd, theirs = pty.openpty()
        self._seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=directory,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "PYTHON_COLORS": "0"},
        )
        os.close(theirs)

    def expect(self, pattern: str) -> str:
        """Read on until the pattern appears; return what came before and with it."""
        deadline = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self._seen)):
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self._fd], [], [], left)[0], f"no {pattern!r} in:\n{self._seen}"
            try:
                piece = os.read(self._fd, 65536)
            except OSError:  # how Linux says that nobody has the other end any more
                piece = b""
            assert piece, f"ended without {pattern!r}:\n{self._seen}"
            self._seen += piece.decode(errors="replace")
        text, self._seen = self._seen[: match.end()], self._seen[match.end() :]
        return text

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


@contextlib.contextmanager
def session(inner: Inner, *arguments: str, source: str = SOURCE) -> Iterator[Terminal]:
    inner.pytester.makepyfile(test_small=source)
    options = inner.arguments("--basetemp=base", *arguments)
    terminal = Terminal([sys.executable, "-m", "pytest", *options], inner.path)
    try:
        yield terminal
    finally:
        terminal.close()


def ask(terminal: Terminal, question: str, answer: str) -> None:
    terminal.expect(r"\(Pdb\) ")
    terminal.type(question + "\n")
    terminal.expect(answer)


def test_pdb_opens_inside_on_a_failure(inner: Inner) -> None:
    """With ``--pdb`` the debugger stands at the failed line, inside the host, with the body's variables."""
    with session(inner, "--pdb", "-k", "fails or expected") as terminal:
        before = terminal.expect("entering PDB")
        assert "assert 42 == 41" in before
        assert "printed before" in before
        ask(terminal, "p secret + 1", r"\b43\b")
        ask(terminal, "p [name for _, name in socket.if_nameindex()]", re.escape(str(bare_names())))
        ask(terminal, "c", "1 failed, 1 deselected, 1 xfailed")
        assert terminal.process.wait(PATIENCE) == 1
    assert (inner.path / "base" / "torn-down").exists()


def test_quitting_the_debugger_ends_the_session(inner: Inner) -> None:
    """``q`` at the debugger's prompt ends the session as it does elsewhere; fixtures are torn down."""
    with session(inner, "--pdb", "-k", "fails or expected") as terminal:
        ask(terminal, "q", "Exit: Quitting debugger")
        assert terminal.process.wait(PATIENCE) == pytest.ExitCode.INTERRUPTED
    assert (inner.path / "base" / "torn-down").exists()


@pytest.mark.parametrize("capture", ["fd", "sys"])
def test_breakpoint_stops_inside_and_keeps_ctrl_c(inner: Inner, capture: str) -> None:
    """``breakpoint()`` in a body opens a prompt inside the host; Ctrl-C then is the debugger's affair."""
    with session(inner, f"--capture={capture}", "-k", "stops") as terminal:
        ask(terminal, "p secret + 1", r"\b43\b")
        ask(terminal, "p [name for _, name in socket.if_nameindex()]", re.escape(str(bare_names())))
        # Busy, not at the prompt: Python may miss a signal that comes just before it waits for input.
        ask(terminal, "print('bu' + 'sy'); all(not zero for zero in iter(int, 1))", "busy")
        terminal.type("\x03")
        terminal.expect("KeyboardInterrupt")
        ask(terminal, "p secret + 2", r"\b44\b")
        ask(terminal, "c", "1 passed, 2 deselected")
        assert terminal.process.wait(PATIENCE) == 0


def test_ctrl_c_in_the_debugger_is_not_for_a_late_test_process(inner: Inner) -> None:
    """Whose Ctrl-C it is does not depend on when the test process gets to it: the debugger may be left by then."""
    source = SOURCE.replace("assert secret == 42", "say('GOES ON')")
    with session(inner, "-k", "stops", source=source) as terminal:
        ask(terminal, "print('bu' + 'sy'); all(not zero for zero in iter(int, 1))", "busy")
        terminal.process.send_signal(signal.SIGSTOP)  # its Ctrl-C waits; the body's does not
        terminal.type("\x03")
        terminal.expect("KeyboardInterrupt")
        ask(terminal, "c", "GOES ON")
        terminal.process.send_signal(signal.SIGCONT)
        terminal.expect("1 passed, 2 deselected")
        assert terminal.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("isolated", [False, True], ids=["body", "isolated"])
def test_ctrl_c_after_the_debugger_opens_it_again(inner: Inner, isolated: bool) -> None:
    """As without namespaces: pdb keeps Ctrl-C to itself once it was left to go on."""
    source = SOURCE.replace("assert secret == 42", "say('GOES ON')\n    while not os.path.exists('enough'): pass")
    options = ["--capture=no"]  # elsewhere pytest has no terminal for a prompt that opens by itself
    if isolated:
        options.append("--netns-isolate")
        source = source.replace("@pytest.mark.netns(timeout=60)\n", "")
    with session(inner, *options, "-k", "stops", source=source) as terminal:
        ask(terminal, "c", "GOES ON")
        for _ in range(2):
            terminal.type("\x03")
            ask(terminal, "p 6 * 7 + 1", r"\b43\b")
            ask(terminal, "c", "PDB continue")
        (inner.path / "enough").touch()
        terminal.expect("1 passed, 2 deselected")
        assert terminal.process.wait(PATIENCE) == 0


CALLS = (
    SAY
    + """
import asyncio
import os
import pytest

def stops(x):
    breakpoint()
    return x + 1

def test_call(netns):
    assert netns.call(stops, 1) == 2

def test_block(netns):
    with netns.enter(timeout=LIMIT) as run:
        assert run(stops, 1) == 2

async def waits(netns):
    with netns.enter(timeout=LIMIT) as run:
        assert await run.acall(stops, 1) == 2

def test_in_a_loop(netns):
    asyncio.run(waits(netns))

def forks(x):
    child = os.fork()
    if child == 0:
        stops(x)
        os._exit(x)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + 1

def test_fork(netns):
    with netns.enter(timeout=LIMIT) as run:
        assert run(forks, 1) == 2

async def waits_for_fork(netns):
    with netns.enter(timeout=LIMIT) as run:
        assert await run.acall(forks, 1) == 2

def test_loop_with_one(netns):
    asyncio.run(waits_for_fork(netns))

@pytest.mark.netns(timeout=LIMIT)
def test_inside(netns):
    assert netns.call(stops, 1) == 2

@pytest.mark.netns(isolate=True)
def test_isolated(netns):
    assert netns.call(stops, 1) == 2

def test_next(netns):
    say("GOES ON")
    while True:  # busy: Python may miss a signal that comes just before it waits
        pass
"""
).replace("LIMIT", str(LIMIT))


@pytest.mark.parametrize("test", ["test_call", "test_block", "test_inside", "test_isolated"])
def test_a_callable_has_its_debugger_to_itself(inner: Inner, test: str) -> None:
    """Its Ctrl-C, and all the time in the world, wherever it is called from; the next test is interrupted as ever."""
    with session(inner, "-k", f"{test} or test_next", source=CALLS) as terminal:
        ask(terminal, "import time; begin = time.monotonic()", "\n")
        ask(terminal, "print('bu' + 'sy'); all(not zero for zero in iter(int, 1))", "busy")
        terminal.type("\x03")
        terminal.expect("KeyboardInterrupt")
        if test in ("test_block", "test_inside"):
            ask(terminal, f"while time.monotonic() < begin + {LIMIT + 0.5}: pass", "\n")
        ask(terminal, "p x + 100", r"\b101\b")
        ask(terminal, "c", "GOES ON")
        terminal.type("\x03")
        terminal.expect("!!! KeyboardInterrupt !!!")
        terminal.expect("1 passed")
        assert terminal.process.wait(PATIENCE) == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize("test", ["test_in_a_loop", "test_fork", "test_loop_with_one"])
def test_a_callable_has_no_limit_in_the_debugger(inner: Inner, test: str) -> None:
    """Whether whoever waits hears of it, or only looks when the time is over, as where the callable has forked."""
    with session(inner, "-k", test, source=CALLS) as terminal:
        ask(terminal, "import time; begin = time.monotonic()", "\n")
        ask(terminal, f"while time.monotonic() < begin + {LIMIT + 0.5}: pass", "\n")
        ask(terminal, "p x + 100", r"\b101\b")
        ask(terminal, "c", "1 passed")


@pytest.mark.parametrize("test", ["test_call", "test_inside", "test_isolated"])
def test_faulthandler_waits_for_the_debugger(inner: Inner, test: str) -> None:
    """Its timer, whose thread is not in a child, holds up no debugger there, and prints nothing amid it."""
    with session(inner, "-k", test, "-o", "faulthandler_timeout=2", source=CALLS) as terminal:
        said = ""
        for typed in (
            "import time; begin = time.monotonic()",
            "while time.monotonic() < begin + 2.5: pass",
            "p x",
            "c",
        ):
            said += terminal.expect(r"\(Pdb\) ")
            terminal.type(typed + "\n")
        said += terminal.expect("1 passed")
        assert "Timeout (" not in said


@pytest.mark.parametrize("stands", [True, False], ids=["in it", "after it"])
@pytest.mark.parametrize("method", ["signal", "thread"])
def test_no_time_runs_out_with_the_debugger(inner: Inner, stands: bool, method: str) -> None:
    """Neither the marker's limit nor pytest-timeout's ends a test in whose body a debugger is open, or was."""
    source = SOURCE.replace("timeout=60", f"timeout={LIMIT}")
    if not stands:
        source = source.replace("assert secret == 42", f"__import__('time').sleep({LIMIT + 0.5})")
    limit = ["-p", "pytest_timeout", f"--timeout={LIMIT}", f"--timeout-method={method}"]
    with session(inner, *limit, "-k", "stops", source=source) as terminal:
        if stands:
            ask(terminal, "import time; begin = time.monotonic()", "\n")
            ask(terminal, f"while time.monotonic() < begin + {LIMIT + 0.5}: pass", "\n")
        ask(terminal, "p secret + 1", r"\b43\b")
        ask(terminal, "c", "1 passed, 2 deselected")


def test_trace_steps_through_a_body(inner: Inner) -> None:
    """With ``--trace`` the debugger stops at a body's first line, inside."""
    with session(inner, "--trace", "-k", "stops") as terminal:
        terminal.expect("secret = 6")
        ask(terminal, "p [name for _, name in socket.if_nameindex()]", re.escape(str(bare_names())))
        ask(terminal, "n", r"breakpoint\(\)")
        ask(terminal, "p secret + 1", r"\b43\b")
        terminal.expect(r"\(Pdb\) ")
        terminal.type("q\n")
        terminal.expect("Exit: Quitting debugger")


def test_ctrl_c_ends_a_body_and_the_session(inner: Inner) -> None:
    """Ctrl-C while a body runs ends it and the session; fixtures are torn down."""
    source = (
        SOURCE
        + """
@pytest.mark.netns
def test_waits(around, tmp_path):
    os.write(2, b"WAITING")
    __import__("time").sleep(1000)
"""
    )
    inner.pytester.makepyfile(test_small=source)
    options = inner.arguments("--basetemp=base", "--capture=no", "-k", "waits", "test_small.py")
    terminal = Terminal([sys.executable, "-m", "pytest", *options], inner.path)
    try:
        terminal.expect("WAITING")
        terminal.type("\x03")
        terminal.expect("!!! KeyboardInterrupt !!!")
        assert terminal.process.wait(PATIENCE) == pytest.ExitCode.INTERRUPTED
    finally:
        terminal.close()
    assert (inner.path / "base" / "torn-down").exists()
