"""What runs in the background of a host: programs and callables, how they ended, and what they have written.

A host keeps what was started in it until the host ends. So a program whose ``Popen`` nobody has kept goes on, and one
that ended with an error of which nobody has been told is still there to be told of.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from ._errors import ChildDied, PlanError, WaitTimeout, hide_own_frames
from ._output import Output
from ._releasing import releasing

__all__ = [
    "NO_GUARD",
    "Background",
    "BadEnd",
    "Wait",
    "Work",
    "check_limit",
    "ended_badly",
    "everywhere",
    "how_it_ended",
    "indented",
    "is_of_this_phase",
    "last_output",
    "starter_of",
    "wait_for_any",
]

__tracebackhide__ = hide_own_frames

#: For whom errors of handlers are to reach as they are.
NO_GUARD: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
#: How many are started before it is looked who has ended.
_AT_A_TIME = 32
#: Ended ones that a host keeps for what they have written.
_ENDED_KEPT = 200
#: Of how many, the last ones started, a wait that is over tells.
_TOLD_OF = 10
_CURE = "if it may: look at it with wait(), or start a program with popen(…, check=False)"


class Writer(Protocol):
    """Who writes."""

    kept: Output | None
    #: The test that has started it, and its phase, as in PYTEST_CURRENT_TEST; empty where there was none.
    started_in: str = ""


class Work(Writer, Protocol):
    """A program or callable in the background."""

    @property
    def label(self) -> str:
        """What it is called in messages."""

    def bad_end(self) -> str | None:
        """How it ended, if that was an error that is nobody's intention and of which nobody has been told."""

    def tell(self, *, told: bool = True) -> None:
        """Somebody has been told how it ended; or nobody has, after all."""

    def expect_end(self) -> None:
        """It is about to be ended by us."""

    def running(self) -> bool:
        """Whether it has not ended yet."""

    def is_told(self) -> bool:
        """Whether somebody has been told how it ended."""

    def state(self) -> str:
        """That it is running, or how it ended."""

    def hear(self, guard: contextlib.AbstractContextManager[object] = NO_GUARD) -> None:
        """Make our own what it has logged and warned so far, each record and warning within ``guard``."""

    def watched(self) -> int:
        """A descriptor that can be read once it has ended."""

    def release(self) -> None:
        """Its host is gone."""


class BadEnd(NamedTuple):
    """Of one that ended badly."""

    work: Work
    words: str
    #: Whether the test that hears of it has started it.
    own: bool


_everywhere: weakref.WeakSet[Background] = weakref.WeakSet()
_made = 0
#: Hears of a host that is gone, and of what was started in it.
listener: Callable[[str, list[Work]], None] | None = None


class Background:
    """What was started in one host."""

    def __init__(self, where: str, net: int) -> None:
        """``net``: the inode of its network namespace."""
        global _made  # noqa: PLW0603 - an order in which to show them
        _made += 1
        self.where, self.net = where, net
        self.number = _made
        self.all: list[Work] = []
        self._look_at = _AT_A_TIME
        _everywhere.add(self)

    def add(self, work: Work) -> None:
        """Keep one that has just been started."""
        work.started_in = os.environ.get("PYTEST_CURRENT_TEST", "")
        self.all.append(work)
        if len(self.all) >= self._look_at:
            self._let_go()
            self._look_at = 2 * len(self.all) + _AT_A_TIME

    def _let_go(self) -> None:
        """Close what those that have ended need no more, and forget the oldest."""
        ended = [work for work in self.all if not work.running()]
        for work in ended:
            if work.kept is not None:
                work.kept.look()
        for work in ended[: max(0, len(ended) - _ENDED_KEPT)]:
            if work.bad_end() is None:
                self.all.remove(work)
                work.release()

    def bad_ends(self, *, only_own: bool = False) -> list[BadEnd]:
        """Those that ended badly, or only those that the running test has started; they count as told from now on."""
        found = []
        for work in self.all:
            starter = starter_of(work)
            if only_own and starter:
                continue
            how = work.bad_end()
            if how is not None:
                work.tell()
                words = f"{work.label} in {self.where} {how}{starter}{last_output(work)}"
                found.append(BadEnd(work, words, not starter))
        return found

    def running(self) -> list[Work]:
        """Those that have not ended."""
        return [work for work in self.all if work.running()]

    def expect_end(self) -> None:
        """All are about to be ended by us."""
        for work in self.all:
            work.expect_end()

    def release(self) -> None:
        """The host is gone, and all that ran in it."""
        works, self.all = self.all, []
        with releasing(f"what ran in {self.where}") as release:
            for work in works:
                release(work.release)
        if works and listener is not None:
            listener(self.where, works)


