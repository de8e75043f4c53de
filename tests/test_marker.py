"""``@pytest.mark.netns``: the body runs inside, and reads afterwards as if it had not."""

from __future__ import annotations

import pytest
from marking import Inner, assert_same


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


OUTCOMES = """
def helper(value):
    local = value * 2
    assert local == 4, "the message"

def test_passes():
    pass

def test_comparison():
    left = {"a": 1, "b": [1, 2, 3]}
    assert left == {"a": 1, "b": [1, 2, 4]}

def test_in_a_helper():
    helper(3)

def test_chained_causes():
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("from a cause") from error

def test_group():
    with pytest.raises(ZeroDivisionError, match="division"):
        1 / 0
    pytest.fail("in so many words", pytrace=False)

def test_raises_nothing():
    with pytest.raises(ValueError):
        pass

def test_skips():
    pytest.skip("not today")

def test_imports():
    pytest.importorskip("no_such_module_anywhere")

@pytest.mark.skip(reason="by mark")
def test_skipped_by_mark():
    assert False

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_to_fail():
    assert 1 == 2

@pytest.mark.xfail(reason="known", strict=True)
def test_passes_against_strict_expectation():
    pass

@pytest.mark.xfail(reason="known", strict=False)
def test_passes_against_expectation():
    pass

@pytest.mark.xfail(raises=KeyError)
def test_expected_error():
    {}["missing"]

@pytest.mark.xfail(raises=KeyError)
def test_other_error():
    [][0]

@pytest.mark.xfail(run=False, reason="would hang")
def test_not_run():
    assert False

def test_fails_imperatively():
    pytest.xfail("as announced")

def test_marks_itself(request):
    request.node.add_marker(pytest.mark.xfail(reason="found out"))
    assert False

def test_leaves():
    sys.exit(3)

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__("odd")
        self.lock = __import__("threading").Lock()

@pytest.mark.xfail(raises=Odd)
def test_expected_error_that_no_pickle_can_carry():
    raise Odd(1, 2)

@pytest.mark.parametrize("number", [1, pytest.param(3, marks=pytest.mark.xfail), pytest.param(4, id="four")])
def test_numbers(number):
    assert number != 4

class TestInAClass:
    value = 5
    @pytest.fixture(autouse=True)
    def prepare(self):
        self.prepared = 6
    def test_method(self):
        assert self.value == self.prepared

class TestUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = 1
    def setUp(self):
        self.own = 2
    def test_equal(self):
        self.assertEqual(self.shared, self.own)
    def test_passes(self):
        self.assertEqual(self.own, 2)
    def test_skip(self):
        self.skipTest("here")
    @unittest.skip("by decorator")
    def test_skip_by_decorator(self):
        pass
    @unittest.expectedFailure
    def test_expected(self):
        self.fail()
    @unittest.expectedFailure
    def test_unexpected(self):
        pass

class TestAsyncUnit(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.value = 1
    async def test_awaits(self):
        self.assertEqual(self.value, 2)
"""


@pytest.mark.parametrize(
    "options",
    [
        "-rA",
        "-rA -vv --tb=short --showlocals",
        "-rA -p no:assertion --capture=no",
        "-q --tb=line --runxfail --capture=sys",
        "--tb=native",
        "--maxfail=2 --full-trace",
    ],
)
def test_every_outcome_reads_the_same_inside(inner: Inner, options: str) -> None:
    """Passed, failed, skipped, expected or not: the whole output is that of the test without the marker."""
    runs = inner.run_twice(OUTCOMES, *options.split())
    if "native" in options or "--full-trace" in options:  # which show the frames that call the body, too
        assert runs.inside.parseoutcomes() == runs.outside.parseoutcomes()
    else:
        assert_same(runs)


