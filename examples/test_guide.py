"""What the README shows, as tests: each is complete and can be copied."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_netns import Host, Lab, LabFactory, Nat, Pair, PairFactory, PortForward, Router, ping


@pytest.mark.netns
def test_serves_on_port_80() -> None:
    """The body runs in a private namespace: port 80 is free, needs no root, and nobody outside is reached."""
    with socket.create_server(("127.0.0.1", 80)) as server, socket.create_connection(("127.0.0.1", 80)):
        assert server.getsockname() == ("127.0.0.1", 80)


@pytest.mark.netns(inside="beijing", subnet="192.168.7.0/24", mtu=1400)
def test_body_runs_in_beijing(netns_pair: Pair) -> None:
    """The body runs in that host; the other keywords shape the pair."""
    assert {"lo", "eth0"} <= set(os.listdir("/sys/class/net"))
    assert netns_pair["beijing"].ip == "192.168.7.1"


@pytest.fixture(scope="session")
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 8080)) as listener:
        yield listener


@pytest.mark.netns(isolate=True)  # --netns-isolate does this with all tests of a suite
@pytest.mark.parametrize("turn", [1, 2])
def test_client(server: socket.socket, turn: int) -> None:
    """The test and its fixtures of every scope are in a namespace of their own: 8080 is free for each test."""
    with socket.create_connection(("localhost", 8080)) as client, server.accept()[0] as peer:
        client.sendall(b"%d" % turn)
        assert peer.recv(1) == b"%d" % turn


def test_callables(netns_pair: Pair) -> None:
    """A callable runs in a child inside; its value and its exceptions come back."""
    beijing, shanghai = netns_pair
    with shanghai.enter() as run:
        assert run(os.getpid) != os.getpid()
        assert "eth0" in run(os.listdir, "/sys/class/net")
        with pytest.raises(ConnectionRefusedError):
            run(socket.create_connection, (beijing.ip, 80))
    assert beijing.call(lambda: socket.if_nametoindex("eth0")) == beijing.interfaces["eth0"].index


def test_commands(netns_pair: Pair) -> None:
    """Programs run inside with the contract of subprocess.run and subprocess.Popen."""
    beijing, shanghai = netns_pair
    shown = beijing.run(["ip", "-brief", "address"], check=True, capture_output=True, text=True, timeout=10)
    assert "10.0.0.1/24" in shown.stdout
    echo = "import sys; print(sys.stdin.readline().upper(), end='')"
    with shanghai.popen([sys.executable, "-c", echo], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.communicate(b"hello\n", timeout=10) == (b"HELLO\n", None)


def test_names(netns_pair: Pair) -> None:
    """Hosts find each other by name; of others, those name servers know that the host was given."""
    beijing, shanghai = netns_pair
    assert beijing.call(socket.gethostbyname, "shanghai") == shanghai.ip
    assert shanghai.call(socket.gethostname) == "shanghai"
    beijing.use_nameserver(shanghai, search=["example.org"])  # your DNS server runs there
    assert beijing.run(["cat", "/etc/resolv.conf"], capture_output=True, text=True).stdout.endswith("10.0.0.2\n")


def test_a_server_in_the_background(netns_pair: Pair, tmp_path: Path) -> None:
    """A server is waited for, its output is read, and what it has written is shown if the test fails."""
    beijing, shanghai = netns_pair
    (tmp_path / "index.html").write_text("hello")
    command = [sys.executable, "-u", "-m", "http.server", "80"]
    server = shanghai.popen(command, cwd=tmp_path)
    shanghai.wait_listening(80)
    with beijing.socket() as client:
        client.connect((shanghai.ip, 80))
        client.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        assert client.makefile().read().endswith("hello")
    assert server.wait_output(r"GET /(\S+)").group(1) == "index.html"
    assert str(beijing.ip) in server.output


def test_sockets(netns_pair: Pair) -> None:
    """A socket lives in the host and is used from the test."""
    beijing, shanghai = netns_pair
    with shanghai.socket() as server, beijing.socket() as client:
        server.bind((shanghai.ip, 80))
        server.listen()
        client.connect((shanghai.ip, 80))
        accepted, (address, _) = server.accept()
        accepted.close()
        assert address == beijing.ip


def test_sockets_in_an_event_loop(netns_pair: Pair) -> None:
    """The same sockets serve asyncio."""
    beijing, shanghai = netns_pair

    async def serve_and_ask() -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()

        listening = shanghai.socket()
        listening.bind((shanghai.ip, 80))
        client = beijing.socket()
        client.setblocking(False)
        async with await asyncio.start_server(answer, sock=listening):
            await asyncio.get_running_loop().sock_connect(client, (shanghai.ip, 80))
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(b"hello\n")
            line = await reader.readline()
            writer.close()
            return line

    assert asyncio.run(serve_and_ask()) == b"HELLO\n"


def test_awaited(netns_pair: Pair) -> None:
    """Awaited callables and programs leave the event loop free for each other."""
    beijing, shanghai = netns_pair

    async def both() -> tuple[list[tuple[int, str]], subprocess.CompletedProcess[str]]:
        program = shanghai.arun(["ip", "-brief", "address"], capture_output=True, text=True, check=True, timeout=10)
        names, done = await asyncio.gather(beijing.acall(socket.if_nameindex), program)
        return names, done

    names, done = asyncio.run(both())
    assert "eth0" in [name for _, name in names]
    assert f"{shanghai.ip}/24" in done.stdout


def test_what_a_ping_says(netns_pair: Pair) -> None:
    """The result is true if every echo came back, and carries times in seconds and scapy packets."""
    beijing, shanghai = netns_pair
    result = ping(beijing, shanghai, count=3)
    assert result.received == 3
    assert result.loss == 0
    assert result.replies[0].ttl == 64
    assert not ping(beijing, "10.0.0.77", timeout=0.2)


@pytest.mark.netns(subnet=None, subnet6=None)
def test_host_without_an_address(netns_pair: Pair) -> None:
    """What a DHCP test begins with: a server that has an address, a client that has none."""
    server, client = netns_pair
    server.add_address("eth0", "10.0.0.1/24")
    assert not ping(client, server, timeout=0.2)  # no lease yet
    client.run(["ip", "address", "add", "10.0.0.50/24", "dev", "eth0"], check=True)  # your client instead of this
    assert "10.0.0.50/24" in client["eth0"].state().addresses
    assert ping(client, server)


async def serve(port: int, ready: Callable[[], object]) -> None:
    """A server of yours: it says itself when it is ready."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    async with await asyncio.start_server(answer, "", port) as server:
        ready()
        await server.serve_forever()


