"""Whatever a user passes in, the answer is a clear error or what was asked for; and nothing is left open.

``NETNS_EXAMPLES=1000 pytest tests/test_fuzz.py`` looks longer.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_netns import Host, Lab, Namespace, NetnsError, Pair, PlanError, _broker, _supply, ping
from pytest_netns._marker import MarkerSettings, read_marker
from pytest_netns._pair import PairShape, plan_pair
from pytest_netns._plan import NOTHING, add_node
from pytest_netns._settings import Settings, read_settings

EXAMPLES = int(os.environ.get("NETNS_EXAMPLES", "50"))
often = settings(max_examples=4 * EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
seldom = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
rarely = settings(
    max_examples=max(1, EXAMPLES // 2), deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

#: Strings that have a meaning somewhere on the way to the kernel.
MEANING = st.sampled_from(
    (
        *("", " ", ".", "..", "/", "lo", "all", "br0", "eth0", "a" * 15, "a" * 16, "a" * 64),
        *("\0", "a\0b", "a\nb", "%s", "{0}", "\ud800", "\u0661.0.0.0/24", "10.0.0.0", "1/2"),
        *(
            "10.0.0.0/24",
            "10.0.0.1/24",
            "10.0.0.0/33",
            "0.0.0.0/0",
            "127.0.0.0/8",
            "10.0.0.0/31",
            "10.0.0.0/32",
        ),
        *("fd00::/64", "fe80::/64", "::/0", "fd00::/127", "fd00::%eth0/64"),
        *("ipv4.ip_forward", "ipv4/conf", "net.ipv4.ip_default_ttl", "../../kernel/hostname"),
        "ipv4.conf.eth0.forwarding",
    )
)
plain = st.one_of(
    MEANING,
    st.text(max_size=20),
    st.none(),
    st.booleans(),
    st.integers(-2, 70_000),
    st.integers(),
    st.floats(),
    st.binary(max_size=20),
    st.builds(object),
    st.sampled_from([int, len, NotImplemented, Path("/"), 1j]),
)
anything = st.one_of(
    plain,
    st.lists(plain, max_size=3),
    st.tuples(plain, plain),
    st.dictionaries(st.text(max_size=3), plain, max_size=2),
)
words = st.sampled_from(["hosts", "bridge", "interfaces", "subnet", "subnet6", "mtu"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    _broker.shut_down()  # a new helper has kept no bridges, which labs below would take from it
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Pair:
    made = lab.pair()
    for host in made:
        host.call(os.getpid)
        ping(host, "10.0.0.1")
    return made


@pytest.fixture
def nothing_left(pair: Pair) -> Iterator[None]:
    """Descriptors, threads, children and namespaces are as many after as before, in the helper, too."""
    before = _held()
    yield
    assert _held() == before
    assert ping(*pair)


def _held() -> dict[str, Any]:
    gc.collect()
    # So many at a time that all made in advance are among them, and none are made again.
    for namespace in _broker.broker().request("namespaces", _supply._MOST + 1, 0, [])[1]:
        os.close(namespace)
    # A request without descriptors: when it is answered, the helper is done with the one before.
    _broker.broker().end_processes("net", [])
    outer = _broker.broker()._process.pid
    inner = int(Path(f"/proc/{outer}/task/{outer}/children").read_text())
    seen: dict[str, Any] = {"threads": len(os.listdir("/proc/self/task"))}
    for who, pid in (("self", os.getpid()), ("outer", outer), ("inner", inner)):
        links = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0])
            except FileNotFoundError:
                continue  # that of the listing itself
        seen[f"descriptors of {who}"] = sorted(link for link in links if link != f"/proc/{pid}/fd")
        children = [Path(f"/proc/{pid}/task/{task}/children").read_text() for task in os.listdir(f"/proc/{pid}/task")]
        seen[f"children of {who}"] = "".join(children)
    return seen


def _refused_or(use: Callable[[], Any], *errors: type[Exception]) -> Any:
    """The result; or None after an error of the documented kinds with something to say."""
    refusals: tuple[type[Exception], ...] = (NetnsError, *errors)
    try:
        return use()
    except refusals as error:
        if not str(error).strip():
            raise
        return None


@often
@given(st.dictionaries(words, anything, max_size=3))
def test_keywords_of_a_pair_are_planned_or_refused_by_name(keywords: dict[str, Any]) -> None:
    """Each combination of keywords gives a plan, or a PlanError that names one of them."""
    try:
        shape = PairShape.from_keywords(keywords)
    except PlanError as error:
        if not any(word in str(error) for word in keywords):
            raise
        return
    plan = plan_pair(shape)
    assert tuple(plan.nodes) == shape.hosts
    assert len({index for end in plan.ends for index in (end.index, end.port_index)}) == 4


@seldom
@given(st.text(max_size=20), anything)
def test_an_unknown_keyword_is_refused_with_the_known_ones(word: str, value: object) -> None:
    """The error names the keyword and all there are."""
    if word not in ("hosts", "bridge", "interfaces", "subnet", "subnet6", "mtu"):
        with pytest.raises(PlanError) as caught:
            PairShape.from_keywords({word: value})
        assert repr(word) in str(caught.value)
        assert "hosts, bridge, interfaces, subnet, subnet6, mtu" in str(caught.value)


@often
@given(
    st.dictionaries(st.one_of(words, st.sampled_from(["inside", "timeout"]), st.text(max_size=5)), anything, max_size=3)
)
def test_the_marker_is_read_or_refused(keywords: dict[str, Any]) -> None:
    """The marker's keywords give settings, or a PlanError that says which value is wrong."""
    found = _refused_or(lambda: read_marker([((), keywords)]))
    assert found is None or isinstance(found, MarkerSettings)
    if found is None:
        assert "inside" in keywords or "timeout" in keywords


