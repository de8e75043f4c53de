"""No guest, but this machine's own kernel, for a Python that lives in a root folder of its own."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from .guest import TIMED_OUT, Guest
from .problems import CannotRun

__all__ = ["run_here"]


def run_here(script: str, folder: Path, *, root: Path, checkout: Path, limit: float) -> Guest:
    """Run a script as :func:`.guest.boot` does, with its root and its folders, but in a mount namespace.

    Raises:
        CannotRun: That takes root.
    """
    if os.geteuid() != 0:
        raise CannotRun("a root folder on this machine's own kernel takes root; on another kernel it does not")
    (folder / "script").write_text(script)
    command = [str(Path(__file__).with_name("here.sh")), str(root), str(folder), str(checkout)]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        status = TIMED_OUT
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return Guest(status, time.monotonic() - begin, "")
