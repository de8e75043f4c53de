"""The picture of a lab: well-formed, true, and readable."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import pytest

from pytest_netns import Lab

SVG = "{http://www.w3.org/2000/svg}"


def _office(lab: Lab) -> None:
    lan, wan = lab.bridge("lan", "192.168.1.0/24"), lab.bridge("wan", "203.0.113.0/24", mtu=1400)
    dmz = lab.bridge("dmz", None)
    for number in range(19):
        lab.host(f"desk{number}", lan)
    lab.host("server", wan)
    lab.connect(lab.host("www"), dmz, name='a<"b')
    lab.router("home", lan, wan)
    lab.router("firewall", wan, dmz, lan)
    lab.link(lab.host("left"), lab.host("right"))
    lab.host("alone")


def _words(root: ET.Element) -> list[str]:
    return ["".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")]


def _box(root: ET.Element, host: str) -> tuple[ET.Element, list[tuple[str, str]]]:
    """The group that stands for a host, and its lines with their classes."""
    for group in root.iter(f"{SVG}g"):
        lines = [((text.text or "").strip(), text.get("class", "")) for text in group.iter(f"{SVG}text")]
        if lines[0][0].split(" (")[0] == host:
            return group, lines
    raise AssertionError(f"{host} is not in the picture")


@pytest.mark.parametrize("made", [False, True])
def test_what_is_in_the_picture(netns_lab: Lab, made: bool) -> None:
    """Hosts with their addresses, bridges with networks and MTU; of what is made, the state of each interface."""
    _office(netns_lab)
    if made:
        netns_lab["home"]["eth1"].down()
        netns_lab["left"].run(["ip", "link", "set", "eth0", "mtu", "1300"], check=True)
    root = ET.fromstring(netns_lab.svg())
    assert f"24 hosts, 2 routers, 3 bridges, 1 link; as {'it stood when drawn' if made else 'planned'}" in _words(root)
    assert {"lan", "192.168.1.0/24", "wan", "mtu 1400", "dmz", "left - right"} <= set(_words(root))
    for name, host in netns_lab.hosts.items():
        _, lines = _box(root, name)
        addresses = {text.split("/")[0] for text, _ in lines}
        assert {address for address in (host.ip, host.ip6) if address} <= addresses
    _, home = _box(root, "home")
    assert home[0] == ("home (router)", "name")
    assert (("eth0 up", "up") in home, ("eth1 down", "down") in home) == (made, made)
    assert (('a<"b up', "up") in _box(root, "www")[1]) == made
    assert (("eth0 up, mtu 1300", "up") in _box(root, "left")[1]) == made
    assert len([dot for dot in root.iter(f"{SVG}circle") if "down" in dot.get("class", "")]) == made
    assert len(list(root.iter(f"{SVG}circle"))) == 19 + 1 + 1 + 2 + 3 + 2


def test_nothing_lies_over_anything_else() -> None:
    """Boxes do not overlap, all are within the picture, and no line runs through a box."""
    with Lab() as lab:
        _office(lab)
        root = ET.fromstring(lab.svg())
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    boxes = []
    for rect in (group.find(f"{SVG}rect") for group in root.iter(f"{SVG}g")):
        assert rect is not None
        x, y, wide, high = (float(rect.get(word, 0)) for word in ("x", "y", "width", "height"))
        boxes.append((x, y, x + wide, y + high))
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    for line in root.iter(f"{SVG}line"):
        x, y1, y2 = (float(line.get(word, 0)) for word in ("x1", "y1", "y2"))
        if line.get("class", "").startswith("line"):
            for left, top, right, bottom in boxes:
                assert not (left < x < right and min(y1, y2) < bottom and max(y1, y2) > top)


def test_what_passes_nothing_is_said(netns_lab: Lab) -> None:
    """In every language, whoever has done it; no more once it is on, and of nothing in a lab that has ended."""
    lan, wan = netns_lab.bridge("lan", subnet6=None), netns_lab.bridge("wan", subnet6=None)
    laptop, server = netns_lab.host("laptop", lan), netns_lab.host("server", wan)
    home = netns_lab.router("home", lan, wan)
    netns_lab.link(laptop, server, subnet6=None)
    netns_lab.build()
    planned = [str(netns_lab), netns_lab.mermaid(), netns_lab.dot()]
    laptop.run(["ip", "link", "set", "eth0", "down"], check=True)
    home["eth1"].down()
    wan["veth-server"].down()
    server["eth1"].down()
    text = [" ".join([words[0], words[-2], words[-1]]) for words in map(str.split, str(netns_lab).splitlines())]
    assert [line for line in text if "down" in line or "carrier" in line] == [
        "laptop 02:00:00:00:01:00 down",
        "server no carrier",
        "home 02:00:00:00:03:01 down",
        "laptop no carrier",
        "server 02:00:00:00:02:01 down",
    ]
    assert '|"eth0<br/>10.0.0.1/24<br/>down"|' in netns_lab.mermaid()
    assert '[label="eth0\\n10.0.1.1/24\\nno carrier"]' in netns_lab.dot()
    home["eth1"].up()
    wan["veth-server"].up()
    laptop["eth0"].up()
    server["eth1"].up()
    assert [str(netns_lab), netns_lab.mermaid(), netns_lab.dot()] == planned
    lan["lan"].down()
    server.run(["ip", "link", "del", "eth1"], check=True)
    assert "bridge lan: 10.0.0.0/24, mtu 1500, down" in str(netns_lab)
    assert str(netns_lab).count(" gone") == 2
    root = ET.fromstring(netns_lab.svg())
    assert [_words(root).count(word) for word in ("down", "eth1 gone")] == [1, 2]
    assert len([bar for bar in root.iter(f"{SVG}line") if bar.get("class") == "bridge down"]) == 1
    netns_lab.close()
    assert [str(netns_lab), netns_lab.mermaid(), netns_lab.dot()] == planned


def test_an_empty_lab() -> None:
    """It has a picture, too; and so has one that is closed."""
    lab = Lab()
    assert "an empty lab; as planned" in _words(ET.fromstring(lab.svg()))
    lab.host("one")
    lab.close()
    assert "1 host; as planned" in _words(ET.fromstring(lab.svg()))
