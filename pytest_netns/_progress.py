"""How far a large lab is, on a terminal: what is drawn behind the cursor, and wiped away at the end."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from . import _namespace, _settings

__all__ = ["shown"]

#: Seconds between two looks.
_PAUSE = 0.1
_WIDTH = 20
#: Remember the cursor, and have what is too long end at the edge; and back. Wipe the rest of the line. (xterm's
#: ctlseqs.txt, console_codes(4).)
_BEGIN, _END, _WIPE = "\x1b7\x1b[?7l", "\x1b[?7h\x1b8", "\x1b[K"


@contextlib.contextmanager
def shown(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how much of ``total`` is done, on the terminal that pytest reports to, or else on that of stderr.

    Nothing is shown where there is none, in children of the test process, and in threads: pytest's capture is one for
    all of them.

    Yields:
        What to call with the number of what has been done since the last call.
    """
    alone = not _namespace._forks and threading.current_thread() is threading.main_thread()
    if not alone or os.environ.get("TERM", "dumb") == "dumb":
        yield lambda _: None
        return
    done, last = 0, float("-inf")

    def add(number: int) -> None:
        nonlocal done, last
        done += number
        now = time.monotonic()
        if now - last >= _PAUSE:
            last = now
            _write(f"{_BEGIN} {_bar(words, done / total)}{_WIPE}{_END}")

    add(0)
    try:
        yield add
    finally:
        _write(_WIPE)


def _bar(words: str, part: float) -> str:
    full = int(part * _WIDTH)
    return f"{words} [{'#' * full}{'.' * (_WIDTH - full)}] {part:4.0%}"


def _write(text: str) -> None:
    with _terminal() as stream, contextlib.suppress(OSError):  # it may have been closed meanwhile
        if stream is not None:
            stream.write(text)
            stream.flush()


def _terminal() -> contextlib.AbstractContextManager[TextIO | None]:
    of_session = _settings.terminal()
    if of_session is not None:
        return of_session()
    return contextlib.nullcontext(sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None)
