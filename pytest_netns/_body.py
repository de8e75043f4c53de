"""A test's body in a host: the call phase runs in a child, and reads afterwards as if it had run here.

Only ``item.runtest`` is replaced, so fixtures are set up and torn down in the test process. The child makes
the part of the report that needs its frames: outcome and traceback. It comes back together with a stand-in
for the exception, and pytest's and everybody's hooks around the report run here, once, on that. What the
child logs, warns, prints and reports of subtests reaches the test process even if the child is killed. What
the body changes in memory stays in the child, as with any fork, except for what pytest itself has to know:
properties, markers and finalizers.
"""

from __future__ import annotations

import bdb
import contextlib
import faulthandler
import functools
import io
import pickle
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from . import _coverage, _journal, _transfer
from ._errors import NetnsError
from ._fork import Child, died

if TYPE_CHECKING:
    from ._fork import Outcome
    from ._host import Host

__all__ = ["join_coverage", "report_from_child", "run_inside", "stood_in_debugger"]

#: pytest's own exceptions cannot be pickled; which of them one is, is told by its place here.
#: xfail's derives from fail's.
_OUTCOMES = (pytest.skip.Exception, pytest.xfail.Exception, pytest.fail.Exception)
_OF_PYTEST = re.compile(r"[/\\\\](_pytest|pluggy|unittest)[/\\\\]")


@dataclass
class _Answer:
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
    coverage: bytes | None = None
    failed_subtests: int = 0


_answer_key = pytest.StashKey[_Answer]()
_debugged_key = pytest.StashKey[bool]()
_measured_key = pytest.StashKey[list[bytes]]()


# In the test process


def run_inside(item: pytest.Item, host: Host, body: Callable[[], None], limit: float | None) -> None:
    """Run ``body`` in ``host`` and raise what it raised; :func:`report_from_child` has the rest."""
    __tracebackhide__ = True
    journal = _journal.Journal()
    try:
        outcome = _wait_for_body(item, host, body, limit, journal)
        if outcome.kind == _transfer.EXCEPTION:  # not the body's: it has its own way back
            raise _transfer.unpack_exception(outcome.body)
        if outcome.kind != _transfer.VALUE:
            words = f"{died(outcome.status, item.name, host.name)}"
            if stacks := journal.crash():
                words += f"; it stood here:\n{stacks}"
            raise _failure(words)
        _take_over(item, pickle.loads(outcome.body))
    finally:
        journal.close()


def _wait_for_body(
    item: pytest.Item, host: Host, body: Callable[[], None], limit: float | None, journal: _journal.Journal
) -> Outcome:
    __tracebackhide__ = True
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()  # or the child would print it a second time
    inside = functools.partial(_run_in_child, item, body, journal, warnings.showwarning)
    try:
        with host.enter() as run:
            child = _BodyChild(run.entry(), inside, item.name, journal)
            with _signals_of_a_debugger(journal):
                return child.wait(limit)
    except NetnsError as error:
        raise _failure(str(error)) from None
    except (
        pytest.fail.Exception
    ) as error:  # pytest-timeout's: it stands in our wait, and that is nothing to show
        error.pytrace = False
        raise
    finally:
        _read_journal(item, journal)


def _failure(words: str) -> Exception:
    """A failure that shows its words and no frames, and of stacks in the words only what is the test's."""
    lines: list[str] = []
    skipping = False
    for line in words.splitlines():
        frame = line.startswith("  File ")
        skipping = frame and (skipping or __file__ in line)
        if skipping:
            while lines[-1].startswith("  File ") and _OF_PYTEST.search(lines[-1]):
                lines.pop()
        else:
            lines.append(line)
    return pytest.fail.Exception("\n".join(lines), pytrace=False)


class _BodyChild(Child):
    """A child that has all the time in the world once a debugger was opened in it."""

    def __init__(self, entry: Any, function: Callable[[], Any], name: str, journal: _journal.Journal) -> None:
        self._journal = journal
        super().__init__(entry, function, name)

    def _turn(self, deadline: float | None) -> bool:
        return super()._turn(None if self._journal.debugging else deadline)


