"""Writes a cpio archive, which is what the kernel takes as its first file system (newc, cpio(5))."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["write_archive"]


def write_archive(path: Path, files: dict[str, bytes | Path], executable: set[str]) -> None:
    """Write the files under these names; folders on the way to them are made."""
    folders = {"dev", "proc", "sys", "root"}
    for name in files:
        folders.update(str(parent) for parent in Path(name).parents if str(parent) != ".")
    unfinished = path.with_suffix(".new")
    with open(unfinished, "wb") as out:
        number = 1
        for name in sorted(folders):
            _write_entry(out, number, name, stat.S_IFDIR | 0o755, b"")
            number += 1
        for name, content in files.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            _write_entry(out, number, name, stat.S_IFREG | (0o755 if name in executable else 0o644), data)
            number += 1
        _write_entry(out, 0, "TRAILER!!!", 0, b"")
    unfinished.rename(path)


def _write_entry(out: BinaryIO, number: int, name: str, mode: int, data: bytes) -> None:
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device and rdevice (major, minor each), length of the name, checksum
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
    out.write(b"\0" * (-(110 + len(encoded)) % 4))
    out.write(data)
    out.write(b"\0" * (-len(data) % 4))
