"""NAT without a kernel: what is refused, how a description reads, what routers are told in nft's language."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_netns import Lab, Nat, PlanError
from pytest_netns._changing import give_address, remove
from pytest_netns._describe import as_dot, as_mermaid, as_text
from pytest_netns._names import hosts_file
from pytest_netns._nat import set_forward, set_nat
from pytest_netns._nat_rules import nat_rules
from pytest_netns._plan import Plan
from pytest_netns._reach import answering, shared
from pytest_netns._reading import plan_from
from pytest_netns._routing import Route, routes


def home(nat: Any = "wan", **more: Any) -> Plan:
    """A laptop behind a router, a server outside."""
    return plan_from(
        {
            "bridges": {"lan": {"subnet": "192.168.1.0/24"}, "wan": {"subnet": "203.0.113.0/24"}},
            "hosts": {"laptop": {"bridges": ["lan"]}, "server": {"bridges": ["wan"]}, "lonely": {}},
            "routers": {"home": {"bridges": ["lan", "wan"], "nat": nat, **more}},
        }
    )


class TestWords:
    def test_a_kind_is_what_its_behaviours_are(self) -> None:
        """A kind is a name for behaviours; what is given beside it holds instead."""
        assert Nat("wan") == Nat("wan", "home") == Nat("wan", "full-cone", filtering="address-and-port-dependent")
        assert Nat("wan", filtering="endpoint-independent").kind == "full-cone"
        assert Nat("wan", mapping="address-dependent").preserve_ports is False
        assert Nat("wan", mapping="address-dependent").kind is None
        assert str(Nat("wan", "symmetric", hairpin=True)) == (
            "NAT to wan: mapping address-and-port-dependent, filtering address-and-port-dependent, hairpin"
        )

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("street", "outside 'street': home is not on it; it is on lan, wan"),
            ({"kind": "home"}, "outside is missing"),
            ({"outside": "wan", "type": "home"}, "unknown word 'type'; there are outside, kind, mapping"),
            (
                {"outside": "wan", "kind": "fullcone"},
                r"kind 'fullcone' \(did you mean 'full-cone'\?\); there are 'home'",
            ),
            ({"outside": "wan", "mapping": "random"}, "mapping 'random'; there are 'endpoint-independent', 'address-d"),
            ({"outside": "wan", "hairpin": 1}, "hairpin 1: expected True or False"),
            (
                {"outside": "wan", "kind": "symmetric", "preserve_ports": True},
                "preserve_ports does not go with mapping 'address-and-port-dependent': a port that is kept is the same",
            ),
            (7, "outside 7: expected one of the router's bridges"),
        ],
    )
    def test_what_cannot_be_is_refused(self, words: Any, message: str) -> None:
        """By place, value, and what was expected."""
        with pytest.raises(PlanError, match=f"routers.home: nat: {message}"):
            home(words)

    @pytest.mark.parametrize(
        ("forward", "message"),
        [
            ({"port": 80}, "expected a port, and the host that it leads to"),
            ({"port": 0, "to": "laptop"}, "port 0: expected a whole number from 1 to 65535"),
            ({"port": 80, "to": "laptop", "to_port": "http"}, "to_port 'http': expected a whole number"),
            ({"port": 80, "to": "desk"}, "there is no host 'desk'; there are laptop, server, lonely, home"),
            ({"port": 80, "to": "lonely"}, "lonely has no address"),
            ({"port": 80, "to": "laptop", "protocol": "sctp"}, "protocol 'sctp': expected 'tcp' or 'udp'"),
            ({"port": 80, "to": "laptop", "host": "x"}, "unknown word 'host'"),
        ],
    )
    def test_what_cannot_be_forwarded_is_refused(self, forward: Any, message: str) -> None:
        """In a description as by the method."""
        with pytest.raises(PlanError, match=message):
            home(forward_port=[forward])

    def test_only_routers_with_nat_forward_ports(self) -> None:
        """A host cannot translate; a forward that is not there cannot be ended."""
        with pytest.raises(PlanError, match="laptop is a host; nat is for routers"):
            set_nat(home(), "laptop", Nat("lan"))
        with pytest.raises(PlanError, match="home has no NAT, so no port to forward"):
            set_forward(set_nat(home(), "home", None), "home", 80, "laptop")
        with pytest.raises(PlanError, match="port 80/tcp of home is not forwarded"):
            set_forward(home(), "home", 80, None)

    def test_what_is_no_nat_is_refused(self) -> None:
        """A host in the place of a bridge, say."""
        with Lab() as lab:
            lan = lab.bridge("lan")
            wrong: Any = lab.host("laptop", lan)
            with pytest.raises(PlanError, match="expected the bridge that is outside, or Nat"):
                lab.router("home", lan, nat=wrong)


class TestWhoIsReached:
    """A forward to a host that nothing gets to is refused; what a router does not translate itself counts, too."""

    @staticmethod
    def street(**of_inner: Any) -> Plan:
        """A server; two homes; behind the first one a garden, behind an inner router."""
        bridges = {"wan": {"subnet": "203.0.113.0/24"}}
        for number, name in enumerate(("lan", "garden", "other")):
            bridges[name] = {"subnet": f"10.0.{number}.0/24", "subnet6": f"fd00:{number}::/64"}
        hosts = {"server": {"bridges": ["wan"]}, "shed": {"bridges": ["garden"]}, "laptop": {"bridges": ["other"]}}
        routers = {
            "home": {"bridges": ["lan", "wan"], "nat": "wan"},
            "neighbour": {"bridges": ["other", "wan"], "nat": "wan"},
            "inner": {"bridges": ["lan", "garden"], **of_inner},
        }
        return plan_from({"bridges": bridges, "hosts": hosts, "routers": routers})

    def test_over_a_router_inside(self) -> None:
        """Where that one has no routes, they are some program's to make, as are those of a router without."""
        for routed in (True, False):
            plan = set_forward(self.street(routes=routed), "home", 80, "shed")
            rules = nat_rules(plan, "home")
            assert rules is not None
            assert "tcp . 80 : 10.0.1.1 . 80 }" in rules.forwards
            gone = nat_rules(remove(plan, {"inner"}), "home")
            assert gone is not None
            assert "10.0.1.1" not in gone.forwards

    def test_not_behind_another_nat(self) -> None:
        """Neither over IPv4 nor over IPv6, until the other router lets IPv6 in; the router itself can be had."""
        message = r"home has no way to laptop \(10.0.2.1, fd00:2::1\): expected a host on one of its bridges"
        with pytest.raises(PlanError, match=message):
            set_forward(self.street(), "home", 80, "laptop")
        plan = set_forward(self.street(nat="lan"), "home", 80, "inner")
        with pytest.raises(PlanError, match="home has no way to shed"):
            set_forward(plan, "home", 80, "shed")
        rules = nat_rules(set_forward(set_forward(plan, "inner", 80, "shed"), "home", 81, "shed"), "home")
        assert rules is not None
        assert "fd00:1::1 . tcp . 81 }" in rules.forwards
        assert "10.0.1.1" not in rules.forwards

    def test_in_a_description(self) -> None:
        """By its place in it."""
        with pytest.raises(PlanError, match=r"routers.home: forward_port: home has no way to island"):
            plan_from(
                {
                    "bridges": {"lan": {}, "wan": {}, "sea": {}},
                    "hosts": {"island": {"bridges": ["sea"]}},
                    "routers": {
                        "home": {"bridges": ["lan", "wan"], "nat": "wan", "forward_port": [{"port": 1, "to": "island"}]}
                    },
                }
            )


