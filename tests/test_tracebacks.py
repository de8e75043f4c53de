"""What a failed test shows of an error in a host: the test's own line and the callable's, none of ours."""

from __future__ import annotations

import re

import pytest
from marking import Inner

from pytest_netns import Host

MISTAKES = """
import asyncio

def fail(ready):
    raise KeyError("of-the-callable")

async def fail_in_a_loop(ready):
    raise KeyError("of-the-callable")

def test_popen_missing(netns):
    netns.popen(["no-such-program"])

def test_run_missing(netns):
    netns.run(["no-such-program"])

def test_arun_missing(netns):
    asyncio.run(netns.arun(["no-such-program"]))

def test_run_elsewhere(netns):
    netns.run(["true"], cwd="/no-such-folder")

def test_check(netns):
    netns.run(["false"], check=True)

def test_timeout(netns):
    netns.run(["sleep", "1000"], timeout=0.1)

def test_arun_timeout(netns):
    asyncio.run(netns.arun(["sleep", "1000"], timeout=0.1))

def test_wait_timeout(netns):
    netns.popen(["sleep", "1000"]).wait(0.1)

def test_keyword(netns):
    netns.popen(["true"], nonsense=1)

def test_start_fails(netns):
    netns.start(fail)

def test_start_fails_in_a_loop(netns):
    netns.start(fail_in_a_loop)

def test_start_fails_later(netns):
    netns.start(fail, ready=None).wait()

def test_start_no_callable(netns):
    netns.start(["true"])
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


def test_frames_of_ours_are_not_shown(inner: Inner) -> None:
    """And of ``subprocess`` no more than it shows itself, without the source of its constructor."""
    result = inner.run(MISTAKES)
    text = result.stdout.str()
    assert result.parseoutcomes() == {"failed": MISTAKES.count("def test_")}
    for name, shown in re.findall(r"(?sm)^_{3,} (\w+) _{3,}$(.*?)(?=^_{3,} \w|^=)", text):
        assert not re.search(r"pytest_netns/\w+\.py(:\d+: |\", line)", shown), shown
        if "start_fails" in name:
            assert 'raise KeyError("of-the-callable")' in shown
        if "wait" not in name:
            assert "subprocess.py" not in shown, shown
            assert len(shown.splitlines()) < (80 if "arun" in name else 30), shown


def test_errors_are_those_of_subprocess_all_the_same(netns: Host) -> None:
    """They name the file that is missing, and all frames are there with ``--full-trace``, but for its own."""
    with pytest.raises(FileNotFoundError, match="no-such-program") as caught:
        netns.popen(["no-such-program"])
    assert caught.value.filename == "no-such-program"
    names = [entry.name for entry in caught.traceback]
    assert names[1:] == ["popen", "_popen", "__init__", "_execute_child", "_start"]
