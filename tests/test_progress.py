"""How far a large lab is, is shown on a terminal, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pace import seconds

from pytest_netns._build import progress
from pytest_netns._steps import Steps

pytestmark = pytest.mark.once

LARGE = """
    from pytest_netns import Lab, _build, _progress

    _build._MANY, _progress._PAUSE = 40, 0

    def test_large(capfd):
        print("said before")
        with Lab() as lab:
            for number in range(40):
                lab.host(f"h{number}")
            lab.build()
        print("said after")
        assert capfd.readouterr() == ("said before\\nsaid after\\n", "")
"""
SCRIPT = """
from pytest_netns import Lab, _build, _progress
_build._MANY, _progress._PAUSE = 40, 0
with Lab() as lab:
    for number in range(40):
        lab.host(f"h{number}")
    lab.build()
print("built")
"""
BAR = re.compile(rb"\x1b7\x1b\[\?7l netns: lab of 40 hosts \[(#*)(\.*)\] +(\d+)%\x1b\[K\x1b\[\?7h\x1b8")
WIPE = b"\x1b[K"


def on_terminal(command: list[str], directory: Path, *, only_stderr: bool = False, term: str = "xterm") -> bytes:
    """What a program writes that has a terminal; only for its stderr, or for both."""
    own, theirs = pty.openpty()
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TERM": term, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    stdout = subprocess.PIPE if only_stderr else theirs
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=theirs
    ) as program:
        os.close(theirs)
        with open(own, "rb", buffering=0) as terminal:
            seen = b""
            try:
                while data := terminal.read(4096):
                    seen += data
            except OSError:  # EIO: nobody has the other end any more
                pass
        assert program.wait(timeout=seconds(60)) == 0, seen.decode()
        if program.stdout is not None:
            assert program.stdout.read() == b"built\n"
    return seen


def test_a_script_shows_it_on_stderr(tmp_path: Path) -> None:
    """It begins with nothing, grows, and is wiped away; stdout is the program's own."""
    seen = on_terminal([sys.executable, "-c", SCRIPT], tmp_path, only_stderr=True)
    parts = [int(found[3]) for found in BAR.finditer(seen)]
    assert parts[0] == 0
    assert parts[-1] == 100
    assert parts == sorted(parts)
    assert {len(found[1]) + len(found[2]) for found in BAR.finditer(seen)} == {20}
    assert BAR.sub(b"", seen) == WIPE


def test_nothing_is_shown_of_little_or_on_what_cannot_show_it(tmp_path: Path) -> None:
    """Of 199 hosts; on a terminal that only prints; in a file."""
    hosts = [f"h{number}" for number in range(200)]
    assert isinstance(progress(Steps(places=hosts[:-1])), contextlib.nullcontext)
    assert not isinstance(progress(Steps(places=hosts)), contextlib.nullcontext)
    script = [sys.executable, "-c", SCRIPT]
    assert on_terminal(script, tmp_path, only_stderr=True, term="dumb") == b""
    done = subprocess.run(script, check=True, capture_output=True, timeout=seconds(60))
    assert (done.stdout, done.stderr) == (b"built\n", b"")


def inner(*more: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "pytest_netns.plugin", "-p", "no:cacheprovider", "--color=no", *more]


@pytest.mark.parametrize("capture", ["fd", "no"])
def test_pytest_shows_it_behind_the_dots(pytester: pytest.Pytester, capture: str) -> None:
    """It leaves pytest's own line, and what a test captures, as they are."""
    pytester.makepyfile(LARGE)
    seen = on_terminal(inner(f"--capture={capture}"), pytester.path)
    assert BAR.search(seen)
    line = next(line for line in BAR.sub(b"<bar>", seen).splitlines() if b".py" in line)
    assert re.fullmatch(rb"test_pytest_shows_it_behind_the_dots.py (<bar>){4}\x1b\[K\.( +\[100%\])?", line), line


def test_neither_workers_nor_files_show_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist's workers have no terminal, though its controller has; a report that is piped is plain."""
    pytester.makepyfile(LARGE)
    assert b"1 passed" in (seen := on_terminal(inner("-p", "xdist.plugin", "-n1"), pytester.path))
    assert b"netns: lab" not in seen
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    done = subprocess.run(inner(), check=True, cwd=pytester.path, capture_output=True, timeout=seconds(60))
    assert b"1 passed" in done.stdout
    assert b"netns: lab" not in done.stdout + done.stderr
