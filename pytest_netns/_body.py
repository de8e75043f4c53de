"""A test's body in a host: the call phase runs and is reported in a child, so that a report reads as it always does.

The child makes the report where the traceback, the source lines and the locals are, and sends it as pytest sends
reports between processes. Fixtures are set up and torn down in the test process. What the body changes in memory
stays in the child, as with any fork.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from . import _transfer
from ._fork import Child, died

if TYPE_CHECKING:
    from ._host import Host

__all__ = ["complete_report", "run_inside"]

_report_key = pytest.StashKey[dict[str, Any]]()


def run_inside(item: pytest.Item, host: Host, body: Callable[[], None], limit: float | None) -> None:
    """Run ``body`` in ``host``; its outcome becomes that of the item when the report is completed."""
    __tracebackhide__ = True
    with host.enter() as run:
        child = Child(run.entry(), lambda: _report_of_body(item, body), item.name)
        quiet = _ignore_interrupts_while_debugging(item.config)
        try:
            outcome = child.wait(None if quiet else limit)
        finally:
            if quiet:
                signal.signal(signal.SIGINT, quiet)
    if outcome.kind != _transfer.VALUE:
        if outcome.kind == _transfer.EXCEPTION:
            raise _transfer.unpack_exception(outcome.body)
        raise died(outcome.status, item.name, host.name)
    answer = pickle.loads(outcome.body)
    if answer["exit"] is not None:
        pytest.exit(*answer["exit"])
    if answer["interrupted"]:
        raise KeyboardInterrupt
    if answer["coverage"] is not None:
        _add_coverage(answer["coverage"])
    _re_emit(item, answer["subreports"])
    item.stash[_report_key] = answer


def complete_report(item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
    """Put the child's outcome into the report that was made here."""
    answer = item.stash.get(_report_key, None)
    if answer is None:
        return report
    del item.stash[_report_key]
    inner = item.config.hook.pytest_report_from_serializable(config=item.config, data=answer["report"])
    report.outcome, report.longrepr = inner.outcome, inner.longrepr
    for name in ("wasxfail",):
        if hasattr(inner, name):
            setattr(report, name, getattr(inner, name))
        elif hasattr(report, name):
            delattr(report, name)
    report.user_properties = inner.user_properties
    item.user_properties[:] = inner.user_properties
    known = {title for title, _ in report.sections}
    report.sections += [(title, text) for title, text in inner.sections if title not in known]
    failed = sum(1 for data in answer["subreports"] if data["outcome"] == "failed")
    if failed and report.outcome == "passed":
        report.outcome = "failed"
        report.longrepr = f"contains {failed} failed subtest{'s' if failed > 1 else ''}"
    return report


def _report_of_body(item: pytest.Item, body: Callable[[], None]) -> dict[str, Any]:
    """In the child: run the body, and make and pack its report."""
    config = item.config
    subreports = _collect_subreports(config)
    call = pytest.CallInfo.from_call(body, when="call")
    answer: dict[str, Any] = {"exit": None, "interrupted": False, "coverage": None, "subreports": subreports}
    if call.excinfo is not None:
        error = call.excinfo.value
        if isinstance(error, pytest.exit.Exception):
            answer["exit"] = (error.msg, error.returncode)
            return answer
        if isinstance(error, KeyboardInterrupt):
            answer["interrupted"] = True
            return answer
    report = item.ihook.pytest_runtest_makereport(item=item, call=call)
    if call.excinfo is not None and report.failed:
        # For --pdb: the debugger stands in the host, with the live frames.
        item.ihook.pytest_exception_interact(node=item, call=call, report=report)
    answer["report"] = config.hook.pytest_report_to_serializable(config=config, report=report)
    answer["coverage"] = _coverage()
    return answer


def _collect_subreports(config: pytest.Config) -> list[dict[str, Any]]:
    """Subtests report through a hook. Here nobody would hear it, and an xdist worker's copy of its channel would be
    written to by two processes; so the listeners are replaced by one that collects for the parent."""
    collected: list[dict[str, Any]] = []

    class Collect:
        @pytest.hookimpl
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            collected.append(config.hook.pytest_report_to_serializable(config=config, report=report))

    hook = config.hook.pytest_runtest_logreport
    for implementation in list(hook.get_hookimpls()):
        hook._remove_plugin(implementation.plugin)
    config.pluginmanager.register(Collect(), "netns-collect-subreports")
    return collected


def _re_emit(item: pytest.Item, subreports: list[dict[str, Any]]) -> None:
    for data in subreports:
        report = item.config.hook.pytest_report_from_serializable(config=item.config, data=dict(data))
        item.ihook.pytest_runtest_logreport(report=report)


def _ignore_interrupts_while_debugging(config: pytest.Config) -> Any:
    """With --pdb, Ctrl-C is the debugger's in the child; return the handler to put back, or None."""
    if not (config.getoption("usepdb", False) or config.getoption("trace", False)):
        return None
    try:
        return signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread
        return None


def _coverage() -> bytes | None:
    """What coverage has measured in the child, as it packs it itself; None if it does not run."""
    import sys

    if "coverage" not in sys.modules:
        return None
    import coverage

    running = coverage.Coverage.current()
    if running is None:
        return None
    running.stop()
    return running.get_data().dumps()


def _add_coverage(packed: bytes) -> None:
    import coverage

    running = coverage.Coverage.current()
    if running is not None:
        data = coverage.CoverageData(no_disk=True)
        data.loads(packed)
        running.get_data().update(data)
