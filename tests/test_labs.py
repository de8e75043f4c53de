"""Labs on the real kernel: any topology, made at first use, changed while it runs, ended whole."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pace import seconds

from pytest_netns import Bridge, ClosedError, Host, KernelError, Lab, LabFactory, PlanError, _broker, _netlink, ping

pytestmark = pytest.mark.kernel

#: Seconds that nobody waits where all is well.
PATIENT = seconds(20)


def assert_reached(source: Host, target: Host, *families: int) -> None:
    """The first packet gets there and back, in both families or those given."""
    for address in [target.ip] * (4 in families or not families) + [target.ip6] * (6 in families or not families):
        assert address is not None
        assert ping(source, address, timeout=PATIENT)


def descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}").split(":")[0])
        except FileNotFoundError:
            continue  # that of the listing
    return sorted(link for link in found if "/fd" not in link)


class TestTopologies:
    def test_a_star(self, netns_lab: Lab) -> None:
        """Ten hosts on one bridge reach each other."""
        lan = netns_lab.bridge("lan")
        hosts = [netns_lab.host(f"h{number}", lan) for number in range(10)]
        for source, target in zip(hosts, hosts[1:] + hosts[:1], strict=True):
            assert_reached(source, target)
        assert set(lan.ports) == {f"veth-h{number}" for number in range(10)}

    def test_a_chain_of_eight_routers(self, netns_lab: Lab) -> None:
        """Each router takes one from the time to live."""
        bridges = [netns_lab.bridge(f"b{number}") for number in range(9)]
        for number, (left, right) in enumerate(itertools.pairwise(bridges)):
            netns_lab.router(f"r{number}", left, right)
        first, last = netns_lab.host("first", bridges[0]), netns_lab.host("last", bridges[-1])
        assert_reached(first, last)
        for address in (last.ip, last.ip6):
            result = ping(first, str(address), timeout=PATIENT)
            reply = result.replies[0]
            assert (reply.ttl if reply.version == 4 else reply.hlim) == 64 - 8
            assert not ping(first, str(address), ttl=8, timeout=PATIENT)

    def test_a_ring_with_a_host_at_each_router(self, netns_lab: Lab) -> None:
        """Every host reaches every other, the shorter way around."""
        lans = [netns_lab.bridge(f"lan{number}") for number in range(5)]
        hosts = [netns_lab.host(f"h{number}", lan) for number, lan in enumerate(lans)]
        routers = [netns_lab.router(f"r{number}", lan) for number, lan in enumerate(lans)]
        for one, other in zip(routers, routers[1:] + routers[:1], strict=True):
            netns_lab.link(one, other)
        for source, target in itertools.permutations(hosts, 2):
            result = ping(source, target, timeout=PATIENT)
            around = abs(hosts.index(source) - hosts.index(target))
            assert result
            assert 64 - result.replies[0].ttl == min(around, 5 - around) + 1

    def test_a_dual_homed_host(self, netns_lab: Lab) -> None:
        """A host on two bridges has an interface on each, and does not forward between them."""
        left, right = netns_lab.bridge("left"), netns_lab.bridge("right")
        both = netns_lab.host("both", left, right)
        one, other = netns_lab.host("one", left), netns_lab.host("other", right)
        assert {name for name, state in both.interfaces.items() if state.kind == "veth"} == {"eth0", "eth1"}
        assert_reached(one, both)
        assert ping(other, "10.0.1.1", timeout=PATIENT)
        result = ping(one, other, timeout=PATIENT)
        assert not result
        assert "no route" in repr(result)

    def test_only_ipv6(self, netns_lab: Lab) -> None:
        """Over segments without IPv4, routers included."""
        left, right = netns_lab.bridge("left", subnet=None), netns_lab.bridge("right", subnet=None)
        one, other = netns_lab.host("one", left), netns_lab.host("other", right)
        netns_lab.router("r", left, right)
        assert one.ip is None
        assert_reached(one, other, 6)

    def test_hosts_joined_directly(self, netns_lab: Lab) -> None:
        """Links between hosts; two between the same ones are two networks."""
        one, other, third = (netns_lab.host(name) for name in ("one", "other", "third"))
        netns_lab.link(one, other, mtu=9000)
        netns_lab.link(one, other, "192.168.9.0/30", None)
        netns_lab.link(other, third)
        assert_reached(one, other)
        assert ping(one, "192.168.9.2", timeout=PATIENT)
        assert_reached(third, other, 4) if third.ip == other.ip else None
        assert one.interfaces["eth0"].mtu == 9000
        assert netns_lab.bridges == {}

    def test_a_narrower_segment_on_the_way(self, netns_lab: Lab) -> None:
        """A router in front of a narrower segment says so (RFC 1191)."""
        wide, narrow = netns_lab.bridge("wide", mtu=9000), netns_lab.bridge("narrow", mtu=1400)
        one, other = netns_lab.host("one", wide), netns_lab.host("other", narrow)
        netns_lab.router("r", wide, narrow)
        assert ping(one, other, size=1300, timeout=PATIENT)
        refused = ping(one, other, size=5000, timeout=PATIENT)
        assert "from 10.0.0.2: destination unreachable: fragmentation needed" in repr(refused)
        assert ping(one, other, size=5000, timeout=PATIENT)  # the sender has learned
        assert wide.state.mtu == 9000

    def test_given_addresses_and_macs(self, netns_lab: Lab) -> None:
        """What was given is what the kernel has."""
        lan = netns_lab.bridge("lan", "192.168.1.0/24")
        one = netns_lab.host("one", lan, ip="192.168.1.77", ip6="fd00:10::77", mac="02:aa:bb:cc:dd:ee")
        other = netns_lab.host("other")
        netns_lab.connect(other, lan, ip="192.168.1.78", name="wan0", mac="02:aa:bb:cc:dd:ef")
        assert_reached(other, one)
        assert one.interfaces["eth0"].mac == "02:aa:bb:cc:dd:ee"
        assert other.interfaces["wan0"].mac == "02:aa:bb:cc:dd:ef"
        assert (one.ip, one.ip6, other.ip) == ("192.168.1.77", "fd00:10::77", "192.168.1.78")


class TestFirstUse:
    def test_nothing_is_made_before_it_is_used(self) -> None:
        """A lab that is only planned costs no namespace and no descriptor; its addresses are known all the same."""
        _broker.broker()
        before = descriptors()
        with Lab() as lab:
            lan = lab.bridge("lan")
            hosts = [lab.host(f"h{number}", lan) for number in range(50)]
            assert hosts[-1].ip == "10.0.0.50"
            assert descriptors() == before
            assert ping(hosts[0], hosts[-1], timeout=PATIENT)
            assert descriptors() != before
        assert descriptors() == before

    @pytest.mark.parametrize(
        "use",
        [
            lambda host, _: host.run(["true"], check=True),
            lambda host, _: host.call(os.getpid),
            lambda host, _: host.socket().close(),
            lambda host, _: host.interfaces["eth0"],
            lambda host, _: host["eth0"],
            lambda host, _: host.sysctl("ipv4.ip_forward"),
            lambda _, bridge: bridge.ports["veth-one"],
            lambda host, _: host.namespace.id,
            lambda host, _: host.end_processes(),
        ],
    )
    def test_any_use_makes_it(self, netns_lab: Lab, use: Any) -> None:
        """Whatever is asked of a host or bridge first finds the whole lab."""
        lan = netns_lab.bridge("lan")
        one, other = netns_lab.host("one", lan), netns_lab.host("other", lan)
        use(one, lan)
        assert other._namespace is not None
        assert_reached(other, one)

    def test_a_closed_lab_makes_nothing(self) -> None:
        """Neither new things nor what had only been planned."""
        lab = Lab()
        host = lab.host("one", lab.bridge("lan"))
        lab.close()
        lab.close()
        assert host.closed
        for use in (lambda: host.run(["true"]), lambda: lab.host("two"), lambda: lab.bridge("b"), lab.build):
            with pytest.raises(ClosedError):
                use()

    def test_a_lab_can_be_described_whole(self, tmp_path: Path) -> None:
        """From a dictionary and from a TOML file comes the lab that the methods make step by step."""
        data = {
            "bridges": {"lan": {"subnet": "192.168.1.0/24"}, "wan": {"subnet6": False, "mtu": 1400}},
            "hosts": {
                "laptop": {"bridges": ["lan"], "ip": "192.168.1.50"},
                "server": {"interfaces": [{"bridge": "wan", "name": "up0"}, {"bridge": "lan"}]},
            },
            "routers": {"home": {"bridges": ["lan", "wan"]}},
            "links": [{"hosts": ["laptop", "server"], "mtu": 9000}],
        }
        (tmp_path / "lab.toml").write_text("""
            [bridges]
            lan.subnet = "192.168.1.0/24"
            wan = {subnet6 = false, mtu = 1400}
            [hosts]
            laptop = {bridges = ["lan"], ip = "192.168.1.50"}
            server.interfaces = [{bridge = "wan", name = "up0"}, {bridge = "lan"}]
            [routers]
            home.bridges = ["lan", "wan"]
            [[links]]
            hosts = ["laptop", "server"]
            mtu = 9000
        """)
        with (
            Lab() as by_hand,
            Lab.from_dict(data) as from_dict,
            Lab.from_toml(tmp_path / "lab.toml") as from_toml,
        ):
            lan, wan = by_hand.bridge("lan", "192.168.1.0/24"), by_hand.bridge("wan", subnet6=None, mtu=1400)
            laptop, server = by_hand.host("laptop", lan, ip="192.168.1.50"), by_hand.host("server")
            by_hand.connect(server, wan, name="up0")
            by_hand.connect(server, lan)
            by_hand.router("home", lan, wan)
            by_hand.link(laptop, server, mtu=9000)
            assert str(by_hand) == str(from_dict) == str(from_toml)
            assert by_hand.mermaid() == from_dict.mermaid()
            assert by_hand.dot() == from_toml.dot()
            assert_reached(from_toml["laptop"], from_toml["server"], 4)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"bridge": {}}, r"unknown word 'bridge' \(did you mean 'bridges'\?\); the lab has bridges, hosts"),
            ({"bridges": {"lan": {"subnet": "x"}}}, "bridges.lan: subnet 'x': expected"),
            ({"bridges": {"lan": 7}}, "bridges.lan: 7: expected a table that says subnet"),
            ({"bridges": ["lan"]}, r"bridges: expected a table of names, not \['lan'\]"),
            ({"hosts": {"a": {"bridges": ["lan"]}}}, "hosts.a: there is no bridge 'lan'; there are none"),
            ({"hosts": {"a": {"bridges": "lan"}}}, "hosts.a: bridges 'lan': expected a list"),
            ({"hosts": {"a": {"ip": "10.0.0.1"}}}, "hosts.a: ip need a bridge"),
            ({"hosts": {"a": {"interfaces": [{"name": "x"}]}}}, "hosts.a: interfaces: .* has no bridge"),
            ({"routers": {"a b": {}}}, "routers.a b: router 'a b': expected letters"),
            ({"links": [{"hosts": ["a", "b"]}]}, r"links\[0\]: hosts: there is no host 'a'"),
            ({"links": [{"hosts": ["a"]}]}, r"links\[0\]: hosts \['a'\]: expected two names"),
        ],
    )
    def test_a_wrong_description_is_refused_by_place(self, data: dict[str, Any], message: str) -> None:
        """The message says where in the description, what, and what was expected."""
        with pytest.raises(PlanError, match=message):
            Lab.from_dict(data)

    def test_a_file_that_is_no_toml_is_refused_by_name(self, tmp_path: Path) -> None:
        """With the line."""
        (tmp_path / "lab.toml").write_text("[bridges\n")
        with pytest.raises(PlanError, match=r"lab\.toml: .*line 1"):
            Lab.from_toml(tmp_path / "lab.toml")
        with pytest.raises(FileNotFoundError):
            Lab.from_toml(tmp_path / "none.toml")

    def test_a_body_runs_in_a_host_of_a_lab(self, pytester: pytest.Pytester) -> None:
        """``inside=`` finds the hosts of a lab, also of one that is only planned; and says which there are."""
        pytester.makepyfile("""
            import os, pytest

            @pytest.fixture
            def office(netns_lab):
                netns_lab.host("desk", netns_lab.bridge("lan"))
                return netns_lab

            @pytest.mark.netns(inside="desk")
            def test_desk(office):
                assert "eth0" in os.listdir("/sys/class/net")

            @pytest.mark.netns(inside="chair")
            def test_chair(office):
                pass
        """)
        result = pytester.runpytest("-p", "no:cacheprovider")
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(["*inside='chair': the test has no host of this name; its hosts are desk"])


class TestChanges:
    def test_what_is_added_later_is_there_at_once(self, netns_lab: Lab) -> None:
        """A host, a bridge, a router: made when they are asked for, once the lab is in use; routes follow."""
        lan = netns_lab.bridge("lan")
        one, two = netns_lab.host("one", lan), netns_lab.host("two", lan)
        assert_reached(one, two)
        three = netns_lab.host("three", lan)
        assert three._namespace is not None
        assert_reached(one, three)
        wan = netns_lab.bridge("wan")
        server = netns_lab.host("server", wan)
        assert not ping(one, server, timeout=PATIENT)
        netns_lab.router("r", lan, wan)
        for host in (one, two, three):
            assert_reached(host, server)
        netns_lab.connect(server, lan)
        assert "eth1" in server.interfaces
        netns_lab.link(one, server)
        assert ping(one, "10.0.2.2", timeout=PATIENT)

    def test_what_is_removed_is_gone_at_once(self, netns_lab: Lab) -> None:
        """With a host go its interfaces, the bridge's port, what ran in it, and the routes over it."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        one, other = netns_lab.host("one", lan), netns_lab.host("other", wan)
        first, second = netns_lab.router("first", lan, wan), netns_lab.router("second", lan, wan)
        netns_lab.link(one, first)
        assert_reached(one, other)
        program = first.popen(["sleep", "1000"])
        netns_lab.remove(first)
        assert program.wait(PATIENT) == -15
        assert first.closed
        assert set(lan.ports) == {"veth-one", "veth-second"}
        assert "eth1" not in one.interfaces
        assert list(netns_lab.hosts) == ["one", "other", "second"]
        assert_reached(one, other)
        second.close()
        assert set(lan.ports) == {"veth-one"}
        assert not ping(one, other, timeout=PATIENT)
        netns_lab.remove(wan)
        assert "eth0" not in other.interfaces
        assert netns_lab.router("first", lan).ip == "10.0.0.4"

    def test_what_was_only_planned_is_removed_too(self, netns_lab: Lab) -> None:
        """Before the first use as after it."""
        lan = netns_lab.bridge("lan")
        one, other = netns_lab.host("one", lan), netns_lab.host("other", lan)
        other.close()
        netns_lab.remove(other)  # already
        assert list(netns_lab.hosts) == ["one"]
        assert one.run(["true"]).returncode == 0
        with pytest.raises(ClosedError):
            other.run(["true"])

    def test_a_refused_addition_leaves_the_lab_as_it_was(self, netns_lab: Lab) -> None:
        """What cannot be planned changes nothing."""
        lan = netns_lab.bridge("lan")
        one = netns_lab.host("one", lan)
        text = str(netns_lab)
        elsewhere = Lab().bridge("lan")
        for wrong in (
            lambda: netns_lab.host("one", lan),
            lambda: netns_lab.host("two", lan, ip="10.0.0.1"),
            lambda: netns_lab.host("two", elsewhere),
            lambda: netns_lab.host("two", "lan"),  # type: ignore[arg-type]
            lambda: netns_lab.host("two", ip="10.0.0.9"),
            lambda: netns_lab.link(one, one),
            lambda: netns_lab.connect(one, lan, name="eth0"),
            lambda: netns_lab.remove(elsewhere),
            lambda: netns_lab.bridge("one"),
        ):
            with pytest.raises((PlanError, ClosedError)):
                wrong()
            assert str(netns_lab) == text
        assert list(netns_lab.hosts) == ["one"]
        with pytest.raises(KeyError, match="no host 'two'; the lab has one"):
            netns_lab["two"]

    def test_labs_of_wider_scopes(self, netns_lab_factory: LabFactory) -> None:
        """The factory's labs last until they are closed, or the session ends."""
        with netns_lab_factory() as lab:
            host = lab.host("one")
            assert host.run(["true"]).returncode == 0
        assert host.closed
        assert netns_lab_factory() is not lab


