"""Runs callables in a host, and ends with the block what they have left running.

What belongs to a block is known by its tag (:mod:`._tags`). Most callables start no process. Their children say so,
and then nobody carries the tag and there is nothing to end; else the helper ends whatever carries it.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ._awaiting import in_trio
from ._call import Child
from ._child import as_outside_pytest
from ._errors import ClosedError, hide_own_frames

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from ._call import Outcome
    from ._entry import Entry
    from ._inside import Inside

    P = ParamSpec("P")

__all__ = ["Block", "to_its_end"]

__tracebackhide__ = hide_own_frames

T = TypeVar("T")


class Block:
    """Runs callables in a host; what they leave running is ended with the block. Made by ``host.enter()``."""

    def __init__(self, inside: Inside, limit: float | None) -> None:
        self._inside = inside
        self._limit = limit
        self._helper = inside.namespace.broker
        self._tag = self._helper.tags.take()
        self._closed = False
        #: Those who may have something running, or may leave it behind.
        self._doubtful: set[Child | None] = set()

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Fork, enter the host, call; return the value or raise what the callable raised.

        Raises:
            ChildDied: The child was killed by a signal or left without returning.
            WaitTimeout: The block's limit ran out; the child's stacks are in the message.
            TypeError: The value cannot be pickled.
        """
        __tracebackhide__ = True
        child = self._child(function, args, kwargs)
        outcome = child.wait(self._limit)
        return self._result(child, outcome)  # type: ignore[no-any-return]

    async def acall(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for a running event loop, asyncio's or trio's; cancelling it kills the child.

        A coroutine function is run in the child to its end, in an event loop of its own, of the same kind.
        """
        __tracebackhide__ = True
        child = self._child(to_its_end(function), args, kwargs)
        outcome = await child.wait_in_loop(self._limit)
        return self._result(child, outcome)  # type: ignore[no-any-return]

    def entry(self) -> Entry:
        """What a child of the calling process has yet to enter; what it leaves running there is not known."""
        self._doubtful.add(None)
        return self._entry()

    def _entry(self) -> Entry:
        if self._closed:
            raise ClosedError(f"this block in {self._inside.name} is over; enter the host again")
        return self._inside._entry(self._tag)

    def _child(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Child:
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is a coroutine function; await host.acall(…) runs it")
        if not callable(function):
            raise TypeError(f"expected a callable, not {function!r}; for a command use host.run([...])")
        name = getattr(function, "__qualname__", None) or repr(function)
        work = functools.partial(as_outside_pytest, functools.partial(function, *args, **kwargs))
        child = Child(self._entry(), work, name)
        self._doubtful.add(child)
        return child

    def _result(self, child: Child, outcome: Outcome) -> Any:
        __tracebackhide__ = True
        if child.alone:
            self._doubtful.discard(child)
        if outcome.kind is None and os.waitstatus_to_exitcode(outcome.status) == -signal.SIGKILL:
            # When the helper ends, everything inside is killed; then that is the news, and any request tells it.
            self._helper.request("end", "net", [], False)
        return outcome.result(child.name, child.entry.where)

    def close(self) -> None:
        """End what was started in the block and still runs; may be called twice."""
        self._closed = True
        tag, self._tag = self._tag, None
        if tag is None:
            return
        try:
            if self._doubtful:
                self._helper.end_processes("time", [os.fstat(tag).st_ino])
        except BaseException:
            os.close(tag)
            raise
        self._helper.tags.give_back(tag)


def to_its_end(function: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function as one that runs it, in an event loop of its own; others as they are."""
    if not inspect.iscoroutinefunction(function):
        return function

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        return asyncio.run(function(*args, **kwargs))

    @functools.wraps(function)
    def run_by_trio(*args: Any, **kwargs: Any) -> Any:
        # In a thread: in the one that was forked, trio takes itself to be running.
        from concurrent.futures import ThreadPoolExecutor

        import trio

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(trio.run, functools.partial(function, *args, **kwargs)).result()

    return run_by_trio if in_trio() else run
