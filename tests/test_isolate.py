"""``--netns-isolate``: a suite that knows nothing of namespaces, each test of it in its own, with all its fixtures."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from marking import Inner, assert_same
from test_marker import OUTCOMES


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


SUITE = """
import http.server, socket, threading, urllib.request

class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        print("asked for", self.path)

@pytest.fixture(scope="session")
def fetch():
    httpd = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield lambda path: urllib.request.urlopen(f"http://localhost:{httpd.server_port}/{path}", timeout=30)
    httpd.shutdown()
    thread.join()
    httpd.server_close()

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.txt").write_text("in the folder")
    yield tmp_path
    print("gone", tmp_path.name)

@pytest.mark.parametrize("number", [1, 2, 3])
def test_served(folder, fetch, number):
    '''
    >>> 1 + 1
    2
    '''
    with fetch("small.txt") as answer:
        assert answer.read() == b"in the folder"
    warnings.warn(f"warned {number}")
    logging.warning("logged %s", number)
    print("served", number)
    assert number != 2

def add(a, b):
    '''
    >>> add(1, 2)
    3
    '''
    return a + b

class TestUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.listener = socket.create_server(("127.0.0.1", 0))
        cls.addClassCleanup(cls.listener.close)
    def test_connects(self):
        socket.create_connection(self.listener.getsockname()).close()
    def test_fails(self):
        self.assertEqual(1, 2)

class TestAsyncUnit(unittest.IsolatedAsyncioTestCase):
    async def test_talks(self):
        import asyncio
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "localhost", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            self.assertEqual(await reader.read(), b"")
            writer.close()

@pytest.fixture
def broken_setup():
    raise OSError("setup")

@pytest.fixture
def broken_teardown():
    yield
    raise OSError("teardown")

def test_errors_before(broken_setup): pass
def test_errors_after(broken_teardown): pass
"""


def test_a_suite_reads_the_same_isolated(inner: Inner) -> None:
    """Servers of session fixtures, unittest, doctests, subtests: outcomes, output, warnings and logs are the same."""
    runs = inner.run_isolated_too(SUITE, "-rA", "--doctest-modules", "--basetemp=base")
    assert_same(runs)
    runs.inside.stdout.fnmatch_lines(["asked for /small.txt", "*UserWarning: warned 3", "*logged 3"])


def test_each_test_has_fixtures_of_every_scope_for_itself(inner: Inner) -> None:
    """``--setup-show`` tells when wider fixtures are set up: for each test that asks for them."""
    runs = inner.run_isolated_too(SUITE, "--setup-show", "-k", "served", "--capture=sys")
    assert runs.inside.parseoutcomes() == runs.outside.parseoutcomes()
    assert [run.stdout.str().count("TEARDOWN S fetch") for run in runs] == [1, 3]


@pytest.mark.parametrize("options", ["-rA --showlocals", "-v -s --maxfail=2"])
def test_every_outcome_reads_the_same_isolated(inner: Inner, options: str) -> None:
    """Passed, failed, skipped, expected or not: the whole output is that of the test in the test process."""
    assert_same(inner.run_isolated_too(OUTCOMES, *options.split()))


PLACES = """
import os, socket, subprocess, sys, threading
import pytest

MACHINE = os.stat("/proc/self/ns/net").st_ino

def here():
    return os.stat("/proc/thread-self/ns/net").st_ino

@pytest.fixture(scope="session")
def wide():
    yield here()

@pytest.fixture
def narrow(wide):
    yield here()

@pytest.mark.parametrize("turn", [1, 2])
def test_port_80_is_free_for_each(wide, narrow, turn):
    assert MACHINE != wide == narrow == here()
    listener = socket.create_server(("127.0.0.1", 80))
    subprocess.Popen(["sleep", "1000"], pass_fds=[listener.fileno()])  # which nobody ends
    socket.create_connection(("127.0.0.1", 80))

def test_nobody_is_reached():
    assert sorted(name for _, name in socket.if_nameindex()) == sorted(os.environ["BARE"].split())
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 80))
    program = "import socket; socket.create_connection(('192.0.2.1', 80))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "Network is unreachable" in done.stderr

@pytest.mark.netns(isolate=False)
def test_opted_out(wide):
    assert here() == MACHINE == wide

@pytest.mark.netns
def test_body_where_its_marker_says(wide):
    assert here() != MACHINE == wide

@pytest.mark.netns(isolate=True, timeout=60)
def test_by_marker(wide):
    assert here() != MACHINE != wide

