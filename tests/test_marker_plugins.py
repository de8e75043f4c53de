"""Marked tests among pytest's neighbours: async plugins, subtests, xdist, JUnit, time-outs."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from marking import Inner, assert_same


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_pytest_asyncio_runs_coroutines_inside(inner: Inner, mode: str) -> None:
    """Coroutine tests of pytest-asyncio run inside, with async fixtures, streams, threads and tasks."""
    source = """
import asyncio, os, socket
import pytest, pytest_asyncio

pytestmark = [pytest.mark.netns, pytest.mark.asyncio]

@pytest_asyncio.fixture
async def value():
    await asyncio.sleep(0)
    yield 5
    await asyncio.sleep(0)

@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared():
    yield asyncio.get_running_loop()

async def answer(reader, writer):
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()

@pytest.mark.parametrize("turn", [1, 2])
async def test_streams(value, turn):
    assert value == 5
    assert [name for _, name in socket.if_nameindex()] == os.environ["BARE"].split()
    server = await asyncio.start_server(answer, "127.0.0.1", 80)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", 80)
        writer.write(b"hello\\n")
        assert await reader.readline() == b"HELLO\\n"
        writer.close()
        await writer.wait_closed()
    assert await asyncio.to_thread(os.getpid) == os.getpid()
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0

@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("turn", [1, 2])
async def test_shares_a_loop(shared, turn):
    assert asyncio.get_running_loop() is shared
    await asyncio.sleep(0)

async def test_fails(value):
    await asyncio.sleep(0)
    assert value == 6
"""
    options = [f"--asyncio-mode={mode}", "-oasyncio_default_fixture_loop_scope=function"]
    result = inner.run(source, "-p", "pytest_asyncio.plugin", *options)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines([">       assert value == 6", "E       assert 5 == 6"])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_runs_coroutines_inside(inner: Inner, backend: str) -> None:
    """Coroutine tests of anyio run inside, on asyncio and on trio, with their async fixtures."""
    source = f"""
import socket
import os, anyio, pytest

pytestmark = [pytest.mark.netns, pytest.mark.anyio]

@pytest.fixture
def anyio_backend():
    return {backend!r}

@pytest.fixture
async def value():
    await anyio.sleep(0)
    yield 5
    await anyio.sleep(0)

async def answer(stream):
    async with stream:
        await stream.send((await stream.receive()).upper())

@pytest.mark.parametrize("turn", [1, 2])
async def test_streams(value, turn):
    assert value == 5
    assert [name for _, name in socket.if_nameindex()] == os.environ["BARE"].split()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=80)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        async with await anyio.connect_tcp("127.0.0.1", 80) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"HELLO"
        tasks.cancel_scope.cancel()

async def test_without_fixtures():
    await anyio.sleep(0)

async def test_fails(value):
    await anyio.sleep(0)
    assert value == 6
"""
    result = inner.run(source, "-p", "anyio.pytest_plugin")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines([">       assert value == 6", "E       assert 5 == 6"])


SUBTESTS = """
def test_some_fail(subtests):
    for number in range(4):
        with subtests.test("named", number=number):
            print("in", number)
            logging.warning("logged %s", number)
            assert number % 2 == 0
    with subtests.test():
        pytest.skip("this one")
    with subtests.test():
        pytest.xfail("and this")

def test_all_pass(subtests):
    with subtests.test():
        pass

def test_fails_besides(subtests):
    with subtests.test():
        assert 1 == 2
    assert 3 == 4
"""


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="needs the subtests of pytest 9")
@pytest.mark.parametrize("options", ["-rA", "-q --capture=sys", "-vv"])
def test_subtests_read_the_same_inside(inner: Inner, options: str) -> None:
    """Subtests of a body are reported one by one, and a test with a failing one has failed."""
    runs = inner.run_twice(SUBTESTS, *options.split())
    assert_same(runs)
    assert runs.inside.ret == pytest.ExitCode.TESTS_FAILED
    runs.inside.stdout.fnmatch_lines(["contains 2 failed subtests"])


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="needs the subtests of pytest 9")
def test_a_failing_subtest_inside_fails_the_run_under_xdist(inner: Inner) -> None:
    """With xdist, too, subtests of a body are counted, and a test with a failing one is shown as failed."""
    runs = inner.run_twice(SUBTESTS, "-p", "xdist", "-n2", "-v")
    assert runs.inside.ret == pytest.ExitCode.TESTS_FAILED
    text = runs.inside.stdout.str()
    assert text.count("SUBFAILED") == runs.outside.stdout.str().count("SUBFAILED") > 0
    runs.inside.stdout.fnmatch_lines(["*FAILED*::test_some_fail*"])
    runs.inside.stdout.no_fnmatch_line("* PASSED test_small.py::test_some_fail*")


def test_a_failing_unittest_subtest_fails_the_test(inner: Inner) -> None:
    """A failing ``self.subTest`` in a body fails its test; there is no false green."""
    source = """
