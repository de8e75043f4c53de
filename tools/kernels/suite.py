"""The tests in a guest: one script that runs them as each user, and what it brings back."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .emulator import Emulator, hardware_helps
from .guest import DIED, TIMED_OUT, boot, lane_folder
from .here import run_here
from .kernel import Kernel

__all__ = [
    "CHECKOUT",
    "ELSEWHERE",
    "ORDINARY",
    "RESULTS",
    "USERS",
    "Interpreter",
    "Result",
    "read_results",
    "run_suite",
]

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / ".kernels"
#: Where the tests find the checkout, in a root folder that several checkouts may use.
ELSEWHERE = Path("/checkout")
USERS = ("root", "ordinary")
#: A bare user id without an account, as in ``make test``.
ORDINARY = int(os.environ.get("UNPRIVILEGED_UID", "1001"))
#: How much longer than on the machine itself the tests may take, where a processor is emulated (tests/pace.py).
PACE_EMULATED = 12


@dataclass(frozen=True)
class Interpreter:
    """A Python to test with.

    Attributes:
        version: ``3.12.1``.
        command: Its path, in the guest.
        root: The folder that becomes the guest's root.
    """

    version: str
    command: Path
    root: Path = Path("/")

    @property
    def checkout(self) -> Path:
        """Where it finds the project."""
        return CHECKOUT if self.root == Path("/") else ELSEWHERE

    def outside(self) -> list[str]:
        """The command for it on this machine; with its own C library, where it has a root of its own."""
        if self.root == Path("/"):
            return [str(self.command)]
        libraries = next((self.root / "usr/lib").glob("*-linux-gnu"))
        loader = self.root / "lib64/ld-linux-x86-64.so.2"
        return [str(loader), "--library-path", str(libraries), str(self.root / self.command.relative_to("/"))]

    def environment(self) -> dict[str, str]:
        """What :meth:`outside` needs."""
        if self.root == Path("/"):
            return dict(os.environ)
        return {**os.environ, "PYTHONHOME": str(self.root / "usr")}


@dataclass(frozen=True)
class Result:
    """What became of the tests on one kernel, with one Python, as one user.

    Attributes:
        status: Exit status of pytest.
        seconds: From pytest's start to its end, in the guest.
    """

    kernel: str
    python: str
    user: str
    status: int
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def name(self) -> str:
        return f"{self.kernel}-python{self.python}-{self.user}"

    @property
    def ok(self) -> bool:
        """Whether some tests ran, and all of them passed."""
        return self.status == 0 and self.passed > 0

    def __str__(self) -> str:
        word = {0: "NONE RAN", TIMED_OUT: "TIME OUT", DIED: "DIED"}.get(self.status, "FAILED")
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped in {self.seconds:.0f} s"
        return f"{self.kernel:22} Python {self.python:9} {self.user:9} {'ok' if self.ok else word:8} {counts}"


def run_suite(
    emulator: Emulator | None,
    kernel: Kernel | None,
    python: Interpreter,
    users: Sequence[str],
    arguments: Sequence[str],
    *,
    results: Path = RESULTS,
    limit: float,
    cpus: int = 2,
) -> list[Result]:
    """Run pytest with these arguments once for each user, in one boot; the reports are left in ``results``.

    Without a kernel, on this machine's own.
    """
    release = kernel.release if kernel is not None else os.uname().release
    pace = 1 if kernel is None or hardware_helps() else PACE_EMULATED
    results.mkdir(parents=True, exist_ok=True)
    _compile(python)
    with lane_folder() as folder:
        script = "".join(
            [_PREPARE, _open_to_others(python), *(_run(user, python, release, pace, arguments) for user in users)]
        )
        if emulator is None or kernel is None:
            guest = run_here(script, folder, root=python.root, checkout=CHECKOUT, limit=limit)
        else:
            shares = {} if python.root == Path("/") else {CHECKOUT: str(ELSEWHERE)}
            guest = boot(emulator, kernel, script, folder, root=python.root, shares=shares, cpus=cpus, limit=limit)
        if guest.log:
            print(f"!!! the guest has not come to its end; its last words:\n{guest.log}", flush=True)
        return [_collect(folder, results, Result(release, python.version, user, *guest[:2])) for user in users]


def _compile(python: Interpreter) -> None:
    """Every process of the guest would do it again otherwise, at an emulated processor's pace."""
    folders = [str(CHECKOUT / name) for name in ("pytest_netns", "tests", "examples")]
    subprocess.run([*python.outside(), "-m", "compileall", "-q", *folders], env=python.environment(), check=True)


