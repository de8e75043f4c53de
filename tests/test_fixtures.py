"""The fixtures, and what the marker's keywords make of them."""

from __future__ import annotations

import pytest
from fresh import bare_names, own_interfaces
from marking import Inner

from pytest_netns import Host, Pair, PairFactory, PlanError, ping

pytestmark = pytest.mark.kernel


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return Inner(pytester, monkeypatch)


def test_netns_is_a_host_with_a_loopback_interface(netns: Host) -> None:
    """``netns`` is one host; its loopback interface is up and there is no other but what the kernel puts there."""
    assert list(netns.interfaces) == bare_names()
    assert [name for name, state in netns.interfaces.items() if state.up] == ["lo"]
    assert ping(netns, "127.0.0.1")


class TestPair:
    def test_has_the_defaults_of_the_documentation(self, netns_pair: Pair) -> None:
        """Two hosts beijing and shanghai with eth0, on bridge br0, in 10.0.0.0/24 and an IPv6 prefix."""
        beijing, shanghai = netns_pair
        assert (beijing.name, shanghai.name) == ("beijing", "shanghai")
        assert (beijing.ip, shanghai.ip) == ("10.0.0.1", "10.0.0.2")
        assert (beijing.ip6, shanghai.ip6) == ("fd00:10::1", "fd00:10::2")
        assert own_interfaces(beijing) == own_interfaces(shanghai) == {"lo", "eth0"}
        assert netns_pair.bridge is not None
        assert netns_pair.bridge.name == "br0"
        assert netns_pair["shanghai"] is shanghai
        assert ping(beijing, shanghai)

    @pytest.mark.netns(subnet=None, subnet6=None, bridge=True)
    def test_may_be_a_wire_without_addresses(self, netns_pair: Pair) -> None:
        """No network but the wire: what a DHCP server gives leases over; with link-local addresses, as ever."""
        server, client = netns_pair
        assert (server.ip, server.ip6, client.ip, client.ip6) == (None,) * 4
        assert [address.split(":")[0] for address in client["eth0"].state().addresses] in (["fe80"], [])
        server.add_address("eth0", "10.0.0.1/24")
        assert not ping(client, server, timeout=0.1)
        client.add_address("eth0", "10.0.0.2/24")
        assert ping(client, server)
        assert netns_pair.bridge is not None
        assert netns_pair.bridge.name == "br0"

    @pytest.mark.netns(
        hosts=("east", "west"), bridge="lan", interfaces=("up0", "up1"), subnet="192.168.7.0/29", mtu=1400
    )
    def test_takes_the_markers_keywords(self, netns_pair: Pair) -> None:
        """Keywords of the marker shape the pair."""
        east, west = netns_pair
        assert (east.name, west.name, west.ip) == ("east", "west", "192.168.7.2")
        assert (own_interfaces(east), own_interfaces(west)) == ({"lo", "up0"}, {"lo", "up1"})
        assert netns_pair.bridge is not None
        assert netns_pair.bridge.name == "lan"
        assert east.interfaces["up0"].mtu == 1400
        assert ping(east, west)

    @pytest.mark.netns(bridge=False, subnet=None)
    def test_can_do_without_bridge_and_ipv4(self, netns_pair: Pair) -> None:
        """``bridge=False`` joins the hosts directly; ``subnet=None`` leaves IPv4 out."""
        first, second = netns_pair
        assert netns_pair.bridge is None
        assert first.ip is None
        assert first.ip6 is not None
        assert ping(first, second)

    @pytest.mark.netns(mtu=1400, subnet="192.168.7.0/24")
    @pytest.mark.parametrize("netns_pair", [{"mtu": 1300}, {"hosts": ["a", "b"]}, {}], indirect=True)
    def test_takes_an_indirect_parameter_which_wins(self, netns_pair: Pair, request: pytest.FixtureRequest) -> None:
        """A dict by indirect parametrize is laid over the marker's keywords."""
        given = request.node.callspec.params["netns_pair"]
        first, _ = netns_pair
        assert first.name == given.get("hosts", ["beijing"])[0]
        assert first.interfaces["eth0"].mtu == given.get("mtu", 1400)
        assert first.ip == "192.168.7.1"

    def test_is_new_for_each_test(self, inner: Inner) -> None:
        """Every test has a pair of its own, which is closed when the test is over."""
        source = """
            earlier = []

            import pytest

            @pytest.mark.parametrize("turn", range(3))
            def test_pair(netns_pair, turn):
                assert all(pair.hosts[0].closed and pair.bridge.closed for pair in earlier)
                ids = {place.namespace.id for place in [*netns_pair, netns_pair.bridge]}
                assert len(ids) == 3
                earlier.append(netns_pair)
        """
        inner.run(source).assert_outcomes(passed=3)


