"""What a body prints, logs and warns: it arrives, whole, however the body ends."""

from __future__ import annotations

import pytest
from marking import Inner, assert_same, readable

CAPTURES = ["fd", "sys", "tee-sys", "no"]

CHATTY = """
@pytest.fixture(autouse=True)
def around():
    print("set up")
    yield
    print("torn down")

def test_prints():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("in")
    sys.stdout.writelines([" ", "pieces\\n"])
    sys.stdout.buffer.write(b"as bytes\\n")
    os.write(1, b"to the descriptor\\n")
    subprocess.run(["sh", "-c", "echo from a program; echo and its stderr >&2"], check=True)
    logging.getLogger("some.name").warning("record %d", 1)
    logging.info("too low")
    assert False

def test_prints_and_passes():
    print("shown with -rP \\N{SNOWMAN}")

def test_reads_part_of_it(capsys):
    print("read, and longer than the rest")
    assert capsys.readouterr().out.endswith("than the rest\\n")
    print("not read")
    assert False

def test_speaks_past_the_capture(capsys):
    with capsys.disabled():
        print("PAST", flush=True)
    print("not past")
    assert False

def test_reads_descriptors(capfd):
    os.system("echo read by capfd")
    assert capfd.readouterr().out.endswith("read by capfd\\n")
    os.system("echo not read by capfd")
    assert False

def test_logs(caplog):
    logger = logging.getLogger("own")
    caplog.set_level(logging.DEBUG, "own")
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("with a traceback")
    logger.debug("fine %s", {"detail": object})
    assert [record.levelname for record in caplog.records] == ["ERROR", "DEBUG"]
    assert not caplog.text

@pytest.mark.parametrize("turn", [1, 2])
def test_warns(turn):
    warnings.warn("careful")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="expected"):
        warnings.warn("expected")

@pytest.mark.filterwarnings("error:forbidden")
def test_warning_becomes_an_error():
    warnings.warn("forbidden")

def test_exception_in_a_thread():
    import threading
    thread = threading.Thread(target=lambda: 1 / 0, name="worker")
    thread.start()
    thread.join()

def test_exception_that_nobody_can_raise():
    class Broken:
        def __del__(self):
            raise ValueError("in __del__")
    broken = Broken()
    del broken
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


@pytest.mark.parametrize("capture", CAPTURES)
def test_output_reads_the_same_inside(inner: Inner, monkeypatch: pytest.MonkeyPatch, capture: str) -> None:
    """Prints, programs' output, log records and warnings show where they would without the marker."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # else the order of Python's and programs' output is chance
    runs = inner.run_twice(CHATTY, "-rA", f"--capture={capture}")
    assert_same(runs)
    runs.inside.assert_outcomes(failed=6, passed=5, warnings=6)


def test_warnings_as_errors_fail_the_same_inside(inner: Inner) -> None:
    """With ``-W error`` a warning in a body fails its test, in threads and finalizers too."""
    runs = inner.run_twice(CHATTY, "-Werror", "-k", "warn")
    assert_same(runs)
    runs.inside.assert_outcomes(failed=3, deselected=8)
    runs = inner.run_twice(CHATTY, "-Werror", "-k", "exception")  # pytest's own frames are not shown there
    runs.inside.assert_outcomes(failed=2, deselected=9)
    assert [line for line in readable(runs.inside.outlines) if line.startswith("FAILED")] == [
        line for line in readable(runs.outside.outlines) if line.startswith("FAILED")
    ]


def test_logging_reads_the_same_inside(inner: Inner) -> None:
    """Live log, log file and log level see a body's records as they see everybody's."""
    options = ["--log-level=INFO", "--log-cli-level=INFO", "--log-file=log", "--log-file-level=DEBUG"]
    runs = inner.run_twice(CHATTY, *options, "--log-format=%(levelname)s %(message)s", "-k", "prints or logs")
    assert_same(runs)
    runs.inside.stdout.fnmatch_lines(["*live log call*", "*WARNING*record 1*"])
    assert "record 1" in (inner.path / "log").read_text()


