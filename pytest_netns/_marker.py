"""``@pytest.mark.netns``: a test's markers, from its module to its parameters, into one checked value."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ._checks import is_root
from ._errors import PlanError

if TYPE_CHECKING:
    from ._host import Host

__all__ = ["MarkerSettings", "find_host", "marker_of", "read_marker", "wrong_plans_fail"]

#: Keywords of the marker that are about the test's body and not about the pair.
_OF_THE_BODY = frozenset(("inside", "timeout"))
#: Keywords of the marker that are about the test, wherever its body runs.
_OF_THE_TEST = frozenset(("requires", "isolate", "user"))
#: Seconds for a test body that runs inside, when neither the marker nor another plugin sets a limit.
_BODY_LIMIT = 300.0


class MarkerSettings(NamedTuple):
    """Of one test, from ``@pytest.mark.netns``.

    Attributes:
        shape: Keywords that shape ``netns_pair``.
        inside: Name of the host that the body runs in; None for a private namespace.
        body_inside: Whether the body runs inside at all.
        timeout: Seconds that the body may take; None for no limit.
        requires: Kernel features that the test needs, by the names in :data:`._features.FEATURES`.
        isolate: Whether the whole test runs in a private namespace; None for what the session says.
        user: Who runs in the hosts: ``root``, or None for the test's own user.
    """

    shape: Mapping[str, Any]
    inside: str | None
    body_inside: bool
    timeout: float | None
    requires: tuple[str, ...] = ()
    isolate: bool | None = None
    user: str | None = None


_marker_key = pytest.StashKey[MarkerSettings]()


def marker_of(item: pytest.Item) -> MarkerSettings | None:
    """What the markers say; None if there are none. Refuses, as a failure, what cannot be."""
    if _marker_key not in item.stash:
        marks = list(_marks_of(item))
        if not marks:
            return None
        with wrong_plans_fail(item):
            marker = read_marker([(mark.args, mark.kwargs) for mark in marks])
            _check_shape(marker.shape)
            _check_that_it_shapes(item)
            if marker.requires:
                from ._features import check_names

                check_names(marker.requires)
        item.stash[_marker_key] = marker
    return item.stash[_marker_key]


def _marks_of(item: pytest.Item) -> Iterator[pytest.Mark]:
    """The test's markers, farthest first: module, class (bases before derived), function, parameter set."""
    if item.get_closest_marker("netns") is None:
        return
    for node in item.listchain():
        marks = [mark for mark in node.own_markers if mark.name == "netns"]
        of_parameters = getattr(getattr(node, "callspec", None), "marks", ())
        closest = [mark for mark in marks if any(mark is other for other in of_parameters)]
        others = [mark for mark in marks if not any(mark is other for other in of_parameters)]
        # Decorators are listed from the function outwards, but classes from the base downwards.
        yield from others if isinstance(node, pytest.Class) else reversed(others)
        yield from closest