_PREPARE = """\
umask 022
ip link set lo up
"""


def _open_to_others(python: Interpreter) -> str:
    """Let an ordinary user pass through the folders to the checkout and the interpreter; in the guest only."""
    folders: set[Path] = set()
    for path in (python.checkout, python.command, (python.root / python.command.relative_to("/")).resolve()):
        folders.update(path.parents)
    there = sorted(str(folder) for folder in folders)
    return f'for folder in {shlex.join(there)}; do [ ! -d "$folder" ] || chmod o+rx "$folder"; done\n'


def _run(user: str, python: Interpreter, release: str, pace: float, arguments: Sequence[str]) -> str:
    work = f"/tmp/lane-{user}"  # not below /run: some tests hide that
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": f"{work}/home",
        "USER": user,
        "LOGNAME": user,
        "TMPDIR": f"{work}/tmp",
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{work}/home/hypothesis",
        "TESTS_PACE": str(pace),
    }
    for name in ("CI", "TERM", "COLUMNS", "PYTEST_ADDOPTS", "FORCE_COLOR", "NO_COLOR", "TESTS_PACE", "FUZZ_EXAMPLES"):
        if name in os.environ:
            env[name] = os.environ[name]
    command = [str(python.command), "-m", "pytest", "-p", "no:cacheprovider", "--netns-missing=fail"]
    command += [f"--junitxml={work}/report.xml", *arguments]
    who: list[str] = []
    if user != "root":
        who = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
        who += ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"]
    variables = [f"{name}={value}" for name, value in env.items()]
    uid = 0 if user == "root" else ORDINARY
    return f"""
echo
echo "=== Linux {release}, Python {python.version}, {user}"
mkdir -p {work}/home {work}/tmp
chown -R {uid}:{uid} {work}
cd {shlex.quote(str(python.checkout))}
begin=$(date +%s)
env -i {shlex.join(variables)} {shlex.join([*who, *command])}
echo $? $(($(date +%s) - begin)) >/run/lane/{user}.status
cp {work}/report.xml /run/lane/{user}.xml
[ ! -d {work}/home/artifacts ] || cp -r {work}/home/artifacts /run/lane/{user}.artifacts
cd /
"""


def _collect(folder: Path, results: Path, result: Result) -> Result:
    """Take what a user's run has left; ``result`` has the guest's own status."""
    user = result.user
    report, said = folder / f"{user}.xml", folder / f"{user}.status"
    if said.exists() and said.read_text().strip():
        status, seconds = (int(word) for word in said.read_text().split())
        result = replace(result, status=status, seconds=seconds)
    elif result.status == 0:
        result = replace(result, status=DIED)
    counts = _counts(report) if report.exists() else Counter[str]()
    result = replace(result, passed=counts["passed"], failed=counts["failed"], skipped=counts["skipped"])
    for path in results.glob(f"{result.name}.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if report.exists():
        shutil.copyfile(report, results / f"{result.name}.xml")
    artifacts = folder / f"{user}.artifacts"
    if artifacts.exists():
        shutil.copytree(artifacts, results / f"{result.name}.artifacts")
    (results / f"{result.name}.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    return result


def _counts(report: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for suite in ET.parse(report).getroot().iter("testsuite"):
        tests, failures, errors, skipped = (
            int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        )
        xfailed = sum(skip.get("type") == "pytest.xfail" for skip in suite.iter("skipped"))
        counts.update(passed=tests - failures - errors - skipped, failed=failures + errors, skipped=skipped - xfailed)
    return counts


def read_results(folder: Path = RESULTS) -> list[Result]:
    """The results of all runs that have left theirs in the folder."""
    return [Result(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
