"""Further neighbours: reruns, random order, HTML reports, many workers; each runs an inner suite of its own."""

from __future__ import annotations

import html
import json
import re

import pytest
from marking import Inner, assert_same


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


RERUN = """
import pathlib, socket, subprocess
import pytest

def fails_at_first(name, folder):
    seen = pathlib.Path(name)
    before = seen.read_text().splitlines() if seen.exists() else []
    seen.write_text("\\n".join([*before, str(folder)]))
    assert len(before) == 2

def test_pair(netns_pair, tmp_path):
    netns_pair["beijing"].add_address("eth0", "10.0.0.77/24")  # refused where it has it already
    fails_at_first("pair", tmp_path)

@pytest.mark.netns
def test_body(tmp_path):
    listener = socket.create_server(("127.0.0.1", 80))
    subprocess.Popen(["sleep", "1000"], pass_fds=[listener.fileno()])  # which keeps the port
    fails_at_first("body", tmp_path)

@pytest.mark.netns(isolate=True)
def test_isolated(tmp_path):
    fails_at_first("isolated", tmp_path)
"""


def test_every_attempt_has_a_network_and_a_folder_of_its_own(inner: Inner) -> None:
    """With pytest-rerunfailures no attempt meets what an earlier one has left: an address, a port, a file.

    (The attempts of an isolated test are parts of one protocol, in one namespace; their folders are their own.)
    """
    result = inner.run(RERUN, "-p", "pytest_rerunfailures", "--reruns=2")
    assert result.parseoutcomes() == {"passed": 3, "rerun": 6}
    for name in ("pair", "body", "isolated"):
        assert len(set((inner.path / name).read_text().splitlines())) == 3


SHARED_RERUN = """
import os, select, pytest

def ended(program):
    poll = select.poll()
    if program.running():
        poll.register(program.watched(), select.POLLIN)
        assert poll.poll(60_000)

@pytest.fixture(scope="session")
def shared(netns_lab_factory):
    with netns_lab_factory() as lab:
        yield lab.host("shared")

INSIDE = [pytest.param(where, marks=[pytest.mark.netns] * where) for where in (0, 1)]

@pytest.fixture(scope="module")
def servers(shared):
    return [shared.popen("read line; exit 3", shell=True, stdin=-1) for where in (0, 1)]

@pytest.mark.parametrize("inside", INSIDE)
def test_dies(servers, inside, request):
    if request.node.execution_count == 1:
        os.write(servers[inside].stdin.fileno(), b"\\n")
        ended(servers[inside])

def test_next(servers): ...

def test_its_own(shared, request):
    ended(shared.popen(["false"] if request.node.execution_count == 1 else ["true"]))
"""


def test_a_rerun_brings_no_server_back(inner: Inner) -> None:
    """The end of one that tests share fails every attempt; of what an attempt has started, only that one."""
    result = inner.run(SHARED_RERUN, "-p", "pytest_rerunfailures", "--reruns=2")
    assert result.parseoutcomes() == {"failed": 2, "passed": 2, "rerun": 5}


RANDOM = """
import random

@pytest.fixture
def number():
    return random.random()

@pytest.mark.parametrize("turn", range(5))
def test_draws(turn, number):
    print("drew", turn, number, random.random())
"""


def test_random_numbers_and_order_are_those_of_the_seed(inner: Inner) -> None:
    """With pytest-randomly a seed gives the same order and the same numbers, wherever bodies run."""
    options = ["-rA", "--no-header", "-p", "pytest_randomly", "--randomly-seed=5"]
    inside = inner.run_twice(RANDOM, *options)
    assert_same(inside)
    assert_same(inside._replace(inside=inner.run_body("isolated", RANDOM, "--netns-isolate", *options)))
    turns = re.findall(r"^drew (\d)", inside.inside.stdout.str(), re.MULTILINE)
    assert sorted(turns) != turns


REPORTED = """
@pytest.fixture
def broken():
    raise OSError("broken")

def test_passes():
    print("said in the body")

def test_fails():
    value = 5
    assert value == 6

def test_skips():
    pytest.skip("reason")

def test_errors(broken): ...
"""

DIES = """
def test_dies():
    if os.environ["BODY"] != "outside":
        print("last words")
        os._exit(3)
    pytest.fail("outside this would end the session")
"""


def _reported(inner: Inner) -> dict[str, list[tuple[str, bool]]]:
    text = (inner.path / "report.html").read_text()
    blob = re.search(r'data-jsonblob="(.*?)"', text)
    assert blob is not None
    tests = json.loads(html.unescape(blob[1]))["tests"]
    return {
        name: [(each["result"], "Captured stdout call" in each["log"]) for each in those]
        for name, those in tests.items()
    }


def test_html_reports_have_the_same_rows(inner: Inner) -> None:
    """pytest-html lists the outcomes and the output of bodies inside and of isolated tests, and who has died."""
    plugins = ["-p", "pytest_metadata.plugin", "-p", "pytest_html.plugin", "-p", "pytest_html.fixtures", "-q"]
    options = [*plugins, "--html=report.html", "--self-contained-html"]
    rows = {}
    for body, more in (("outside", []), ("inside", []), ("isolated", ["--netns-isolate"])):
        inner.run_body(body, REPORTED + DIES, *options, *more)
        rows[body] = _reported(inner)
    died = rows["outside"].pop("test_small.py::test_dies")
    assert died == [("Failed", False)]
    for body in ("inside", "isolated"):
        assert rows[body].pop("test_small.py::test_dies") == [("Failed", True)]
        assert rows[body] == rows["outside"]
    assert rows["outside"]["test_small.py::test_passes"] == [("Passed", True)]


MANY = """
import socket
import pytest

@pytest.fixture(scope="session")
def server():
    with socket.create_server(("127.0.0.1", 80)) as listener:
        yield listener

@pytest.mark.parametrize("number", range(16))
def test_has_the_same_addresses(netns_pair, number):
    beijing, shanghai = netns_pair
    with beijing.socket() as listener, shanghai.socket() as client:
        listener.bind(("10.0.0.1", 80))
        listener.listen()
        client.connect(("10.0.0.1", 80))

@pytest.mark.netns(isolate=True)
@pytest.mark.parametrize("number", range(16))
def test_has_the_same_port(server, number):
    socket.create_connection(server.getsockname()).close()
"""


@pytest.mark.once
def test_eight_workers_do_not_meet(inner: Inner) -> None:
    """With ``-n 8`` every test has 10.0.0.1 and port 80, and there is no other network that it could meet there."""
    inner.run(MANY, "-p", "xdist", "-n8").assert_outcomes(passed=32)