def test_the_body_is_in_a_private_namespace(inner: Inner) -> None:
    """A marked body sees a loopback interface, up, and nothing else; setup and teardown stay outside."""
    source = """
        import os, socket
        import pytest

        MACHINE = os.stat("/proc/self/ns/net").st_ino
        seen = set()

        @pytest.fixture
        def around():
            assert os.stat("/proc/self/ns/net").st_ino == MACHINE
            yield
            assert os.stat("/proc/self/ns/net").st_ino == MACHINE

        @pytest.mark.netns
        @pytest.mark.parametrize("turn", [1, 2])
        def test_inside(around, turn):
            assert os.stat("/proc/thread-self/ns/net").st_ino != MACHINE
            assert [name for _, name in socket.if_nameindex()] == os.environ["BARE"].split()
            with socket.create_server(("127.0.0.1", 80)), socket.create_connection(("127.0.0.1", 80), 5):
                pass
            with pytest.raises(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(("192.0.2.1", 9))

        def test_outside():
            assert os.stat("/proc/self/ns/net").st_ino == MACHINE
        """
    inner.run(source).assert_outcomes(passed=3)


def test_what_a_body_uses_of_pytest_works(inner: Inner) -> None:
    """Fixtures of all kinds work in a body, and what it sets up by name is torn down."""
    source = """
        import os, sys, logging, warnings
        import pytest

        pytestmark = pytest.mark.netns

        @pytest.fixture
        def late(tmp_path_factory):
            yield "late"
            (tmp_path_factory.getbasetemp() / "torn-down").touch()

        def test_patches(monkeypatch, tmp_path):
            monkeypatch.setenv("OF_THE_TEST", "1")
            monkeypatch.setattr(os, "sep", "!")
            monkeypatch.chdir(tmp_path)
            assert (os.environ["OF_THE_TEST"], os.sep, os.getcwd()) == ("1", "!", str(tmp_path))
            (tmp_path / "file").write_text("mine")
            assert (tmp_path / "file").stat().st_uid == os.getuid()

        def test_is_patched_no_more():
            assert "OF_THE_TEST" not in os.environ and os.sep == "/"

        def test_asks_for_a_fixture(request, tmp_path_factory):
            assert request.getfixturevalue("late") == "late"
            request.addfinalizer((tmp_path_factory.getbasetemp() / "finalized").touch)

        def test_both_were_finalized(tmp_path_factory):
            assert (tmp_path_factory.getbasetemp() / "torn-down").exists()
            assert (tmp_path_factory.getbasetemp() / "finalized").exists()

        def test_reads_its_output(capsys):
            print("one")
            assert capsys.readouterr() == ("one\\n", "")

        def test_reads_its_descriptors(capfd):
            os.system("echo two")
            assert capfd.readouterr() == ("two\\n", "")

        def test_reads_its_log(caplog):
            caplog.set_level(logging.INFO)
            logging.info("three")
            assert caplog.messages == ["three"]

        def test_reads_its_warnings(recwarn):
            warnings.warn("four")
            assert str(recwarn.pop().message) == "four"
            with pytest.warns(UserWarning, match="five"):
                warnings.warn("five")

        def test_knows_its_name(request):
            assert os.environ["PYTEST_CURRENT_TEST"] == request.node.nodeid + " (call)"
        """
    inner.run(source, "-Werror").assert_outcomes(passed=9)


def test_a_failing_finalizer_of_the_body_is_an_error_at_teardown(inner: Inner) -> None:
    """A finalizer that a body adds and that raises is reported as an error of the test's teardown."""
    source = """
        import pytest

        @pytest.mark.netns
        def test_adds(request):
            request.addfinalizer(lambda: 1 / 0)
        """
    result = inner.run(source)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_adds*", "*ZeroDivisionError*"])


def test_hooks_around_the_report_run_once_and_see_the_outcome(inner: Inner) -> None:
    """Hooks of a conftest see the report with the body's outcome and an exception of its type, once."""
    inner.pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if report.when == "call":
                kind = call.excinfo.typename if call.excinfo else None
                report.sections.append(("seen", f"<{report.outcome} {kind}>"))
                item.outcome = report.outcome
            return report

        def pytest_exception_interact(node, call, report):
            report.sections.append(("interacted", f"[{call.excinfo.value}]"))

        @pytest.fixture
        def verdict(request):
            yield
            assert request.node.outcome == "failed"
        """
    )
    source = """
        import pytest

        @pytest.mark.netns
        def test_fails(verdict, tmp_path):
            raise KeyError("key")
        """
    result = inner.run(source, "-otmp_path_retention_policy=failed", "--basetemp=kept")
    result.assert_outcomes(failed=1)
    assert result.stdout.str().count("<failed KeyError>") == 1
    assert (inner.path / "kept" / "test_fails0").is_dir()
