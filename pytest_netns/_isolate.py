"""A whole test, with its fixtures of every scope, in a private namespace: in a child of the test process.

A body and the servers of its fixtures must see the same network, or a suite that knows nothing of namespaces fails. A
fixture of a module or of the session lives as long as its process; so a test that is to share its network with no
other can share no such fixture with them. Each test therefore runs as if it were the only one: its child sets up what
it asks for, of every scope, and tears all of it down. That is what any suite must bear that runs under pytest-xdist,
where a test may be the first of its worker. The test process itself stays where it is, which also makes it the same
with and without root, and under a worker, whose threads forbid it a user namespace of its own (unshare(2)).

Reports are made in the child, as they are in a worker of xdist, and logged here as they come; what a child that has
died has not reported is reported for it.
"""

from __future__ import annotations

import faulthandler
import functools
import pickle
import random
from typing import TYPE_CHECKING, Any

import pytest

from . import _journal, _pickling, _transfer
from ._body import failure, log_report
from ._body_child import base_report
from ._call import Child, died
from ._errors import NetnsError
from ._isolate_child import End, run_protocol

if TYPE_CHECKING:
    from ._host import Host

__all__ = ["run_isolated"]

_PHASES = ("setup", "call", "teardown")


def run_isolated(item: pytest.Item, host: Host, limit: float | None) -> None:
    """Run the test's protocol in ``host``, and log its reports here."""
    _prepare(item)
    where = {"nodeid": item.nodeid, "location": item.location}
    item.ihook.pytest_runtest_logstart(**where)
    journal = _journal.Journal()
    try:
        call = pytest.CallInfo.from_call(
            functools.partial(_wait, item, host, limit, journal),
            when="call",
            reraise=(pytest.exit.Exception, KeyboardInterrupt, _OwnError),
        )
        if call.excinfo is not None:
            _report_end(item, call, journal)
    except _OwnError as error:  # of a hook, which is an internal error anywhere
        raise error.args[0] from None
    finally:
        journal.close()
    item.ihook.pytest_runtest_logfinish(**where)


class _OwnError(Exception):
    """Carries an exception that is no test's."""


def _prepare(item: pytest.Item) -> None:
    """What all tests have to share; and who watches the time here leaves that to the child."""
    folders: Any = getattr(item.config, "_tmp_path_factory", None)
    if folders is not None:
        folders.getbasetemp()  # or each child would begin one of its own
    faulthandler.cancel_dump_traceback_later()


def _wait(item: pytest.Item, host: Host, limit: float | None, journal: _journal.Journal) -> None:
    chance = random.getstate()  # a fork is seeded anew
    try:
        with host.enter() as run:

            def protocol() -> End:
                random.setstate(chance)
                return run_protocol(item, journal)

            outcome = Child(run.entry(), protocol, item.name).wait(limit)
    except NetnsError as error:
        raise failure(str(error)) from None
    finally:
        for kind, value in journal.read():
            if kind == _journal.SUBREPORT:
                log_report(item, value)
    if outcome.kind == _transfer.EXCEPTION:
        raise _OwnError(_pickling.unpack_exception(outcome.body))
    if outcome.kind != _transfer.VALUE:
        words = str(died(outcome.status, item.name, host.name))
        stacks = journal.crash()
        raise failure(f"{words}; it stood here:\n{stacks}" if stacks else words)
    end: End = pickle.loads(outcome.body)
    if end.chance is not None:
        random.setstate(end.chance)
    if end.exit is not None:
        pytest.exit(*end.exit)
    if end.interrupted:
        raise KeyboardInterrupt


def _report_end(item: pytest.Item, call: pytest.CallInfo[None], journal: _journal.Journal) -> None:
    """Report for a child that no longer could: a failure in the phase that it died in; its end is the teardown."""
    seen = {value[0]["when"] for kind, value in journal.read() if kind == _journal.SUBREPORT}
    when = next((phase for phase in _PHASES if phase not in seen), "teardown")
    capture: Any = item.config.pluginmanager.get_plugin("capturemanager")
    if capture is not None and capture.is_globally_capturing():
        for stream, text in zip(("stdout", "stderr"), capture.read_global_capture(), strict=True):
            item.add_report_section(when, stream, text)
    call.when = when  # type: ignore[assignment]
    calls = [call]
    if when != "teardown":  # what makes files of reports waits for it
        calls.append(pytest.CallInfo.from_call(lambda: None, when="teardown"))
    for each in calls:
        # The hooks around a report may count on what they have noted of the test, and that was in the child.
        item.ihook.pytest_runtest_logreport(report=base_report(item, each))