class TestFailures:
    @pytest.mark.parametrize("added", ["at once", "later"])
    def test_a_failure_at_any_request_leaves_nothing(self, added: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whichever request of a build the kernel refuses: the error says which, and nothing of it is left."""
        _broker.broker().request("namespaces", 0, 0, [])
        before = descriptors()
        refused = 0
        for number in range(1000):
            requests = _Requests(monkeypatch)
            with Lab() as lab:
                lan = lab.bridge("lan")
                host = lab.host("one", lan)
                if added == "later":
                    lab.build()
                requests.refuse_number(number)
                met = _add_what_may_fail(lab, lan, host)
                requests.allow()
                if met is None:
                    assert number > 20
                    assert ping(host, "10.0.1.1", timeout=PATIENT)
                    break
                refused += 1
                assert met.errno == errno.ENOMEM, met
                kept = lab.hosts
                assert ping(host, "127.0.0.1", timeout=PATIENT)
                assert set(lan.ports) >= {f"veth-{name}" for name in kept if kept[name].ip == "10.0.0.1"}
            assert descriptors() == before, number
        assert refused == number
        assert descriptors() == before

    def test_the_rest_is_released_when_one_part_cannot_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A failure on the way down is told, and keeps nothing else from going."""
        _broker.broker().request("namespaces", 0, 0, [])
        before = descriptors()
        lab = Lab()
        lan = lab.bridge("lan")
        hosts = [lab.host(f"h{number}", lan) for number in range(4)]
        lab.build()
        release = hosts[1]._release

        def fail() -> None:
            release()
            raise OSError(errno.EIO, "injected")

        monkeypatch.setattr(hosts[1], "_release", fail)
        with pytest.raises(OSError, match="injected"):
            lab.close()
        assert descriptors() == before


def _add_what_may_fail(lab: Lab, lan: Bridge, host: Host) -> KernelError | None:
    try:
        wan = lab.bridge("wan")
        lab.host("other", wan)
        lab.router("r", lan, wan)
        lab.link(host, lab.host("third"))
        lab.build()
    except KernelError as error:
        return error
    return None


class _Requests:
    """Counts what is asked of the kernel and the helper, and refuses one of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._left = -1
        self._batch, self._request = _netlink.Netlink.batch, _broker.Broker.request

    def refuse_number(self, number: int) -> None:
        self._left = number

        def batch(netlink: _netlink.Netlink, requests: Any) -> list[bytes]:
            answers = []
            for request in requests:
                self._count()
                answers += self._batch(netlink, [request])
            return answers

        def request(broker: _broker.Broker, *words: Any, **more: Any) -> Any:
            if words[0] in ("namespaces", "sysctl", "netlink"):
                self._count()
            return self._request(broker, *words, **more)

        self._monkeypatch.setattr(_netlink.Netlink, "batch", batch)
        self._monkeypatch.setattr(_broker.Broker, "request", request)

    def allow(self) -> None:
        self._monkeypatch.undo()

    def _count(self) -> None:
        self._left -= 1
        if self._left == -1:
            raise KernelError(errno.ENOMEM, "injected")


@st.composite
def descriptions(draw: st.DrawFn) -> dict[str, Any]:
    """Any small lab, whole: bridges in a tree or with circles, joined by routers, and hosts on any of them."""
    count = draw(st.integers(1, 4))
    bridges: dict[str, Any] = {f"b{number}": {} for number in range(count)}
    on = st.lists(st.sampled_from(list(bridges)), min_size=1, max_size=3, unique=True)
    return {
        "bridges": bridges,
        "hosts": {f"h{number}": {"bridges": draw(on)} for number in range(draw(st.integers(1, 4)))},
        "routers": {f"r{number}": {"bridges": draw(on)} for number in range(draw(st.integers(0, 3)))},
    }


@pytest.fixture(scope="module")
def nothing_open() -> Iterator[None]:
    _broker.broker()
    before = descriptors()
    yield
    assert descriptors() == before


def _parts(data: dict[str, Any]) -> dict[str, set[str]]:
    """By bridge: the bridges that routers lead to from it."""
    parts = {name: {name} for name in data["bridges"]}
    for router in data["routers"].values():
        joined = set().union(*(parts[name] for name in router["bridges"]))
        for name in joined:
            parts[name] = joined
    return parts


@pytest.mark.usefixtures("nothing_open")
@settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(descriptions())
def test_any_lab_is_connected_as_its_plan_says(data: dict[str, Any]) -> None:
    """Every host reaches every other, in both families, exactly if routers lead there."""
    parts = _parts(data)
    with Lab.from_dict(data) as lab:
        for source, target in itertools.permutations(data["hosts"], 2):
            near, far = (data["hosts"][name]["bridges"] for name in (source, target))
            expected = any(far[0] in parts[name] for name in near)
            for address in (lab[target].ip, lab[target].ip6):
                assert address is not None
                assert bool(ping(lab[source], address, timeout=PATIENT if expected else 0.1)) == expected


def test_what_is_public_is_typed_as_it_is(netns_lab: Lab) -> None:
    """Bridges and hosts of a lab are those of the pair."""
    lan = netns_lab.bridge("lan")
    assert isinstance(lan, Bridge)
    assert isinstance(netns_lab.router("r", lan), Host)
    assert netns_lab.bridges["lan"] is lan
    assert "lan" in str(netns_lab)
    assert repr(netns_lab) == "<Lab r>"
