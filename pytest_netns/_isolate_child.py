"""An isolated test in its child: see :mod:`._isolate`, which is the other side.

The child runs the whole protocol of the test, with everybody's hooks, as if no other test were there: nothing that
fixtures of any scope have set up was there before, and all of it is torn down at the end. Only what listens to the
progress of the session is taken out. It would speak to a terminal, a report or a controller that it does not own; what
it is to hear it hears in the test process.
"""

from __future__ import annotations

import faulthandler
import random
import warnings
from dataclasses import dataclass
from typing import Any

import pytest

from . import _journal
from ._body_child import pack_report

__all__ = ["End", "run_protocol"]

#: Said to those who follow the session. Their reports travel, and the test process says the others itself.
_OF_THE_SESSION = (
    "pytest_runtest_logstart",
    "pytest_runtest_logreport",
    "pytest_runtest_logfinish",
    "pytest_warning_recorded",
)


@dataclass
class End:
    """How the protocol ended, if it was not by its last report, and where chance stands."""

    exit: tuple[Any, int | None] | None = None
    interrupted: bool = False
    chance: tuple[Any, ...] | None = None


def run_protocol(item: pytest.Item, journal: _journal.Journal) -> End:
    """Run setup, call and teardown of the test, and the fixtures of every scope."""
    end = End()
    faulthandler.enable(journal.crash_file)
    _Listener(item.config, journal)
    try:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    except pytest.exit.Exception as leave:
        end.exit = (leave.msg, leave.returncode)
        _tear_down(item)
    except KeyboardInterrupt:
        end.interrupted = True
        _tear_down(item)
    end.chance = random.getstate()
    return end


def _tear_down(item: pytest.Item) -> None:
    """What the end of a session does; this one's is the child's end."""
    runner: Any = item.config.pluginmanager.get_plugin("runner")
    runner.pytest_sessionfinish(item.session)


class _Listener:
    """Hears in the child what the test process has to know.

    The session stays: it tells a subtest that ``-x`` ends the test.
    """

    def __init__(self, config: pytest.Config, journal: _journal.Journal) -> None:
        self._config = config
        self._journal = journal
        self._to_test_process = warnings.showwarning
        session = config.pluginmanager.get_plugin("session")
        for name in _OF_THE_SESSION:
            hook = getattr(config.hook, name)
            for implementation in list(hook.get_hookimpls()):
                if implementation.plugin is not session:
                    hook._remove_plugin(implementation.plugin)
        self._new = False  # whoever registers is told of the warnings there have been so far
        config.pluginmanager.register(self, "netns-listener")
        self._new = True

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._journal.write(_journal.SUBREPORT, pack_report(self._config, report))

    @pytest.hookimpl
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        if self._new:
            words = warning_message
            self._to_test_process(words.message, words.category, words.filename, words.lineno)