def test_has_a_pair(netns_pair, wide):
    from pytest_netns import ping
    assert ping(*netns_pair)
    assert here() == wide != MACHINE
"""


def test_tests_and_fixtures_share_a_network_with_nobody(inner: Inner) -> None:
    """Bodies and fixtures of all scopes see one network, other tests another; what a test leaves behind is ended."""
    inner.run(PLACES, "-o", "netns_isolate=true").assert_outcomes(passed=7)


def test_without_the_option_a_marker_isolates(inner: Inner) -> None:
    """``isolate=True`` is for a test or a module; the others stay where they are."""
    inner.run(PLACES, "-k", "by_marker or opted_out or where").assert_outcomes(passed=3, deselected=4)


def test_what_cannot_be_isolated_is_refused(inner: Inner) -> None:
    """A test is in one place only, and ``isolate`` says yes or no."""
    source = """
import pytest

@pytest.mark.netns(isolate=True, inside="beijing")
def test_two_places(netns_pair): ...

@pytest.mark.netns(isolate="maybe")
def test_maybe(): ...
"""
    result = inner.run(source, "--netns-isolate")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*test_two_places: inside='beijing' and isolate=True: a test is in one place only; leave one of them out",
            "*test_maybe: isolate 'maybe': expected True or False",
        ]
    )


DEATHS = """
import os, pytest

@pytest.fixture(scope="session")
def deadly():
    print("begins")
    os._exit(3)

@pytest.fixture
def deadly_later():
    yield
    print("ends")
    os.kill(os.getpid(), 9)

def test_in_setup(deadly): ...
def test_in_call():
    print("calls")
    os.abort()
def test_in_teardown(deadly_later): ...
def test_lives(): ...
"""


def test_a_death_is_that_of_one_test(inner: Inner) -> None:
    """Whoever dies in setup, call or teardown fails in that phase, with its output and where it stood."""
    result = inner.run(DEATHS, "--netns-isolate", "--junitxml=report.xml")
    result.assert_outcomes(passed=2, failed=1, errors=2)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_in_setup*", "*left with exit code 3*", "begins"])
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_in_teardown*", "*killed by SIGKILL*", "ends"])
    result.stdout.fnmatch_lines(
        ["*killed by SIGABRT; it stood here:", "*line 17 in test_in_call", "*stdout call*", "calls"]
    )
    result.stdout.no_fnmatch_line("*_isolate*.py*")
    suite = ET.parse(inner.path / "report.xml").getroot()[0]
    assert [suite.get(what) for what in ("tests", "failures", "errors")] == ["4", "1", "2"]


LEAVING = """
@pytest.fixture(scope="session")
def around():
    yield
    print("TORN", "DOWN", file=sys.__stderr__, flush=True)

def test_leaves(around):
    if os.environ["HOW"] == "exit":
        pytest.exit("enough", returncode=7)
    raise KeyboardInterrupt

def test_never(): ...
"""


@pytest.mark.parametrize(("how", "status"), [("exit", 7), ("interrupt", pytest.ExitCode.INTERRUPTED)])
def test_a_test_may_end_the_session(inner: Inner, monkeypatch: pytest.MonkeyPatch, how: str, status: int) -> None:
    """``pytest.exit`` and an interrupt end the session, after the fixtures are torn down."""
    monkeypatch.setenv("HOW", how)
    runs = inner.run_isolated_too(LEAVING)
    for run in runs:
        assert run.ret == status
        run.stderr.fnmatch_lines(["TORN DOWN"])
        run.stdout.fnmatch_lines(["*no tests ran*"])


def test_a_failure_in_the_teardown_before_changes_nothing(inner: Inner) -> None:
    """What a test in the test process has set up is torn down once, there, and not seen by an isolated one after it."""
    result = inner.run(
        """
        import os, pytest

        @pytest.fixture(scope="session")
        def wide():
            yield os.getpid()
            with open("ended", "a") as file:
                file.write("ended\\n")

        @pytest.fixture
        def bad():
            yield
            raise OSError("not torn down")

        @pytest.mark.netns(isolate=False)
        def test_first(wide, bad):
            pass

        def test_isolated(wide):
            assert wide == os.getpid()
        """,
        "--netns-isolate",
    )
    assert result.parseoutcomes() == {"passed": 2, "errors": 1}
    assert (inner.path / "ended").read_text() == "ended\n" * 2
