"""``requires``: what the kernel lacks is found by trying, told with its cure, and skips the test or fails it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

import pytest
from fresh import bare_names
from marking import Inner
from pace import seconds

from pytest_netns import Host, Pair, PlanError, ping
from pytest_netns._features import FEATURES, check_names, lacking

pytestmark = pytest.mark.kernel

PATIENT = seconds(20)
needs_ip = pytest.mark.skipif(shutil.which("tc") is None, reason="needs the program tc: apt install iproute2")


def python(source: str) -> str:
    return f"{sys.executable} -I -c 'import socket, os; {source}'"


#: What a user would type to use each feature.
COMMANDS = {
    "bond": "ip link add tried type bond",
    "cake": "tc qdisc add dev eth0 root cake",
    "clsact": "tc qdisc add dev eth0 clsact",
    "dummy": "ip link add tried type dummy",
    "flower": "tc qdisc add dev eth0 ingress && tc filter add dev eth0 parent ffff: protocol ip flower",
    "fq": "tc qdisc add dev eth0 root fq",
    "fq_codel": "tc qdisc add dev eth0 root fq_codel",
    "geneve": "ip link add tried type geneve id 1 remote 192.0.2.1",
    "gre": "ip link add tried type gre remote 192.0.2.1",
    "gretap": "ip link add tried type gretap remote 192.0.2.1",
    "hsr": "ip link add name one type veth peer name two && ip link add tried type hsr slave1 one slave2 two",
    "htb": "tc qdisc add dev eth0 root handle 1: htb",
    "ifb": "ip link add tried type ifb",
    "ip6gre": "ip link add tried type ip6gre remote 2001:db8::1",
    "ip6tnl": "ip link add tried type ip6tnl mode ip6ip6 remote 2001:db8::1",
    "ipip": "ip link add tried type ipip remote 192.0.2.1",
    "ipv6": python("socket.socket(socket.AF_INET6)"),
    "ipvlan": "ip link add tried link eth0 type ipvlan mode l2",
    "macsec": "ip link add tried link eth0 type macsec",
    "macvlan": "ip link add tried link eth0 type macvlan mode bridge",
    "macvtap": "ip link add tried link eth0 type macvtap mode bridge",
    "matchall": "tc qdisc add dev eth0 ingress && tc filter add dev eth0 parent ffff: protocol all matchall flowid 1:1",
    "mptcp": python("socket.socket(proto=262)"),
    "nat": "PATH=$PATH:/usr/sbin nft 'table ip x { chain y { type nat hook postrouting priority 100; masquerade; }; }'",
    "netem": "tc qdisc add dev eth0 root netem delay 1ms",
    "netkit": "ip link add tried type netkit",
    # Asks for the list of tables.
    "nft": python(
        "s = socket.socket(16, 3, 12);"
        " s.send((20).to_bytes(4, sys.byteorder) + bytes((1, 10, 1, 3)) + bytes(12));"
        " assert s.recv(9999)[4] == 3"
    ).replace("import socket", "import sys, socket"),
    "sctp": python("socket.socket(proto=132)"),
    "sit": "ip link add tried type sit remote 192.0.2.1",
    "tbf": "tc qdisc add dev eth0 root tbf rate 1mbit burst 10kb latency 50ms",
    "team": "ip link add tried type team",
    "tun": "ip tuntap add mode tun dev tried",
    "u32": "tc qdisc add dev eth0 ingress && tc filter add dev eth0 parent ffff: protocol ip u32 match u32 0 0",
    "vcan": "ip link add tried type vcan",
    "vlan": "ip link add tried link eth0 type vlan id 7",
    "vlan_filtering": "ip link add tried type bridge vlan_filtering 1 && bridge vlan add dev tried vid 7 self",
    "vrf": "ip link add tried type vrf table 10",
    "vxlan": "ip link add tried type vxlan id 1 dstport 4789",
    "wireguard": "ip link add tried type wireguard",
    "xfrm": "ip link add tried type xfrm dev eth0 if_id 1",
}


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    monkeypatch.setenv("COLUMNS", "400")  # reasons are not cut then
    made = Inner(pytester, monkeypatch)
    pytester.makeconftest(UNKNOWN_TO_ANY)
    return made


#: A feature that no kernel has; and it counts how often one is tried.
UNKNOWN_TO_ANY = """
from pytest_netns import _features

_features.FEATURES["nothing"] = _features.Feature("sch_nothing", "NET_SCH_NOTHING", _features._qdisc("nothing"))
_features.FEATURES["nowhere"] = _features.Feature("nowhere", "NOWHERE", _features._link("nowhere"))
try_it, tried = _features._try, []
_features._try = lambda name: tried.append(name) or try_it(name)

