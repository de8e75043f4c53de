"""What a test's body runs in, in the child: see :mod:`pytest_netns._body`, which is the other side.

Everything here ends with the child, except for the :class:`Answer` and what the journal holds.
"""

from __future__ import annotations

import bdb
import faulthandler
import functools
import io
import pickle
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from . import _child, _journal, _pickling, _report

__all__ = ["Answer", "PackedReport", "base_report", "pack_report", "run_in_child", "unpack_error"]

#: A report as plain data, and the words of a subtest as themselves.
PackedReport = tuple[dict[str, Any], "bytes | None"]

#: pytest's own exceptions cannot be pickled; which of them one is, is told by its place here.
#: xfail's derives from fail's.
_OUTCOMES = (pytest.skip.Exception, pytest.xfail.Exception, pytest.fail.Exception)


@dataclass
class Answer:
    """What a child brings back."""

    report: dict[str, Any] | None = None
    error: bytes | None = None
    exit: tuple[Any, int | None] | None = None
    interrupted: bool = False
    debugged: bool = False
    properties: list[tuple[str, Any]] = field(default_factory=list)
    marks: list[bytes] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)
    finalizer: str | None = None
    failed_subtests: int = 0
    chance: tuple[Any, ...] | None = None
    told: set[int] = field(default_factory=set)
    blamed: set[int] = field(default_factory=set)


def run_in_child(
    item: pytest.Item, body: Callable[[], None], journal: _journal.Journal, show_warning: Callable[..., None]
) -> Answer:
    for stream in (sys.__stdout__, sys.__stderr__):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a crash must not take lines with it
    _child.forget_watchdog()
    _report.in_child()
    faulthandler.enable(journal.crash_file)
    mirrors = _journal.Mirrors(journal)
    _record_warnings_too(show_warning)
    answer = Answer()
    _Listener(item.config, journal, answer)
    added: list[Callable[[], object]] = []
    for node in item.listchain():
        node.addfinalizer = added.append  # type: ignore[method-assign, assignment]
    marks, sections = (
        len(item.own_markers),
        len(base_report(item, pytest.CallInfo.from_call(lambda: None, "call")).sections),
    )
    call = pytest.CallInfo.from_call(functools.partial(_call, item, body), when="call")
    _fill(answer, item, call, sections)
    if call.excinfo is not None:
        answer.sections += _report.sections(item)
    answer.told, answer.blamed = _report.told(), _report.blamed(item)
    _report.write_artifacts(item)
    postponed = getattr(item, "_explicit_tearDown", None)  # of a unittest.TestCase, with --pdb
    answer.finalizer = _finalize([*added, *([postponed] if postponed is not None else [])])
    answer.properties = [(name, value if _pickled(value) else str(value)) for name, value in item.user_properties]
    answer.marks = [
        data for mark in item.own_markers[marks:] if (data := _pickled((mark.name, mark.args, mark.kwargs)))
    ]
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()  # with --capture=tee-sys nobody else does
    mirrors.close()
    answer.chance = random.getstate()
    return answer


def _call(item: pytest.Item, body: Callable[[], None]) -> None:
    __tracebackhide__ = True
    body()
    for name in ("unraisableexception", "threadexception"):
        # These two report after the call what they have noted in memory during it.
        plugin: Any = item.config.pluginmanager.get_plugin(name)
        if plugin is not None:
            plugin.pytest_runtest_call(item)
    _report.check_ends(item)


def _fill(answer: Answer, item: pytest.Item, call: pytest.CallInfo[None], sections: int) -> None:
    """Put the outcome into the answer; open the debugger where that was asked for."""
    hook = item.config.hook
    debug = bool(item.config.getoption("usepdb", False))
    report = base_report(item, call)
    error = call.excinfo.value if call.excinfo is not None else None
    try:
        if isinstance(error, pytest.exit.Exception):
            raise error
        if isinstance(error, KeyboardInterrupt) and not debug:
            answer.interrupted = True
            return
        if error is not None and debug:
            full = item.ihook.pytest_runtest_makereport(item=item, call=call)
            if full.failed and not hasattr(full, "wasxfail") and not isinstance(error, bdb.BdbQuit):
                answer.debugged = True
                item.ihook.pytest_exception_interact(node=item, call=call, report=full)
    except pytest.exit.Exception as leave:  # the body's, or the debugger's "quit"
        answer.exit = (leave.msg, leave.returncode)
        return
    answer.report = hook.pytest_report_to_serializable(config=item.config, report=report)
    answer.sections = report.sections[sections:]
    if error is not None:
        answer.error = _pack_error(error)