def test_a_handler_that_collects_hears_a_record_inside_and_outside(inner: Inner) -> None:
    """A fixture's handler serves the body in the child, and the fixture's teardown in the test process."""
    source = """
class Collecting(logging.Handler):
    def __init__(self):
        super().__init__()
        self.heard = []

    def emit(self, record):
        self.heard.append(record.getMessage())

@pytest.fixture
def handler():
    handler = Collecting()
    logging.getLogger("collected").addHandler(handler)
    yield handler
    assert handler.heard == ["once"]

def test_logs(handler):
    logging.getLogger("collected").warning("once")
    assert handler.heard == ["once"]
"""
    for result in inner.run_twice(source):
        result.assert_outcomes(passed=1)


DEATHS = {
    "import ctypes; ctypes.string_at(0)": "*was killed by SIGSEGV*",
    "os.kill(os.getpid(), signal.SIGKILL)": "*was killed by SIGKILL*",
    "os._exit(3)": "*left with exit code 3*",
    "time.sleep(1000)": "*did not return within 3 s and was killed*",
    "os.execlp('true', 'true')": "*left with exit code 0*",
}


@pytest.mark.parametrize("capture", CAPTURES)
def test_a_body_that_dies_fails_its_test_with_its_output(inner: Inner, capture: str) -> None:
    """However a body dies, its test fails and says how, with what it had printed; the next test runs."""
    source = "import os, pytest, signal, subprocess, sys, time\n"
    for number, death in enumerate(DEATHS):
        source += f"""
@pytest.mark.netns(timeout={3 if "sleep" in death else 60})
def test_dies_{number}():
    print("printed before death {number}")
    print("complained before death {number}", file=sys.stderr)
    subprocess.run(["echo", "program before death {number}"])
    {death}
"""
    source += "\n@pytest.mark.netns\ndef test_lives():\n    pass\n"
    result = inner.run(source, f"--capture={capture}")
    result.assert_outcomes(failed=len(DEATHS), passed=1)
    text = result.stdout.str() + result.stderr.str()
    report = text[text.index("= FAILURES =") :] if capture != "no" else text
    for number, words in enumerate(DEATHS.values()):
        result.stdout.fnmatch_lines([words])
        assert f"printed before death {number}" in report
        assert f"complained before death {number}" in report
        assert f"program before death {number}" in (report if capture == "fd" else text)


def test_a_body_that_hears_no_signal_is_killed_all_the_same(inner: Inner) -> None:
    """A body that hangs with every signal blocked ends at its limit too, if without its stacks."""
    source = """
import signal, time
import pytest

@pytest.mark.netns(timeout=3)
def test_hangs():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    print("before the hang", flush=True)
    time.sleep(1000)
"""
    result = inner.run(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["test_hangs in * did not return within 3 s and was killed", "before the hang"])


def test_a_death_shows_where_the_body_stood(inner: Inner) -> None:
    """After a crash and after a time-out the report shows the test's own frames and none of the machinery."""
    source = """
import ctypes, time
import pytest

def below():
    ctypes.string_at(0)

@pytest.mark.netns
def test_crashes():
    below()

@pytest.mark.netns(timeout=3)
def test_hangs():
    time.sleep(1000)
"""
    result = inner.run(source)
    result.stdout.fnmatch_lines(
        [
            "test_crashes in * was killed by SIGSEGV; it stood here:",
            "*, line 5 in below",
            "*, line 9 in test_crashes",
            "test_hangs in * did not return within 3 s and was killed; it stood here:",
            "*, line 13 in test_hangs",
        ]
    )
    for machinery in ("/_pytest/", "/pluggy/", "/pytest_netns/", "raceback"):
        result.stdout.no_fnmatch_line(f"*{machinery}*")


def test_much_output_arrives_whole(inner: Inner) -> None:
    """Ten megabytes on each stream arrive whole and in order, whichever way they are captured."""
    source = """
import os, sys
import pytest

@pytest.mark.netns
def test_prints(request):
    for number in range(10_000):
        print(f"{number:01000}")
        print(f"{number:01000}", file=sys.stderr)

@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    pass
"""
    inner.pytester.makeconftest(
        """
        def pytest_runtest_logreport(report):
            if report.when == "call":
                expected = [f"{number:01000}" for number in range(10_000)]
                assert report.capstdout.split() == expected
                assert report.capstderr.split() == expected
        """
    )
    for capture in ("fd", "sys"):
        inner.run(source, f"--capture={capture}").assert_outcomes(passed=1)
