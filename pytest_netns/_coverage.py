"""Lines that run in a child count: coverage's data, measured there, joined here.

The child must not touch the data file: it is the test process's. So the child measures into memory, from
nothing, and the result travels as bytes; they are joined when the tests are over and before anybody saves.
coverage has no public way to exchange where a running measurement puts its data, so a few of its private
names are used, and where they are not as expected nothing is measured in children.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Measurement", "join", "start"]


class Measurement:
    """A measurement in a child."""

    def __init__(self, running: Any, data: Any) -> None:
        self._running = running
        self._data = data

    def stop(self) -> bytes:
        """End it and return what was measured, as coverage packs it."""
        self._running.stop()
        self._running._collector.flush_data()
        packed: bytes = self._data.dumps()
        return packed


def start() -> Measurement | None:
    """In the child: measure from here on, in memory; None if coverage does not run."""
    running = _running()
    if running is None:
        return None
    data = sys.modules["coverage"].CoverageData(no_disk=True)
    try:
        collector = running._collector
        context = collector.covdata._current_context
        collector._clear_data()
        collector.covdata = running._data = data
    except AttributeError:
        return None
    data.set_context(context)
    return Measurement(running, data)


def join(packed: list[bytes]) -> None:
    """In the test process: add what children have measured to what is measured here."""
    running = _running()
    if running is None or not packed:
        return
    data = running.get_data()
    while packed:
        one = sys.modules["coverage"].CoverageData(no_disk=True)
        one.loads(packed.pop())
        data.update(one)


def _running() -> Any:
    coverage = sys.modules.get("coverage")
    return None if coverage is None else coverage.Coverage.current()