def read_marker(marks: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> MarkerSettings:
    """Merge a test's markers, given farthest first, so that the closest wins.

    A marker that only shapes the pair or names what the test requires says nothing of the body; any other puts it
    inside, unless the whole test is isolated. Requirements add up. What shapes the pair is not checked here but where
    the pair is planned.

    Raises:
        PlanError: Names the value and what was expected.
    """
    shape: dict[str, Any] = {}
    requires: list[str] = []
    body_inside = False
    for args, keywords in marks:
        if args:
            raise PlanError(f"@pytest.mark.netns takes keywords only, not {args[0]!r}")
        body_inside |= not keywords or not _OF_THE_BODY.isdisjoint(keywords)
        shape.update(keywords)
        requires += _names(shape.pop("requires", ()))
    inside = shape.pop("inside", None)
    if inside is not None and not isinstance(inside, str):
        raise PlanError(f"inside {inside!r}: expected the name of a host, such as 'beijing'")
    isolate = shape.pop("isolate", None)
    if isolate not in (None, True, False):
        raise PlanError(f"isolate {isolate!r}: expected True or False")
    if isolate and inside is not None:
        raise PlanError(f"inside={inside!r} and isolate=True: a test is in one place only; leave one of them out")
    # A test that is there with all its fixtures may take the time that it took before.
    timeout = shape.pop("timeout", None if isolate else _BODY_LIMIT)
    if timeout is not None and not _is_seconds(timeout):
        raise PlanError(f"timeout {timeout!r}: expected seconds above 0, or None for no limit")
    user = shape.pop("user", None)
    is_root(user)
    body_inside &= not isolate
    return MarkerSettings(shape, inside, body_inside, timeout, tuple(dict.fromkeys(requires)), isolate, user)


def _names(value: object) -> Sequence[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise PlanError(f"requires {value!r}: expected a list of kernel features, such as ['netem', 'wireguard']")
    return value


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _check_shape(shape: Mapping[str, Any]) -> None:
    if not shape:
        return
    import difflib

    from ._pair import PairShape

    known = ["inside", "timeout", "requires", "isolate", "user", *PairShape._fields]
    for keyword in shape:
        if keyword not in known:
            close = difflib.get_close_matches(keyword, known, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise PlanError(f"unknown keyword {keyword!r}{hint}; @pytest.mark.netns takes {', '.join(known)}")
    PairShape.from_keywords(shape)


def _may_ask_later(item: pytest.Item) -> bool:
    """Whether it, or a fixture of somebody else's, takes ``request``, by which it may get its pair."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:  # no test function
        return True
    fixtures = [each for known in info.name2fixturedefs.values() for each in known]
    foreign = [each for each in fixtures if not each.func.__module__.startswith(("_pytest.", "pytest_netns."))]
    return "request" in info.argnames or any("request" in each.argnames for each in foreign)


def _check_that_it_shapes(item: pytest.Item) -> None:
    """Refuse keywords of the pair on a test without one; a class's or module's are for those tests that have one."""
    if "netns_pair" in getattr(item, "fixturenames", ()) or _may_ask_later(item):
        return
    own = [mark.kwargs for mark in item.own_markers if mark.name == "netns"]
    of_the_pair = {keyword for keywords in own for keyword in keywords} - _OF_THE_BODY - _OF_THE_TEST
    if of_the_pair:
        raise PlanError(
            f"@pytest.mark.netns({', '.join(sorted(of_the_pair))}=…) shapes netns_pair, which the test does not ask for"
        )


@contextlib.contextmanager
def wrong_plans_fail(node: pytest.Item) -> Iterator[None]:
    """A wrong plan is told in one sentence that names the test; frames of ours would only hide it."""
    try:
        yield
    except PlanError as error:
        raise pytest.fail.Exception(f"{node.nodeid}: {error}", pytrace=False) from None


def find_host(item: pytest.Item, name: str) -> Host:
    """The host of that name among what the test's fixtures have made."""
    found: dict[str, Host] = {}
    for fixture, value in getattr(item, "funcargs", {}).items():
        for host in _hosts_in(value):
            if found.setdefault(host.name, host) is not host and host.name == name:
                pytest.fail(
                    f"{item.nodeid}: inside={name!r}: the test's fixtures have two hosts of this name, "
                    f"one of them in {fixture!r}; expected one, so give them names of their own",
                    pytrace=False,
                )
    if name not in found:
        has = (
            f"its hosts are {', '.join(sorted(found))}"
            if found
            else "it requests no fixture with hosts; add netns_pair"
        )
        pytest.fail(f"{item.nodeid}: inside={name!r}: the test has no host of this name; {has}", pytrace=False)
    return found[name]


def _hosts_in(value: Any) -> Iterator[Host]:
    from ._host import Host
    from ._lab import Lab, Pair

    if isinstance(value, Host):
        yield value
    elif isinstance(value, Lab):
        yield from value.hosts.values()
    elif isinstance(value, (Pair, tuple, list)):
        yield from (host for host in value if isinstance(host, Host))
