"""Releases many things in one pass: each is tried whatever became of the others, and what failed is told at the end."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ._errors import ChildDied, hide_own_frames

__all__ = ["no_second_error", "releasing"]

__tracebackhide__ = hide_own_frames


@contextlib.contextmanager
def releasing(what: str) -> Iterator[Callable[..., None]]:
    """``with releasing("the lab") as release: release(step, *arguments); release(another)``.

    Raises:
        ExceptionGroup: Several steps failed; these are their errors. (On 3.10 that of the package exceptiongroup.)
        BaseException: One step failed, or was interrupted: as it said it. All others have been tried, too.
    """
    met: list[BaseException] = []

    def release(step: Callable[..., object], *arguments: Any) -> None:
        try:
            step(*arguments)
        except BaseException as error:
            met.extend(_single(error))

    try:
        yield release
    except BaseException as error:
        met.extend(_single(error))
    interrupted = [error for error in met if not isinstance(error, Exception)]
    if interrupted:
        raise interrupted[0]
    if len(met) == 1:
        raise met[0]
    if met:
        group = _group_type()(f"{what} has been released, but {len(met)} steps of that failed", met)
        group._of_release = True
        raise group


@contextlib.contextmanager
def no_second_error(first: object) -> Iterator[None]:
    """At the end of a block: who ended badly is not told where an error is under way already."""
    try:
        yield
    except ChildDied:
        if first is None:
            raise


def _single(error: BaseException) -> list[BaseException]:
    """Of a release in a release, each failure by itself."""
    return list(getattr(error, "exceptions", ())) if getattr(error, "_of_release", False) else [error]


def _group_type() -> Any:
    if sys.version_info >= (3, 11):
        return vars(builtins)["ExceptionGroup"]
    from exceptiongroup import ExceptionGroup  # comes with pytest

    return ExceptionGroup
