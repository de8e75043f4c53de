"""Further kinds of interfaces: each is ready when the call returns, carries what it is for, and ends with its host."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fresh import own_interfaces
from pace import seconds

from pytest_netns import (
    ClosedError,
    Host,
    Interface,
    KernelError,
    Lab,
    PlanError,
    WaitTimeout,
    ping,
)
from pytest_netns._features import lacking

pytestmark = pytest.mark.kernel

PATIENT = seconds(20)
KEY = "Q" * 43 + "="


@pytest.fixture
def two(netns_lab: Lab) -> tuple[Host, Host]:
    """Two hosts on a bridge."""
    lan = netns_lab.bridge("lan")
    return netns_lab.host("left", lan), netns_lab.host("right", lan)


def assert_carries(left: tuple[Host, Interface], right: tuple[Host, Interface]) -> None:
    """The first packet gets through between two interfaces of any kind, in both families, once they have addresses."""
    for number, (host, interface) in enumerate((left, right), 1):
        state = interface.state()
        assert state.up
        assert state.operstate in {"UP", "UNKNOWN"}
        host.add_address(interface.name, f"192.0.2.{number}/24")
        host.add_address(interface.name, f"2001:db8::{number}/64")
    for address in ("192.0.2.2", "2001:db8::2"):
        before = left[1].state().tx_packets
        result = ping(left[0], address, timeout=PATIENT)
        assert result
        assert result.max is not None
        assert result.max < seconds(0.7), result  # a lost request is repeated after a second
        assert left[1].state().tx_packets > before


class TestWhatTheyCarry:
    def test_vxlan(self, two: tuple[Host, Host]) -> None:
        """A segment of its own, wrapped in UDP: by the far address, or by a multicast group."""
        left, right = two
        ends = [left.add_vxlan(42, remote=right.ip, parent="eth0"), right.add_vxlan(42, remote=left.ip, parent="eth0")]
        assert [end.name for end in ends] == ["vxlan42", "vxlan42"]
        assert ends[0].state().mtu == 1450
        assert_carries((left, ends[0]), (right, ends[1]))

    def test_vxlan_by_multicast(self, two: tuple[Host, Host]) -> None:
        """With a group each finds the others without being told of them."""
        ends = [host.add_vxlan(7, remote="239.1.1.1", parent="eth0", port=8472, name="v") for host in two]
        assert_carries((two[0], ends[0]), (two[1], ends[1]))

    def test_macvlan(self, two: tuple[Host, Host]) -> None:
        """A hardware address more on the same cable, which hosts outside see."""
        left, right = two
        left.sysctl("ipv4.conf.all.arp_ignore", 1)  # else eth0 answers for it, too
        end = left.add_macvlan("eth0", mac="02:00:00:00:00:77")
        assert (end.name, end.state().mac) == ("macvlan0", "02:00:00:00:00:77")
        left.add_address("macvlan0", "192.0.2.1/24")
        right.add_address("eth0", "192.0.2.2/24")
        assert ping(right, "192.0.2.1", timeout=PATIENT)
        shown = right.run(["ip", "neigh", "show", "192.0.2.1"], capture_output=True, text=True, check=True).stdout
        assert "02:00:00:00:00:77" in shown
        assert left.add_macvlan("eth0", "private").name == "macvlan1"

    @pytest.mark.netns(requires=["vlan"])
    def test_vlan(self, two: tuple[Host, Host]) -> None:
        """Frames with one number reach those with the same number, and nobody else."""
        left, right = two
        ends = left.add_vlan("eth0", 10), right.add_vlan("eth0", 10)
        assert ends[0].name == "eth0.10"
        assert_carries((left, ends[0]), (right, ends[1]))
        right.add_vlan("eth0", 20, name="other")
        right.add_address("other", "198.51.100.1/24")
        left.add_address("eth0.10", "198.51.100.2/24")
        assert not ping(left, "198.51.100.1", timeout=0.2)

    @pytest.mark.netns(requires=["gre", "ip6gre"])
    def test_gre(self, two: tuple[Host, Host]) -> None:
        """IP in IP, over either version."""
        left, right = two
        for name, kind, here, there in (("gre1", "gre", left.ip, right.ip), ("gre2", "ip6gre", left.ip6, right.ip6)):
            assert here is not None
            assert there is not None
            ends = left.add_gre(there, local=here if ":" in here else None), right.add_gre(here, local=there)
            assert (ends[0].name, ends[0].state().kind) == (name, kind)
            assert_carries((left, ends[0]), (right, ends[1]))
            ends[0].down()
            ends[1].down()

    @pytest.mark.netns(requires=["wireguard"])
    def test_wireguard(self, two: tuple[Host, Host]) -> None:
        """Encrypted, between peers that know each other's key; what comes from elsewhere is not let in."""
        left, right = two
        ends = left.add_wireguard(), right.add_wireguard(KEY, listen_port=7777)
        assert ends[0].name == "wg0"
        assert [end.listen_port for end in ends] == [51820, 7777]
        networks = ["192.0.2.0/24", "2001:db8::/64"]
        ends[0].add_peer(ends[1].public_key, networks, endpoint=(str(right.ip6), 7777), preshared_key=KEY)
        ends[1].add_peer(ends[0].public_key, networks, preshared_key=KEY, keepalive=25)
        assert_carries((left, ends[0]), (right, ends[1]))
        ends[1].add_peer(ends[0].public_key, ["192.0.2.99/32"])
        assert not ping(left, "192.0.2.2", timeout=0.2)

    @pytest.mark.netns(requires=["wireguard"])
    def test_wireguard_from_a_key_pair(self, netns: Host) -> None:
        """The kernel works the public key out of the private one as RFC 7748 has it (section 6.1)."""
        private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
        assert netns.add_wireguard(private).public_key == "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="

    @pytest.mark.netns(requires=["dummy"])
    def test_dummy(self, netns: Host) -> None:
        """An address that leads nowhere, and is the host's own."""
        assert [netns.add_dummy().name, netns.add_dummy().name] == ["dummy0", "dummy1"]
        netns.add_address("dummy1", "192.0.2.1/32")
        netns.add_address("dummy1", "2001:db8::1/128")
        assert ping(netns, "192.0.2.1", timeout=PATIENT)
        assert ping(netns, "2001:db8::1", timeout=PATIENT)

    @pytest.mark.netns(requires=["bond"])
    def test_bond(self, netns_lab: Lab) -> None:
        """Two cables as one; when one is pulled, the other carries on."""
        bare = netns_lab.bridge("bare", None, None)
        left, right = netns_lab.host("left", bare, bare), netns_lab.host("right", bare)
        bond = left.add_bond(["eth0", "eth1"])
        assert bond.name == "bond0"
        assert {left.interfaces[name].master for name in ("eth0", "eth1")} == {bond.index}
        assert_carries((left, bond), (right, right["eth0"]))
        active = left.run(
            ["cat", "/sys/class/net/bond0/bonding/active_slave"], capture_output=True, text=True, check=True
        ).stdout.strip()
        bare[f"veth-{'left' if active == 'eth0' else '1'}"].down()
        left.call(wait_for_another, active)
        assert ping(left, "192.0.2.2", timeout=PATIENT)

    @pytest.mark.netns(requires=["vrf"])
    def test_vrf(self, netns_lab: Lab) -> None:
        """Two customers with the same addresses behind one host, and the lab's route in the customer's own table."""
        red, blue = (netns_lab.bridge(name, "192.0.2.0/24", "2001:db8::/64") for name in ("red", "blue"))
        far = netns_lab.bridge("far", "198.51.100.0/24")
        one, other = (netns_lab.host(f"of-{lan.name}", lan) for lan in (red, blue))
        middle = netns_lab.host("middle", red, blue)
        netns_lab.router("beyond", red, far)
        netns_lab.host("target", far)
        first, second = middle.add_vrf(10, ["eth0"]), middle.add_vrf(1000, ["eth1"], name="blue")
        assert [first.name, second.name] == ["vrf10", "blue"]
        for number, host in enumerate((one, other), 1):
            assert host.ip == "192.0.2.1"
            before = host["eth0"].state().rx_packets
            vrf = ("vrf10", "blue")[number - 1]
            middle.run(["ip", "vrf", "show"], check=True)
            middle.run(["ping", "-c1", "-I", vrf, "192.0.2.1"], check=True, timeout=PATIENT)
            assert host["eth0"].state().rx_packets > before
        middle.run(["ping", "-c1", "-I", "vrf10", "198.51.100.2"], check=True, timeout=PATIENT)
        middle["eth0"].down()
        middle["eth0"].up()
        middle.run(["ping", "-c1", "-I", "vrf10", "198.51.100.2"], check=True, timeout=PATIENT)


