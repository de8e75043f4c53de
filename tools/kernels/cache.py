"""The folder that fetched packages and what is made from them are kept in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cache_folder", "locked", "made"]


def cache_folder() -> Path:
    """``$KERNELS_CACHE``, else below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    given = os.environ.get("KERNELS_CACHE")
    if given:
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pytest-netns-kernels"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two lanes may start at a time; only one fills the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A folder to be filled; it gets its name only once the block has ended well, so what has a name is whole."""
    unfinished = folder.with_name(folder.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(folder)