@contextlib.contextmanager
def _signals_of_a_debugger(journal: _journal.Journal) -> Iterator[None]:
    """While the child stands in a debugger, neither Ctrl-C nor an alarm (pytest-timeout's) is for us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unless_debugging(own: Callable[[int, Any], Any], number: int, frame: Any) -> None:
        __tracebackhide__ = True
        if not journal.debugging:
            own(number, frame)

    replaced = {}
    for number in (signal.SIGINT, signal.SIGALRM):
        own = signal.getsignal(number)
        if callable(own):
            replaced[number] = own
            signal.signal(number, functools.partial(unless_debugging, own))
    try:
        yield
    finally:
        for number, own in replaced.items():
            signal.signal(number, own)


def _read_journal(item: pytest.Item, journal: _journal.Journal) -> None:
    entries = journal.read()
    for kind, value in entries:
        if kind == _journal.STREAM:
            _journal.replay(*value)
    reports = [value for kind, value in entries if kind == _journal.SUBREPORT]
    if not reports:
        return
    capture: Any = item.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
        for data in reports:
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
            item.ihook.pytest_runtest_logreport(report=report)


def _take_over(item: pytest.Item, answer: _Answer) -> None:
    """Do here what the body has done there, as far as pytest has to know; raise what it raised."""
    __tracebackhide__ = True
    item.user_properties[:] = answer.properties
    for packed in answer.marks:
        name, args, keywords = pickle.loads(packed)
        item.add_marker(getattr(pytest.mark, name).with_args(*args, **keywords))
    if answer.coverage is not None:
        item.config.stash.setdefault(_measured_key, []).append(answer.coverage)
    if answer.finalizer is not None:
        item.addfinalizer(functools.partial(pytest.fail, answer.finalizer, pytrace=False))
    if answer.exit is not None:
        pytest.exit(*answer.exit)
    if answer.interrupted:
        raise KeyboardInterrupt
    item.stash[_answer_key] = answer
    item.stash[_debugged_key] = answer.debugged
    if answer.error is not None:
        raise _unpack_error(answer.error)


def report_from_child(item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport | None:
    """The report of the call phase before any hook has touched it; None if no child made one."""
    answer = item.stash.get(_answer_key, None)
    if answer is None or answer.report is None:
        return None
    del item.stash[_answer_key]
    raised, call.excinfo = call.excinfo, None
    try:
        report = pytest.TestReport.from_item_and_call(item, call)
    finally:
        call.excinfo = raised
    inner = item.config.hook.pytest_report_from_serializable(config=item.config, data=answer.report)
    report.outcome, report.longrepr = inner.outcome, inner.longrepr
    report.sections[:0] = answer.sections
    if answer.failed_subtests and report.passed:
        report.outcome = "failed"
        report.longrepr = (
            f"contains {answer.failed_subtests} failed subtest{'s' if answer.failed_subtests > 1 else ''}"
        )
    return report


def stood_in_debugger(item: pytest.Item) -> bool:
    """Whether the debugger was opened on this failure, in the child, already."""
    return item.stash.get(_debugged_key, False)


def join_coverage(config: pytest.Config) -> None:
    """Add the lines that ran in children to those that coverage has measured here."""
    _coverage.join(config.stash.get(_measured_key, []))


# In the child


def _run_in_child(
    item: pytest.Item, body: Callable[[], None], journal: _journal.Journal, show_warning: Callable[..., None]
) -> _Answer:
    for stream in (sys.__stdout__, sys.__stderr__):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a crash must not take lines with it
    faulthandler.enable(journal.crash_file)
    mirrors = _journal.Mirrors(journal)
    _record_warnings_too(show_warning)
    answer = _Answer()
    _Listener(item.config, journal, answer)
    measuring = _coverage.start()
    added: list[Callable[[], object]] = []
    for node in item.listchain():
        node.addfinalizer = added.append  # type: ignore[method-assign, assignment]
    marks, sections = (
        len(item.own_markers),
        len(_base_report(item, pytest.CallInfo.from_call(lambda: None, "call")).sections),
    )
    call = pytest.CallInfo.from_call(functools.partial(_call, item, body), when="call")
    _fill(answer, item, call, sections)
    postponed = getattr(item, "_explicit_tearDown", None)  # of a unittest.TestCase, with --pdb
    answer.finalizer = _finalize([*added, *([postponed] if postponed is not None else [])])
    answer.properties = [
        (name, value if _pickled(value) else str(value)) for name, value in item.user_properties
    ]
    answer.marks = [
        data for mark in item.own_markers[marks:] if (data := _pickled((mark.name, mark.args, mark.kwargs)))
    ]
    if measuring is not None:
        answer.coverage = measuring.stop()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()  # with --capture=tee-sys nobody else does
    mirrors.close()
    return answer


def _call(item: pytest.Item, body: Callable[[], None]) -> None:
    __tracebackhide__ = True
    body()
    for name in ("unraisableexception", "threadexception"):
        # These two report after the call what they have noted in memory during it.
        plugin: Any = item.config.pluginmanager.get_plugin(name)
        if plugin is not None:
            plugin.pytest_runtest_call(item)


def _fill(answer: _Answer, item: pytest.Item, call: pytest.CallInfo[None], sections: int) -> None:
    """Put the outcome into the answer; open the debugger where that was asked for."""
    hook = item.config.hook
    debug = bool(item.config.getoption("usepdb", False))
    report = _base_report(item, call)
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


def _base_report(item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport:
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
        show(
            message, category, filename, lineno, io.StringIO()
        )  # where nobody records, it would be printed twice

    warnings.showwarning = both


class _Listener:
    """Hears in the child what the test process has to know: reports of subtests, and that a debugger opens.

    The other listeners for reports are taken out. Nobody would hear what they say, and an xdist worker's would
    write to a channel that is not the child's. The session stays: it tells a subtest that ``-x`` ends the test.
    """

    def __init__(self, config: pytest.Config, journal: _journal.Journal, answer: _Answer) -> None:
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
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._journal.write(
            _journal.SUBREPORT, {key: value for key, value in data.items() if _pickled(value)}
        )

    @pytest.hookimpl
    def pytest_enter_pdb(self) -> None:
        self._journal.debugging = True

    @pytest.hookimpl
    def pytest_leave_pdb(self) -> None:
        self._journal.debugging = False


# Exceptions on the way


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
    return pickle.dumps((None, _pickled(type(error)), str(error), _transfer.pack_exception(error)))


def _unpack_error(data: bytes) -> BaseException:
    place, kind, text, whole = pickle.loads(data)
    if place is not None:
        return _OUTCOMES[place](text)
    error = _transfer.unpack_exception(whole)
    error.__cause__ = None
    if kind is not None and not isinstance(error, pickle.loads(kind)):
        made: BaseException = BaseException.__new__(pickle.loads(kind), text)
        return made
    return error
