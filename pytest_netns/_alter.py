"""Asks the kernel for the changes of a lab that runs, and takes them back where one is refused."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Mapping, Sequence

from . import _requests
from ._change_steps import Alterations
from ._errors import KernelError, NetnsError
from ._namespace import Namespace
from ._netlink import Netlink
from ._requests import Request
from ._steps import Steps

__all__ = ["alter", "ask_to_leave", "forget", "take_back"]

#: Of a route, an address or an interface that has gone by itself, or by a program's hand.
_GONE = (errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)
_AT_A_TIME = 32
_NEIGHBOUR = struct.Struct("=16x8xH")  # nlmsghdr; ndmsg: family, index, state
_WRITTEN_DOWN = 0x40 | 0x80  # NUD_NOARP, NUD_PERMANENT (linux/neighbour.h)


def alter(changes: Alterations, namespaces: Mapping[str, Namespace]) -> None:
    """Ask for what comes before the interfaces settle."""
    for name, interfaces in changes.losing.items():
        for interface in interfaces:
            _keep_secondaries(namespaces[name], interface)
    for name, requests in changes.leave.items():
        ask_to_leave(namespaces[name], requests)
    for move in changes.moves:
        target = namespaces[move.target].fileno()
        request = _requests.move_link(move.port, move.name, target, move.new_name)
        namespaces[move.source].netlink.batch([request])
    for name, requests in changes.adjust.items():
        namespaces[name].netlink.batch(requests)


def _keep_secondaries(namespace: Namespace, interface: str) -> None:
    """``promote_secondaries`` of ip-sysctl.rst."""
    path = f"ipv4/conf/{interface}/promote_secondaries"
    namespace.broker.request("sysctl", path, b"1", fds=[namespace.fileno()])


def ask_to_leave(namespace: Namespace, requests: Sequence[Request]) -> None:
    """Ask for what there is to be no longer; that it has gone already is no failure."""
    try:
        namespace.netlink.batch(requests)
    except KernelError as error:
        if error.errno not in _GONE:
            raise
        if len(requests) > 1:  # the first of several that were refused, it may be for different reasons
            for request in requests:
                ask_to_leave(namespace, [request])


def forget(changes: Alterations, namespaces: Mapping[str, Namespace]) -> None:
    """Have hosts ask anew who has an address, so that their next packet goes where it is now."""
    for name, indexes in changes.strangers.items():
        for index in indexes:
            namespaces[name].netlink.forget_neighbours(index)
    for name, neighbours in changes.forget.items():
        if name in namespaces:
            _forget(namespaces[name].netlink, neighbours)


def _forget(netlink: Netlink, neighbours: Sequence[tuple[int, str]]) -> None:
    """Those by interface and address that are known, unless somebody has written them down."""
    for start in range(0, len(neighbours), _AT_A_TIME):
        some = neighbours[start : start + _AT_A_TIME]
        if not netlink.attempt([_requests.get_neighbour(*each) for each in some])[0]:
            continue  # the rule, and one send
        for each in some:
            known, _ = netlink.attempt([_requests.get_neighbour(*each)])
            if known and not _NEIGHBOUR.unpack_from(known[0])[0] & _WRITTEN_DOWN:
                netlink.attempt([_requests.delete_neighbour(*each)])


def take_back(todo: Steps, namespaces: Mapping[str, Namespace]) -> None:
    """Ask for these changes where something still is, whatever is refused.

    ``todo`` leads back from a plan that was made in part; or on, where what goes has gone in part.
    """
    from ._nat_load import load

    changes = todo.changes
    parts: list[Mapping[str, list[Request]]] = [
        todo.unplug,
        changes.leave,
        changes.adjust,
        todo.settle,
    ]
    for name, text in ((name, text) for name, (text, _) in todo.rules.items() if name in namespaces):
        with contextlib.suppress(NetnsError):
            load(name, namespaces[name], text)
    for move in changes.moves:
        with contextlib.suppress(KernelError):
            target = namespaces[move.target].fileno()
            request = _requests.move_link(move.port, move.name, target, move.new_name)
            namespaces[move.source].netlink.batch([request])
    for part in parts:
        for name, requests in part.items():
            for request in requests if name in namespaces else ():  # else it goes, or has gone
                with contextlib.suppress(KernelError):
                    namespaces[name].netlink.batch([request])
    ends = [(move.target, move.port) for move in changes.moves]
    ends += [(name, index) for name, indexes in changes.strangers.items() for index in indexes]
    for name, index in ends:  # a cable that is back has a carrier before the first packet
        with contextlib.suppress(KernelError):
            namespaces[name].netlink.settle(index)
    with contextlib.suppress(KernelError):
        forget(changes, namespaces)