def test_server_code_in_the_background(netns_pair: Pair) -> None:
    """Started in the host, ready when it says so, and ended with the host."""
    beijing, shanghai = netns_pair
    shanghai.start(serve, 80)
    with beijing.socket() as client:
        client.connect((shanghai.ip, 80))
        client.sendall(b"hello\n")
        assert client.recv(100) == b"HELLO\n"


def test_server_code_in_a_thread(netns_pair: Pair) -> None:
    """A server of your own, in the background: on a socket of the host that listens before the thread starts."""
    beijing, shanghai = netns_pair
    with shanghai.socket() as listener, beijing.socket() as client:
        listener.bind((shanghai.ip, 80))
        listener.listen()
        server = threading.Thread(target=serve_one, args=(listener,))
        server.start()
        client.connect((shanghai.ip, 80))  # waits in the queue of the listener, so there is nothing to wait for
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
        server.join(timeout=10)


def serve_one(listener: socket.socket) -> None:
    """Stands for the code that you test."""
    connection, _ = listener.accept()
    with connection:
        connection.sendall(connection.recv(100).upper())


def test_a_cable_is_pulled(netns_pair: Pair) -> None:
    """Interfaces go down and up; each change is there when the call returns."""
    beijing, shanghai = netns_pair
    shanghai["eth0"].down()
    assert not ping(beijing, shanghai, timeout=0.2)
    shanghai["eth0"].up()
    assert ping(beijing, shanghai)


@pytest.mark.parametrize("netns_pair", [{"bridge": False}, {"subnet": None}], indirect=True)
def test_shapes(netns_pair: Pair) -> None:
    """Indirect parametrize shapes the pair too: here a direct veth pair, and IPv6 only."""
    beijing, shanghai = netns_pair
    assert ping(beijing, shanghai)


@pytest.fixture(scope="module")
def shared_pair(netns_pair_factory: PairFactory) -> Iterator[Pair]:
    """A pair for a whole module."""
    with netns_pair_factory(hosts=("paris", "rome")) as pair:
        yield pair


@pytest.fixture(scope="module")
def shared_office(netns_lab_factory: LabFactory) -> Iterator[Lab]:
    """A lab for a whole module …"""
    with netns_lab_factory() as lab:
        lan = lab.bridge("lan")
        for name in ("desk", "printer"):
            lab.host(name, lan)
        yield lab


@pytest.fixture
def office(shared_office: Lab) -> Lab:
    """… that is as new for each test."""
    shared_office.reset()
    return shared_office


