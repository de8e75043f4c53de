"""A test's body in a host: the call phase runs in a child, and reads afterwards as if it had run here.

Only ``item.runtest`` is replaced, so fixtures are set up and torn down in the test process. The child makes
the part of the report that needs its frames: outcome and traceback. It comes back together with a stand-in
for the exception, and pytest's and everybody's hooks around the report run here, once, on that. What the
child logs, warns, prints and reports of subtests reaches the test process even if the child is killed. What
the body changes in memory stays in the child, as with any fork, except for what pytest itself has to know:
properties, markers and finalizers.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import random
import re
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from . import _journal, _pickling, _report, _transfer
from ._body_child import Answer, PackedReport, run_in_child, unpack_error
from ._call import Child, died
from ._errors import NetnsError

if TYPE_CHECKING:
    from ._call import Outcome
    from ._host import Host

__all__ = [
    "failure",
    "log_report",
    "report_from_child",
    "run_inside",
    "stood_in_debugger",
]

#: In stacks: frames from here outwards are ours, and those just inside are pytest's.
_OURS = re.compile(r"/pytest_netns/_(body|isolate)_child\.py\"")
_OF_PYTEST = re.compile("/(_pytest|pluggy|unittest)/")

_answer_key = pytest.StashKey[Answer]()
_debugged_key = pytest.StashKey[bool]()


def run_inside(item: pytest.Item, host: Host, body: Callable[[], None], limit: float | None) -> None:
    """Run ``body`` in ``host`` and raise what it raised; :func:`report_from_child` has the rest."""
    journal = _journal.Journal()
    try:
        outcome = _wait_for_body(item, host, body, limit, journal)
        if outcome.kind == _transfer.EXCEPTION:  # not the body's: it has its own way back
            raise _pickling.unpack_exception(outcome.body)
        if outcome.kind != _transfer.VALUE:
            words = f"{died(outcome.status, item.name, host.name)}"
            if stacks := journal.crash():
                words += f"; it stood here:\n{stacks}"
            raise failure(words)
        _take_over(item, pickle.loads(outcome.body))
    finally:
        journal.close()


def _wait_for_body(
    item: pytest.Item, host: Host, body: Callable[[], None], limit: float | None, journal: _journal.Journal
) -> Outcome:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()  # or the child would print it a second time
    inside = functools.partial(run_in_child, item, body, journal, warnings.showwarning)
    chance = random.getstate()  # or it would be seeded anew at the fork, whatever pytest-randomly has set
    try:
        with host.enter() as run:

            def with_chance() -> Any:
                random.setstate(chance)
                return inside()

            return Child(run.entry(), with_chance, item.name).wait(limit)
    except NetnsError as error:
        raise failure(str(error)) from None
    except pytest.fail.Exception as error:
        error.pytrace = False  # pytest-timeout's: the frame it was raised in is that of our wait
        raise
    finally:
        _read_journal(item, journal)


def failure(words: str) -> BaseException:
    """A failure that shows its words and no frames, and of stacks in the words only what is the test's."""
    lines: list[str] = []
    skipping = False
    for line in words.splitlines():
        frame = line.startswith("  File ")
        skipping = frame and (skipping or _OURS.search(line) is not None)
        if skipping:
            while lines[-1].startswith("  File ") and _OF_PYTEST.search(lines[-1]):
                lines.pop()
        else:
            lines.append(line)
    return pytest.fail.Exception("\n".join(lines), pytrace=False)


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
        for packed in reports:
            log_report(item, packed)


def log_report(item: pytest.Item, packed: PackedReport) -> None:
    """Log a report of a child's."""
    data, context = packed
    report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
    if context is not None and hasattr(report, "context"):
        report.context = pickle.loads(context)
    item.ihook.pytest_runtest_logreport(report=report)


def _take_over(item: pytest.Item, answer: Answer) -> None:
    """Do here what the body has done there, as far as pytest has to know; raise what it raised."""
    item.user_properties[:] = answer.properties
    if answer.chance is not None:
        random.setstate(answer.chance)
    for packed in answer.marks:
        name, args, keywords = pickle.loads(packed)
        item.add_marker(getattr(pytest.mark, name).with_args(*args, **keywords))
    _report.tell(item, answer.told, answer.blamed)
    if answer.finalizer is not None:
        item.addfinalizer(functools.partial(pytest.fail, answer.finalizer, pytrace=False))
    if answer.exit is not None:
        pytest.exit(*answer.exit)
    if answer.interrupted:
        raise KeyboardInterrupt
    item.stash[_answer_key] = answer
    item.stash[_debugged_key] = answer.debugged
    if answer.error is not None:
        raise unpack_error(answer.error)


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
        report.longrepr = f"contains {answer.failed_subtests} failed subtest{'s' if answer.failed_subtests > 1 else ''}"
    return report


def stood_in_debugger(item: pytest.Item) -> bool:
    """Whether the debugger was opened on this failure, in the child, already."""
    return item.stash.get(_debugged_key, False)
