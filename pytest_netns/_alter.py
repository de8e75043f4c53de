"""Asks the kernel for the changes of a lab that runs, and takes them back where one is refused."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping

from . import _requests
from ._change_steps import Alterations
from ._errors import KernelError, NetnsError
from ._namespace import Namespace
from ._requests import Request
from ._steps import Steps

__all__ = ["alter", "forget", "take_back"]

#: Of a route or an address that has gone by itself, or by a program's hand.
_GONE = (errno.ESRCH, errno.EADDRNOTAVAIL)


def alter(changes: Alterations, namespaces: Mapping[str, Namespace]) -> None:
    """Ask for what comes before the interfaces settle."""
    for name, interfaces in changes.losing.items():
        for interface in interfaces:
            _keep_secondaries(namespaces[name], interface)
    for name, requests in changes.leave.items():
        for request in requests:
            _ask_to_leave(namespaces[name], request)
    for move in changes.moves:
        target = namespaces[move.target].fileno()
        request = _requests.move_link(move.index, move.name, target, move.new_name)
        namespaces[move.source].netlink.batch([request])
    for name, requests in changes.adjust.items():
        namespaces[name].netlink.batch(requests)


def _keep_secondaries(namespace: Namespace, interface: str) -> None:
    """``promote_secondaries`` of ip-sysctl.rst."""
    path = f"ipv4/conf/{interface}/promote_secondaries"
    namespace.broker.request("sysctl", path, b"1", fds=[namespace.fileno()])


def _ask_to_leave(namespace: Namespace, request: Request) -> None:
    try:
        namespace.netlink.batch([request])
    except KernelError as error:
        if error.errno not in _GONE:
            raise


def forget(changes: Alterations, namespaces: Mapping[str, Namespace]) -> None:
    """Have hosts ask anew who has an address, so that their next packet goes where it is now."""
    for name, indexes in changes.strangers.items():
        for index in indexes:
            namespaces[name].netlink.forget_neighbours(index)
    for name, requests in changes.forget.items():
        for request in requests:
            with contextlib.suppress(KernelError):  # most know nothing of it
                namespaces[name].netlink.batch([request])


def take_back(todo: Steps, namespaces: Mapping[str, Namespace]) -> None:
    """Ask for these changes, whatever is refused: ``todo`` leads back from a plan that was made in part."""
    from ._nat_load import load

    changes = todo.changes
    parts: list[Mapping[str, list[Request]]] = [
        todo.unplug,
        changes.leave,
        changes.adjust,
        todo.settle,
        changes.forget,
    ]
    for name, (text, _) in todo.rules.items():
        with contextlib.suppress(NetnsError):
            load(name, namespaces[name], text)
    for move in changes.moves:
        with contextlib.suppress(KernelError):
            target = namespaces[move.target].fileno()
            request = _requests.move_link(move.index, move.name, target, move.new_name)
            namespaces[move.source].netlink.batch([request])
    for part in parts:
        for name, requests in part.items():
            for request in requests:
                with contextlib.suppress(KernelError):
                    namespaces[name].netlink.batch([request])
