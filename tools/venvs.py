"""Find the machine's Pythons and keep one virtual environment for each, inside the checkout.

Run as a script it prepares .venv, which `make demo` and `make lint` use. It runs with whatever `python3`
is (3.7 or newer) and needs nothing but the standard library.
"""

from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)

PROBE = """
import json, os, sys
try:
    import ensurepip, venv
    problem = ""
except ImportError as error:
    problem = str(error)
print(json.dumps([sys.version_info[:3], os.path.realpath(sys.executable), sys.base_prefix, problem]))
"""


class Python(NamedTuple):
    version: tuple[int, ...]
    executable: str  # the interpreter itself: never a pyenv shim, a link or a virtual environment's
    prefix: str
    problem: str  # why no virtual environment can be made with it, or nothing

    @property
    def minor(self) -> str:
        return ".".join(map(str, self.version[:2]))

    @property
    def full(self) -> str:
        return ".".join(map(str, self.version))


def probe(command: str) -> Python | None:
    """Ask an interpreter what it is; None if it is too old, or does not run (as some pyenv shims)."""
    try:
        out = subprocess.check_output([command, "-I", "-c", PROBE], stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    version, executable, prefix, problem = json.loads(out)
    python = Python(tuple(version), executable, os.path.realpath(prefix), problem)
    return python if python.version >= OLDEST else None


def find_pythons() -> list[Python]:
    """Every usable Python: one for each X.Y, the newest X.Y.Z of it; newest first."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    folders += ["/usr/local/bin", "/usr/bin", *glob.glob("/opt/*/bin")]
    for root in (os.environ.get("PYENV_ROOT"), os.path.expanduser("~/.pyenv")):
        if root:
            folders += glob.glob(os.path.join(glob.escape(root), "versions", "*", "bin"))
    commands = {
        os.path.realpath(path)
        for folder in folders
        for path in glob.glob(os.path.join(glob.escape(folder), "python3*"))
        if re.fullmatch(r"python3(\.\d+)?", os.path.basename(path))
    }
    found = sorted({python for python in map(probe, commands) if python}, reverse=True)
    usable: dict[str, Python] = {}
    for python in found:
        if not python.problem:
            usable.setdefault(python.minor, python)
    for python in found:
        if python.minor not in usable:
            print(f"!!! not usable: Python {python.full} ({python.executable}): {python.problem}", flush=True)
    return list(usable.values())


def default_python() -> Python:
    """The Python of .venv if there is one, else the newest."""
    python = probe(str(CHECKOUT / ".venv/bin/python")) or next(iter(find_pythons()), None)
    if python is None:
        sys.exit("no Python {}.{} or newer with venv and ensurepip found".format(*OLDEST))
    return python


def ensure_venv(python: Python, venv: Path, groups: list[str]) -> Path:
    """Have the project, editable, and these dependency groups in `venv`; return its interpreter."""
    inside = venv / "bin/python"
    there = probe(str(inside))
    if there is None or there.executable != python.executable:
        print(f"=== {venv.relative_to(CHECKOUT)}: Python {python.full} ({python.executable})", flush=True)
        subprocess.run([python.executable, "-m", "venv", "--clear", str(venv)], check=True)
    # The stamp names the checkout because an editable install points to it: a moved checkout needs a new one.
    stamp, text = venv / ".installed", f"{CHECKOUT}\n{groups}\n"
    pyproject = CHECKOUT / "pyproject.toml"
    if stamp.exists() and stamp.read_text() == text and stamp.stat().st_mtime >= pyproject.stat().st_mtime:
        return inside
    pip = [str(inside), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pip.append("--root-user-action=ignore")
    subprocess.run([*pip, "pip>=25.1"], check=True)  # the first that knows --group
    named = [argument for group in groups for argument in ("--group", group)]
    subprocess.run([*pip, "--editable", ".", *named], cwd=CHECKOUT, check=True)
    stamp.write_text(text)
    return inside


def default_venv() -> tuple[Python, Path]:
    python = default_python()
    return python, ensure_venv(python, CHECKOUT / ".venv", ["test", "lint"])


if __name__ == "__main__":
    os.umask(0o022)  # the unprivileged user of `make test` reads what root installs
    try:
        default_venv()
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