@pytest.mark.parametrize("turn", [1, 2])
def test_shared_lab(office: Lab, turn: int) -> None:
    """Nothing is left of what the test before has sent."""
    assert ping(office["desk"], office["printer"]), turn
    assert list(office.bridges["lan"].ports) == ["veth-desk", "veth-printer"]
    assert 0 < office["printer"]["eth0"].state().rx_packets < 10
    office["printer"]["eth0"].down()  # the next test finds it up


def test_wider_scope(shared_pair: Pair) -> None:
    """The factory makes pairs that outlive a test."""
    paris, rome = shared_pair
    assert ping(paris, rome)


def test_host_by_itself(netns: Host) -> None:
    """An empty namespace: nothing but a loopback interface."""
    assert [name for name, state in netns.interfaces.items() if state.up] == ["lo"]
    assert netns.sysctl("ipv4.ip_forward") == "0"


def test_lab(netns_lab: Lab) -> None:
    """Any network: bridges, hosts on them, routers between them; addresses and routes are worked out."""
    lan = netns_lab.bridge("lan", "192.168.1.0/24")
    wan = netns_lab.bridge("wan", "203.0.113.0/24")
    laptop, server = netns_lab.host("laptop", lan), netns_lab.host("server", wan, ip="203.0.113.80")
    home = netns_lab.router("home", lan, wan)
    assert ping(laptop, server).replies[0].ttl == 63
    home["eth1"].down()
    assert not ping(laptop, server, timeout=0.2)


@pytest.mark.netns(requires=["nat"])
def test_behind_nat(netns_lab: Lab) -> None:
    """A router as most homes have; then another kind, while it runs."""
    lan, wan = netns_lab.bridge("lan", "192.168.1.0/24"), netns_lab.bridge("wan", "203.0.113.0/24")
    laptop, server = netns_lab.host("laptop", lan), netns_lab.host("server", wan)
    home: Router = netns_lab.router("home", lan, wan, nat=wan)
    assert ping(laptop, server)
    assert not ping(server, laptop)
    home.forward_port(8080, laptop, 80)
    assert home.port_forwards == (PortForward(8080, "laptop", 80, "tcp"),)
    with laptop.socket() as listener, server.socket() as client:
        listener.bind((laptop.ip, 80))
        listener.listen()
        client.connect(("203.0.113.2", 8080))
        server.call(lambda: socket.create_connection(("home", 8080), timeout=5).close())
    home.forward_port(8080, laptop, 8000)
    assert home.port_forwards == (PortForward(8080, "laptop", 8000, "tcp"),)
    with laptop.socket() as listener, server.socket() as client:
        listener.bind((laptop.ip, 8000))
        listener.listen()
        client.connect(("203.0.113.2", 8080))
    home.forward_port(8080, None)
    assert not home.port_forwards
    home.set_nat(Nat(wan, "symmetric"))
    home.flush_nat()
    assert "NAT to wan: symmetric" in str(netns_lab)


@pytest.mark.netns(requires=["tun"])
def test_a_vpn_program_sees_packets(netns: Host) -> None:
    """A TUN interface: the host routes into it, the test is its other end."""
    netns.sysctl("ipv6.conf.default.disable_ipv6", 1)  # else Linux sends packets of its own
    tun = netns.add_tun()
    netns.add_address("tun0", "10.9.0.1/24")
    with netns.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("10.9.0.2", 53))
    packet = tun.read(timeout=10)  # an IP packet, as it went out
    assert packet[16:20] == socket.inet_aton("10.9.0.2")
    assert packet.endswith(b"hello")


def test_a_tunnel(netns_pair: Pair) -> None:
    """Further kinds of interfaces: one method each."""
    beijing, shanghai = netns_pair
    beijing.add_vxlan(42, remote=shanghai.ip, parent="eth0")
    shanghai.add_vxlan(42, remote=beijing.ip, parent="eth0")
    beijing.add_address("vxlan42", "10.9.0.1/24")
    shanghai.add_address("vxlan42", "10.9.0.2/24")
    assert ping(beijing, "10.9.0.2")


@pytest.mark.netns(requires=["wireguard"])
def test_wireguard(netns_pair: Pair) -> None:
    """WireGuard, with keys of its own; skipped, with the cure, where the kernel has none."""
    beijing, shanghai = netns_pair
    ours, theirs = beijing.add_wireguard(), shanghai.add_wireguard()
    ours.add_peer(theirs.public_key, ["10.9.0.0/24"], endpoint=(shanghai.ip, 51820))
    theirs.add_peer(ours.public_key, ["10.9.0.0/24"])
    beijing.add_address("wg0", "10.9.0.1/24")
    shanghai.add_address("wg0", "10.9.0.2/24")
    assert ping(beijing, "10.9.0.2")