def test_what_goes_takes_settings_along() -> None:
    """Forwards to a host end with it, all of a NAT with its outside; other bridges and hosts take nothing."""
    plan = set_forward(set_forward(home(), "home", 80, "laptop"), "home", 53, "home", protocol="udp")
    assert remove(plan, {"server", "lonely"}).nodes["home"] is plan.nodes["home"]
    left = remove(plan, {"laptop"}).nodes["home"]
    assert (left.nat, [each.to for each in left.port_forwards]) == (Nat("wan"), ["home"])
    left = remove(plan, {"wan"}).nodes["home"]
    assert (left.nat, left.port_forwards) == (None, ())


def test_drawings_show_it() -> None:
    """In text, Mermaid and DOT; the kind, and each forward."""
    plan = home({"outside": "wan", "kind": "full-cone"}, forward_port=[{"port": 80, "to": "laptop", "to_port": 8080}])
    words = ("NAT to wan: full-cone", "port 80/tcp to laptop:8080")
    assert f"  home (router, {', '.join(words)}) eth1 203.0.113.2/24" in as_text(plan)
    assert f'{{{{"home<br/>{"<br/>".join(words)}"}}}}' in as_mermaid(plan)
    assert '"home" [shape=diamond, label="home\\nNAT to wan: full-cone\\nport 80/tcp to laptop:8080"];' in as_dot(plan)