import unittest
import pytest

@pytest.mark.netns
class TestUnit(unittest.TestCase):
    def test_one_fails(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertNotEqual(number, 1)
"""
    result = inner.run(source)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*1 == 1*"])


def test_subtests_before_a_crash_are_not_lost(inner: Inner) -> None:
    """A failing subtest is reported even if the body crashes later."""
    source = """
import os
import pytest

@pytest.mark.netns
def test_crashes(subtests):
    with subtests.test("first"):
        assert "a" == "b"
    os.abort()
"""
    if not hasattr(pytest, "Subtests"):
        pytest.skip("needs the subtests of pytest 9")
    result = inner.run(source)
    result.stdout.fnmatch_lines(["*test_crashes [[]first[]] *", "*assert 'a' == 'b'", "*killed by SIGABRT*"])


XDIST = """
import os, socket, warnings
import pytest

@pytest.mark.netns
@pytest.mark.parametrize("number", range(12))
def test_same_port(number, worker_id):
    assert worker_id.startswith("gw")
    with socket.create_server(("127.0.0.1", 80)):
        print("printed", number)
        warnings.warn(f"warned {number}")
        assert number != 7

@pytest.mark.netns
def test_dies():
    print("before death")
    os._exit(5)
"""


def test_xdist_runs_bodies_inside(inner: Inner) -> None:
    """Under xdist each body has its own network; output, warnings and deaths arrive at the controller."""
    result = inner.run(XDIST, "-p", "xdist", "-n2")
    result.assert_outcomes(passed=11, failed=2, warnings=12)
    result.stdout.fnmatch_lines_random(
        ["printed 7", "*UserWarning: warned 3", "before death", "*left with exit code 5*"]
    )
    result.stdout.no_fnmatch_line("*worker * crashed*")


JUNIT = """
def test_records(record_property, record_testsuite_property):
    record_property("number", 5)
    record_property("object", object)
    print("printed")

def test_fails():
    assert 1 == 2, "words"

def test_skips():
    pytest.skip("reason")

@pytest.mark.xfail
def test_expected():
    assert False
"""


def test_junit_reads_the_same_inside(inner: Inner) -> None:
    """The JUnit file has the outcomes, texts, output and properties of bodies; only times differ."""
    files = []
    inner.pytester.makeini("[pytest]\njunit_logging = all")
    runs = inner.run_twice(JUNIT, "--junitxml=report.xml")
    assert_same(runs)
    for body in ("outside", "inside"):
        inner.run_body(body, JUNIT, "--junitxml=report.xml")
        root = ET.parse(inner.path / "report.xml").getroot()
        for element in root.iter():
            for name in ("time", "timestamp", "hostname"):
                element.attrib.pop(name, None)
        files.append(ET.tostring(root, encoding="unicode"))
    assert '<property name="number" value="5" />' in files[1]
    assert files[0] == files[1]


def test_durations_count_the_body(inner: Inner) -> None:
    """``--durations`` shows the time that a body has taken inside."""
    source = """
import select
import pytest

@pytest.mark.netns
def test_waits():
    select.select([], [], [], 0.3)
"""
    result = inner.run(source, "--durations=0", "-vv")
    call = next(line for line in result.outlines if " call " in line and "test_waits" in line)
    assert float(call.split("s")[0]) >= 0.3


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_pytest_timeout_ends_a_body(inner: Inner, method: str) -> None:
    """pytest-timeout ends a body that hangs: by its test's failure, or with the run, as it does elsewhere."""
    source = """
import time
import pytest

@pytest.mark.netns
def test_hangs():
    print("before the hang")
    time.sleep(1000)

@pytest.mark.netns
def test_lives():
    pass
"""
    # Of the body alone: setup starts the helper, and may take as long as a busy machine makes it.
    limit = ["--timeout=3", f"--timeout-method={method}", "-otimeout_func_only=true"]
    result = inner.run(source, "-p", "pytest_timeout", *limit)
    if method == "signal":
        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines(["Timeout (>3*s) from pytest-timeout.", "before the hang"])
        result.stdout.fnmatch_lines(["*stood here:", "*line 7 in test_hangs"])
        result.stdout.no_fnmatch_line("*in _turn*")
    else:
        assert result.ret == 1
        assert "Timeout" in result.stdout.str() + result.stderr.str()
        result.stdout.no_fnmatch_line("*passed*")
