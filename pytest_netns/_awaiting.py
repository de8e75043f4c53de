"""Waiting in a running event loop, asyncio's or trio's, for what the kernel tells by descriptors."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterable
from typing import Any

__all__ = ["in_trio", "one_readable", "readable"]


async def one_readable(fds: Iterable[int], deadline: float | None) -> None:
    """Return when one of the descriptors can be read, or when the time is up (of ``time.monotonic``)."""
    with select.epoll() as watch:
        for fd in fds:
            watch.register(fd, select.EPOLLIN)
        await readable(watch.fileno(), deadline)


async def readable(fd: int, deadline: float | None) -> None:
    """The same for a single descriptor; an epoll(7) can be read when something of what it watches is ready."""
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    if in_trio():
        trio: Any = sys.modules["trio"]
        with trio.move_on_after(float("inf") if left is None else left):
            await trio.lowlevel.wait_readable(fd)
        return
    import asyncio

    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    timer = None if left is None else loop.call_later(left, wake)
    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
        if timer is not None:
            timer.cancel()


def in_trio() -> bool:
    """Whether the caller is a task of trio's."""
    trio: Any = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True
