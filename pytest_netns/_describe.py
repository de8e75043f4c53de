"""A plan in words and in the languages of drawing programs: text, Mermaid, Graphviz DOT. Needs no kernel.

``found`` is what passes nothing, by host and interface, or twice the bridge, and why: ``down``, say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ._plan import End, Node, Plan, Segment
from ._port import PLAIN

__all__ = ["Found", "as_dot", "as_mermaid", "as_text"]

Found = Mapping[tuple[str, str], str]
_NOTHING: Found = {}


def as_text(plan: Plan, found: Found = _NOTHING) -> str:
    """Segments and who is on them, one to a line; then who is on none."""
    lines = []
    for segment in plan.segments.values():
        kind = "bridge" if segment.bridged else "link"
        of_segment = [*_networks(segment), f"mtu {segment.mtu}", *_options(segment, found)]
        lines.append(f"{kind} {segment.name}: {', '.join(of_segment)}")
        for end in plan.on_segment[segment.name]:
            told = f" {end.told}" if end.told is not PLAIN else ""
            role = _role(plan.nodes[end.node])
            mtu = f" mtu {end.mtu}" if end.mtu is not None else ""
            state = "".join(f" {word}" for word in _state(end, found))
            lines.append(f"  {end.node}{role} {end.name} {' '.join(end.addresses)} {end.mac}{told}{mtu}{state}")
    lines += [f"host {name}: on no bridge" for name, ends in plan.of_node.items() if not ends]
    return "\n".join(lines) or "an empty lab"


def as_mermaid(plan: Plan, found: Found = _NOTHING) -> str:
    """A flowchart of Mermaid: hosts and bridges as boxes, interfaces as lines with their addresses."""
    names = _numbered(plan)
    lines = ["flowchart LR"]
    for name, node in plan.nodes.items():
        left, right = ("{{", "}}") if node.forwards else ("[", "]")
        lines.append(f'    {names(name)}{left}"{"<br/>".join([name, *_particulars(node)])}"{right}')
    for segment in plan.segments.values():
        if segment.bridged:
            label = "<br/>".join([segment.name, *_networks(segment), *_options(segment, found)])
            lines.append(f'    {names(segment.name)}(["{label}"])')
    lines += [
        f'    {names(one)} ---|"{"<br/>".join(words)}"| {names(other)}' for one, other, words in _lines(plan, found)
    ]
    return "\n".join(lines) + "\n"


def as_dot(plan: Plan, found: Found = _NOTHING) -> str:
    """A graph for Graphviz; ``neato`` or ``dot`` draw it."""
    lines = ["graph lab {", "    node [shape=box];"]
    for name, node in plan.nodes.items():
        said = "\\n".join([name, *_particulars(node)])
        shape = f' [shape=diamond, label="{said}"]' if node.nat else " [shape=diamond]" if node.forwards else ""
        lines.append(f'    "{name}"{shape};')
    for segment in plan.segments.values():
        if segment.bridged:
            label = "\\n".join([segment.name, *_networks(segment), *_options(segment, found)])
            lines.append(f'    "{segment.name}" [shape=ellipse, label="{label}"];')
    for one, other, words in _lines(plan, found):
        label = "\\n".join(words)
        lines.append(f'    "{one}" -- "{other}" [label="{label}"];')
    return "\n".join([*lines, "}"]) + "\n"


def _role(node: Node) -> str:
    return f" ({', '.join(['router', *_particulars(node)])})" if node.forwards else ""


def _particulars(node: Node) -> list[str]:
    without = [] if node.routed else ["without routes"]
    return without + [str(word) for word in (node.nat, *node.port_forwards) if word]


def _networks(segment: Segment) -> list[str]:
    return [str(network) for network in (segment.subnet, segment.subnet6) if network is not None]


def _options(segment: Segment, found: Found) -> list[str]:
    state = [found[segment.name, segment.name]] if (segment.name, segment.name) in found else []
    return ["stp"] * segment.stp + ["vlan filtering"] * segment.vlan_filtering + state


def _state(end: End, found: Found) -> list[str]:
    return [found[end.node, end.name]] if (end.node, end.name) in found else []


def _lines(plan: Plan, found: Found) -> Iterator[tuple[str, str, list[str]]]:
    """What is to be drawn as a line: from where, to where, the words on it."""
    for segment in plan.segments.values():
        ends = plan.on_segment[segment.name]
        if segment.bridged:
            yield from ((end.node, segment.name, _words(end, found)) for end in ends)
        else:
            first, second = ends
            yield first.node, second.node, [f"{end.node} {word}" for end in ends for word in _words(end, found)]


def _words(end: End, found: Found) -> list[str]:
    return [end.name, *end.addresses, *([str(end.told)] if end.told is not PLAIN else []), *_state(end, found)]


def _numbered(plan: Plan) -> Callable[[str], str]:
    # Mermaid takes few characters in a name, and some words have a meaning.
    known = {name: f"n{number}" for number, name in enumerate([*plan.nodes, *plan.bridges])}
    return known.__getitem__