def base_report(item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport:
    """What pytest makes of the call; the hooks around it are for the test process to run."""
    for implementation in reversed(item.ihook.pytest_runtest_makereport.get_hookimpls()):
        if not (implementation.wrapper or implementation.hookwrapper):
            arguments = {"item": item, "call": call}
            report = implementation.function(*(arguments[name] for name in implementation.argnames))
            if report is not None:
                return cast(pytest.TestReport, report)
    raise AssertionError("pytest makes a report of every call")


def _finalize(added: list[Callable[[], object]]) -> str | None:
    """Tear down what was set up from within the body: the test process knows nothing of it."""
    failures = []
    while added:
        try:
            added.pop()()
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
    return f"a finalizer added by the body failed: {'; '.join(failures)}" if failures else None


def _record_warnings_too(show: Callable[..., None]) -> None:
    """Warnings go to the test process; here too, for ``recwarn`` and what else recorded before the fork."""
    forward = warnings.showwarning

    def both(message: Any, category: Any, filename: str, lineno: int, *_: Any, **__: Any) -> None:
        forward(message, category, filename, lineno)
        show(message, category, filename, lineno, io.StringIO())  # where nobody records, it would be printed twice

    warnings.showwarning = both


class _Listener:
    """Hears in the child what the test process has to know: reports of subtests.

    The other listeners for reports are taken out. Nobody would hear what they say, and an xdist worker's
    would write to a channel that is not the child's. The session stays: it tells a subtest that ``-x`` ends
    the test.
    """

    def __init__(self, config: pytest.Config, journal: _journal.Journal, answer: Answer) -> None:
        self._config = config
        self._journal = journal
        self._answer = answer
        hook = config.hook.pytest_runtest_logreport
        session = config.pluginmanager.get_plugin("session")
        for implementation in list(hook.get_hookimpls()):
            if implementation.plugin is not session:
                hook._remove_plugin(implementation.plugin)
        config.pluginmanager.register(self, "netns-listener")

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._answer.failed_subtests += report.failed
        self._journal.write(_journal.SUBREPORT, pack_report(self._config, report))


# Reports and exceptions on the way


def pack_report(config: pytest.Config, report: pytest.TestReport) -> PackedReport:
    """A report that others have seen, for the test process to log; what cannot travel is left out."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    properties = [(name, value if _pickled(value) else str(value)) for name, value in data["user_properties"]]
    plain = {key: value for key, value in {**data, "user_properties": properties}.items() if _pickled(value)}
    # From plain data the words of a subtest come back quoted twice; so they also travel as themselves.
    return plain, _pickled(getattr(report, "context", None))


def _pickled(value: Any) -> bytes | None:
    try:
        data = pickle.dumps(value)
        pickle.loads(data)
    except Exception:
        return None
    return data


def _pack_error(error: BaseException) -> bytes:
    """What hooks want of an exception: its type, as itself if there is any way, and its text."""
    for place, kind in enumerate(_OUTCOMES):
        if isinstance(error, kind):
            return pickle.dumps((place, None, str(error.msg), None))
    return pickle.dumps((None, _pickled(type(error)), str(error), _pickling.pack_exception(error)))


def unpack_error(data: bytes) -> BaseException:
    place, kind, text, whole = pickle.loads(data)
    if place is not None:
        return _OUTCOMES[place](text)
    error = _pickling.unpack_exception(whole)
    error.__cause__ = None
    if kind is not None and not isinstance(error, pickle.loads(kind)):
        made: BaseException = BaseException.__new__(pickle.loads(kind), text)
        return made
    return error
