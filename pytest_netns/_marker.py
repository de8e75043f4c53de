"""``@pytest.mark.netns``: a test's markers, from its module to its parameters, into one checked value."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from . import _settings
from ._errors import PlanError

__all__ = ["marker_of", "wrong_plans_fail"]

_marker_key = pytest.StashKey[_settings.MarkerSettings]()


def marker_of(item: pytest.Item) -> _settings.MarkerSettings | None:
    """What the markers say; None if there are none. Refuses, as a failure, what cannot be."""
    if _marker_key not in item.stash:
        marks = list(_marks_of(item))
        if not marks:
            return None
        with wrong_plans_fail(item):
            marker = _settings.read_marker([(mark.args, mark.kwargs) for mark in marks])
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


def _check_shape(shape: Mapping[str, Any]) -> None:
    if not shape:
        return
    import difflib

    from ._pair import PairShape

    known = ["inside", "timeout", "requires", "isolate", "user", *PairShape.__dataclass_fields__]
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
    of_the_pair = {keyword for keywords in own for keyword in keywords} - _settings.OF_THE_BODY - _settings.OF_THE_TEST
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