def pytest_unconfigure():
    print("TRIED", *tried)
"""

NOTHING = "nothing is lacking: this kernel, *, says 'No such file or directory'. Type: sudo modprobe sch_nothing; *"


@needs_ip
@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_there_if_and_only_if_it_can_be_used(
    netns_pair: Pair, name: str, record_property: Callable[[str, object], None]
) -> None:
    """What is said of each feature is what a user's own command meets, on every kernel."""
    said = lacking([name])
    record_property("feature", f"{name}: {'no' if said else 'yes'}")
    command = netns_pair.hosts[0].run(["sh", "-c", COMMANDS[name]], capture_output=True, text=True, timeout=PATIENT)
    assert (command.returncode == 0) == (not said), (said, command.stderr)


def test_what_is_lacking_skips_with_reason_and_cure(inner: Inner) -> None:
    """A test that requires what is lacking is skipped before its fixtures; each feature is tried once."""
    result = inner.run(
        """
        import os
        import pytest

        MACHINE = os.stat("/proc/self/ns/net").st_ino
        pytestmark = pytest.mark.netns(requires=["ipv6"])

        @pytest.fixture
        def costly():
            raise AssertionError("made for nothing")

        @pytest.mark.netns(requires=["nothing"])
        def test_skipped(costly):
            pass

        @pytest.mark.netns
        @pytest.mark.netns(requires=("nowhere", "nothing"))
        def test_skipped_inside(costly, netns_pair):
            pass

        def test_runs_in_the_test_process():
            assert os.stat("/proc/thread-self/ns/net").st_ino == MACHINE

        @pytest.mark.netns(timeout=50)
        def test_runs_inside():
            assert os.stat("/proc/thread-self/ns/net").st_ino != MACHINE
    """,
        "-rs",
        "-s",
    )
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines([f"SKIPPED*: {NOTHING}CONFIG_NET_SCH_NOTHING"])
    result.stdout.fnmatch_lines(["SKIPPED*: nowhere is lacking: *CONFIG_NOWHERE; nothing is lacking: *"])
    result.stdout.fnmatch_lines(["TRIED ipv6 nothing nowhere"])


@pytest.mark.parametrize(
    ("way", "outcome"),
    [("option", "errors"), ("CI", "errors"), ("CI, but ini", "skipped"), ("ini", "errors"), ("default", "skipped")],
)
def test_what_is_lacking_fails_where_that_is_wanted(
    inner: Inner, monkeypatch: pytest.MonkeyPatch, way: str, outcome: str
) -> None:
    """Features fail where namespaces would; ``netns_lacking`` in the ini file tells the two apart."""
    if "CI" in way:
        monkeypatch.setenv("CI", "true")
    if "ini" in way:
        inner.pytester.makeini(f"[pytest]\nnetns_lacking = {'skip' if outcome == 'skipped' else 'fail'}")
    source = "import pytest\n@pytest.mark.netns(requires=['nothing'])\ndef test_it(): pass\n"
    result = inner.run(source, "-rsE", *(["--netns-missing=fail"] if way == "option" else []))
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines([f"*{NOTHING}"])
    result.stdout.no_fnmatch_line("*plugin.py*Error*")


@pytest.mark.parametrize("lacking", ["skip", "fail"])
def test_a_lab_may_require_in_the_middle(inner: Inner, lacking: str) -> None:
    """In a fixture, in a body, in a body inside: as the marker would, by the same setting; what is there is no news."""
    inner.pytester.makeini(f"[pytest]\nnetns_lacking = {lacking}")
    result = inner.run(
        """
        import pytest
        from pytest_netns import FeatureLacking, Lab

        @pytest.fixture
        def tunnel(netns_lab):
            netns_lab.require("ipv6", "nothing")

        def test_in_a_fixture(tunnel): pass

        def test_in_a_body(netns_lab):
            netns_lab.require("ipv6")
            netns_lab.require("nothing")

        @pytest.mark.netns(inside="alone")
        def test_inside(netns_lab, host):
            netns_lab.require("nothing")

        @pytest.fixture
        def host(netns_lab):
            return netns_lab.host("alone")

        def test_goes_on(netns_lab):
            netns_lab.require("ipv6")
            with pytest.raises(FeatureLacking, match="sudo modprobe sch_nothing"), Lab() as lab:
                lab.require("nothing")
    """,
        "-rsfE",
    )
    if lacking == "skip":
        result.assert_outcomes(passed=1, skipped=3)
    else:
        result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines([f"*{NOTHING}CONFIG_NET_SCH_NOTHING"])
    result.stdout.no_fnmatch_line("*_lab.py*FeatureLacking*")


