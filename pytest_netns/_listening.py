"""Who listens in a host, as its own socket tables have it: ``/proc/net/tcp`` and its kin, proc_net(5).

The kernel announces nobody who begins to listen, so whoever waits for that looks again and again. A look costs one read
of each table, from descriptors that were opened in the host.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

__all__ = ["TABLES", "Listener", "Tables"]

#: What to open below ``/proc/net``; those of IPv6 are not everywhere.
TABLES = ("tcp", "tcp6", "udp", "udp6", "unix")

_TCP_LISTEN = b"0A"  # include/net/tcp_states.h
_UDP_UNCONNECTED = b"07"
_UNIX_ACCEPTS = 1 << 16  # __SO_ACCEPTCON, include/uapi/linux/net.h
_UNIX_DATAGRAM = b"0002"
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Listener(NamedTuple):
    """A socket that takes what comes: one that listens, or of datagrams one that is bound and not connected."""

    proto: str
    family: int
    address: str
    port: int = 0

    def __str__(self) -> str:
        if self.family == socket.AF_UNIX:
            return f"unix {self.address}"
        address = f"[{self.address}]" if self.family == socket.AF_INET6 else self.address
        return f"{self.proto} {address}:{self.port}"

    def is_at(self, path: str) -> bool:
        """Whether it is the Unix socket of that path; one that was bound by a relative path has only that."""
        if self.family != socket.AF_UNIX:
            return False
        own = os.path.normpath(self.address)
        return own == path or (not self.address.startswith(("/", "@")) and path.endswith(f"/{own}"))


class Tables:
    """A host's socket tables, open."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def listeners(self, names: Sequence[str] = TABLES) -> list[Listener]:
        """All that listen now. TCP's take a while to read: the kernel looks through all connections there are."""
        files = dict(zip(TABLES, self._fds, strict=True))
        return [found for name in names for found in _READERS[name](name, _read(files[name]))]

    def close(self) -> None:
        """Let go of them; they would keep the host's namespace alive."""
        for fd in self._fds:
            os.close(fd)


def _read(fd: int) -> list[bytes]:
    os.lseek(fd, 0, os.SEEK_SET)
    data = bytearray()
    while piece := os.read(fd, 1 << 16):
        data += piece
    return bytes(data).splitlines()[1:]


def _internet(name: str, lines: list[bytes]) -> Iterator[Listener]:
    proto = name[:3]
    wanted = _TCP_LISTEN if proto == "tcp" else _UDP_UNCONNECTED
    for line in lines:
        _, local, _, state, _ = line.split(None, 4)
        if state == wanted:
            words, port = local.split(b":")
            # Words of 32 bits, each in the machine's order of bytes.
            packed = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
            address = ip_address(packed)
            yield Listener(proto, _FAMILIES[address.version], str(address), int(port, 16))


def _unix(_name: str, lines: list[bytes]) -> Iterator[Listener]:
    for line in lines:
        _, _, _, flags, kind, _, _, *path = line.split(None, 7)
        if path and (int(flags, 16) & _UNIX_ACCEPTS or kind == _UNIX_DATAGRAM):
            yield Listener("unix", socket.AF_UNIX, os.fsdecode(path[0]))


_READERS = {name: _unix if name == "unix" else _internet for name in TABLES}
