"""What a program in the background has beyond ``subprocess.Popen``: kept output, a wait for it, an end that counts."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from ._background import how_it_ended, wait_for_any
from ._errors import NetnsError, hide_own_frames
from ._output import Output
from ._releasing import releasing
from ._writing import Writing

if TYPE_CHECKING:
    from ._broker import Broker
    from ._entry import Entry

__all__ = ["InBackground", "not_given"]

__tracebackhide__ = hide_own_frames

#: How many characters of a command are its name in messages.
_LABEL = 60
#: Seconds for what has been ended to be gone.
_END_LIMIT = 2.0


class InBackground(Writing):
    """For :class:`._process.Popen`, which says how the program is doing."""

    _entry: Entry
    _broker: Broker
    _status: socket.socket | None
    args: Any

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        raise NotImplementedError

    def _in_background(self, targets: list[int], *, check: bool) -> None:
        """``targets``: which of standard output and error are kept."""
        self._end_expected = not check
        self._being_ended = False
        self._told = False
        self._targets = targets
        self.kept = Output(self._broker) if targets else None

    @property
    def label(self) -> str:
        """The command as messages name it: on one line, shortened."""
        return _label(self.args)

    @property
    def output(self) -> str:
        """What it has written so far where ``stdout`` and ``stderr`` were not given, in the order of writing.

        Decoded as ``encoding`` and ``errors`` say, by default as UTF-8, what is none as ``\\xff``.
        """
        if self.kept is None:
            raise NetnsError(f"{self.label}: stdout and stderr were given, so its output is not kept; read it there")
        self.kept.look_now()
        return self.kept.data().decode(
            getattr(self, "encoding", None) or "utf-8", getattr(self, "errors", None) or "backslashreplace"
        )

    # In the background of a host: see ``Work`` in :mod:`._background`

    def bad_end(self) -> str | None:
        """How it ended, if that was an error that nobody wanted and of which nobody has been told."""
        code = self._internal_poll()
        return None if not code or self._told or self._end_expected else how_it_ended(code)

    def _failure(self) -> int | None:
        return self._internal_poll() or None

    def tell(self, *, told: bool = True) -> None:
        """Somebody has been told how it ended; or nobody has, after all."""
        self._told = told

    def expect_end(self) -> None:
        """It is about to be ended by us."""
        if self._internal_poll() is None:
            self._end_expected = self._being_ended = True

    def is_told(self) -> bool:
        """Whether somebody has been told how it ended."""
        return self._told

    def state(self) -> str:
        """That it is running, or how it ended."""
        code = self._internal_poll()
        return "running" if code is None else how_it_ended(code)

    def running(self) -> bool:
        """Whether it has not ended yet; unlike :meth:`poll`, whoever asks need not care how."""
        return self._internal_poll() is None

    def watched(self) -> int:
        """A descriptor that can be read once it has ended; -1 when that is known."""
        status = self._status
        return -1 if status is None else status.fileno()

    def release(self) -> None:
        """Its host is gone: the end is known, or never will be."""
        with releasing(self.label) as release:
            release(self._hear_of_end)
            release(self._internal_poll)
            if self.kept is not None:
                release(self.kept.close)

    def _hear_of_end(self) -> None:
        if self._being_ended and self._internal_poll() is None:
            # It has left its host; that it has ended may be a moment away (do_exit, kernel/exit.c).
            wait_for_any([self.watched()], _END_LIMIT)


def _label(args: Any) -> str:
    """A short name for messages: the program and its arguments."""
    words = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
    text = b" ".join(os.fsencode(word) for word in words).decode(errors="backslashreplace")
    text = " ".join(text.split())
    return text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"


def not_given(positional: tuple[Any, ...], keywords: dict[str, Any]) -> list[int]:
    """Which of standard output and error nobody has said anything of."""
    stdout, stderr = (
        positional[place] if len(positional) > place else keywords.get(name)
        for place, name in ((3, "stdout"), (4, "stderr"))
    )
    both = stdout is None and stderr == subprocess.STDOUT
    return [number for number, given in ((1, stdout), (2, stderr)) if given is None or both]
