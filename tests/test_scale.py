"""Large labs: they stand, their first packets get through, and a host more costs as much as the one before it."""

from __future__ import annotations

import errno
import itertools
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest
from pace import seconds

from pytest_netns import Host, Lab, PlanError, ping
from pytest_netns._plan import NOTHING, Plan, add_end, add_node, add_segment

#: More than settle at a time, on a bridge that is switched on last.
MANY = 70


def _star(lab: Lab, size: int) -> list[Host]:
    lan = lab.bridge("lan", "10.0.0.0/16")
    return [lab.host(f"h{number}", lan) for number in range(size)]


def _chain(lab: Lab, size: int) -> list[Host]:
    """Routers in a row, joined directly, each with a host: half of them settle later than their neighbours."""
    routers = [lab.router(f"r{number}") for number in range(size // 2)]
    for one, other in itertools.pairwise(routers):
        lab.link(one, other)
    hosts = [lab.host(f"h{number}") for number in range(size // 2)]
    for router, host in zip(routers, hosts, strict=True):
        lab.link(router, host)
    return hosts


@pytest.mark.kernel
@pytest.mark.parametrize("shape", [_star, _chain])
def test_the_first_packet_of_a_large_lab_gets_through(netns_lab: Lab, shape: Callable[[Lab, int], list[Host]]) -> None:
    """From each host to the next one, over IPv4 or IPv6; what would be lost comes a second later."""
    hosts = shape(netns_lab, MANY)
    netns_lab.build()
    for number, (one, other) in enumerate(itertools.pairwise(hosts)):
        assert ping(one, str(other.ip6) if number % 2 else other, timeout=min(0.9, seconds(0.5))), number
    assert {host.sysctl("ipv6.conf.default.accept_dad") for host in hosts} == {"0"}


def test_a_bridge_of_many_is_switched_on_last() -> None:
    """What hosts say when they get their addresses would else go to all others: n hosts, n * n frames."""
    from pytest_netns._steps import steps

    up = 0x1
    for size, last in ((32, False), (33, True)):
        plan = add_segment(NOTHING, "lan")
        for number in range(size):
            plan = add_end(add_node(plan, f"h{number}"), f"h{number}", "lan")
        todo = steps(NOTHING, plan)
        (created,) = todo.bridges.values()
        assert bool(created.data[24] & up) is not last
        assert [request.what for request in todo.read["lan"]].count("set lan up") == last


def test_a_bridge_has_no_more_ports_than_linux_gives_it() -> None:
    """The 1,024th host is refused in the plan, before anything is made."""
    plan: Plan = add_segment(NOTHING, "lan", "10.0.0.0/16")
    for number in range(1023):
        plan = add_end(add_node(plan, f"h{number}"), f"h{number}", "lan")
    with pytest.raises(PlanError, match="more finds no free port on lan: Linux gives a bridge 1023"):
        add_end(add_node(plan, "more"), "more", "lan")


LIMITED = """
import resource, sys
from pytest_netns import Lab, KernelError, ping
soft, hard = map(int, sys.argv[1:])
with Lab() as lab:
    lan = lab.bridge("lan")
    hosts = [lab.host(f"h{number}", lan) for number in range(100)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        lab.build()
        print(bool(ping(hosts[0], hosts[-1])), resource.getrlimit(resource.RLIMIT_NOFILE)[0] > soft)
    except KernelError as error:
        print(error.errno, error.strerror)
"""


@pytest.mark.once
@pytest.mark.parametrize(("soft", "hard"), [(150, 1000), (150, 300)])
def test_a_lab_that_needs_more_open_files_than_usual(soft: int, hard: int) -> None:
    """The soft limit is raised; where the hard one is too low, the error says what to type."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    if usual[1] != resource.RLIM_INFINITY and usual[1] < hard:
        pytest.skip(f"this process may have {usual[1]} open files at most")
    command = [sys.executable, "-c", LIMITED, str(soft), str(hard)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    if hard == 1000:
        assert said == "True True\n"
    else:
        assert said.startswith(f"{errno.EMFILE} 101 hosts and bridges need two open files each")
        assert "prlimit --pid" in said
