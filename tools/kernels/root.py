"""The newest Python, from the distribution's development suite, in a root folder of its own.

The packages are unpacked, not installed: none of their scripts runs, so neither root nor a chroot is needed. The
tests' requirements come from pip, run by a Python of this machine for the other one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

from .archive import Archive
from .cache import made
from .packages import unpack
from .suite import CHECKOUT, ELSEWHERE, Interpreter

__all__ = ["fetch_python"]

#: What the tests call, beside Python.
_PROGRAMS = ["bash", "coreutils", "dash", "findutils", "grep", "hostname", "iproute2", "iputils-ping", "libc-bin"]
_PROGRAMS += ["mount", "netbase", "nftables", "procps", "sed", "tzdata", "util-linux"]
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"

_ASK = """
import importlib.metadata, json
print(json.dumps(importlib.metadata.requires("pytest-netns")))
"""


def fetch_python(wanted: str, cache: Path, own: Path) -> Interpreter | None:
    """Have a Python that this machine does not have.

    Args:
        wanted: ``newest``, or an X.Y such as ``3.14``.
        own: A Python of this machine, with pip and the project.

    Returns:
        None if the development suite has no such Python either.
    """
    archive = Archive(cache / "archives/development", ("unstable",))
    archive.update()
    known = {tuple(map(int, name[6:-5].split("."))): name[:-5] for name in archive.names(r"python3\.\d+-venv")}
    if not known or (wanted != "newest" and f"python{wanted}" not in known.values()):
        return None
    package = known[max(known)] if wanted == "newest" else f"python{wanted}"
    version = re.split(r"[-+~]", archive.records(package)[0]["Version"])[0]
    # One of before, with other files in it, is not taken.
    kind = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    folder = cache / f"root-{package}-{version}-{kind}"
    if not folder.exists():
        print(f"=== fetching Python {version}", flush=True)
        files = archive.fetch([package, *_PROGRAMS])
        with made(folder) as unfinished:
            _make_frame(unfinished)
            unpack(files, unfinished)
            _complete(unfinished, package)
            _install_requirements(unfinished, package, own)
            _compile(Interpreter(version, Path("/usr/bin") / package, unfinished))
        for path in files:
            path.unlink()
    return Interpreter(version, Path("/usr/bin") / package, folder)


def _compile(python: Interpreter) -> None:
    """As the packages' scripts would have done; every start would do it again, an emulated one for minutes."""
    libraries = [python.root / "usr/lib" / python.command.name, python.root / "usr/local/lib" / python.command.name]
    command = [*python.outside(), "-m", "compileall", "-q", "-s", str(python.root), "-p", "/", *map(str, libraries)]
    # Some files of the standard library's own tests are meant not to compile.
    subprocess.run(command, env=python.environment(), stdout=subprocess.DEVNULL, check=False)


def _make_frame(folder: Path) -> None:
    """Debian's merged /usr, which its packages take for granted."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / "usr" / name).mkdir(parents=True)
        (folder / name).symlink_to(f"usr/{name}")
    for name in ("etc/ssl", "proc", "sys", "dev", "run", "tmp", "root", "mnt", "var/tmp"):
        (folder / name).mkdir(parents=True)


def _complete(folder: Path, package: str) -> None:
    """What the packages' scripts would have done."""
    (folder / "etc/passwd").write_text(_PASSWD)
    (folder / "etc/group").write_text(_GROUP)
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (folder / "etc/shadow").touch(0o600)
    for link, target in (("sh", "dash"), ("python3", package)):
        if not os.path.lexists(folder / "usr/bin" / link):
            (folder / "usr/bin" / link).symlink_to(target)
    for name in ("tmp", "var/tmp"):
        (folder / name).chmod(0o1777)


def _install_requirements(folder: Path, package: str, own: Path) -> None:
    target = folder / "usr/local/lib" / package / "dist-packages"
    target.mkdir(parents=True)
    minor = package[len("python") :]
    pip = [
        str(own),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-compile",
        "--target",
        str(target),
    ]
    required = json.loads(subprocess.check_output([str(own), "-c", _ASK], text=True))
    elsewhere = ["--python-version", minor, "--implementation", "cp", "--abi", f"cp{minor.replace('.', '')}"]
    elsewhere += ["--abi", "abi3", "--abi", "none", "--platform", "manylinux_2_17_x86_64"]
    elsewhere += ["--platform", "manylinux_2_28_x86_64", "--only-binary=:all:"]
    subprocess.run([*pip, *elsewhere, *required, "--group", f"{CHECKOUT}/pyproject.toml:test"], check=True)
    # Of the project only its metadata, by which pytest finds the plugin; its code is the checkout's.
    subprocess.run([*pip, "--no-deps", str(CHECKOUT)], check=True)
    subprocess.run(["rm", "-r", str(target / "pytest_netns")], check=True)
    (target / "checkout.pth").write_text(f"{ELSEWHERE}\n")
