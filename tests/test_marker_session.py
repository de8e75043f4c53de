"""What a body does to the session: ending it, stopping it, being run again."""

from __future__ import annotations

import pytest
from marking import Inner, assert_same


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


def test_a_body_that_exits_ends_the_session(inner: Inner) -> None:
    """``pytest.exit`` in a body ends the session with its message and code; no later test runs."""
    source = """
def test_leaves():
    pytest.exit("enough", returncode=7)

def test_never():
    assert False
"""
    runs = inner.run_twice(source)
    assert runs.inside.ret == runs.outside.ret == 7
    runs.inside.stdout.fnmatch_lines(["*Exit: enough*"])
    runs.inside.stdout.no_fnmatch_line("*test_never*")


def test_a_body_that_is_interrupted_ends_the_session(inner: Inner) -> None:
    """A KeyboardInterrupt raised in a body ends the session as Ctrl-C does; fixtures are torn down."""
    source = """
@pytest.fixture
def around():
    yield
    print("TORN", "DOWN", file=sys.__stderr__)

def test_interrupted(around):
    raise KeyboardInterrupt

def test_never():
    assert False
"""
    runs = inner.run_twice(source, "--capture=sys")
    assert runs.inside.ret == runs.outside.ret == pytest.ExitCode.INTERRUPTED
    runs.inside.stdout.fnmatch_lines(["*KeyboardInterrupt*"])
    runs.inside.stderr.fnmatch_lines(["*TORN DOWN*"])


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="needs the subtests of pytest 9")
def test_x_stops_after_the_first_failure_inside(inner: Inner) -> None:
    """``-x`` ends the run at the first failing body, and at the first failing subtest within a body."""
    source = """
def test_subtests(subtests):
    for number in range(3):
        with subtests.test(number=number):
            assert number != 1, f"number {number}"
            print("passed", number)
    print("not reached")

def test_never():
    assert False
"""
    assert_same(inner.run_twice(source, "-x"))


def test_a_test_that_is_run_again_has_its_body_inside_again(inner: Inner) -> None:
    """A test that a plugin runs twice has a new network, and its body inside it, each time."""
    inner.pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            for _ in range(2):
                item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
                runtestprotocol(item, nextitem=nextitem)
            return True
        """
    )
    source = """
        import os
        import pytest

        @pytest.mark.netns
        def test_body(record_property):
            record_property("inode", os.stat("/proc/thread-self/ns/net").st_ino)
    """
    inner.run(source).assert_outcomes(passed=2)


def test_sections_that_a_body_adds_are_in_its_report(inner: Inner) -> None:
    """``item.add_report_section`` and what hooks add to a report work from within a body."""
    source = """
def test_adds(request):
    request.node.add_report_section("call", "notes", "the notes")
    print("printed")
    assert False
"""
    assert_same(inner.run_twice(source))