def test_outside_has_no_route_to_the_inside() -> None:
    """In IPv4; IPv6 is routed."""
    assert routes(home()) == {
        "laptop": (Route(4, None, "192.168.1.2", "lan"), Route(6, None, "fd00:10::2", "lan")),
        "server": (Route(6, None, "fd00:10:0:1::2", "wan"),),
    }
    assert routes(set_nat(home(), "home", None))["server"][0] == Route(4, None, "203.0.113.2", "wan")


def test_who_answers_where_two_have_one_address() -> None:
    """The one on this side of the routers; the other one's name does not lead to it."""
    bridges = {"wan": {"subnet": "203.0.113.0/24"}, **{f"lan{n}": {"subnet": "192.168.1.0/24"} for n in range(2)}}
    hosts = {"server": {"bridges": ["wan"]}, **{f"laptop{n}": {"bridges": [f"lan{n}"]} for n in range(2)}}
    routers = {f"home{n}": {"bridges": [f"lan{n}", "wan"], "nat": "wan"} for n in range(2)}
    plan = plan_from({"bridges": bridges, "hosts": hosts, "routers": routers})
    assert shared(plan) == {"192.168.1.1", "192.168.1.2"}
    for place, names in (("laptop0", {"laptop0"}), ("home1", {"laptop1"}), ("server", set()), ("wan", set())):
        answers = answering(plan, place, "192.168.1.1")
        assert {answers} - {None} == names
        lines = [line.split() for line in hosts_file(plan, place, {}).splitlines()]
        assert {name for address, name, *_ in lines if address == "192.168.1.1"} == names
        assert {"fd00:10:0:1::1", "fd00:10:0:2::1"} <= {address for address, *_ in lines}
    assert answering(plan, "laptop0", "203.0.113.1") == "server"
    assert answering(plan, "laptop0", "203.0.113.3") == "home1"
    assert answering(plan, "server", "192.168.7.7") is None