@seldom
@given(st.one_of(st.none(), MEANING, st.text(max_size=5)), MEANING, st.booleans(), st.booleans())
def test_settings_are_read_or_refused(option: str | None, ini: str, named: bool, in_ci: bool) -> None:
    """The option and the ini value give settings, or a PlanError that names the legal ones."""
    try:
        assert isinstance(read_settings(option, ini, named, in_ci), Settings)
    except PlanError as error:
        if "'skip' nor 'fail'" not in str(error):
            raise


@pytest.mark.usefixtures("nothing_left")
@seldom
@given(anything)
def test_a_host_of_any_name_is_made_or_refused(name: Any) -> None:
    """A name is taken as it is, or refused by name before anything is made."""
    with Lab() as lab:
        host = _refused_or(lambda: lab.host(name))
        assert host is None or (host.name == name and host.namespace.id)
        if host is None:
            with pytest.raises(PlanError) as caught:
                add_node(NOTHING, name)
            assert repr(name) in str(caught.value)


@pytest.mark.usefixtures("nothing_left")
@seldom
@given(anything)
def test_a_namespace_of_any_name_is_made_or_refused(name: Any) -> None:
    """Names are given where that is allowed, and taken away; all others are refused and leave nothing."""
    namespace = _refused_or(lambda: Namespace(name), FileExistsError)
    if namespace is not None:
        assert name is None or name in os.listdir("/run/netns")
        namespace.close()
        assert name is None or not os.path.lexists(f"/run/netns/{name}")


@pytest.mark.usefixtures("nothing_left")
@seldom
@given(st.sampled_from(["name", "path", "pid", "fd"]), anything)
def test_attaching_to_anything_succeeds_or_is_refused(word: str, value: Any) -> None:
    """What is no network namespace is refused by what was given; root can attach to that of the tests."""
    host = _refused_or(lambda: Host.attach(**{word: value}), OSError, TypeError, ValueError)
    if host is not None:
        with host:
            where = {"fd": "/proc/self/fd/{}", "pid": "/proc/{}/ns/net", "path": "{}", "name": "/run/netns/{}"}[word]
            found = value if word == "name" and "/" in value else where.format(value)
            assert host.namespace.id == os.stat(found).st_ino


@pytest.mark.usefixtures("nothing_left")
@often
@given(MEANING | anything, anything)
def test_any_setting_is_written_or_refused(pair: Pair, name: Any, value: Any) -> None:
    """Reading and writing settings gives a string, or a refusal; the machine's are out of reach."""
    (host, _), hostname = pair, socket.gethostname()
    result = _refused_or(lambda: host.sysctl(name, value), OSError, TypeError, ValueError)
    assert result is None or isinstance(result, str)
    assert socket.gethostname() == hostname
    host.sysctl("ipv4.ip_forward", 0)
    host.sysctl("ipv4.ip_default_ttl", 64)


@pytest.mark.usefixtures("nothing_left")
@often
@given(
    st.one_of(st.sampled_from(socket.AddressFamily), st.integers(-2, 50), anything),
    st.one_of(st.sampled_from(socket.SocketKind), st.integers(-2, 11), anything),
    st.one_of(st.integers(-2, 300), anything),
)
@example(2.0, 1, 0)
@example("2", 1, 0)
@example(2, b"1", 0)
def test_any_socket_is_opened_or_refused(pair: Pair, family: Any, kind: Any, proto: Any) -> None:
    """Arguments of a socket give one, or what `socket.socket` would raise."""
    opened = _refused_or(
        lambda: pair.hosts[0].socket(family, kind, proto), OSError, TypeError, ValueError, OverflowError
    )
    if opened is not None:
        opened.close()


