"""What pytest's report says of programs in the background: their output, and that one has ended badly; its terminal.

A bad end fails the test that is running. Where the test is expected to fail (xfail) that would go unseen. So it counts
there as the expected failure only if the test has started the program itself; and if that outlives the test, as in a
lab that tests share, the next test tells of it. The end of what others have started is left to the next test, or to the
end of the lab. Nor does an attempt count that is made again (pytest-rerunfailures): the next one fails, too, as long as
the host is there, unless the body itself had started the program, as it then does anew.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import pytest

from . import _background
from ._errors import ChildDied

__all__ = [
    "after_phase",
    "blamed",
    "check_ends",
    "fail_for_bad_ends",
    "hear",
    "in_child",
    "keep_what_ends",
    "sections",
    "tell",
    "terminal",
    "told",
    "write_artifacts",
]

_NO_NAME = re.compile(r"[^\w.+-]+")


class _Done(NamedTuple):
    """What was started in a host, whether the host is gone or not."""

    where: str
    works: list[_background.Work]


_in_child = False
_kept_key = pytest.StashKey[list[_Done]]()
_folder_key = pytest.StashKey[Path]()
#: Whose bad ends the test has been told of, by us.
_blamed_key = pytest.StashKey[list[_background.Work]]()
#: What handlers have raised in a phase that had failed already.
_handlers_key = pytest.StashKey[list[BaseException]]()
#: Of whose bad ends an attempt has told that may have been in vain.
_attempt_key = pytest.StashKey[list[_background.Work]]()


def check_ends(item: pytest.Item) -> None:
    """Fail the test if something has ended with an error of which nobody has been told."""
    _untell(item.stash.get(_attempt_key, []))
    only_own = item.get_closest_marker("xfail") is not None
    ends = [end for background in _background.everywhere() for end in background.bad_ends(only_own=only_own)]
    if ends:
        item.stash[_blamed_key] = [end.work for end in ends]
        words = str(_background.ended_badly(ends))
        del ends  # who keeps the traceback (pytest-rerunfailures) is not to keep their outputs
        pytest.fail(words, pytrace=False)


def blamed(item: pytest.Item) -> set[int]:
    """Whose bad ends have failed it, by identity, which a fork keeps."""
    return {id(work) for work in item.stash.get(_blamed_key, [])}


def in_child() -> None:
    """This process runs a test's body, and checks for itself."""
    global _in_child  # noqa: PLW0603 - a fact about the process
    _in_child = True


def fail_for_bad_ends(item: pytest.Item, call: pytest.CallInfo[None]) -> bool:
    """:func:`check_ends` at the end of a test's body; whether that fails it."""
    if call.when != "call" or _in_child:
        return False
    if call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception):
        return False  # nobody would read it here; the next test, or the end of the lab, tells it
    found = pytest.CallInfo.from_call(lambda: check_ends(item), "call").excinfo
    if found is None or call.excinfo is not None:
        return False
    call.excinfo = found
    return True


class _Errors(contextlib.AbstractContextManager["_Errors"]):
    """Notes the errors of what is done within, again and again."""

    def __init__(self) -> None:
        self.all: list[BaseException] = []

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        noted = isinstance(error, (Exception, pytest.fail.Exception, pytest.skip.Exception))
        if error is not None and noted:
            self.all.append(error)
        return noted


def hear(item: pytest.Item, call: pytest.CallInfo[None]) -> bool:
    """Make our own what callables have logged and warned at the end of a phase; whether that fails it.

    Handlers of the test's may raise, such as one that allows no errors in the log. In the midst of pytest's work that
    would end the session.
    """
    errors = _Errors()
    for background in _background.everywhere():
        for work in background.all:
            work.hear(errors)
    failed = call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception)
    item.stash[_handlers_key] = errors.all if failed else []
    if failed or not errors.all:
        return False
    call.excinfo = pytest.CallInfo.from_call(functools.partial(_raise, errors.all[0]), call.when).excinfo
    return True


def _raise(error: BaseException) -> None:
    __tracebackhide__ = True
    raise error


