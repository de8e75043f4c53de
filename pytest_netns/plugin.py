"""The only ``pytest``: options, marker, fixtures, and a test body that runs in a host.

Nothing here imports pyroute2 or scapy, or starts anything, until a test asks for a network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from . import _settings
from ._errors import NamespacesUnavailable, NetnsError, PlanError

if TYPE_CHECKING:
    from ._host import Host
    from ._lab import Lab, Pair

_settings_key = pytest.StashKey[_settings.Settings]()
_marker_key = pytest.StashKey[_settings.MarkerSettings]()
_private_key = pytest.StashKey["Host"]()

_MARKER = (
    "netns(inside=None, timeout=300, hosts=…, bridge=…, interfaces=…, subnet=…, subnet6=…, mtu=…): "
    "run the test's body inside a network namespace of its own, or in the host named by `inside`; "
    "the other keywords shape netns_pair, and alone leave the body where it is."
)


class PairFactory(Protocol):
    """Makes pairs that last as long as the session, or until closed."""

    def __call__(self, **keywords: Any) -> Pair: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("netns", "network namespaces")
    group.addoption(
        "--netns-missing",
        metavar="skip|fail",
        help="what becomes of a test where network namespaces cannot be had (default: skip; fail where CI is set)",
    )
    group.addoption(
        "--netns-named",
        action="store_true",
        help="give every namespace a name that `ip netns` shows, while it lives (needs root; not with xdist)",
    )
    parser.addini("netns_missing", "skip or fail a test where network namespaces cannot be had", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    try:
        config.stash[_settings_key] = _settings.read_settings(
            config.getoption("--netns-missing"),
            str(config.getini("netns_missing")),
            bool(config.getoption("--netns-named")),
            bool(os.environ.get("CI")),
        )
    except PlanError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> str:
    settings = config.stash[_settings_key]
    named = ", named namespaces" if settings.named else ""
    return f"netns: where namespaces can't be had, tests {settings.missing} ({settings.origin}){named}"


def pytest_unconfigure() -> None:
    import sys

    if "pytest_netns._broker" in sys.modules:
        from ._broker import shut_down

        shut_down()


# Fixtures


@pytest.fixture(scope="session")
def _netns_session_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab that networks of wider scopes than a test belong to."""
    with _new_lab(request.config) as lab:
        yield lab


@pytest.fixture
def netns(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host by itself: an empty network namespace, its loopback interface up."""
    with _new_lab(request.config) as lab:
        host = _explained(request.node, request.config, lab.host)
        request.node.stash[_private_key] = host
        yield host


@pytest.fixture
def netns_pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two hosts joined by a bridge, their first packet gets through: ``beijing, shanghai = netns_pair``.

    Keywords by ``@pytest.mark.netns(…)``, or by indirect parametrize with a dict, which wins: ``hosts``, ``bridge``
    (False for none), ``interfaces``, ``subnet``, ``subnet6``, ``mtu``. Default: beijing 10.0.0.1 and shanghai 10.0.0.2
    with ``eth0`` each, ``br0``, 10.0.0.0/24 and fd00:10::/64, mtu 1500.
    """
    marker = _marker_of(request.node)
    keywords = dict(marker.shape) if marker is not None else {}
    parameter = getattr(request, "param", None)
    if parameter is not None:
        if not isinstance(parameter, dict):
            raise PlanError(f"{request.node.nodeid}: netns_pair takes a dict of keywords, not {parameter!r}")
        keywords.update(parameter)
    with _new_lab(request.config) as lab:
        yield _explained(request.node, request.config, lambda: lab.pair(**keywords))


@pytest.fixture(scope="session")
def netns_pair_factory(request: pytest.FixtureRequest, _netns_session_lab: Lab) -> PairFactory:
    """Makes pairs for wider scopes: ``netns_pair_factory(subnet="192.168.7.0/24")``.

    Takes the keywords of ``netns_pair``. A pair lasts until the session ends, or its ``close()``, or the end of a
    ``with`` block around it.
    """

    def make(**keywords: Any) -> Pair:
        return _explained(request.node, request.config, lambda: _netns_session_lab.pair(**keywords))

    return make


def _new_lab(config: pytest.Config) -> Lab:
    from ._lab import Lab

    return Lab(named=config.stash[_settings_key].named)


def _explained(node: Any, config: pytest.Config, make: Callable[[], Any]) -> Any:
    """Make something; where that fails, skip or fail with words that name the test."""
    __tracebackhide__ = True
    try:
        return make()
    except NamespacesUnavailable as error:
        if config.stash[_settings_key].missing == "skip":
            pytest.skip(f"no network namespaces here: {error}")
        raise
    except PlanError as error:
        raise PlanError(f"{node.nodeid or 'session'}: {error}") from None


# The marker


def _marker_of(item: pytest.Item) -> _settings.MarkerSettings | None:
    if _marker_key not in item.stash:
        marks = list(item.iter_markers("netns"))
        if not marks:
            return None
        keywords: dict[str, Any] = {}
        for mark in reversed(marks):  # the closest one, that of the function, last
            keywords.update(mark.kwargs)
        try:
            item.stash[_marker_key] = _settings.read_marker(marks[0].args, keywords)
        except PlanError as error:
            raise PlanError(f"{item.nodeid}: {error}") from None
    return item.stash[_marker_key]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = _marker_of(item)
    if marker is None:
        return
    from ._plan import PairShape

    try:
        PairShape.from_keywords(marker.shape)
    except PlanError as error:
        raise PlanError(f"{item.nodeid}: {error}") from None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    marker = _marker_of(item)
    if marker is None or not marker.body_inside:
        return (yield)
    from ._body import run_inside

    lab = None
    host = _find_host(item, marker.inside)
    if host is None:
        lab = _new_lab(item.config)
        host = _explained(item, item.config, lab.host)
    own = item.runtest
    # Only this is replaced, so fixtures, capture, time-outs and every other plugin stay in the test process.
    item.runtest = lambda: run_inside(item, host, own, marker.timeout)  # type: ignore[method-assign]
    try:
        return (yield)
    finally:
        del item.runtest
        if lab is not None:
            lab.close()


def _find_host(item: pytest.Item, name: str | None) -> Host | None:
    from ._host import Host
    from ._lab import Pair

    if name is None:
        return item.stash.get(_private_key, None)
    found: dict[str, Host] = {}
    for value in getattr(item, "funcargs", {}).values():
        for host in value if isinstance(value, Pair) else [value]:
            if isinstance(host, Host):
                found[host.name] = host
            if not isinstance(value, (Pair, Host)):
                break
    if name not in found:
        known = f"it has {', '.join(sorted(found))}" if found else "it requests no fixture with hosts, such as netns_pair"
        raise NetnsError(f"{item.nodeid}: inside={name!r}: the test has no such host; {known}")
    return found[name]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[pytest.TestReport]:
    report: pytest.TestReport = yield
    if call.when == "call" and _marker_of_quietly(item):
        from ._body import complete_report

        return complete_report(item, report)
    return report


def _marker_of_quietly(item: pytest.Item) -> bool:
    return _marker_key in item.stash
