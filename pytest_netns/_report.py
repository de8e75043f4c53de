"""What a test's report says of programs in the background: their output, and that one has ended badly."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from . import _background

__all__ = [
    "after_phase",
    "check_ends",
    "fail_for_bad_ends",
    "in_child",
    "keep_what_ends",
    "sections",
    "tell",
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


def check_ends() -> None:
    """Fail the test if something has ended with an error of which nobody has been told."""
    words = [words for background in _background.everywhere() for words in background.bad_ends()]
    if words:
        pytest.fail(str(_background.ended_badly(words)), pytrace=False)


def in_child() -> None:
    """This process runs a test's body, and checks for itself."""
    global _in_child  # noqa: PLW0603 - a fact about the process
    _in_child = True


def fail_for_bad_ends(call: pytest.CallInfo[None]) -> bool:
    """:func:`check_ends` at the end of a test's body; whether that fails it."""
    if call.when != "call" or _in_child:
        return False
    if call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception):
        return False  # nobody would read it here; the next test, or the end of the lab, tells it
    found = pytest.CallInfo.from_call(check_ends, "call").excinfo
    if found is None or call.excinfo is not None:
        return False
    call.excinfo = found
    return True


def after_phase(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Show what programs have written if the test has failed, and write it to files where that was asked for."""
    if report.failed:
        # Without those that the body's child has put there already.
        there = {title for title, _ in report.sections}
        report.sections += [section for section in sections() if section[0] not in there]
    if call.when == "teardown":
        write_artifacts(item)


def sections() -> list[tuple[str, str]]:
    """Of each program in the background a title, and the last of what it has written."""
    found = []
    for background in _background.everywhere():
        for work in background.all:
            text = work.kept.tail() if work.kept is not None else ""
            if text:
                found.append((f"{background.where}: {work.label} ({work.state()})", text))
    return found


def told() -> set[int]:
    """Of whose end somebody has been told, by identity, which a fork keeps."""
    return {id(work) for background in _background.everywhere() for work in background.all if work.is_told()}


def tell(known: set[int]) -> None:
    """Take over what a child of this process knows."""
    for background in _background.everywhere():
        for work in background.all:
            if id(work) in known:
                work.tell()


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
            data = b"" if work.kept is None else work.kept.stamped()
            if data:
                folder.mkdir(parents=True, exist_ok=True)
                name = _NO_NAME.sub("-", f"{done.where}-{number}-{os.path.basename(work.label.split(' ')[0])}")
                names = (name if again == 1 else f"{name}.{again}" for again in itertools.count(1))
                next(path for each in names if not (path := folder / f"{each}.log").exists()).write_bytes(data)
    _background.listener = None
