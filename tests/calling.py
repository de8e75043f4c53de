"""For the tests of calls: what hangs, and what is left."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

#: Seconds within which a child gets to where it is to be found, on a machine that is busy.
LONG_ENOUGH = 3.0


def hang() -> None:
    while True:
        time.sleep(1000)


def crash() -> None:
    faulthandler.disable()  # what it writes is for real crashes
    os.kill(os.getpid(), signal.SIGSEGV)


def own() -> dict[str, Any]:
    """What this process holds."""
    children = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # that of a thread just joined takes a moment
            children |= set(Path(f"/proc/self/task/{task}/children").read_text().split())
    return {
        # Their number: a tag is kept for the next block, and which depends on who was last.
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": set(threading.enumerate()),
        "children": children,
    }


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    before = own()
    yield
    now = own()
    assert now == before


def start_daemon(path: Path) -> None:
    """Detach by every means, and hold ``path``, a FIFO, open for writing as long as it lives."""
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    ready, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.open(path, os.O_WRONLY)
            os.closerange(0, told)
            os.write(told, b"x")
            os.close(told)
            hang()
        os._exit(0)
    os.read(ready, 1)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """A FIFO and whether anybody holds it open for writing."""
    path = tmp_path / "held"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(reader, 0)
    yield path, lambda: not poll.poll(0)
    os.close(reader)
