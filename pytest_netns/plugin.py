"""The only ``pytest``: options, marker, fixtures, and a test body that runs in a host.

Nothing here imports pyroute2 or scapy, or starts anything, until a test asks for a network.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from . import _settings
from ._errors import FeatureLacking, NamespacesUnavailable, NetnsError, PlanError

if TYPE_CHECKING:
    from ._factories import LabFactory, PairFactory
    from ._host import Host
    from ._lab import Lab, Pair
    from ._marker import MarkerSettings

_settings_key = pytest.StashKey[_settings.Settings]()
_private_key = pytest.StashKey["Host"]()
_inside_key = pytest.StashKey["Host"]()
_guest_key = pytest.StashKey[bool]()
_refusal_key = pytest.StashKey[NetnsError]()
#: Set while an isolated test runs, for its child to see.
_isolated_key = pytest.StashKey[bool]()

_MARKER = (
    "netns(inside=None, timeout=300, requires=[], isolate=None, user=None, hosts=…, bridge=…, interfaces=…, "
    "subnet=…, subnet6=…, mtu=…): "
    "run the test's body inside a network namespace of its own, or in the host named by `inside`; "
    "`requires` names kernel features without which the test is skipped; "
    "`isolate` says whether the whole test, fixtures included, runs in a private namespace, as --netns-isolate does; "
    "`user='root'` makes the user uid 0 in the hosts of netns, netns_pair, netns_lab and the body; "
    "the other keywords shape netns_pair. `requires`, `isolate`, `user` and those alone leave the body where it is."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("netns", "network namespaces")
    group.addoption(
        "--netns-missing",
        metavar="skip|fail",
        help="what becomes of tests where namespaces can't be had (default: skip; fail where CI is set)",
    )
    group.addoption(
        "--netns-named",
        action="store_true",
        help="give the namespaces of the fixtures and bodies names that `ip netns` shows, while they live (needs root)",
    )
    group.addoption(
        "--netns-isolate",
        action="store_true",
        help="run each test with all its fixtures in a private namespace: lo works, no other network can be reached",
    )
    group.addoption(
        "--netns-artifacts",
        metavar="DIR",
        help="write what programs in the background of hosts have written to files there, in a folder for each test",
    )
    parser.addini("netns_isolate", "as --netns-isolate", type="bool", default=False)
    parser.addini("netns_artifacts", "folder for what programs in the background have written (default: none)")
    parser.addini("netns_missing", "skip or fail a test where network namespaces cannot be had", default="")
    parser.addini(
        "netns_lacking",
        "skip or fail a test where kernel features that it requires are lacking (default: as netns_missing)",
        default="",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    broker = sys.modules.get("pytest_netns._broker")
    config.stash[_guest_key] = bool(getattr(broker, "_current", None))
    try:
        config.stash[_settings_key] = _settings.read_settings(
            config.getoption("--netns-missing"),
            str(config.getini("netns_missing")),
            bool(config.getoption("--netns-named")),
            bool(os.environ.get("CI")),
            str(config.getini("netns_lacking")),
            isolate=bool(config.getoption("--netns-isolate") or config.getini("netns_isolate")),
            artifacts=str(config.getoption("--netns-artifacts") or config.getini("netns_artifacts") or ""),
        )
    except PlanError as error:
        raise pytest.UsageError(str(error)) from None
    config.add_cleanup(_settings.note_session(str(config.getoption("capture")), functools.partial(_terminal, config)))


def _terminal(config: pytest.Config) -> contextlib.AbstractContextManager[TextIO | None]:
    from ._report import terminal

    return terminal(config)


def pytest_report_header(config: pytest.Config) -> str:
    settings = config.stash[_settings_key]
    lacking = "" if settings.lacking == settings.missing else f", where features are lacking, {settings.lacking}"
    named = ", named namespaces" if settings.named else ""
    isolate = ", tests isolated" if settings.isolate else ""
    return (
        f"netns: where namespaces can't be had, tests {settings.missing} ({settings.origin}){lacking}{named}{isolate}"
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    # A session inside a session (pytester's, in this process) leaves the helper to the outer one.
    if not config.stash.get(_guest_key, True) and "pytest_netns._broker" in sys.modules:
        from ._broker import shut_down

        shut_down()


@pytest.hookimpl(tryfirst=True)
def pytest_enter_pdb() -> None:
    if "pytest_netns._child" in sys.modules:  # we may be one
        from ._child import enters_debugger

        enters_debugger()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop() -> Iterator[None]:
    try:
        return (yield)
    finally:
        if "pytest_netns._coverage" in sys.modules:
            from ._coverage import join

            join()


# Fixtures


@pytest.fixture(scope="session")
def netns_lab_factory(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """Makes labs for wider scopes: ``netns_lab_factory()``, ``netns_lab_factory(user="root")``.

    A lab lasts until the session ends, or its ``close()``, or the end of a ``with`` block around it.
    """
    with contextlib.ExitStack() as labs:
        yield lambda *, user=None: labs.enter_context(_new_lab(request.config, user))


@pytest.fixture
def netns_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty lab: ``lan = netns_lab.bridge("lan"); laptop = netns_lab.host("laptop", lan)``."""
    with _new_lab(request.config, _user(request.node)) as lab:
        yield lab


