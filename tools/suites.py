"""Run test suites of other projects as they are and with ``--netns-isolate``, and compare test by test.

    tools/suites.py [NAME...] [-- PYTEST ARGUMENTS]

Fetches each suite's source distribution from the package index, makes a virtual environment for it, and runs it
twice. Closes with a table, and with a list of the tests whose outcomes differ; exit status 1 if there are any that
are not known. Everything is kept below ~/.cache/pytest-netns-suites; SUITES_CACHE says where else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from venvs import CHECKOUT

CACHE = Path(os.environ.get("SUITES_CACHE", "~/.cache/pytest-netns-suites")).expanduser()
LIMIT = 30 * 60  # seconds for one run


class Suite(NamedTuple):
    """A project, the version whose results are known, and what its tests need.

    Attributes:
        needs: What to install beside it.
        tests: Where its tests are, and further arguments.
        why: What it has that a suite run in namespaces may stumble over.
        known: Tests whose outcomes differ for a reason, and the reason.
        prelude: What its own runner does before the tests, as Python.
    """

    version: str
    needs: tuple[str, ...]
    tests: tuple[str, ...]
    why: str
    known: Mapping[str, str] = MappingProxyType({})
    prelude: str = ""


_OF_IPV6 = ("ipv6_dual", "ipv6_ipv6", "unspec_ipv6")
SUITES = {
    "httpx": Suite(
        "0.28.1",
        ("httpx[brotli,cli,http2,socks,zstd]", "chardet", "cryptography", "trio", "trustme", "uvicorn"),
        ("tests",),
        "servers of session fixtures, anyio with asyncio and trio",
        {
            "tests.test_timeouts::test_write_timeout[trio]": "it is blamed for what an earlier test has left to the "
            "garbage collector; isolated, it has no earlier test"
        },
    ),
    "requests": Suite(
        "2.34.2",
        ("requests[socks]", "pytest-httpbin==2.1.0", "httpbin~=0.10.0", "trustme", "pytest-mock"),
        ("tests",),
        "servers of session fixtures, servers in threads",
    ),
    "tornado": Suite(
        "6.6.1",
        ("tornado",),
        ("tornado/test",),
        "unittest.TestCase, an event loop and servers for each test",
        dict.fromkeys(
            [f"tornado.test.tcpclient_test.TCPClientTest::test_connect_{how}" for how in _OF_IPV6],
            "a machine without IPv6 skips it; a namespace has ::1",
        ),
        "import logging, os; logging.getLogger('tornado.access').setLevel('CRITICAL'); "
        "os.environ['ASYNC_TEST_TIMEOUT'] = '60'",
    ),
    "pytest_httpserver": Suite("1.2.0", ("pytest_httpserver", "requests"), ("tests",), "a plugin's own tests"),
    "werkzeug": Suite(
        "3.1.9",
        ("werkzeug", "cffi", "cryptography", "ephemeral-port-reserve", "pytest-timeout", "watchdog"),
        # Its server was seen not to come up again after the file had changed, without isolation.
        ("tests", "--deselect=tests/test_serving.py::test_reloader_sys_path"),
        "servers in subprocesses",
    ),
}


def prepare(name: str, suite: Suite) -> tuple[Path, Path]:
    """Fetch and install a suite, once; return its folder and its Python."""
    home = CACHE / f"{name}-{suite.version}"
    folder, python = home / f"{name}-{suite.version}", home / "venv/bin/python"
    if not (home / "complete").exists():
        home.mkdir(parents=True, exist_ok=True)
        exact = f"{name}=={suite.version}"
        pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home / "venv")], check=True)
        fetch = ["download", "--no-deps", "--no-binary", name, "--dest", str(home), exact]
        subprocess.run([str(python), *pip, *fetch], check=True)
        with tarfile.open(home / f"{name}-{suite.version}.tar.gz") as archive:
            archive.extractall(home, filter="data")
        subprocess.run([str(python), *pip, "install", str(CHECKOUT), *suite.needs, exact], check=True)
        (home / "complete").touch()
    return folder, python


def run(folder: Path, python: Path, suite: Suite, report: Path, arguments: list[str]) -> dict[str, str]:
    """Run a suite; return the outcome of each test."""
    report.unlink(missing_ok=True)
    # The plugin of this checkout, even if it has changed since the environment was made.
    (folder.parent / "prelude.py").write_text(suite.prelude + "\n")
    paths = f"{CHECKOUT}{os.pathsep}{folder.parent}"
    env = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "prelude", "--netns-missing=fail"]
    done = subprocess.run(
        [*command, *suite.tests, f"--junitxml={report}", *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode not in (0, 1):  # interrupted, misused, nothing collected: no comparison
        sys.exit(f"{report.stem}: pytest ended with status {done.returncode}")
    return read_outcomes(report)


def read_outcomes(report: Path) -> dict[str, str]:
    """Of each test of a JUnit report its outcome; the worst of several."""
    found: dict[str, str] = {}
    worst = ["passed", "skipped", "xfailed", "failed", "error"]
    for case in ET.parse(report).getroot().iter("testcase"):
        outcomes = [
            "xfailed" if child.get("type") == "pytest.xfail" else {"failure": "failed"}.get(child.tag, child.tag)
            for child in case
            if child.tag in ("failure", "error", "skipped")
        ]
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = max([found.get(name, "passed"), *outcomes], key=worst.index)
    return found


def compare(name: str, arguments: list[str]) -> tuple[str, list[str]]:
    """Run a suite both ways; return its line of the table, and what differs without being known to."""
    suite = SUITES[name]
    folder, python = prepare(name, suite)
    print(f"\n=== {name} {suite.version}", flush=True)
    plain = run(folder, python, suite, folder.parent / "plain.xml", arguments)
    isolated = run(folder, python, suite, folder.parent / "isolated.xml", ["--netns-isolate", *arguments])
    differ = {
        test: f"{plain.get(test, 'not run')}, isolated {isolated.get(test, 'not run')}"
        for test in sorted({*plain, *isolated})
        if plain.get(test) != isolated.get(test)
    }
    for test, how in differ.items():
        print(f"differs: {test}: {how}{'; known: ' + suite.known[test] if test in suite.known else ''}")
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(plain.values()).items()))
    line = f"| {name} {suite.version} | {suite.why} | {len(plain)} | {counts} | {len(differ)} |"
    return line, [f"{name}: {test}: {how}" for test, how in differ.items() if test not in suite.known]


def main(arguments: list[str]) -> int:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    names, for_pytest = arguments[:at], arguments[at + 1 :]
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        sys.exit(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    lines, differ = [], []
    for name in names or SUITES:
        line, those = compare(name, for_pytest)
        lines.append(line)
        differ += those
    print("\n| suite | what it has | tests | outcomes | different when isolated |")
    print("| --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    print("\n".join(["", *differ]) if differ else "\nno test differs that is not known to")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
