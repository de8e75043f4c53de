"""Routes of interfaces that belong to a VRF stay in its table, whatever changes while the lab runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pace import seconds

from pytest_netns import Host, Lab, _requests
from pytest_netns._changing import find_end, fix_route, give_address, remove, replug, set_mtu, take_address
from pytest_netns._plan import Plan, add_end, add_node, add_segment
from pytest_netns._reading import plan_from
from pytest_netns._steps import steps

TABLE = 10
FAR = "198.51.100.0/24"


def street() -> Plan:
    """A host with a foot in each of two networks, a router to a third in the first one, and a second router there."""
    off = {"subnet6": False}
    return plan_from(
        {
            "bridges": {
                "red": {"subnet": "192.0.2.0/25", **off},
                "blue": {"subnet": "192.0.2.128/25", **off},
                "far": {"subnet": FAR, **off},
            },
            "hosts": {"middle": {"bridges": ["red", "blue"]}, "target": {"bridges": ["far"]}},
            "routers": {"beyond": {"bridges": ["red", "far"]}, "second": {"bridges": ["red"]}},
        }
    )


def eth0(plan: Plan) -> int:
    end = find_end(plan, "middle", "eth0")
    assert end is not None
    return end.index


def asked(old: Plan, new: Plan, *asleep: str, index: int | None = None) -> tuple[list[bytes], list[bytes]]:
    """What is asked of middle about routes: those that are to go, and those that are to be.

    Its interface of that index is in a VRF, by default eth0; and so is another host's of the same index.
    """
    index = eth0(old) if index is None else index
    todo = steps(old, new, [("middle", name) for name in asleep], {("middle", index): TABLE, ("target", index): 77})
    found = (todo.changes.leave.get("middle", []), todo.settle.get("middle", []))
    leave, settle = ([each.data for each in requests if " route " in each.what] for requests in found)
    return leave, settle


def default(via: str = "192.0.2.2", table: int | None = TABLE) -> bytes:
    return _requests.restore_route(4, None, via, table).data


def no_default(via: str = "192.0.2.2", table: int | None = TABLE) -> bytes:
    return _requests.delete_route(4, None, via, table).data


@pytest.mark.parametrize(
    ("change", "gone", "there"),
    [
        (lambda plan: set_mtu(plan, "middle", "eth0", 1400), [], [default()]),
        (lambda plan: give_address(plan, "middle", "eth0", "192.0.2.9/25"), [], [default()]),
        (lambda plan: take_address(plan, "middle", "eth1", "192.0.2.129"), [], [default()]),
        (lambda plan: take_address(plan, "middle", "eth0", "192.0.2.1"), [no_default()], []),
        (
            lambda plan: replug(plan, "middle", "eth0", "far", ip="auto", ip6=None),
            [no_default()],
            [default("198.51.100.2")],
        ),
        (lambda plan: fix_route(plan, "middle", "default", "second"), [no_default()], [default("192.0.2.3")]),
        (lambda plan: fix_route(plan, "middle", "default", None), [no_default()], []),
        (lambda plan: remove(plan, {"beyond"}), [no_default()], []),
        (lambda plan: remove(plan, {"red"}), [], []),
    ],
)
def test_a_change_asks_for_them_in_their_table(
    change: Callable[[Plan], Plan], gone: list[bytes], there: list[bytes]
) -> None:
    """Those that go are taken from it, those that stay or come are put there, and none into the main one."""
    before = street()
    leave, settle = asked(before, change(before))
    assert leave == gone
    assert settle == there


def test_a_router_that_comes_later_is_reached_by_their_table() -> None:
    """The way there is put where the interface looks."""
    before = remove(street(), {"beyond"})
    after = add_node(before, "later", forwards=True)
    for segment in ("red", "far"):
        after = add_end(after, "later", segment)
    assert asked(before, after) == ([], [default("192.0.2.4")])


def test_one_of_the_main_table_stays_there() -> None:
    """The host's other interface is in no VRF."""
    before = add_segment(street(), "farther", "203.0.113.0/24", None)
    after = add_node(before, "exit", forwards=True)
    for segment in ("blue", "farther"):
        after = add_end(after, "exit", segment)
    wanted = _requests.restore_route(4, "203.0.113.0/24", "192.0.2.130", None).data
    assert asked(before, after) == ([], [wanted])


