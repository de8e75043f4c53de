"""Where rivals can be had: a folder of the benchmarks' own, and namespaces of their own.

Packages go into a virtual environment in `.rivals`, next to this file; Mininet is Debian's, unpacked there. Nothing is
installed on the machine, and what rivals do to network, mounts and processes they do apart, without root, too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rivals import RIVALS

HERE = Path(__file__).resolve().parent
PLACE = HERE / ".rivals"
PYTHON = PLACE / "venv" / "bin" / "python"

#: setuptools has the distutils that Mininet imports and newer Pythons lack.
PACKAGES = ("pytest", "pyroute2", "pytest-dummynet", "dummynet", "munet", "setuptools")
NEEDS = {
    "pyroute2, used well": "pyroute2",
    "pyroute2, naively": "pyroute2",
    "Mininet": "mininet",
    "pytest-dummynet": "pytest-dummynet",
    "dummynet": "dummynet",
    "munet": "munet",
}
#: What it starts: mnexec, brctl, ifconfig.
DEBIAN = ("mininet", "bridge-utils", "net-tools")

APART = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
#: /run/netns, and the interfaces of these namespaces instead of the machine's.
MOUNTS = 'mount -t tmpfs none /run; mount -t sysfs none /sys 2>/dev/null; exec "$@"'


def apart(command: Sequence[str]) -> list[str]:
    """Run a command where it can do no harm, and as root of it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [*APART, *user, "sh", "-c", MOUNTS, "sh", *command]


def environment(temporary: Path) -> dict[str, str]:
    """For rivals: their programs are found, and their files are kept together."""
    found = {**os.environ, "PATH": f"{PYTHON.parent}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        found.pop(name, None)
    return found


def prepared() -> tuple[dict[str, str], dict[str, str]]:
    """Have all that can be had; tell the versions, and why not, by rival."""
    lacking = [f"no {program}" for program in ("ip", "ping", "unshare") if not shutil.which(program)]
    refused = lacking[0] if lacking else _failure(apart(["true"]))
    if refused:
        return {}, dict.fromkeys(RIVALS, refused)
    stamp = PLACE / "found.json"
    if stamp.exists():
        found: dict[str, str] = json.loads(stamp.read_text())
        return found, {}
    if problem := _make_venv():
        return {}, dict.fromkeys(RIVALS, problem)
    missing = _install()
    versions = _versions()
    if not missing:  # else it is tried again
        stamp.write_text(json.dumps(versions, indent=2) + "\n")
    return versions, missing


def _make_venv() -> str:
    try:
        PLACE.mkdir(exist_ok=True)
    except OSError as error:
        return str(error)
    return _failure([sys.executable, "-m", "venv", str(PLACE / "venv")])


def _install() -> dict[str, str]:
    """Install one after the other, so that one that can't be had takes no other along."""
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    problems = {package: _failure([*pip, package]) for package in PACKAGES}
    problems["mininet"] = _unpack_mininet()
    return {rival: problem for rival, package in NEEDS.items() if (problem := problems[package])}


def _unpack_mininet() -> str:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return "no apt-get: only Debian's package has its program in C"
    packages = PLACE / "debian"
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir()
    if problem := _failure(["apt-get", "download", "-q", *DEBIAN], packages):
        return problem
    for package in packages.glob("*.deb"):
        if problem := _failure(["dpkg-deb", "-x", str(package), str(packages)]):
            return problem
    for program in ("usr/bin/mnexec", "sbin/brctl", "sbin/ifconfig"):
        shutil.copy(packages / program, PYTHON.parent)
    modules = next((PLACE / "venv" / "lib").glob("python3*")) / "site-packages"
    (modules / "mininet.pth").write_text(f"{packages}/usr/lib/python3/dist-packages\n")
    return ""


def _versions() -> dict[str, str]:
    command = [str(PYTHON), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    installed = {each["name"].lower(): each["version"] for each in json.loads(done.stdout)}
    return {name: installed[name] for name in sorted(set(NEEDS.values())) if name in installed}


def _failure(command: Sequence[str], directory: Path | None = None) -> str:
    """Run a command; the last thing that it says if it fails, else nothing."""
    done = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode == 0:
        return ""
    return f"{command[0]}: {(done.stdout.strip().splitlines() or [f'status {done.returncode}'])[-1]}"