def wait_for_another(active: str) -> None:
    """Inside: until the bond has left this member; the kernel looks each 0.1 s."""
    while Path("/sys/class/net/bond0/bonding/active_slave").read_text().strip() == active:
        continue


@pytest.fixture
def quiet(netns: Host) -> Host:
    """A host whose new interfaces send nothing by themselves."""
    netns.sysctl("ipv6.conf.default.disable_ipv6", 1)
    return netns


@pytest.mark.netns(requires=["tun"])
class TestTun:
    def test_packets_of_a_tun(self, quiet: Host) -> None:
        """What the host sends is read, what is written the host receives and answers."""
        from scapy.layers.inet import ICMP, IP, UDP

        tun = quiet.add_tun()
        assert (tun.name, tun.state().kind, tun.state().up) == ("tun0", "tun", True)
        with pytest.raises(KernelError, match="create tun tun0: Device or resource busy"):
            quiet.add_tun(name="tun0")
        quiet.add_address("tun0", "192.0.2.1/24")
        with quiet.socket(type=2) as sender:
            sender.sendto(b"hello", ("192.0.2.9", 53))
        packet = IP(tun.read(timeout=PATIENT))
        assert (packet.dst, packet[UDP].dport, bytes(packet[UDP].payload)) == ("192.0.2.9", 53, b"hello")
        tun.write(bytes(IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(id=7, seq=1) / b"over tun"))
        reply = IP(tun.read(timeout=PATIENT))
        assert (reply.src, reply[ICMP].type, bytes(reply[ICMP].payload)) == ("192.0.2.1", 0, b"over tun")

    def test_frames_of_a_tap(self, quiet: Host) -> None:
        """A TAP carries whole Ethernet frames: the host asks for its neighbour."""
        from scapy.layers.l2 import ARP, Ether

        tap = quiet.add_tap()
        quiet.add_address("tap0", "192.0.2.1/24")
        with quiet.socket(type=2) as sender:
            sender.sendto(b"hello", ("192.0.2.9", 53))
        frame = Ether(tap.read(timeout=PATIENT))
        assert (frame[ARP].op, frame[ARP].pdst, frame.src) == (1, "192.0.2.9", tap.state().mac)

    def test_what_it_says_where_nothing_comes(self, quiet: Host) -> None:
        """Nothing to read, no packet, down, deleted, closed: each is told."""
        tun = quiet.add_tun(name="vpn")
        with pytest.raises(WaitTimeout, match=r"nothing came out of vpn within 0\.05 s"):
            tun.read(timeout=0.05)
        with pytest.raises(KernelError, match="write 1 bytes to vpn: Invalid argument"):
            tun.write(b"\0")
        tun.down()
        with pytest.raises(KernelError, match="write 20 bytes to vpn: Input/output error"):
            tun.write(b"\x45" + bytes(19))
        with pytest.raises(PlanError, match="timeout -1: expected seconds"):
            tun.read(-1)
        quiet.run(["ip", "link", "delete", "vpn"], check=True)
        with pytest.raises(KernelError, match="read from vpn: File descriptor in bad state"):
            tun.read(timeout=PATIENT)
        tun.close()
        tun.close()
        with pytest.raises(ClosedError, match="vpn"):
            tun.read()

    def test_it_goes_with_its_host(self) -> None:
        """An interface whose test has not closed it does not keep the namespace; closed, it is gone."""
        with Lab() as lab:
            host = lab.host("alone")
            with host.add_tun() as tun:
                assert "tun0" in host.interfaces
            assert "tun0" not in host.interfaces
            tun = host.add_tun()
            fd = tun.fileno()
            os.fstat(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        with pytest.raises(ClosedError):
            tun.fileno()

    def test_closed_it_is_gone_whoever_runs(self, quiet: Host) -> None:
        """What was forked meanwhile has a copy of its descriptor; a new one may have its name all the same."""
        tun = quiet.add_tun()
        quiet.start(_linger)
        tun.close()
        assert "tun0" not in quiet.interfaces
        with quiet.add_tun(name="tun0") as another:
            quiet.start(_linger)
            assert another.state().up
        assert "tun0" not in quiet.interfaces

    def test_closed_it_leaves_what_has_its_number(self, netns_lab: Lab) -> None:
        """A TUN interface that another host has adopted is found there, and nothing else is deleted for it."""
        home, away = netns_lab.host("home"), netns_lab.host("away")
        tun = home.add_tun()
        away.adopt(tun)
        index = str(tun.index)
        home.run(["ip", "link", "add", "mine", "index", index, "type", "veth", "peer", "name", "other"], check=True)
        tun.close()
        assert "mine" in home.interfaces
        assert "tun0" not in away.interfaces


def _linger(ready: Callable[[], None]) -> None:
    ready()
    signal.pause()


BAD: dict[str, tuple[Callable[[Host], Any], str]] = {
    "VLAN number": (lambda host: host.add_vlan("eth0", 4095), "number 4095: expected a whole number from 1 to 4094"),
    "VLAN name": (lambda host: host.add_vlan("eth0", 5, name="x" * 16), "is 16 bytes long"),
    "VNI": (lambda host: host.add_vxlan(1 << 24), "number 16777216: expected a whole number from 1 to 16777215"),
    "group": (lambda host: host.add_vxlan(1, remote="239.0.0.1"), "multicast group, which needs parent"),
    "address": (lambda host: host.add_vxlan(1, remote="right"), "remote 'right': expected an address"),
    "port": (lambda host: host.add_vxlan(1, port=0), "port 0: expected a whole number from 1 to 65535"),
    "no local": (lambda host: host.add_gre("fd00::9"), "local None: a tunnel to fd00::9 wants the IPv6 address"),
    "families": (lambda host: host.add_gre("10.0.0.2", local="::1"), "local '::1': expected IPv4"),
    "macvlan mode": (lambda host: host.add_macvlan("eth0", "l3"), "mode 'l3': expected one of private, vepa, bridge"),
    "mac": (lambda host: host.add_macvlan("eth0", mac="x"), "mac 'x': expected six octets"),
    "bond mode": (lambda host: host.add_bond(["eth0"], "lacp"), "mode 'lacp': expected one of balance-rr, active-"),
    "no members": (lambda host: host.add_bond([]), r"interfaces \[\]: expected at least one"),
    "an address": (lambda host: host.add_bond(["eth0"]), "eth0 has the address 10.0.0.1/24"),
    "table": (lambda host: host.add_vrf(254), "table 254: expected another"),
    "key": (lambda host: host.add_wireguard("short"), "private_key 'short': expected 32 bytes in base64"),
    "tun name": (lambda host: host.add_tun(name="a/b"), "'a/b': expected printable ASCII"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_what_cannot_be_is_refused(netns_pair: tuple[Host, Host], wrong: str) -> None:
    """By value and what was expected, before anything is made."""
    host, _ = netns_pair
    before = list(host.interfaces)
    ask, words = BAD[wrong]
    with pytest.raises(PlanError, match=words):
        ask(host)
    assert list(host.interfaces) == before


def test_what_is_not_there_or_there_already(netns_pair: tuple[Host, Host]) -> None:
    """The interface to build on is looked for by name; a name that is taken is the kernel's to refuse."""
    host, _ = netns_pair
    with pytest.raises(KeyError, match=r"beijing has no interface 'eth7'; it has lo, (.*, )?eth0"):
        host.add_macvlan("eth7")
    with pytest.raises(KernelError, match="create vxlan eth0: File exists"):
        host.add_vxlan(1, name="eth0")


@pytest.mark.parametrize("kind", ["wireguard", "vlan", "gre", "dummy", "vrf", "bond"])
def test_a_kind_that_the_kernel_lacks_is_told_with_its_cure(netns_lab: Lab, kind: str) -> None:
    """Or it is there, and made."""
    host = netns_lab.host("host", netns_lab.bridge("bare", None, None))
    asked: dict[str, Callable[[], Interface]] = {
        "wireguard": host.add_wireguard,
        "vlan": lambda: host.add_vlan("eth0", 5),
        "gre": lambda: host.add_gre("192.0.2.1"),
        "dummy": host.add_dummy,
        "vrf": lambda: host.add_vrf(10, ["eth0"]),
        "bond": lambda: host.add_bond(["eth0"]),
    }
    if not lacking([kind]):
        assert asked[kind]().state().kind == kind
        return
    with pytest.raises(KernelError, match=rf"create {kind} \w+(\.5)?: {kind} is lacking: .* modprobe .* CONFIG_"):
        asked[kind]()
    assert own_interfaces(host) == {"lo", "eth0"}


def test_a_failure_half_way_leaves_nothing(netns_pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """If it cannot be switched on, it is deleted again."""

    def fail(interface: Interface) -> None:
        raise KernelError(5, f"{interface.name} is there")

    host, _ = netns_pair
    before = list(host.interfaces)
    monkeypatch.setattr(Host, "_switch_on", staticmethod(fail))
    with pytest.raises(KernelError, match="vxlan1 is there"):
        host.add_vxlan(1)
    if not lacking(["tun"]):
        with pytest.raises(KernelError, match="tun0 is there"):
            host.add_tun()
    assert list(host.interfaces) == before