@pytest.mark.usefixtures("nothing_left")
@seldom
@given(anything)
def test_any_limit_of_a_block_is_kept_or_refused(pair: Pair, limit: Any) -> None:
    """A limit that is no positive number is refused before anything runs."""

    def use() -> int:
        with pair.hosts[0].enter(timeout=limit) as run:
            return run(lambda: 42)

    assert _refused_or(use, TypeError, ValueError, OverflowError) in (None, 42)


@pytest.mark.usefixtures("nothing_left")
@seldom
@given(anything)
def test_anything_is_called_or_refused(pair: Pair, function: Any) -> None:
    """What is not callable is refused with the word for commands; what is gives its value or its error."""
    try:
        pair.hosts[0].call(function)
    except TypeError:
        return
    assert callable(function)


@pytest.mark.usefixtures("nothing_left")
@seldom
@given(st.one_of(st.just("eth0"), anything), anything)
def test_any_address_is_added_or_refused(interface: Any, address: Any) -> None:
    """An address that cannot be is refused by name, an interface that is not there by those that are."""
    with Lab() as lab:
        host = lab.pair().hosts[0]
        assert lab.bridges["br0"].state.up  # who is looked at is not kept by the helper for later labs
        before, had = host.ip, len(host.namespace.netlink.addresses())

        def add() -> int:
            host.add_address(interface, address)
            return 1

        added = _refused_or(add, KeyError, TypeError, ValueError) or 0
        assert len(host.namespace.netlink.addresses()) == had + added
        assert host.ip == before


@pytest.mark.usefixtures("nothing_left")
@seldom
@given(anything)
def test_anything_is_looked_up_or_refused(pair: Pair, name: Any) -> None:
    """Names of hosts and interfaces are found, or the error lists what there is."""
    host, _ = pair
    found = _refused_or(lambda: host.resolve(name), TypeError)
    assert found is None or name in ("localhost", "beijing", "shanghai")
    for lookup in (lambda: host[name], lambda: pair[name]):
        _refused_or(lookup, KeyError, TypeError)


@pytest.mark.usefixtures("nothing_left")
@seldom
@given(anything)
def test_anything_is_pinged_or_refused(pair: Pair, target: Any) -> None:
    """A target is pinged, or refused by name."""
    result = _refused_or(lambda: ping(pair.hosts[0], target, timeout=0.01), TypeError, ValueError)
    assert result is None or result.count == 1


labels = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True)
devices = st.from_regex(r"[!-~]{1,15}", fullmatch=True).filter(
    lambda name: not set("/:%") & set(name) and name not in (".", "..", "lo", "all", "default")
)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Keywords that are legal together, up to the edges of what is."""
    # To a resolver capital letters are the same.
    hosts = draw(st.lists(labels, min_size=2, max_size=2, unique_by=str.lower))
    bridges = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,13}[A-Za-z0-9])?", fullmatch=True)
    bridge = draw(st.just(False) | bridges.filter(lambda name: name not in (*hosts, "lo", "all", "default")))
    length, length6 = draw(st.integers(9, 31)), draw(st.integers(16, 126))
    first = draw(st.sampled_from([10, 100, 172, 192, 203])) << 24 | draw(st.integers(0, 2**24 - 1))
    first6 = draw(st.sampled_from([0xFD00, 0x2001])) << 112 | draw(st.integers(0, 2**112 - 1))
    packed4 = (first >> 32 - length << 32 - length).to_bytes(4, "big")
    subnet = f"{socket.inet_ntop(socket.AF_INET, packed4)}/{length}"
    packed = (first6 >> 128 - length6 << 128 - length6).to_bytes(16, "big")
    subnet6 = f"{socket.inet_ntop(socket.AF_INET6, packed)}/{length6}"
    use = draw(st.sampled_from(["both", "IPv4", "IPv6"]))
    return {
        "hosts": hosts,
        "bridge": bridge,
        "interfaces": draw(devices | st.tuples(devices, devices)),
        "subnet": None if use == "IPv6" else subnet,
        "subnet6": None if use == "IPv4" else subnet6,
        # A bridge with the usual one would be kept for later labs, and be left here.
        "mtu": draw(st.integers(68 if use == "IPv4" else 1280, 65535).filter(lambda mtu: mtu != 1500)),
    }


@pytest.mark.usefixtures("nothing_left")
@rarely
@given(shapes())
def test_any_legal_pair_is_built_and_its_first_packets_get_through(keywords: dict[str, Any]) -> None:
    """Whatever the names, networks and MTU, both hosts reach each other at once over each family."""
    with Lab() as lab:
        first, second = lab.pair(**keywords)
        assert [first.name, second.name] == keywords["hosts"]
        for source, target in ((first, second), (second, first)):
            for address in (target.ip, target.ip6):
                assert address is None or ping(source, address, timeout=0.5)
        assert first.ip or first.ip6
