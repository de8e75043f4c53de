"""Run the test suite on the Pythons asked for; run by root, both as root and as an unprivileged user.

    tools/run_tests.py default|all|X.Y...|INTERPRETER... [-- PYTEST ARGUMENTS]

Closes with one line for each (Python, user) and the sum of them. Everything outside the checkout is in
one temporary directory, removed at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from venvs import CHECKOUT, Python, default_venv, ensure_venv, find_pythons, probe

UNPRIVILEGED = int(os.environ.get("UNPRIVILEGED_UID", "1001"))
#: A file of tests goes to one of them whole: its fixtures are made once. ``-n 0`` among the arguments undoes it.
WORKERS = ["-n", "2", "--dist", "loadfile"]
LIMIT = 20 * 60  # seconds for one run of the suite: a hang must not use up CI's time
LEFT_OUT = shutil.ignore_patterns(".git", ".kernels", ".venv*", ".hypothesis", "__pycache__", "*_cache", ".rivals")


class Run(NamedTuple):
    python: str
    user: str
    seconds: float
    counts: Counter[str]
    failed: bool
    note: str

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {what}" for what, number in self.counts.items() if number)
        result = f"{counts or 'no tests ran'} in {self.seconds:.0f} s{self.note}"
        return f"{self.python:8} {self.user:9} {'FAILED' if self.failed else 'ok':6} {result}"


def read_counts(report: Path) -> Counter[str]:
    """Pytest's closing counts, out of its JUnit report."""
    counts: Counter[str] = Counter(passed=0, failed=0, errors=0, skipped=0, xfailed=0)
    if not report.exists():
        return counts
    for suite in ET.parse(report).getroot().iter("testsuite"):
        xfailed = sum(skip.get("type") == "pytest.xfail" for skip in suite.iter("skipped"))
        tests, failed, errors, skipped = (
            int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        )
        counts.update(passed=tests - failed - errors - skipped, failed=failed, errors=errors)
        counts.update(skipped=skipped - xfailed, xfailed=xfailed)
    return counts


def keep_report(report: Path, name: str) -> None:
    """Beside those of the kernel lane (lane.py), so that what was skipped everywhere can be told."""
    folder = CHECKOUT / ".kernels"
    folder.mkdir(exist_ok=True)
    kept = folder / f"{name}.xml"
    kept.unlink(missing_ok=True)
    if report.exists():
        shutil.copyfile(report, kept)


def wait_for(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Run a command in the checkout to its end or the limit; also when interrupted, leave it no running."""
    process = subprocess.Popen(command, cwd=CHECKOUT, env=env, stdin=subprocess.DEVNULL)
    try:
        status = process.wait(LIMIT)
        return status, f" (exit status {status})" if status else ""
    except subprocess.TimeoutExpired:
        return 1, f" (stopped after {LIMIT} s)"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # with which pytest tears its fixtures down
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_suite(python: Python, inside: Path, unprivileged: bool, arguments: list[str]) -> Run:
    uid = UNPRIVILEGED if unprivileged else os.getuid()
    user = f"uid {uid}" if uid else "root"
    print(f"\n=== Python {python.full} as {user}", flush=True)
    # Not in $TMPDIR, which may be root's own; and short, for the Unix sockets of tests.
    with tempfile.TemporaryDirectory(prefix="ns-", dir="/tmp") as name:
        work = Path(name)
        (work / "home").mkdir()
        (work / "tmp").mkdir()
        report = work / "tmp/report.xml"
        # Skipping for want of namespaces would look like passing.
        command = [str(inside), "-m", "pytest", "--netns-missing=fail", f"--junitxml={report}", *WORKERS, *arguments]
        env = {**os.environ, "TMPDIR": str(work / "tmp")}
        if unprivileged:
            # Run in place (see as_user.sh) the user cannot write into the checkout; pytest must not try.
            command += ["-p", "no:cacheprovider"]
            kept = {key: os.environ[key] for key in ("CI", "TERM", "PYTEST_ADDOPTS") if key in os.environ}
            env = {
                **kept,
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG": "C.UTF-8",
                "HOME": str(work / "home"),
                "USER": "user",
                "LOGNAME": "user",
                "TMPDIR": str(work / "tmp"),
                "HYPOTHESIS_STORAGE_DIRECTORY": str(work / "home/hypothesis"),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            shutil.copytree(CHECKOUT, work / "checkout", symlinks=True, ignore=LEFT_OUT)
            (work / "checkout").chmod(0o755)
            subprocess.run(["chown", "-hR", f"{uid}:{uid}", str(work)], check=True)
            script, venv = CHECKOUT / "tools/as_user.sh", inside.parent.parent
            command = [str(script), str(uid), str(work), str(CHECKOUT), str(venv), python.prefix, *command]
        start = time.monotonic()
        status, note = wait_for(command, env)
        counts = read_counts(report)
        keep_report(report, f"{os.uname().release}-python{python.full}-{'ordinary' if uid else 'root'}")
        return Run(python.full, user, time.monotonic() - start, counts, status != 0, note)


def named(command: str) -> Python:
    python = probe(command)
    if python is None or python.problem:
        sys.exit(f"{command}: {python.problem if python else 'not a Python 3.10 or newer'}")
    return python


def choose(wanted: list[str]) -> list[tuple[Python, Path]]:
    """The Pythons asked for, each with the interpreter of its virtual environment."""
    default, inside = default_venv()
    chosen = [(default, inside)] if wanted in (["default"], ["all"]) else []
    if wanted == ["default"]:
        return chosen
    found = find_pythons()
    if wanted == ["all"]:
        pythons = [python for python in found if python.minor != default.minor]
    else:
        by_name = {python.minor: python for python in found}
        pythons = [by_name.get(name) or named(name) for name in wanted]
    for python in pythons:
        chosen.append((python, ensure_venv(python, CHECKOUT / ".venvs" / python.minor, ["test"])))
    return chosen


def main(argv: list[str]) -> int:
    split = argv.index("--") if "--" in argv else len(argv)
    wanted, arguments = argv[:split] or ["default"], argv[split + 1 :]
    os.umask(0o022)  # the unprivileged user reads what root installs
    # As Ctrl-C does: leave through every `finally`, which is what removes the temporary directory.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    runs = []
    for which, (python, inside) in enumerate(choose(wanted)):
        these = [*(["-m", "not once"] if which else []), *arguments]
        runs.append(run_suite(python, inside, False, these))
        if os.getuid() == 0:
            runs.append(run_suite(python, inside, True, these))
    print("\n=== Summary")
    for run in runs:
        print(run)
    total: Counter[str] = Counter()
    for run in runs:
        total.update(run.counts)
        # A run that broke before or after its tests has no failed test to show for it.
        if run.failed and not run.counts["failed"] + run.counts["errors"]:
            total["failed"] += 1
    failed = total["failed"] + total["errors"]
    print(f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    return int(any(run.failed for run in runs))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