@pytest.fixture
def netns(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host by itself: an empty network namespace, its loopback interface up."""
    with _new_lab(request.config, _user(request.node)) as lab:
        host = request.node.stash[_private_key] = lab.host()
        lab.build()
        yield host


@pytest.fixture
def netns_pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two hosts joined by a bridge, their first packet gets through: ``beijing, shanghai = netns_pair``.

    Keywords by ``@pytest.mark.netns(…)``, or by indirect parametrize with a dict, which wins: ``hosts``,
    ``bridge`` (False for none), ``interfaces``, ``subnet``, ``subnet6``, ``mtu``. Default: beijing 10.0.0.1
    and shanghai 10.0.0.2 with ``eth0`` each, ``br0``, 10.0.0.0/24 and fd00:10::/64, mtu 1500.
    """
    marker = _marker_of(request.node)
    keywords = dict(marker.shape) if marker is not None else {}
    parameter = getattr(request, "param", {})
    with _new_lab(request.config, _user(request.node)) as lab:
        from ._marker import wrong_plans_fail

        with wrong_plans_fail(request.node):
            if not isinstance(parameter, Mapping):
                raise PlanError(f"netns_pair takes a dict of keywords as its parameter, not {parameter!r}")
            pair = lab.pair(**{**keywords, **parameter})
        yield pair


@pytest.fixture(scope="session")
def netns_pair_factory(netns_lab_factory: LabFactory) -> PairFactory:
    """Makes pairs for wider scopes: ``netns_pair_factory(subnet="192.168.7.0/24")``.

    Takes the keywords of ``netns_pair``, and ``user``. A pair lasts until the session ends, or its ``close()``, or the
    end of a ``with`` block around it.
    """

    def make(*, user: str | None = None, **keywords: Any) -> Pair:
        __tracebackhide__ = True
        try:
            return netns_lab_factory(user=user).pair(**keywords)
        except PlanError as error:
            # An exception and no failure: the caller may be a test of just that.
            test = os.environ.get("PYTEST_CURRENT_TEST", "session").rpartition(" (")[0]
            raise PlanError(f"{test}: {error}") from None

    return make


def _marker_of(item: pytest.Item) -> MarkerSettings | None:
    """What the test's markers say; None if there are none, which costs no import."""
    if item.get_closest_marker("netns") is None:
        return None
    from ._marker import marker_of

    return marker_of(item)


def _user(item: pytest.Item) -> str | None:
    """Who is to run in the hosts of the test's own fixtures and body."""
    marker = _marker_of(item)
    return None if marker is None else marker.user


def _new_lab(config: pytest.Config, user: str | None) -> Lab:
    from ._probe import unsupported_platform

    reason = unsupported_platform()
    if reason is not None:
        raise NamespacesUnavailable(reason)  # and not the ImportError that the next line would be
    from ._broker import start
    from ._checks import is_root

    as_root = is_root(user)
    with contextlib.suppress(NetnsError):  # whoever uses the lab is told
        start(as_root=as_root)  # it gets ready while we import
    from ._lab import Lab

    return Lab(named=config.stash[_settings_key].named, user=user)


# The marker


def _limit_of_isolated(item: pytest.Item) -> float | None:
    """Seconds for a test that is to be isolated; 0 for one that is not."""
    config = item.config
    if _isolated_key in config.stash or config.getoption("setuponly", False):
        return 0
    if item.get_closest_marker("netns") is None:
        return None if config.stash[_settings_key].isolate else 0
    try:
        marker = _marker_of(item)
    except pytest.fail.Exception:
        return 0  # the setup says so
    assert marker is not None
    if marker.isolate is None:
        # Where the marker has put the body is where it is.
        return None if config.stash[_settings_key].isolate and not marker.body_inside else 0
    return marker.timeout if marker.isolate else 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    __tracebackhide__ = True
    # An isolated test sets up all it uses. What is still set up here it would use, and tear down, once more.
    try:
        return (yield)
    finally:
        if nextitem is not None and _limit_of_isolated(nextitem) != 0:
            item.session._setupstate.teardown_exact(None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    limit = _limit_of_isolated(item)
    if limit == 0:
        return None
    # pytest-timeout's: the child starts it anew. Here it would go off in the midst of our work, and end the session.
    cancel_timer = getattr(item.config.hook, "pytest_timeout_cancel_timer", None)
    if cancel_timer is not None:
        cancel_timer(item=item)
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(_new_lab(item.config, _user(item))).host()
            host.namespace.fileno()
        except NetnsError as error:
            item.stash[_refusal_key] = error
            return None  # the setup tells it
        from ._isolate import run_isolated

        item.config.stash[_isolated_key] = True  # for the child
        stack.callback(item.config.stash.__delitem__, _isolated_key)
        run_isolated(item, host, limit)
    return True


# No wrapper is put around setup and call: its frame would be in the tracebacks of everybody's tests. A second
# implementation of a hook in one module needs a name of its own, which pytest wants to begin with "pytest_".


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.config.stash[_settings_key].artifacts:
        from ._report import keep_what_ends

        keep_what_ends(item, item.config.stash[_settings_key].artifacts)
    if _refusal_key in item.stash:
        raise item.stash[_refusal_key]
    marker = _marker_of(item)
    # With --setup-only and --setup-plan nothing is tried.
    if marker is not None and marker.requires and not item.config.getoption("setuponly", False):
        _require(item, marker.requires)


def _require(item: pytest.Item, features: tuple[str, ...]) -> None:
    from ._probe import unsupported_platform

    reason = unsupported_platform()
    if reason is not None:
        raise NamespacesUnavailable(reason)
    from ._features import lacking

    reasons = lacking(features)
    if reasons:
        words = "; ".join(reasons)
        if item.config.stash[_settings_key].lacking == "skip":
            raise pytest.skip.Exception(words, _use_item_location=True)
        pytest.fail(words, pytrace=False)


@pytest.hookimpl(trylast=True, specname="pytest_runtest_setup")
def pytest_netns_put_body_inside(item: pytest.Item) -> None:
    marker = _marker_of(item)
    # With --setup-only and --setup-plan no body runs, and with the latter there are no hosts.
    if marker is None or not marker.body_inside or item.config.getoption("setuponly", False):
        return
    host = item.stash[_inside_key] = _host_for_body(item, marker.inside)
    host.namespace.fileno()  # made by now: what cannot be had is an error of the setup
    from ._body import run_inside

    own = item.runtest
    # Only this is replaced: fixtures, capture, time-outs and all other plugins stay in the test process.
    item.runtest = functools.partial(run_inside, item, host, own, marker.timeout)  # type: ignore[method-assign]
    item.addfinalizer(functools.partial(delattr, item, "runtest"))


def _host_for_body(item: pytest.Item, name: str | None) -> Host:
    if name is not None:
        from ._marker import find_host

        return find_host(item, name)
    private = item.stash.get(_private_key, None)
    if private is None or private.closed:
        lab = _new_lab(item.config, _user(item))
        item.addfinalizer(lab.close)
        private = lab.host()
    return private


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport | None:
    report = None
    if call.when == "call" and _inside_key in item.stash:
        from ._body import report_from_child

        report = report_from_child(item, call)
    if "pytest_netns._background" in sys.modules:
        from ._report import fail_for_bad_ends, hear

        ended_badly = fail_for_bad_ends(item, call)
        if hear(item, call) or ended_badly:
            return None
    if call.excinfo is not None and isinstance(call.excinfo.value, (NamespacesUnavailable, FeatureLacking)):
        refusal, settings = call.excinfo.value, item.config.stash[_settings_key]
        lacking = isinstance(refusal, FeatureLacking)

        def skip_or_fail() -> None:
            words = str(refusal) if lacking else f"no network namespaces here: {refusal}"
            if (settings.lacking if lacking else settings.missing) == "skip":
                pytest.skip(words)
            pytest.fail(words, pytrace=False)

        call.excinfo = pytest.CallInfo.from_call(skip_or_fail, call.when).excinfo
        return None
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_runtest_makereport")
def pytest_netns_debug_once(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" and _inside_key in item.stash:
        from ._body import stood_in_debugger

        if stood_in_debugger(item):
            call.excinfo = None
    if "pytest_netns._background" in sys.modules:
        from ._report import after_phase

        after_phase(item, call, report)
    return report
