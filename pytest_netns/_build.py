"""Asks the kernel for what the steps of a plan say, and waits until it is ready."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping

from . import _requests
from ._namespace import Namespace
from ._steps import Steps

__all__ = ["make", "new_namespaces"]


def new_namespaces(todo: Steps, undo: contextlib.ExitStack, *, named: bool) -> dict[str, Namespace]:
    """The namespaces that new places need, by place; their ``netlink`` listens. ``undo`` gets what closes them."""
    made: dict[str, Namespace] = {}
    if named:
        for name in todo.places:
            made[name] = _named(name, bridge=name in todo.bridges)
            undo.callback(made[name].close)
            made[name].netlink.listen()
        return made
    bridges = len(todo.bridges)
    for name, namespace in zip(todo.places, Namespace.many(len(todo.places) - bridges, bridges), strict=True):
        made[name] = namespace
        undo.callback(namespace.close)
    return made


def _named(name: str, *, bridge: bool) -> Namespace:
    """Two networks at a time may have a beijing, in one session or in several: the second becomes beijing-2."""
    label = name
    for number in itertools.count(2):
        with contextlib.suppress(FileExistsError):
            return Namespace(label, _for_bridge=bridge)
        label = f"{name[:50]}-{number}"
    raise AssertionError("there is always a next number")


def make(todo: Steps, namespaces: Mapping[str, Namespace]) -> None:
    """Ask the kernel for all of it, and wait until it is ready; new namespaces listen already."""
    with contextlib.ExitStack() as listening:
        for name in {**todo.ready, **dict.fromkeys(todo.places)}:
            if name not in todo.places:
                namespaces[name].netlink.listen()
            listening.callback(namespaces[name].netlink.leave)
        _ask_and_wait(todo, namespaces)


def _ask_and_wait(todo: Steps, namespaces: Mapping[str, Namespace]) -> None:
    """One send for a namespace and round."""
    for name, requests in todo.unplug.items():
        namespaces[name].netlink.batch(requests)
    for name in todo.routers:
        _forward(namespaces[name])
    for name in {**todo.bridges, **todo.cables}:
        requests = [todo.bridges[name]] if name in todo.bridges else []
        for cable in todo.cables.get(name, ()):
            far = namespaces[cable.far_place].fileno()
            requests.append(_requests.add_veth(cable.near, cable.far, cable.mtu, far))
        namespaces[name].netlink.batch(requests)
    answers: dict[str, list[bytes]] = {}
    for name, requests in (*todo.settle.items(), *todo.read.items()):
        answers[name] = namespaces[name].netlink.batch(requests)
    for name, (indexes, addresses) in todo.ready.items():
        namespaces[name].netlink.wait_ready(indexes, answers[name], addresses)


def _forward(namespace: Namespace) -> None:
    """Have it pass on packets that are not for itself (ip-sysctl.rst)."""
    for setting in ("ipv4/ip_forward", *(["ipv6/conf/all/forwarding"] if namespace.broker.ipv6 else [])):
        namespace.broker.request("sysctl", setting, b"1", fds=[namespace.fileno()])
