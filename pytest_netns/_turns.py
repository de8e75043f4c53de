"""Turns: one thread at a time reads what a lab is, works out what it is to be, and makes it so."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from ._errors import hide_own_frames

__all__ = ["Turns", "in_turn"]

__tracebackhide__ = hide_own_frames

P = ParamSpec("P")
T = TypeVar("T")


class _TakesTurns(Protocol):
    def making(self) -> AbstractContextManager[object]: ...


L = TypeVar("L", bound=_TakesTurns)

_all: weakref.WeakSet[Turns] = weakref.WeakSet()


class Turns:
    """A lock that its thread may take again, and that is free in a fork if another thread of the parent held it."""

    def __init__(self, cut_short: Callable[[], None]) -> None:
        """``cut_short`` is called in a fork in which the thread whose turn it was is no more."""
        self._lock = threading.RLock()
        self._cut_short = cut_short
        _all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def after_fork(self) -> None:
        """In a forked child, which has one thread: the one that forked."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()
            self._cut_short()


def in_turn(method: Callable[Concatenate[L, P], T]) -> Callable[Concatenate[L, P], T]:
    """A method that waits for its turn, and has it until it returns."""

    @functools.wraps(method)
    def alone(self: L, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.making():
            return method(self, *args, **kwargs)

    return alone


def _after_fork_in_child() -> None:
    for turns in _all:
        turns.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
