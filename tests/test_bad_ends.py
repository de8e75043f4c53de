"""Who is told of a program that ended with an error: the test that runs then, whoever started it, but no xfail test."""

from __future__ import annotations

import re

import pytest
from marking import Inner


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


HEAD = """
import os, select, pytest

def ended(program):
    poll = select.poll()
    if program.running():
        poll.register(program.watched(), select.POLLIN)
        assert poll.poll(60_000)

@pytest.fixture(scope="module")
def shared(netns_lab_factory):
    with netns_lab_factory() as lab:
        yield lab.host("shared")

@pytest.fixture(scope="module")
def server(shared):
    return shared.popen("read line; exit 3", shell=True, stdin=-1)

def end(server):
    server.stdin.close()
    ended(server)
"""


def test_it_is_told_who_has_started_it(inner: Inner) -> None:
    """Where that was another test than the one that runs; in a body inside, too; and beside another failure."""
    result = inner.run(
        HEAD
        + """
def test_first(server):
    pass

def test_second(server):
    end(server)
    assert not "another failure"

def test_third(shared):
    shared.late = shared.popen("echo late; read line; exit 5", shell=True, stdin=-1)

@pytest.mark.netns
def test_fourth(shared):
    os.close(shared.late.stdin.fileno())

@pytest.mark.netns
def test_fifth(shared):
    os.write(shared.late.stdin.fileno(), b"\\n")
    ended(shared.late)
"""
    )
    text = result.stdout.str()
    by_first = r"-+ shared: read line; exit 3 \(ended with exit status 3, started in the setup of \S+::test_first\) -+"
    assert re.search(by_first + r"\n\(it has written nothing\)\n", text)
    words = (
        r"_+ test_fifth _+\n"
        r"echo late; read line; exit 5 in shared ended with exit status 5, started by \S+::test_third; its output:\n"
    )
    assert re.search(words, text)
    assert result.parseoutcomes() == {"passed": 3, "failed": 2}


XFAIL = """
@pytest.mark.parametrize("inside", [pytest.param(where, marks=[pytest.mark.netns] * where) for where in (0, 1)])
@pytest.mark.xfail(strict=True)
"""


def test_what_others_have_started_is_no_expected_failure(inner: Inner) -> None:
    """An xfail test passes over it, failing or not, and the next test fails; where there is none, the lab's end."""
    result = inner.run(
        HEAD
        + f"""
def test_starts(server): ...

{XFAIL}
def test_expected(server, inside):
    end(server)
    assert not "expected"

def test_next(server): ...

def test_starts_again(shared):
    shared.second = shared.popen(["sh", "-c", "read line; exit 4"], stdin=-1)

{XFAIL}
def test_passes(shared, inside):
    if not inside:
        end(shared.second)
"""
    )
    text = result.stdout.str()
    first = (
        r"_+ test_next _+\nread line; exit 3 in shared ended with exit status 3, started in the setup of \S+::test_st"
    )
    assert re.search(first, text)
    assert text.count("\n[XPASS(strict)]") == 2
    last = r"ERROR at teardown of test_passes\[1\] _+\n(?s:.)*exit 4 in shared ended .*, started by \S+_again"
    assert re.search(last, text)
    assert result.parseoutcomes() == {"passed": 2, "xfailed": 2, "failed": 3, "errors": 1}


def test_what_an_xfail_test_has_started_is_one(inner: Inner) -> None:
    """Its own program's end is its failure; if the host lasts, so that others need the program, they are told, too."""
    result = inner.run(
        HEAD
        + f"""
{XFAIL}
def test_own(netns, inside):
    ended(netns.popen(["false"]))

@pytest.mark.xfail(strict=True)
def test_sets_up(server):
    end(server)

def test_next(server): ...

@pytest.mark.xfail(raises=KeyError)
def test_other_failure_expected(netns):
    ended(netns.popen(["false"]))
"""
    )
    text = result.stdout.str()
    assert re.search(
        r"_+ test_next _+\nread line; exit 3 in shared ended .*, started in the setup of \S+_sets_up;", text
    )
    assert result.parseoutcomes() == {"xfailed": 3, "failed": 2}