def test_some_of_it_needs_more(netns_lab: Lab) -> None:
    """In the middle of a test: go on only if the kernel has it."""
    host = netns_lab.host("host")
    netns_lab.require("dummy")
    host.add_dummy()


def test_switch(netns_lab: Lab) -> None:
    """What a bridge does at its ports: guests that do not see each other. STP and VLANs it has, too."""
    lan = netns_lab.bridge("lan")
    home = netns_lab.router("home", lan)
    one, other = (netns_lab.host(name, lan, isolated=True) for name in ("one", "other"))
    assert ping(one, home)
    assert not ping(one, other, timeout=0.2)


@pytest.mark.netns(requires=["vlan_filtering", "vlan"])
def test_vlans(netns_lab: Lab) -> None:
    """Two hosts in VLANs of their own, and a router that takes part in both with tagged frames."""
    lan = netns_lab.bridge("lan", None, None, stp=True, vlan_filtering=True)
    phone, laptop = netns_lab.host("phone", lan, vlan=10), netns_lab.host("laptop", lan, vlan=20)
    trunk = netns_lab.router("trunk", lan, tagged=[10, 20])
    for number, host in ((10, phone), (20, laptop)):
        trunk.add_vlan("eth0", number)
        trunk.add_address(f"eth0.{number}", f"10.0.{number}.1/24")
        host.add_address("eth0", f"10.0.{number}.2/24")
        assert ping(host, f"10.0.{number}.1")


def test_router_for_a_routing_daemon(netns_lab: Lab) -> None:
    """A router to which the lab gives no routes: bird, FRR or, here, the test does."""
    lan, wan, far = (netns_lab.bridge(name) for name in ("lan", "wan", "far"))
    one = netns_lab.router("one", lan, wan, routes=False)
    other = netns_lab.router("other", wan, far)
    here, there = netns_lab.host("here", lan), netns_lab.host("there", far)
    assert not ping(here, there, timeout=0.2)
    one.run(["ip", "route", "add", "10.0.2.0/24", "via", str(other.ip)], check=True)
    assert ping(here, there)


def test_lab_that_changes(netns_lab: Lab) -> None:
    """A laptop roams, its default route is switched, an address goes: each is there when the call returns."""
    home, cafe, wan = (netns_lab.bridge(name) for name in ("home", "cafe", "wan"))
    laptop, server = netns_lab.host("laptop", home), netns_lab.host("server", wan)
    netns_lab.router("r1", home, cafe, wan)
    backup = netns_lab.router("r2", cafe, wan)
    laptop["eth0"].replug(cafe)  # the same card, another network; ip=None waits for your DHCP server
    assert ping(laptop, server)
    laptop.set_route("default", backup)
    laptop["eth0"].set_mtu(1400)
    assert ping(laptop, server)
    server.add_address("eth0", "10.0.2.80/24")
    server.remove_address("eth0", "10.0.2.80")
    assert not ping(laptop, "10.0.2.80", timeout=0.2)


LAB = """
[bridges]
lan.subnet = "192.168.1.0/24"
wan.subnet = "203.0.113.0/24"
[hosts]
laptop.bridges = ["lan"]
server = {bridges = ["wan"], ip = "203.0.113.80"}
[routers]
home.bridges = ["lan", "wan"]
"""


def test_lab_from_a_file(tmp_path: Path) -> None:
    """The same network from a file."""
    (tmp_path / "lab.toml").write_text(LAB)
    with Lab.from_toml(tmp_path / "lab.toml") as lab:
        assert ping(lab["laptop"], lab["server"])
        assert "bridge lan: 192.168.1.0/24" in str(lab)
        assert lab.mermaid().startswith("flowchart")
        (tmp_path / "lab.svg").write_text(lab.svg())  # a picture, for a browser


@pytest.mark.netns(user="root")
def test_a_program_that_insists_on_root(netns_pair: Pair, tmp_path: Path) -> None:
    """Inside it is uid 0; what it writes belongs to who runs the test."""
    beijing, _ = netns_pair
    shown = beijing.run(["sh", "-c", 'id -u; echo x >"$0"', str(tmp_path / "file")], capture_output=True, check=True)
    assert shown.stdout == b"0\n"
    assert (tmp_path / "file").stat().st_uid == os.getuid()


def test_plain_python() -> None:
    """It works without fixtures, in a script or at a prompt."""
    with Lab() as lab:
        beijing, shanghai = lab.pair()
        assert ping(beijing, shanghai)
