"""What the kernel's answers and announcements say of interfaces and addresses; bytes in, facts out."""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["HEADER", "condition", "cut", "is_up", "note", "running", "unsettled"]

# linux/netlink.h, linux/rtnetlink.h, linux/if.h, linux/if_addr.h
_NEWLINK, _NEWADDR = 16, 20
_IFF_UP, _IFF_RUNNING, _IFF_LOWER_UP, _IFF_DORMANT = 0x1, 0x40, 0x10000, 0x20000
_IFA_F_TENTATIVE = 0x40
_IFLA_OPERSTATE, _OPER_UP = 16, 6
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, kind, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index


def cut(data: bytes) -> Iterator[bytes]:
    """The messages of what was received at a time."""
    while len(data) >= HEADER.size:
        length = HEADER.unpack_from(data)[0]
        yield data[:length]
        data = data[(length + 3) & ~3 :]


def running(message: bytes) -> int | None:
    """The index of the interface if this says that it is up and passes packets (operstate UP).

    IFF_RUNNING alone does not say so: a new interface, whose first link event is still to be worked off, has the
    operstate UNKNOWN, which counts as running (netif_oper_up, linux/netdevice.h).
    """
    if HEADER.unpack_from(message)[1] != _NEWLINK:
        return None
    _, _, index, flags, _ = _LINK.unpack_from(message, HEADER.size)
    return int(index) if flags & _IFF_RUNNING and flags & _IFF_UP and _operstate(message) == _OPER_UP else None


def _operstate(message: bytes) -> int | None:
    position = HEADER.size + _LINK.size
    while position + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, position)
        if kind == _IFLA_OPERSTATE:
            return message[position + 4]
        position += max(4, (length + 3) & ~3)
    return None


def is_up(message: bytes) -> bool:
    """Whether what :func:`get_link` brought says that the interface is switched on."""
    _, _, _, flags, _ = _LINK.unpack_from(message, HEADER.size)
    return bool(flags & _IFF_UP)


def condition(message: bytes) -> tuple[int, str | None]:
    """The index of the interface that :func:`get_link` brought, and why it passes nothing; None if it may."""
    _, _, index, flags, _ = _LINK.unpack_from(message, HEADER.size)
    return index, None if flags & _IFF_UP and flags & _IFF_LOWER_UP else "no carrier" if flags & _IFF_UP else "down"


def unsettled(message: bytes) -> bool:
    """Whether the interface that this speaks of has a carrier and passes nothing, or the other way round."""
    _, _, _, flags, _ = _LINK.unpack_from(message, HEADER.size)
    known = bool(flags & _IFF_RUNNING) == bool(flags & _IFF_LOWER_UP)
    return bool(flags & _IFF_UP) and not flags & _IFF_DORMANT and not known


def note(message: bytes, waiting: set[int], tentative: set[tuple[int, bytes]]) -> None:
    """Strike out what a message from the kernel shows to be ready."""
    if HEADER.unpack_from(message)[1] == _NEWADDR:
        _, _, flags, _, index = _ADDRESS.unpack_from(message, HEADER.size)
        if not flags & _IFA_F_TENTATIVE:
            tentative -= {(i, address) for i, address in tentative if i == index and address in message}
    else:
        index = running(message)
        if index is not None:
            waiting.discard(index)
