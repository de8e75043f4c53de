"""A wait for what a program or callable in the background writes."""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING, Any

from ._background import NO_GUARD, check_limit, last_output, wait_for_any
from ._entry import WAIT_LIMIT
from ._errors import ChildDied, WaitTimeout, hide_own_frames
from ._listing import processes

if TYPE_CHECKING:
    from ._entry import Entry
    from ._output import Output

__all__ = ["Writing"]

__tracebackhide__ = hide_own_frames

#: Seconds; a look that takes longer is taken less often.
_LONG = 0.01


class Writing:
    """For what is ``Work`` of :mod:`._background`, and says whether it has failed."""

    _entry: Entry
    kept: Output | None
    started_in: str = ""

    if TYPE_CHECKING:

        @property
        def label(self) -> str: ...
        @property
        def output(self) -> str: ...
        def running(self) -> bool: ...
        def state(self) -> str: ...
        def tell(self, *, told: bool = True) -> None: ...
        def watched(self) -> int: ...
        def _failure(self) -> int | None:
            """Its exit status if it has ended with an error; a callable's is 0."""

    def hear(self, guard: contextlib.AbstractContextManager[object] = NO_GUARD) -> None:
        """Make our own what it has logged and warned so far; a program has nothing of that kind."""

    def wait_output(self, pattern: str | bytes | re.Pattern[Any], *, timeout: float = WAIT_LIMIT) -> re.Match[Any]:
        """Wait until what it has written, from its start, matches somewhere.

        Args:
            pattern: A regular expression; of bytes, it is looked for in what was written as it is.
            timeout: Seconds.

        Raises:
            ChildDied: Nothing matches, and it has ended with an error, or it and all that it started have ended; the
                message shows what was written.
            WaitTimeout: The same, when the time is over.
        """
        check_limit(timeout)
        wanted = re.compile(pattern)
        deadline = time.monotonic() + timeout
        while True:
            over = time.monotonic() >= deadline
            ended = not self.running()
            began = time.monotonic()
            found = self._found(wanted)
            if found is not None:
                return found
            assert self.kept is not None
            failure = self._failure() if ended else None
            if ended and (failure is not None or self.kept.over):  # else what it has started may write on
                self.tell()
                error = ChildDied(f"{self._asked_for(wanted)}: it {self.state()}{last_output(self)}")
                error.returncode = failure or 0
                raise error
            if over:
                words = f"{self._asked_for(wanted)}: not within {timeout:g} s{last_output(self)}"
                raise WaitTimeout(words + processes(os.fstat(self._entry.net).st_ino, self._entry.where))
            took = time.monotonic() - began
            if took > _LONG:  # who writes without end would have us look without end
                wait_for_any([self.watched()], min(2 * took, deadline - time.monotonic()))
            # Another process or thread may take what rings the bell, hence the quarter of a second.
            wait_for_any([self.kept.bell, self.watched()], min(0.25, deadline - time.monotonic()))

    def _found(self, wanted: re.Pattern[Any]) -> re.Match[Any] | None:
        if self.kept is None or isinstance(wanted.pattern, str):
            return wanted.search(self.output)
        self.kept.look_now()
        self.hear()
        return wanted.search(bytes(self.kept.data()))

    def _asked_for(self, wanted: re.Pattern[Any]) -> str:
        return f"{self.label} in {self._entry.where} was to write {wanted.pattern!r}"