def test_nothing_is_tried_for_a_plan_of_the_setup(inner: Inner) -> None:
    """``--setup-plan`` shows what would be done, whatever this kernel lacks."""
    source = "import pytest\n@pytest.mark.netns(requires=['nothing'])\ndef test_it(netns): pass\n"
    result = inner.run(source, "--setup-plan", "-s")
    result.stdout.fnmatch_lines(["*SETUP*netns*"])
    result.stdout.fnmatch_lines(["TRIED"])


def test_an_unknown_name_is_refused_with_the_legal_ones() -> None:
    """A misspelt feature would otherwise skip its test for ever."""
    with pytest.raises(PlanError, match=r"feature 'netm' \(did you mean 'netem'\?\); there are bond, .*, xfrm"):
        check_names(["wireguard", "netm"])
    check_names(list(FEATURES))


# What this needs from the kernel is not everywhere; the kernel lane has it.


@needs_ip
@pytest.mark.netns(requires=["netem"])
def test_a_delayed_link_delays_the_echo(netns_pair: Pair) -> None:
    """A delay of 50 ms on one end shows in the time of the echo, and is no reason to lose the first."""
    beijing, shanghai = netns_pair
    shanghai.run(["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "50ms"], check=True)
    result = ping(beijing, shanghai, count=3, timeout=PATIENT)
    assert result
    assert min(result.rtts) >= 0.05


@needs_ip
@pytest.mark.netns(requires=["vlan"])
def test_hosts_reach_each_other_over_a_vlan(netns_pair: Pair) -> None:
    """Tagged frames cross the bridge."""
    for number, host in enumerate(netns_pair, 1):
        host.run(["ip", "link", "add", "tagged", "link", "eth0", "up", "type", "vlan", "id", "7"], check=True)
        host.add_address("tagged", f"192.168.7.{number}/24")
        assert host.interfaces["tagged"].kind == "vlan"
    assert ping(netns_pair.hosts[0], "192.168.7.2", timeout=PATIENT)


@needs_ip
@pytest.mark.netns(requires=["vrf"])
def test_a_vrf_hides_its_routes(netns_pair: Pair) -> None:
    """What is enslaved to a VRF is not reached by the main table any more, and by the VRF's own it is."""
    beijing, shanghai = netns_pair
    for command in ("link add red up type vrf table 10", "link set eth0 master red"):
        beijing.run(["ip", *command.split()], check=True)
    in_main, in_red = (
        beijing.run(["ip", "route", "get", *vrf, str(shanghai.ip)], capture_output=True).returncode
        for vrf in ([], ["vrf", "red"])
    )
    assert (in_main != 0, in_red) == (True, 0)


@needs_ip
@pytest.mark.netns(requires=["bond", "wireguard", "macvlan", "vxlan", "dummy"])
def test_kinds_of_interfaces_are_told(netns: Host) -> None:
    """An interface is shown with its kind, also where the plugin has no use for the kind itself."""
    kinds = ("bond", "wireguard", "dummy")
    for kind in kinds:
        netns.run(["ip", "link", "add", f"a-{kind}", "type", kind], check=True)
    assert [netns.interfaces[f"a-{kind}"].kind for kind in kinds] == list(kinds)


@pytest.mark.netns(requires=["gre", "sit", "ipip"])
class TestTunnelsInEveryNamespace:
    """Once a tunnel driver is loaded, every new namespace has an interface of it."""

    def test_a_pair_works_beside_them(self, netns_pair: Pair) -> None:
        """They are there, down, and in nobody's way."""
        beijing, shanghai = netns_pair
        assert {"gre0", "sit0", "tunl0"} <= set(beijing.interfaces)
        assert list(beijing.interfaces) == [*bare_names(), "eth0"]
        assert [name for name, state in beijing.interfaces.items() if state.up] == ["lo", "eth0"]
        assert ping(beijing, shanghai, timeout=PATIENT)
        assert ping(shanghai, str(beijing.ip6), timeout=PATIENT)

    def test_a_body_works_beside_them(self, inner: Inner) -> None:
        """Inside, too."""
        inner.run("""
            import socket
            import pytest

            @pytest.mark.netns(requires=["gre"], timeout=300)
            def test_inside():
                assert "gre0" in [name for _, name in socket.if_nameindex()]
                with socket.create_server(("127.0.0.1", 80)), socket.create_connection(("127.0.0.1", 80), 5):
                    pass
        """).assert_outcomes(passed=1)