def after_phase(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Show what programs have written if the test has failed, and write it to files where that was asked for."""
    xfailed = report.skipped and hasattr(report, "wasxfail")
    if call.when == "teardown" and xfailed and call.excinfo is not None and _is_of_others(call.excinfo.value):
        report.outcome = "failed"  # the error of the end of a lab that tests share
        del report.wasxfail
    if report.failed:
        # Without those that the body's child has put there already.
        there = {title for title, _ in report.sections}
        report.sections += [section for section in sections(item) if section[0] not in there]
    if call.when == "call" and not xfailed:
        of_it = item.stash.get(_blamed_key, [])
        item.stash[_attempt_key] = [work for work in of_it if not _background.is_of_this_phase(work)]
        item.stash[_blamed_key] = []
    if call.when == "teardown":
        _untell(item.stash.get(_blamed_key, []))
        write_artifacts(item)


def _untell(works: list[_background.Work]) -> None:
    """Have those told of again that are still there."""
    still_there = {id(work) for background in _background.everywhere() for work in background.all}
    for work in works:
        if id(work) in still_there:
            work.tell(told=False)


def _is_of_others(error: BaseException) -> bool:
    # Several errors of one teardown come in a group.
    return any(isinstance(each, ChildDied) and each.of_others for each in getattr(error, "exceptions", [error]))


def sections(item: pytest.Item) -> list[tuple[str, str]]:
    """Of each program in the background a title, and the last of what it has written; before that, see :func:`hear`."""
    found = [
        ("while log records and warnings of callables were heard", f"{type(error).__name__}: {error}")
        for error in item.stash.get(_handlers_key, [])[:1]
    ]
    has_failed_it = blamed(item)
    for background in _background.everywhere():
        for work in background.all:
            text = work.kept.tail() if work.kept is not None else ""
            if text or id(work) in has_failed_it:
                title = f"{background.where}: {work.label} ({work.state()}{_background.starter_of(work)})"
                advice = work.kept.advice(text) if work.kept is not None else ""
                found.append((title, (text or "(it has written nothing)") + advice))
    return found


def told() -> set[int]:
    """Of whose end somebody has been told, by identity, which a fork keeps."""
    return {id(work) for background in _background.everywhere() for work in background.all if work.is_told()}


def tell(item: pytest.Item, known: set[int], failed_it: set[int]) -> None:
    """Take over what a child of this process knows: see :func:`told` and :func:`blamed`."""
    works = [work for background in _background.everywhere() for work in background.all]
    for work in works:
        if id(work) in known:
            work.tell()
    item.stash[_blamed_key] = [work for work in works if id(work) in failed_it]


@contextlib.contextmanager
def terminal(config: pytest.Config) -> Iterator[TextIO | None]:
    """What a session reports to, if that is a terminal; as long as this lasts, what is written there is not captured.

    Workers of pytest-xdist have none.
    """
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None or not reporter.isatty or hasattr(config, "workerinput"):
        yield None
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
        yield sys.stdout


# Artifacts


def keep_what_ends(item: pytest.Item, folder: str) -> None:
    """Keep from now on what was written in hosts that end, for :func:`write_artifacts` to write below ``folder``."""
    kept = item.stash[_kept_key] = []
    base = Path(item.config.invocation_params.dir, folder)
    name = _NO_NAME.sub("-", item.nodeid).strip("-")[-200:]
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    # What an earlier run of it has left is not ours to mix with.
    item.stash[_folder_key] = next(path for each in names if not (path := base / each).exists())
    _background.listener = lambda where, works: kept.append(_Done(where, works))


def write_artifacts(item: pytest.Item) -> None:
    """Write what every program in the background has written, with times, to the test's folder, if that is wanted."""
    if _folder_key not in item.stash:
        return
    folder = item.stash[_folder_key]
    running = [_Done(each.where, each.all) for each in _background.everywhere()]
    for done in [*item.stash[_kept_key], *running]:
        for number, work in enumerate(done.works, 1):
            if work.kept is None:
                continue
            work.kept.look_now()
            if work.kept.size:
                folder.mkdir(parents=True, exist_ok=True)
                name = _NO_NAME.sub("-", f"{done.where}-{number}-{os.path.basename(work.label.split(' ')[0])}")
                names = (name if again == 1 else f"{name}.{again}" for again in itertools.count(1))
                path = next(path for each in names if not (path := folder / f"{each}.log").exists())
                with path.open("wb") as file:
                    file.writelines(work.kept.stamped())
    _background.listener = None
