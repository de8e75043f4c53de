"""One thing in the place of another is told by name: a host for a router, a removed one, another lab's, a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_netns import Bridge, ClosedError, Host, Lab, NetnsError, PlanError, Router, ping


@pytest.fixture
def other() -> Iterator[Lab]:
    """A second lab, whose hosts and bridges have the same names."""
    with Lab() as lab:
        furnish(lab)
        yield lab


def furnish(lab: Lab) -> tuple[Bridge, Host, Router]:
    """A laptop and a router on one bridge; of which nothing is made yet."""
    lan, wan = lab.bridge("lan", "192.168.1.0/24"), lab.bridge("wan")
    return lan, lab.host("laptop", lan), lab.router("home", lan, wan)


@pytest.mark.parametrize("name", ["nat", "port_forwards", "set_nat", "forward_port", "flush_nat"])
def test_a_router_s_method_of_a_host_says_how_to_make_one(netns_lab: Lab, name: str) -> None:
    """Whoever asks whether it is there is told that it is not, and other names are unknown as ever."""
    _, laptop, home = furnish(netns_lab)
    words = rf"laptop is a host, and {name} is for routers; lab.router\('laptop', BRIDGE, …, nat=OUTSIDE\) makes one"
    with pytest.raises(AttributeError, match=words):
        getattr(laptop, name)
    assert not hasattr(laptop, name)
    assert hasattr(home, name)
    with pytest.raises(AttributeError, match="'Host' object has no attribute 'forward'"):
        laptop.forward  # type: ignore[attr-defined] # noqa: B018


def test_an_error_of_a_property_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours in one is not taken for its absence."""
    monkeypatch.setattr(Host, "_plain", lambda _: None.nobody)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'nobody'"):
        Host("laptop").ip  # noqa: B018


def test_a_host_is_no_bridge(netns_lab: Lab) -> None:
    """Nor is a method that makes one; and nothing is added."""
    lan, laptop, home = furnish(netns_lab)
    wrong: tuple[tuple[Callable[[], Any], str], ...] = (
        (lambda: netns_lab.host("x", home), "x: home is a host; expected bridges"),  # type: ignore[arg-type]
        (lambda: netns_lab.router("x", lan, laptop), "x: laptop is a host; expected"),  # type: ignore[arg-type]
        (lambda: netns_lab.host("x", netns_lab.router), "Lab.router of .*: expected a bridge"),  # type: ignore[arg-type]
        (lambda: netns_lab.remove("laptop"), r"not its name: lab.hosts\['laptop'\]"),  # type: ignore[arg-type]
        (lambda: laptop.adopt("tun0"), "adopt 'tun0': expected an interface"),  # type: ignore[arg-type]
    )
    for mistake, words in wrong:
        with pytest.raises(PlanError, match=words):
            mistake()
    assert list(netns_lab.hosts) == ["laptop", "home"]


def test_another_lab_s_is_not_taken_for_its_namesake(netns_lab: Lab, other: Lab) -> None:
    """Wherever a host or bridge is given; and nothing changes."""
    lan, laptop, home = furnish(netns_lab)
    wan = other.bridges["wan"]
    before = str(netns_lab)
    wrong: tuple[Callable[[], Any], ...] = (
        lambda: home.set_nat(wan),
        lambda: netns_lab.router("second", lan, netns_lab.bridges["wan"], nat=wan),
        lambda: laptop.set_route("default", other["home"]),
        lambda: home.forward_port(80, other["laptop"]),
    )
    home.set_nat(netns_lab.bridges["wan"])
    before = str(netns_lab)
    for mistake in wrong:
        with pytest.raises(PlanError, match="belongs to another lab"):
            mistake()
    assert str(netns_lab) == before


@pytest.mark.parametrize("made", [False, True])
def test_what_was_removed_says_so(netns_lab: Lab, made: bool) -> None:
    """Whether it was there already or only planned; its namesake is another one."""
    lan, laptop, home = furnish(netns_lab)
    if made:
        netns_lab.build()
    gone, cut = netns_lab.host("gone", lan), netns_lab.bridge("cut")
    for _ in "twice":
        netns_lab.remove(gone, cut)
    netns_lab.host("gone", lan)
    before = str(netns_lab)
    wrong: tuple[Callable[[], Any], ...] = (
        lambda: gone.run(["true"]),
        lambda: gone["eth0"],
        lambda: gone.set_route("default", laptop),
        lambda: gone.use_nameserver(laptop),
        lambda: laptop.set_route("default", gone),
        lambda: laptop.use_nameserver(gone),
        lambda: netns_lab.connect(gone, lan),
        lambda: netns_lab.link(laptop, gone),
        lambda: home.forward_port(80, gone),
        lambda: ping(gone, laptop),
        lambda: cut.ports,
        lambda: netns_lab.host("x", cut),
        lambda: laptop["eth0"].replug(cut),
        lambda: home.set_nat(cut),
    )
    for mistake in wrong:
        with pytest.raises(ClosedError, match=r"(gone|cut) is closed: it was removed, or its lab has ended"):
            mistake()
        assert str(netns_lab) == before


def test_a_ping_of_one_that_was_removed_says_so(netns_lab: Lab) -> None:
    """It is false, as nobody answers; who has the address by now is not asked instead."""
    lan, laptop, _ = furnish(netns_lab)
    gone = netns_lab.host("gone", lan, ip="192.168.1.77")
    assert ping(laptop, gone)
    gone.close()
    result = ping(laptop, gone, timeout=0.01)
    assert not result
    assert "0 of 1 came back; gone is closed: it was removed, or its lab has ended; nothing came for" in repr(result)
    netns_lab.host("heir", lan, ip="192.168.1.77")
    with pytest.raises(ValueError, match=r"gone is closed: .*; its address 192.168.1.77 belongs to heir now"):
        ping(laptop, gone)


def test_a_host_without_a_lab_says_it_too() -> None:
    """By its name, not by the number of its namespace."""
    with Lab() as lab:
        pair = lab.pair()
    with pytest.raises(NetnsError, match="beijing is closed: it was removed, or its lab has ended"):
        ping(*pair)
