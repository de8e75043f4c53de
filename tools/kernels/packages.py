"""Takes files out of packages, without installing them."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["unpack", "unpack_some"]


def unpack(packages: Iterable[Path], folder: Path) -> None:
    """All of the packages' files."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)


def unpack_some(package: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Only the regular files whose paths are wanted; those that end in ``.xz`` are decompressed."""
    stream = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    assert stream.stdout is not None
    with stream, tarfile.open(fileobj=stream.stdout, mode="r|") as archive:
        for member in archive:
            path = member.name.lstrip("./")
            if not member.isfile() or not wanted(path):
                continue
            source = archive.extractfile(member)
            assert source is not None
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith(".xz"):
                with lzma.open(source) as plain, open(target.with_suffix(""), "wb") as out:
                    shutil.copyfileobj(plain, out)
            else:
                with open(target, "wb") as out:
                    shutil.copyfileobj(source, out)
        while stream.stdout.read(1 << 20):  # padding after the archive's end; dpkg-deb complains of a closed pipe
            pass
    if stream.returncode:
        raise subprocess.CalledProcessError(stream.returncode, stream.args)
