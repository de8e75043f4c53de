"""Makes a lab's plan real, follows its changes, and ends it: the one place where what was made is released."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ._alter import take_back
from ._belongings import Names
from ._bridge import Bridge
from ._broker import Broker, broker
from ._build import make, new_namespaces, progress
from ._changing import remove
from ._checks import is_root
from ._errors import ClosedError, KernelError, PlanError, hide_own_frames
from ._host import Host
from ._inside import Inside
from ._interfaces import Surroundings
from ._names import NO_NAMESERVER, hosts_file
from ._namespace import Namespace
from ._plan import NOTHING, Plan
from ._reach import answering, hidden
from ._releasing import no_second_error, releasing
from ._steps import steps
from ._surroundings import LabSurroundings
from ._turns import Turns, in_turn

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._background import BadEnd

__all__ = ["Life"]

__tracebackhide__ = hide_own_frames


class Life:
    """Of a lab: what it is to be, what has been made of it, and its end."""

    def __init__(self, *, named: bool = False, user: str | None = None) -> None:
        self._named = named
        self._as_root = is_root(user)
        self._plan = NOTHING
        self._made = NOTHING
        #: Interfaces (host, name) that are switched off: they get their routes when they are switched on.
        self._asleep: set[tuple[str, str]] = set()
        self._building = Turns(self._cut_short)
        self._hosts: dict[str, Host] = {}
        self._bridges: dict[str, Bridge] = {}
        self._closed = False

    @in_turn
    def remove(self, *places: Inside) -> None:
        """End hosts and bridges, with what runs in them and the interfaces that lead to them.

        Routes that led over them are worked out anew. A router whose outside ends translates no more (``nat`` is
        None), and ports that were forwarded to a host that ends are not. Those that are closed already are passed over.

        Raises:
            PlanError: One belongs to another lab.
            KernelError: The kernel refused a request. They have ended all the same, and as much of the rest is done as
                the kernel does.
        """
        open_places = [place for place in places if not (isinstance(place, Inside) and place.closed)]
        self.check_own(*open_places)
        if not open_places:
            return
        names = {place.name for place in open_places}
        self._asleep = {each for each in self._asleep if each[0] not in names}
        plan = remove(self._plan, names)
        fewer = {name for name in plan.nodes if len(plan.of_node[name]) < len(self._plan.of_node[name])}
        self._show(plan, names | fewer)
        try:
            if self._made is not NOTHING:
                self._build_without()
        finally:
            self._close(open_places)

    def _build_without(self) -> None:
        """Make a plan in which something is no longer. It ends in any case, so there is no way back, only one on."""
        before = self._made
        try:
            self.build()
        except BaseException:
            places = {**self._hosts, **self._bridges}
            there = {name: place.namespace for name, place in places.items() if not place.closed}
            take_back(steps(before, self._plan, self._asleep, self._tables()), there)
            self._made = self._plan
            raise

    def _helper(self) -> Broker:
        return broker(as_root=self._as_root)

    # Making and ending

    def _change(self, plan: Plan, *touched: str, asleep: Collection[tuple[str, str]] = ()) -> None:
        """Take over a plan in which what is named is new; make it real at once if the lab is real already."""
        if self._closed:
            raise ClosedError("this lab is closed")
        self._helper()  # where namespaces cannot be had, say so now
        if any(name in plan.nodes and plan.nodes[name].nat for name in touched):
            from ._nftables import find_nft

            find_nft()  # so with the program for it
        before = self._plan
        if plan.features != before.features:
            _check_features(plan.features - before.features)
        self._show(plan, touched)
        if self._made is not NOTHING or self._named:  # names are for others to see
            try:
                self.build(asleep)
            except BaseException:
                self._show(before, touched)
                raise

    def _show(self, plan: Plan, touched: Iterable[str]) -> None:
        """Have the hosts and bridges that are named be those of a plan."""
        self._plan = plan
        for name in touched:
            if name in plan.nodes:
                host = self._hosts.get(name) or self._new_host(name, forwards=plan.nodes[name].forwards)
                host._given = tuple(address for end in plan.of_node[name] for address in end.addresses)
            elif name in plan.segments:
                self._bridges.setdefault(name, Bridge(name, owner=self))
            else:
                self._hosts.pop(name, None)
                self._bridges.pop(name, None)

    def _new_host(self, name: str, *, forwards: bool) -> Host:
        if forwards:
            from ._router import Router

            self._hosts[name] = Router(
                name, self, self._hosts, lambda: self._plan, lambda plan: self._change(plan, name)
            )
        else:
            self._hosts[name] = Host(name, owner=self, network=self._hosts)
        return self._hosts[name]

    def build(self, _asleep: Collection[tuple[str, str]] = ()) -> None:
        """Make what is planned; happens by itself when the lab is first used.

        Returns when the first packet gets through everywhere. Of 200 hosts and more, a terminal shows how far it is.

        Raises:
            NamespacesUnavailable: The machine does not allow it.
            KernelError: The kernel refused a request; nothing of what was new in the plan is left.
        """
        with self._building:
            if self._closed:
                raise ClosedError("this lab is closed")
            if self._made is not self._plan:
                self._build(_asleep)

    def _build(self, asleep: Collection[tuple[str, str]] = ()) -> None:
        plan = self._plan
        asleep = self._still_asleep().union(asleep)
        tables = self._tables()
        todo = steps(self._made, plan, asleep, tables)
        places: dict[str, Inside] = {**self._hosts, **self._bridges}
        with progress(todo) as tell, contextlib.ExitStack() as undo:
            made = new_namespaces(todo, undo, named=self._named, as_root=self._as_root, tell=tell)
            there = {name: place._there() for name, place in places.items() if name not in made}
            if self._made is not NOTHING:
                undo.callback(take_back, steps(plan, self._made, asleep, tables), there)
            make(todo, {**there, **made}, tell)
            undo.pop_all()
        for name, namespace in made.items():
            places[name]._namespace = namespace
        self._made = plan
        self.show_names()

    def _tables(self) -> dict[tuple[str, int], int]:
        return {(name, index): table for name, host in self._hosts.items() for index, table in host._tables.items()}

    def _still_asleep(self) -> set[tuple[str, str]]:
        """Programs may have switched on what we have switched off."""
        for node, name in [*self._asleep]:
            state = self._hosts[node].interfaces.get(name)
            if state is None or state.up:
                self._asleep.discard((node, name))
        return self._asleep

    def reset(self) -> None:
        """Have it be as new, where several tests share it: what its hosts have learned from packets is forgotten.

        Neighbours (ARP and NDP), what bridges have learned, tracked connections and mappings of NAT, path MTUs of IPv4
        (Linux keeps those of IPv6); interfaces of the lab that were switched off are on, those that ``add_…`` gave stay
        as they are; packets are counted from now on. What was asked for stays (addresses, routes, further hosts), and
        so does what runs.

        Raises:
            KernelError: The kernel refused.
        """
        if self._made is not NOTHING:
            from ._resetting import reset

            with self._building:
                reset(self._hosts.values(), self._bridges.values())

    # What hosts ask of their lab

    def making(self) -> contextlib.AbstractContextManager[object]:
        """As long as it lasts, no other thread adds, changes or removes anything."""
        return self._building

    def _cut_short(self) -> None:
        """In a fork: what another thread of the parent was about to make is the parent's to make.

        Here it counts as done. A new host that was not yet there stays so, and says it.
        """
        self._made = self._plan

    def names(self, place: Inside) -> Names:
        """What programs in a host or bridge find in /etc/hosts and /etc/resolv.conf."""
        more = {name: host._added_plain() for name, host in self._hosts.items() if host._added}
        resolver = place._resolver if isinstance(place, Host) else NO_NAMESERVER
        return Names(hosts_file(self._plan, place.name, more), resolver)

    def plan(self) -> Plan:
        """What the lab is to be."""
        return self._plan

    def check_own(self, *places: object) -> None:
        """Refuse what is no host or bridge of this lab.

        Raises:
            PlanError: One is not.
            ClosedError: One was, and has been removed.
        """
        for place in places:
            own: Mapping[str, Inside] = self._bridges if isinstance(place, Bridge) else self._hosts
            if not isinstance(place, Inside):
                such = "such as lab.bridge('lan') gives"
                if isinstance(place, str) and (place in self._bridges or place in self._hosts):
                    such = f"not its name: lab.{'bridges' if place in self._bridges else 'hosts'}[{place!r}]"
                raise PlanError(f"{place!r}: expected a bridge or host of this lab, {such}")
            if place.closed:
                raise ClosedError(place.why_closed)
            if own.get(place.name) is not place:
                raise PlanError(f"{place!r} belongs to another lab")

    def alter(self, node: str, change: Callable[[Plan], Plan]) -> None:
        """Change a host while the lab runs.

        Raises:
            PlanError: It cannot be.
            KernelError: The kernel refused; the lab is as before.
        """
        with self._building:
            plan = change(self._plan)
            if self._made is NOTHING:
                self._change(plan, node)
            else:
                asleep = {(node, name) for name, state in self._hosts[node].interfaces.items() if not state.up}
                self._change(plan, node, asleep=asleep)

    def show_names(self) -> None:
        """Have programs that run find what has changed."""
        with self._building:
            for place in (*self._hosts.values(), *self._bridges.values()):
                if place._belongings is not None:
                    place._belongings.show(self.names(place))

    def answering(self, place: Inside, address: str) -> str | None:
        """The host that a packet of a host gets to, where several have the address."""
        return answering(self._plan, place.name, address)

    def hidden(self, place: Inside, target: Inside) -> frozenset[str]:
        """The addresses of another host on the far side of a router that translates."""
        return hidden(self._plan, place.name, target.name)

    def surroundings(self, place: Inside, interface: str) -> Surroundings | None:
        """What is known of an interface of a host or bridge; None if the lab has not made it."""
        if isinstance(place, Bridge):
            ends = (end for end in self._made.on_segment.get(place.name, ()) if end.port == interface)
        else:
            ends = (end for end in self._made.of_node.get(place.name, ()) if end.name == interface)
        end = next(ends, None)
        return None if end is None else LabSurroundings(self, end, is_port=isinstance(place, Bridge))

    def close(self) -> None:
        """End everything; may be called twice.

        Raises:
            ChildDied: Something in the background had ended with an error of which nobody has been told.
            ExceptionGroup: Several steps failed; everything else is released all the same.
        """
        self._closed = True  # before it is our turn, so that whoever waits for theirs adds no more
        with self._building:
            self._close([*self._hosts.values(), *self._bridges.values()])

    def _close(self, places: Sequence[Inside]) -> None:
        open_places = [place for place in places if not place.closed]
        if not open_places:
            return
        with releasing("the lab") as release:
            bad_ends: list[BadEnd] = []
            for place in open_places:
                release(lambda place=place: bad_ends.extend(place._bad_ends()))
            # Processes first: they would keep their namespaces alive.
            for held, namespaces in _by_helper([place._namespace for place in open_places if place._namespace]):
                kept = [each for namespace in namespaces for each in namespace.for_others()]
                release(held.end_processes, "net", [namespace.id for namespace in namespaces], kept)
            for place in open_places:
                release(place._release)
            if bad_ends:
                from ._background import ended_badly

                raise ended_badly(bad_ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with no_second_error(kind):
            self.close()


def _check_features(features: Iterable[str]) -> None:
    from ._features import lacking

    reasons = lacking(sorted(features))
    if reasons:
        raise KernelError(errno.EOPNOTSUPP, "; ".join(reasons))


def _by_helper(namespaces: list[Namespace]) -> list[tuple[Broker, list[Namespace]]]:
    found: dict[int, tuple[Broker, list[Namespace]]] = {}
    for namespace in namespaces:
        found.setdefault(id(namespace.broker), (namespace.broker, []))[1].append(namespace)
    return list(found.values())
