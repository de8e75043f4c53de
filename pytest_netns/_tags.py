"""Tags: time namespaces, by which is known what was started in a block.

A time namespace changes nothing (time_namespaces(7): its clocks are the machine's), but every process started under it
carries it and cannot lose it. Making one takes a request to the helper, so one that nothing carries is kept.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

__all__ = ["Tags", "carry", "current_tag"]

_carried: int | None = None


def carry(tag: int | None) -> None:
    """This process is a child that runs in the block of this tag."""
    global _carried  # noqa: PLW0603 - this process is all that it is about
    _carried = tag


def current_tag() -> int | None:
    """In a child: the tag of the block that it runs in, as a descriptor."""
    return _carried


class Tags:
    """Lends tags, as descriptors."""

    def __init__(self, make: Callable[[], list[int]]) -> None:
        """``make`` returns a new one, or nothing where the kernel has no such namespaces (before Linux 5.6)."""
        self._make = make
        self._kept: int | None = None
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """One that no process carries, which the caller then owns; None if there are none here."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            return kept
        made = self._make()
        return made[0] if made else None

    def give_back(self, tag: int) -> None:
        """Take one back that no process carries any more."""
        with self._lock:
            if self._kept is None:
                self._kept = tag
                return
        os.close(tag)

    def forget(self) -> None:
        """Keep none: the helper is gone, or this is a fork and what was kept is the parent's to lend."""
        self._lock = threading.Lock()  # a fork may have copied it while it was held
        kept, self._kept = self._kept, None
        if kept is not None:
            os.close(kept)
