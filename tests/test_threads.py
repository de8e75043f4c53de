"""Labs that several threads change at a time, and forks in the middle of that."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fresh import own_interfaces
from pace import seconds
from programs import program

from pytest_netns import ClosedError, Lab, _life, ping
from pytest_netns._build import make

pytestmark = pytest.mark.kernel

#: Seconds that nobody waits where all is well.
PATIENT = seconds(20)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*functions: Callable[[], object]) -> None:
    """Call all of them, each in a thread of its own; the first error is raised."""
    barrier = threading.Barrier(len(functions))

    def wait_and_call(function: Callable[[], object]) -> None:
        barrier.wait(PATIENT)
        function()

    with ThreadPoolExecutor(len(functions)) as pool:
        for outcome in [pool.submit(wait_and_call, function) for function in functions]:
            outcome.result()


@pytest.mark.usefixtures("hasty")
class TestAdditions:
    def test_all_are_there_in_a_lab_that_runs(self, netns_lab: Lab) -> None:
        """What each thread asked for is there when its call returns, whatever the others do."""
        lan, dmz = netns_lab.bridge("lan"), netns_lab.bridge("dmz")
        first, second, third = (netns_lab.host(name, lan) for name in ("first", "second", "third"))
        netns_lab.build()
        at_once(
            *(lambda name=f"h{number}": netns_lab.host(name, lan) for number in range(4)),
            lambda: netns_lab.bridge("wan"),
            lambda: netns_lab.connect(first, dmz),
            lambda: netns_lab.link(first, second),
            lambda: netns_lab.remove(third),
            lambda: netns_lab.pair(hosts=("beijing", "shanghai"), bridge="br0"),
        )
        assert {*netns_lab.hosts} == {"first", "second", "h0", "h1", "h2", "h3", "beijing", "shanghai"}
        assert {*netns_lab.bridges} == {"lan", "dmz", "wan", "br0"}
        assert own_interfaces(first) == {"lo", "eth0", "eth1", "eth2"}
        for number in range(4):
            assert ping(netns_lab[f"h{number}"], first, timeout=PATIENT)

    def test_all_are_in_the_plan(self, netns_lab: Lab) -> None:
        """Nothing is lost, nor is an address given twice, where nothing has been made yet."""
        program("nft")
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        server, home = netns_lab.host("server", lan), netns_lab.router("home", lan, wan, nat=wan)
        at_once(
            *(lambda name=f"h{number}": netns_lab.host(name, lan) for number in range(4)),
            *(lambda port=port: home.forward_port(port, server) for port in range(80, 84)),
        )
        assert sorted(forward.port for forward in home.port_forwards) == [80, 81, 82, 83]
        assert len({host.ip for host in netns_lab.hosts.values()}) == len(netns_lab.hosts) == 6


class TestForks:
    def test_while_another_thread_has_the_turn(self, netns_lab: Lab) -> None:
        """A call inside a call does not wait for a thread that its process does not have."""
        lan = netns_lab.bridge("lan")
        a, b = netns_lab.host("a", lan), netns_lab.host("b", lan)
        assert a.call(int) == 0
        has_it, forked = threading.Event(), threading.Event()

        def hold() -> None:
            with netns_lab.making():
                has_it.set()
                forked.wait(PATIENT)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert has_it.wait(PATIENT)
            with a.enter(timeout=PATIENT / 2) as run:
                assert run(lambda: b.call(lambda: 7)) == 7
        finally:
            forked.set()
            holder.join()

    def test_while_another_thread_makes_a_host(self, netns_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """The fork has what there was; the new host is its parent's to make, and says so there."""
        lan = netns_lab.bridge("lan")
        a, b = netns_lab.host("a", lan), netns_lab.host("b", lan)
        assert a.call(int) == 0
        at_it, forked = threading.Event(), threading.Event()

        def make_later(*arguments: object, **keywords: object) -> None:
            at_it.set()
            forked.wait(PATIENT)
            make(*arguments, **keywords)  # type: ignore[arg-type]

        monkeypatch.setattr(_life, "make", make_later)
        maker = threading.Thread(target=netns_lab.host, args=("new", lan))
        maker.start()
        try:
            assert at_it.wait(PATIENT)
            with a.enter(timeout=PATIENT / 2) as run:
                assert run(lambda: b.call(lambda: 7)) == 7
                with pytest.raises(ClosedError, match=r"Host new.* is not there in this process: another thread"):
                    run(lambda: netns_lab["new"].call(int))
        finally:
            forked.set()
            maker.join()
        assert netns_lab["new"].call(lambda: 8) == 8


CALLED = """
import subprocess, sys
from pytest_netns import Lab

def use(host):
    before = set(sys.modules)
    host.run(["true"])
    host.popen(["true"]).wait()
    host.call(int)
    host.start(int).wait()
    host.wait_path("/")
    with host.socket(), host.popen(["sleep", "1000"]) as program:
        program.terminate()
    host.interfaces, host.sysctl("ipv4.ip_forward"), host.end_processes()
    return {name for name in set(sys.modules) - before if name.startswith("pytest_netns")}

with Lab() as lab:
    beijing, shanghai = lab.pair()
    print(*beijing.call(use, shanghai))
"""


def test_a_child_imports_nothing_of_ours() -> None:
    """If another thread was at that import when the child was forked, it would wait for its lock for ever."""
    done = subprocess.run([sys.executable, "-c", CALLED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