def test_two_interfaces_on_one_segment_have_it_in_each_table() -> None:
    """The kernel knows the way from both; of one that is off, from the other only."""
    before = add_end(street(), "middle", "red")
    after = set_mtu(before, "middle", "eth1", 1400)
    assert asked(before, after) == ([], [default(), default(table=None)])
    assert asked(before, after, "eth0") == ([], [default(table=None)])
    assert asked(before, after, "eth2") == ([], [default()])


def test_another_interface_of_the_name_is_in_no_table() -> None:
    """The one that was in the VRF has gone with its bridge."""
    plan = street()
    before = add_end(remove(plan, {"red"}), "middle", "far")
    after = add_segment(add_node(before, "exit", forwards=True), "farther", "203.0.113.0/24", None)
    for segment in ("far", "farther"):
        after = add_end(after, "exit", segment)
    assert asked(before, after, index=eth0(plan)) == ([], [default("198.51.100.4", None)])


def routes(host: Host, table: int) -> list[str]:
    done = host.run(["ip", "-4", "route", "show", "table", str(table)], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if " via " in line]


def test_a_running_lab_knows_the_tables(netns_lab: Lab) -> None:
    """Each change goes there, also the one that takes a refused one back; off and on as well.

    The table stands for that of a VRF, which need not be in this kernel: for routes it is one like any other.
    """
    red, far = netns_lab.bridge("red", "192.0.2.0/24", None), netns_lab.bridge("far", FAR, None)
    middle, second = netns_lab.host("middle", red), netns_lab.router("second", red)
    netns_lab.build()
    middle._tables = {middle.interface_index("eth0"): TABLE}
    beyond = netns_lab.router("beyond", red, far)
    assert (routes(middle, 254), len(routes(middle, TABLE))) == ([], 1)
    middle["eth0"].set_mtu(1400)
    middle["eth0"].down()
    middle["eth0"].up()
    assert (routes(middle, 254), len(routes(middle, TABLE))) == ([], 1)
    middle.set_route("default", second)
    assert [line.split()[2] for line in routes(middle, TABLE)] == [second.ip]
    middle.set_route("default", "auto")
    netns_lab.remove(beyond)
    assert (routes(middle, 254), routes(middle, TABLE)) == ([], [])


@pytest.mark.netns(requires=["vrf"])
def test_in_a_vrf_the_far_end_is_reached_through_all_changes(netns_lab: Lab) -> None:
    """A router that comes later, another MTU, address, way, network; and none of it in the main table."""
    red, far = netns_lab.bridge("red", "192.0.2.0/24"), netns_lab.bridge("far", FAR)
    green = netns_lab.bridge("green", "203.0.113.0/24")
    middle, target = netns_lab.host("middle", red), netns_lab.host("target", far)
    middle.add_vrf(TABLE, ["eth0"])
    patience = seconds(20)

    def reached() -> None:
        for address in (target.ip, target.ip6):
            middle.run(["ping", "-c1", "-I", "vrf10", str(address)], check=True, timeout=patience)
        assert routes(middle, 254) == []

    first = netns_lab.router("first", red, far)
    reached()
    middle["eth0"].set_mtu(1400)
    reached()
    middle.add_address("eth0", "192.0.2.77/24")
    middle.remove_address("eth0", "192.0.2.1")
    reached()
    second = netns_lab.router("second", red, far, green)
    middle.set_route("default", second)
    reached()
    netns_lab.remove(first)
    middle.set_route("default", "auto")
    reached()
    middle["eth0"].replug(green)
    reached()
    middle["eth0"].down()
    middle["eth0"].up()
    reached()
