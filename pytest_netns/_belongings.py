"""What a host has of its own besides its network: the files that its programs find names in, and its host name."""

from __future__ import annotations

import os
from typing import NamedTuple

from ._errors import NetnsError
from ._namespace import Namespace
from ._releasing import releasing

__all__ = ["Belongings", "Names"]


class Names(NamedTuple):
    """Contents of ``/etc/hosts`` and ``/etc/resolv.conf``."""

    hosts: str
    resolver: str


class Belongings:
    """Descriptors of a mount and a UTS namespace, each None where the machine forbids such, and of the own files."""

    def __init__(self, namespace: Namespace, name: str, names: Names | None) -> None:
        """``names`` None means to keep the machine's names, its host name among them."""
        own = name if names is not None else None
        there, fds = namespace.broker.request("files", own, names and tuple(names), fds=[namespace.fileno()])
        held = iter(fds)
        self.mounts, self._etc, self.uts = (next(held) if has else None for has in there)
        self._shown = names

    def show(self, names: Names) -> None:
        """Have programs find these names from now on, those that run already, too; where there are files of its own.

        In place, since a file that is mounted cannot be replaced; a reader at the same moment may find both.
        """
        if self._etc is None or self._shown is None:
            return
        for file, old, new in zip(("hosts", "resolv.conf"), self._shown, names, strict=True):
            if old != new:
                _write(file, self._etc, new.encode())
        self._shown = names

    def check_own_files(self, name: str) -> None:
        """Refuse what needs files of its own.

        Raises:
            NetnsError: The machine forbids them.
        """
        if self._etc is None:
            raise NetnsError(
                f"{name} has no /etc/resolv.conf of its own: this machine forbids mounts. In a container, "
                "--security-opt apparmor=unconfined --security-opt seccomp=unconfined allows them"
            )

    def close(self) -> None:
        """Let go of them."""
        held = (self.mounts, self._etc, self.uts)
        self.mounts = self._etc = self.uts = None
        with releasing("what a host has of its own") as release:
            for fd in held:
                if fd is not None:
                    release(os.close, fd)


def _write(file: str, folder: int, data: bytes) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
