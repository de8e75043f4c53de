"""Lines that run in a child count: coverage's data, measured there, joined here.

The child must not touch the data file: it is the test process's. So the child measures into memory, from
nothing, and the result travels as plain values; they are joined when the tests are over and before anybody
saves. coverage has no public way to exchange where a running measurement puts its data, so a few of its
private names are used; where they are not as expected nothing is measured in children, and a warning says so.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Any, NamedTuple

__all__ = ["Measured", "Measurement", "join", "keep", "start"]

#: Of how many children what they have measured is kept apart.
_APART = 50


class Measured(NamedTuple):
    """What has run, by context and file: line numbers, or arcs from line to line with branch coverage."""

    has_arcs: bool
    ran: dict[str, dict[str, list[Any]]]
    tracers: dict[str, str]


#: What children of this process have measured, and nobody has joined yet.
_kept: list[Measured] = []


class Measurement:
    """A measurement in a child."""

    def __init__(self, running: Any, data: Any) -> None:
        self._running = running
        self._data = data

    def stop(self) -> Measured:
        """End it and return what was measured."""
        self._running.stop()
        self._running._collector.flush_data()
        data = self._data
        _add_kept(data)
        files = data.measured_files()
        ran = {}
        for context in data.measured_contexts():
            data.set_query_context(context)
            ran[context] = {file: (data.arcs(file) if data.has_arcs() else data.lines(file)) for file in files}
        tracers = {file: tracer for file in files if (tracer := data.file_tracer(file))}
        return Measured(data.has_arcs(), ran, tracers)


def start() -> Measurement | None:
    """In the child: measure from here on, in memory; None if coverage does not run."""
    running = _running()
    if running is None:
        return None
    data = sys.modules["coverage"].CoverageData(no_disk=True)
    try:
        collector = running._collector
        context = collector.covdata._current_context
        for ran in collector.data.values():  # frames that are under way go on writing there
            ran.clear()
        for tracer in collector.tracers:
            tracer.reset_activity()
        collector.covdata = running._data = data
    except AttributeError:
        warnings.warn(
            "this version of coverage is not known: lines that run inside a host are not counted", stacklevel=2
        )
        return None
    data.set_context(context)
    _kept.clear()  # what the fork has copied is its parent's
    return Measurement(running, data)


def keep(measured: Measured) -> None:
    """Keep what a child has measured until :func:`join`."""
    _kept.append(measured)
    if len(_kept) > _APART:
        parts = _taken()  # another thread may add to what is kept meanwhile, or do the same
        ran: dict[str, dict[str, set[Any]]] = {}
        for part in parts:
            for context, files in part.ran.items():
                for file, numbers in files.items():
                    ran.setdefault(context, {}).setdefault(file, set()).update(numbers)
        lists = {context: {file: list(numbers) for file, numbers in files.items()} for context, files in ran.items()}
        tracers = {file: tracer for part in parts for file, tracer in part.tracers.items()}
        _kept.append(Measured(measured.has_arcs, lists, tracers))


def _taken() -> list[Measured]:
    """All that is kept, which then is nobody else's."""
    parts = []
    with contextlib.suppress(IndexError):
        while True:
            parts.append(_kept.pop())
    return parts


def join() -> None:
    """Add what children have measured to what is measured here."""
    running = _running()
    if running is not None and _kept:
        _add_kept(running.get_data())


def _add_kept(data: Any) -> None:
    current = getattr(data, "_current_context", None)
    for has_arcs, ran, tracers in _taken():
        # Not CoverageData.update: files with equal lines before it are taken for duplicates when combined.
        add = data.add_arcs if has_arcs else data.add_lines
        for context, files in ran.items():
            data.set_context(context)
            add({file: numbers for file, numbers in files.items() if numbers})
        data.add_file_tracers(tracers)
    data.set_context(current)


def _running() -> Any:
    coverage = sys.modules.get("coverage")
    return None if coverage is None else coverage.Coverage.current()
