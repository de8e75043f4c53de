"""Asks the kernel for what the steps of a plan say, and waits until it is ready."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping

from . import _requests
from ._alter import alter, ask_to_leave, forget
from ._namespace import Namespace
from ._netlink import Netlink
from ._plan import BRIDGE_INDEX
from ._room import make_room
from ._steps import Steps

__all__ = ["Tell", "make", "new_namespaces", "progress"]

#: How many hosts are waited for together. The kernel goes through all sockets of the machine that listen, in whatever
#: namespace, whenever it has something to announce (netlink_broadcast_filtered, net/netlink/af_netlink.c).
_AT_A_TIME = 32
#: So many hosts and bridges take long enough to be waited for with open eyes.
_MANY = 200
#: Is told how many namespaces have been made, and then how many hosts are ready; None where nobody wants to know.
Tell = Callable[[int], object]


def progress(todo: Steps) -> contextlib.AbstractContextManager[Tell | None]:
    """Show how far it is, where there is a terminal and much to do."""
    if len(todo.places) < _MANY:
        return contextlib.nullcontext()
    from ._progress import shown

    hosts = len(todo.places) - len(todo.bridges)
    return shown(f"netns: lab of {hosts} hosts", len(todo.places) + len(todo.settle))


def new_namespaces(
    todo: Steps, undo: contextlib.ExitStack, *, named: bool, as_root: bool, tell: Tell | None = None
) -> dict[str, Namespace]:
    """The namespaces that new places need, by place. ``undo`` gets what closes them."""
    make_room(len(todo.places))
    made: dict[str, Namespace] = {}
    if named:
        for name in todo.places:
            made[name] = _named(name, bridge=name in todo.bridges, as_root=as_root)
            undo.callback(made[name].close)
            if tell is not None:
                tell(1)
        return made
    bridges = len(todo.bridges)
    for name, namespace in zip(
        todo.places,
        Namespace.many(
            len(todo.places) - bridges, bridges, list(map(todo.like.get, todo.bridges)), as_root=as_root, tell=tell
        ),
        strict=True,
    ):
        made[name] = namespace
        if namespace.packets_before is not None:
            namespace.counted[BRIDGE_INDEX, name] = namespace.packets_before
        undo.callback(namespace.close)
    return made


def _named(name: str, *, bridge: bool, as_root: bool) -> Namespace:
    """Two networks at a time may have a beijing, in one session or in several: the second becomes beijing-2."""
    label = name
    for number in itertools.count(2):
        with contextlib.suppress(FileExistsError):
            return Namespace(label, _for_bridge=bridge, _as_root=as_root)
        label = f"{name[:50]}-{number}"
    raise AssertionError("there is always a next number")


def make(todo: Steps, namespaces: Mapping[str, Namespace], tell: Tell | None = None) -> None:
    """Ask the kernel for all of it, one send for a namespace and round, and wait until it is ready."""
    _prepare(todo, namespaces)
    for name in {**todo.bridges, **todo.cables}:
        namespaces[name].netlink.batch(_of_segments(todo, name, namespaces))
    portions = list(_portions(list(todo.settle)))
    if len(portions) > 1:
        for name, requests in todo.link_up.items():
            namespaces[name].netlink.batch(requests)
    for names in portions:
        _settle(todo, {name: namespaces[name].netlink for name in names})
        if tell is not None:
            tell(len(names))
    answers = {name: namespaces[name].netlink.batch(requests) for name, requests in todo.read.items()}
    for name, read in answers.items():
        namespaces[name].netlink.wait_ready(todo.ready[name][0], read, [])
    for name, ports in todo.forwarding.items():
        namespaces[name].netlink.wait_forwarding(ports)
    if todo.changes:
        forget(todo.changes, namespaces)


def _prepare(todo: Steps, namespaces: Mapping[str, Namespace]) -> None:
    """What there is becomes what it is to be, before what is new."""
    for name, requests in todo.unplug.items():
        ask_to_leave(namespaces[name], requests)
    if todo.changes:
        alter(todo.changes, namespaces)
    if todo.rules:
        _load_rules(todo, namespaces)
    for name in todo.routers:
        _forward(namespaces[name])


def _of_segments(todo: Steps, name: str, namespaces: Mapping[str, Namespace]) -> list[_requests.Request]:
    """In one place: its bridge, the cables that begin there, and what their ports are told."""
    requests = [todo.bridges[name]] if name in todo.bridges else []
    if requests and namespaces[name].packets_before is not None:  # an earlier lab's
        requests = [_requests.set_link(BRIDGE_INDEX, up=True, what=f"set {name} up")]
    for cable in todo.cables.get(name, ()):
        far = namespaces[cable.far_place].fileno()
        requests.append(_requests.add_veth(cable.near, cable.far, cable.mtu, far))
    return requests + todo.ports.get(name, [])


def _portions(names: list[str]) -> Iterator[list[str]]:
    yield from (names[start : start + _AT_A_TIME] for start in range(0, len(names), _AT_A_TIME))


def _settle(todo: Steps, netlinks: dict[str, Netlink]) -> None:
    """Have hosts be ready, except for what their bridges still lack."""
    with contextlib.ExitStack() as listening:
        for name, netlink in netlinks.items():
            if name in todo.ready and todo.ready[name][1]:
                netlink.listen()
                listening.callback(netlink.leave)
        answers = {name: netlink.batch(todo.settle[name]) for name, netlink in netlinks.items()}
        for name, read in answers.items():
            if name in todo.ready:
                indexes, addresses = todo.ready[name]
                netlinks[name].wait_ready(indexes, read, addresses)


def _load_rules(todo: Steps, namespaces: Mapping[str, Namespace]) -> None:
    from ._nat_load import free, load, load_anew

    for name, (text, before) in todo.rules.items():
        if before is None:
            load(name, namespaces[name], text)
            free(namespaces[name], todo.freed.get(name, ()))
        else:
            load_anew(name, namespaces[name], text, before)


def _forward(namespace: Namespace) -> None:
    """Have it pass on packets that are not for itself (ip-sysctl.rst)."""
    for setting in ("ipv4/ip_forward", *(["ipv6/conf/all/forwarding"] if namespace.broker.ipv6 else [])):
        namespace.broker.request("sysctl", setting, b"1", fds=[namespace.fileno()])