def everywhere() -> list[Background]:
    """Of every host in which something was started, in the order of its first start."""
    return sorted(_everywhere, key=lambda each: each.number)


def starter_of(work: Work) -> str:
    """Who has started it, in words; empty if that is the running test, or is not known."""
    test, phase = _test_and_phase(work.started_in)
    if not test or test == _test_and_phase(os.environ.get("PYTEST_CURRENT_TEST", ""))[0]:
        return ""
    return f", started {'by' if phase == 'call' else f'in the {phase} of'} {test}"


def is_of_this_phase(work: Work) -> bool:
    """Whether it was started in the phase of the test that is under way."""
    return work.started_in == os.environ.get("PYTEST_CURRENT_TEST")


def _test_and_phase(current: str) -> tuple[str, str]:
    test, _, phase = current.rpartition(" (")
    return test, phase.rstrip(")")


def ended_badly(bad_ends: list[BadEnd]) -> ChildDied:
    """The error that says so."""
    error = ChildDied("\n".join(f"{end.words}\nnobody has asked how it ended; {_CURE}" for end in bad_ends))
    error.of_others = not all(end.own for end in bad_ends)
    return error


def how_it_ended(code: int) -> str:
    """A return code, as ``subprocess`` has it, in words."""
    if code >= 0:
        return f"ended with exit status {code}"
    import signal

    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def last_output(work: Writer) -> str:
    """What is to be said of what it has written."""
    if work.kept is None:
        return ""
    text = work.kept.tail()
    return f"; its output:\n{indented(text)}{work.kept.advice(text)}" if text else "; it has written nothing"


def indented(text: str) -> str:
    """Every line, as it is shown below what it belongs to."""
    return "\n".join(f"  {line}" for line in text.splitlines())


class Wait:
    """A wait for something that the kernel does not announce: looks, with short and growing pauses.

    ``for _ in Wait(…)`` gives a turn to look in, again and again, and raises when there is no more point in it. A pause
    ends early when something in the background ends.

    Args:
        background: What may end badly meanwhile; None to watch nothing.
        what: What is waited for, for the message.
        limit: Seconds.
    """

    def __init__(self, background: Background, what: str, limit: float) -> None:
        check_limit(limit)
        self._background, self._what, self._limit = background, what, limit
        #: Tells what there is instead, for the message.
        self.seen: Callable[[], str] | None = None

    def __iter__(self) -> Iterator[None]:
        deadline = time.monotonic() + self._limit
        pause = 0.001
        while True:
            # Asked before the look: what it did before it ended counts.
            ended = [work for work in self._background.all if work.bad_end() is not None]
            began = time.monotonic()
            yield
            if ended:
                raise self._ended(ended)
            if began >= deadline:
                raise WaitTimeout(self._words())
            # A look that takes long is taken less often.
            pause = max(min(pause * 1.5, 0.05), 2 * (time.monotonic() - began))
            wait_for_any(
                [work.watched() for work in self._background.running()], min(pause, deadline - time.monotonic())
            )

    def _ended(self, ended: list[Work]) -> ChildDied:
        words = "; ".join(end.words for end in self._background.bad_ends())
        error = ChildDied(f"{self._what}: {words}")
        error.returncode = getattr(ended[0], "returncode", None) or 0
        return error

    def _words(self) -> str:
        works = self._background.all[-_TOLD_OF:]
        lines = [f"{self._what}: not within {self._limit:g} s"]
        if self.seen is not None:
            lines[0] += f"; {self.seen()}"
        from ._listing import processes

        lines += [f"{work.label} in {self._background.where}: {work.state()}{last_output(work)}" for work in works]
        others = processes(self._background.net, self._background.where)
        if works and not others:  # no reason to end the wait: a thread of the test may be about to listen
            others = f"\nnothing runs in {self._background.where} any more"
        return "\n".join(lines) + others


def check_limit(limit: Any) -> None:
    """Refuse what is no time to wait."""
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
        raise PlanError(f"timeout {limit!r}: expected seconds above 0")


def wait_for_any(fds: Iterable[int], seconds: float) -> None:
    """Return when one can be read, or when the time is over."""
    poll = select.poll()
    for fd in fds:
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    poll.poll(max(0.0, seconds) * 1000)