class TestFactory:
    def test_takes_the_same_keywords(self, netns_pair_factory: PairFactory) -> None:
        """The factory makes pairs with the keywords of ``netns_pair``, as often as wanted."""
        with netns_pair_factory(hosts=("a", "b"), mtu=1400) as one, netns_pair_factory() as other:
            assert [host.name for host in [*one, *other]] == ["a", "b", "beijing", "shanghai"]
            assert ping(*one)
            assert ping(*other)
        assert one["a"].closed

    def test_names_the_test_and_the_value_it_refuses(
        self, netns_pair_factory: PairFactory, request: pytest.FixtureRequest
    ) -> None:
        """A plan that cannot be is a PlanError of the call that wanted it; it names the test."""
        with pytest.raises(PlanError, match="mtu 3: ") as caught:
            netns_pair_factory(mtu=3)
        assert str(caught.value).startswith(request.node.nodeid + ": ")

    def test_serves_wider_scopes(self, inner: Inner) -> None:
        """Fixtures of wider scopes get pairs from the factory; they last that long, and bodies find them."""
        source = """
            import socket
            import pytest

            kept = []

            @pytest.fixture(scope="module")
            def site(netns_pair_factory):
                pair = netns_pair_factory(hosts=("left", "right"))
                with pair:
                    yield pair
                assert pair["left"].closed

            def test_first(site):
                kept.append(site["left"].namespace.id)

            @pytest.mark.netns(inside="right")
            def test_second(site):
                assert kept == [site["left"].namespace.id]
                assert "eth0" in [name for _, name in socket.if_nameindex()]

            @pytest.mark.netns(inside="left")
            def test_two_pairs(site, netns_pair):
                pass
        """
        inner.run(source).assert_outcomes(passed=3)


class TestWhereTheBodyRuns:
    def test_follows_from_the_markers(self, inner: Inner) -> None:
        """Bare: private, or the host ``netns``; ``inside``: that host; only keywords of the pair: outside."""
        source = """
            import os
            import pytest

            MACHINE = os.stat("/proc/self/ns/net").st_ino

            def here():
                return os.stat("/proc/thread-self/ns/net").st_ino

            @pytest.mark.netns
            def test_private(netns_pair):
                assert here() not in [MACHINE, *(host.namespace.id for host in netns_pair)]

            @pytest.mark.netns
            def test_of_the_fixture(netns):
                assert here() == netns.namespace.id

            @pytest.mark.netns(inside="shanghai")
            def test_inside(netns_pair):
                assert here() == netns_pair["shanghai"].namespace.id

            @pytest.mark.netns(inside="shanghai")
            @pytest.mark.usefixtures("netns_pair")
            def test_inside_without_naming_it():
                assert here() != MACHINE

            @pytest.mark.netns(mtu=1400)
            def test_shapes_only(netns_pair):
                assert here() == MACHINE

            @pytest.mark.netns(timeout=50, mtu=1400)
            def test_limit_speaks_of_the_body(netns_pair):
                assert here() != MACHINE

            @pytest.fixture
            def server(netns_pair):
                return netns_pair["beijing"]

            @pytest.fixture
            def both(netns_pair):
                return list(netns_pair)

            @pytest.mark.netns(inside="beijing")
            def test_in_what_a_fixture_returns(server, both):
                assert here() == server.namespace.id
        """
        inner.run(source).assert_outcomes(passed=7)

    def test_markers_merge_and_the_closest_wins(self, inner: Inner) -> None:
        """Keywords of module, class, base class, function and parameter set merge; the closest wins."""
        source = """
            import os
            import pytest

            pytestmark = pytest.mark.netns(mtu=1300, subnet="192.168.1.0/24")
            MACHINE = os.stat("/proc/self/ns/net").st_ino

            def here():
                return os.stat("/proc/thread-self/ns/net").st_ino

            def facts(pair):
                beijing, _ = pair
                return beijing.interfaces["eth0"].mtu, beijing.ip

            def test_module(netns_pair):
                assert facts(netns_pair) == (1300, "192.168.1.1")
                assert here() == MACHINE

            @pytest.mark.netns(mtu=1350)
            def test_function(netns_pair):
                assert facts(netns_pair) == (1350, "192.168.1.1")

            @pytest.mark.netns(mtu=1340)
            @pytest.mark.netns(mtu=1350)
            def test_lower_of_two(netns_pair):
                assert facts(netns_pair) == (1350, "192.168.1.1")

            @pytest.mark.netns(mtu=1350)
            @pytest.mark.parametrize(
                "mtu", [1350, pytest.param(1360, marks=pytest.mark.netns(mtu=1360, inside="beijing"))]
            )
            def test_parameter_set(netns_pair, mtu):
                assert facts(netns_pair) == (mtu, "192.168.1.1")
                assert (here() == MACHINE) == (mtu == 1350)

            @pytest.mark.netns(inside="beijing", mtu=1310)
            class TestBase:
                def test_class(self, netns_pair):
                    assert facts(netns_pair) == (1310, "192.168.1.1")
                    assert here() == netns_pair["beijing"].namespace.id

                @pytest.mark.netns(mtu=1320)
                def test_method(self, netns_pair):
                    assert facts(netns_pair) == (1320, "192.168.1.1")
                    assert here() == netns_pair["beijing"].namespace.id

            @pytest.mark.netns(inside="shanghai")
            class TestDerived(TestBase):
                def test_class(self, netns_pair):
                    assert facts(netns_pair) == (1310, "192.168.1.1")
                    assert here() == netns_pair["shanghai"].namespace.id

                test_method = None

                @pytest.mark.netns(inside=None)
                def test_private(self, netns_pair):
                    assert here() not in [MACHINE, *(host.namespace.id for host in netns_pair)]
        """
        inner.run(source).assert_outcomes(passed=9)


def test_a_session_in_a_session_leaves_the_outer_networks_alone(pytester: pytest.Pytester, netns: Host) -> None:
    """pytester's sessions in this process do not end the helper that holds this session's hosts."""
    pytester.makepyfile("def test_inner(netns_pair):\n    pass\n")
    with netns.popen(["sleep", "1000"]) as program:
        pytester.runpytest_inprocess("-pno:asyncio").assert_outcomes(passed=1)
        assert program.poll() is None
        program.kill()