def test_a_name_leads_to_an_address_on_this_side() -> None:
    """Of a router that translates, and of any host with a foot on each; where there is none, to what there is."""
    plan = plan_from(
        {
            "bridges": {name: {} for name in ("lan", "street", "wan", "far")},
            "hosts": {
                "laptop": {"bridges": ["lan"]},
                "both": {"bridges": ["lan", "wan"]},
                "server": {"bridges": ["far"]},
                "alone": {},
            },
            "routers": {
                "home": {"bridges": ["lan", "street"], "nat": "street"},
                "carrier": {"bridges": ["street", "wan"], "nat": "wan"},
                "exchange": {"bridges": ["wan", "far"]},
            },
        }
    )

    def known(plan: Plan, place: str, name: str) -> list[str]:
        lines = [line.split() for line in hosts_file(plan, place, {}).splitlines()]
        found = [address for address, *names in lines if names == [name]]
        assert {text.split("/")[0] for end in plan.of_node[name] for text in end.addresses if ":" in text} <= {*found}
        return [address for address in found if ":" not in address]

    assert known(plan, "laptop", "home") == known(plan, "alone", "home") == ["10.0.0.3", "10.0.1.1"]
    assert known(plan, "home", "home") == known(plan, "lan", "home") == ["10.0.0.3", "10.0.1.1"]
    assert known(plan, "carrier", "home") == ["10.0.1.1"]
    assert known(plan, "laptop", "carrier") == ["10.0.1.2", "10.0.2.2"]
    assert known(plan, "server", "carrier") == ["10.0.2.2"]
    assert known(plan, "server", "home") == ["10.0.0.3", "10.0.1.1"]
    assert known(plan, "server", "laptop") == ["10.0.0.1"]
    assert known(plan, "exchange", "both") == ["10.0.2.1"]
    assert known(plan, "both", "home") == ["10.0.0.3", "10.0.1.1"]
    assert known(set_nat(plan, "carrier", None), "server", "home") == ["10.0.1.1"]
    assert known(set_nat(set_nat(plan, "carrier", None), "home", None), "server", "home") == ["10.0.0.3", "10.0.1.1"]


@pytest.mark.parametrize(
    ("more", "hidden"),
    [
        ({}, ["192.168.0.0/23", "192.168.9.0/24"]),
        ({"side": {"bridges": ["wan", "den"]}}, []),
        ({"side": {"bridges": ["far", "den"], "nat": "far"}}, ["192.168.0.0/23", "192.168.9.0/24"]),
        ({"side": {"bridges": ["far", "twin"]}}, ["192.168.0.0/23"]),
        ({"side": {"bridges": ["far", "lan"], "nat": "lan"}}, []),
    ],
)
def test_what_stays_inside_is_what_nobody_outside_gets_to(more: Any, hidden: list[str]) -> None:
    """Else it may be an answer to who asked by another way, round the router; one of two equal networks may be that."""
    subnets = {
        "lan": "192.168.1.0/24",
        "den": "192.168.0.0/24",
        "shed": "192.168.9.0/24",
        "twin": "192.168.9.0/24",
        "wan": "203.0.113.0/24",
        "far": "198.51.100.0/24",
    }
    plan = plan_from(
        {
            "bridges": {name: {"subnet": subnet, "subnet6": False} for name, subnet in subnets.items()},
            "routers": {
                "home": {"bridges": ["lan", "wan"], "nat": "wan"},
                "inner": {"bridges": ["lan", "den", "shed"]},
                "exchange": {"bridges": ["wan", "far"]},
                **more,
            },
        }
    )
    rules = nat_rules(plan, "home")
    assert rules is not None
    found = [
        line.split()[-2] for line in rules.forwards.splitlines() if line.startswith("add element inet netns hidden ")
    ]
    assert found == hidden


def test_rules_follow_the_plan() -> None:
    """None without NAT or outside; a forward changes only the part that can be changed alone."""
    plan = home()
    rules = nat_rules(plan, "home")
    assert rules is not None
    assert 'oifname { "eth1" } jump translate' in rules.table
    assert "snat ip to 203.0.113.2" in rules.table
    assert nat_rules(plan, "laptop") is nat_rules(remove(plan, {"wan"}), "home") is None
    added = nat_rules(give_address(plan, "home", "eth1", "198.51.100.1/24"), "home")
    assert added is not None
    assert added.table == rules.table
    assert "add element inet netns own { 198.51.100.1 }" in added.forwards
    more = nat_rules(set_forward(plan, "home", 80, "laptop", to_port=8080), "home")
    assert more is not None
    assert more.table == rules.table
    assert "add element inet netns forwards { tcp . 80 : 192.168.1.1 . 8080 }" in more.forwards
    assert "add element inet netns open { fd00:10::1 . tcp . 8080 }" in more.forwards
    assert nat_rules(remove(set_forward(plan, "home", 80, "laptop"), {"laptop"}), "home") == rules
