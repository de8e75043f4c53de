"""A plan in words and in the languages of drawing programs: text, Mermaid, Graphviz DOT. Needs no kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ._plan import End, Node, Plan, Segment
from ._port import PLAIN

__all__ = ["as_dot", "as_mermaid", "as_text"]


def as_text(plan: Plan) -> str:
    """Segments and who is on them, one to a line; then who is on none."""
    lines = []
    for segment in plan.segments.values():
        kind = "bridge" if segment.bridged else "link"
        lines.append(f"{kind} {segment.name}: {_of_segment(segment)}")
        for end in plan.on_segment[segment.name]:
            told = f" {end.told}" if end.told is not PLAIN else ""
            role = _role(plan.nodes[end.node])
            mtu = f" mtu {end.mtu}" if end.mtu is not None else ""
            lines.append(f"  {end.node}{role} {end.name} {' '.join(end.addresses)} {end.mac}{told}{mtu}")
    lines += [f"host {name}: on no bridge" for name, ends in plan.of_node.items() if not ends]
    return "\n".join(lines) or "an empty lab"


def as_mermaid(plan: Plan) -> str:
    """A flowchart of Mermaid: hosts and bridges as boxes, interfaces as lines with their addresses."""
    names = _numbered(plan)
    lines = ["flowchart LR"]
    for name, node in plan.nodes.items():
        left, right = ("{{", "}}") if node.forwards else ("[", "]")
        lines.append(f'    {names(name)}{left}"{"<br/>".join([name, *_particulars(node)])}"{right}')
    for segment in plan.segments.values():
        if segment.bridged:
            label = "<br/>".join([segment.name, *_networks(segment), *_options(segment)])
            lines.append(f'    {names(segment.name)}(["{label}"])')
    lines += [f'    {names(one)} ---|"{"<br/>".join(words)}"| {names(other)}' for one, other, words in _lines(plan)]
    return "\n".join(lines) + "\n"


def as_dot(plan: Plan) -> str:
    """A graph for Graphviz; ``neato`` or ``dot`` draw it."""
    lines = ["graph lab {", "    node [shape=box];"]
    for name, node in plan.nodes.items():
        said = "\\n".join([name, *_particulars(node)])
        shape = f' [shape=diamond, label="{said}"]' if node.nat else " [shape=diamond]" if node.forwards else ""
        lines.append(f'    "{name}"{shape};')
    for segment in plan.segments.values():
        if segment.bridged:
            label = "\\n".join([segment.name, *_networks(segment), *_options(segment)])
            lines.append(f'    "{segment.name}" [shape=ellipse, label="{label}"];')
    for one, other, words in _lines(plan):
        label = "\\n".join(words)
        lines.append(f'    "{one}" -- "{other}" [label="{label}"];')
    return "\n".join([*lines, "}"]) + "\n"


def _role(node: Node) -> str:
    return f" ({', '.join(['router', *_particulars(node)])})" if node.forwards else ""


def _particulars(node: Node) -> list[str]:
    without = [] if node.routed else ["without routes"]
    return without + [str(word) for word in (node.nat, *node.port_forwards) if word]


def _of_segment(segment: Segment) -> str:
    return ", ".join([*_networks(segment), f"mtu {segment.mtu}", *_options(segment)])


def _networks(segment: Segment) -> list[str]:
    return [str(network) for network in (segment.subnet, segment.subnet6) if network is not None]


def _options(segment: Segment) -> list[str]:
    return ["stp"] * segment.stp + ["vlan filtering"] * segment.vlan_filtering


def _lines(plan: Plan) -> Iterator[tuple[str, str, list[str]]]:
    """What is to be drawn as a line: from where, to where, the words on it."""
    for segment in plan.segments.values():
        ends = plan.on_segment[segment.name]
        if segment.bridged:
            yield from ((end.node, segment.name, _words(end)) for end in ends)
        else:
            first, second = ends
            yield first.node, second.node, [f"{end.node} {word}" for end in ends for word in _words(end)]


def _words(end: End) -> list[str]:
    return [end.name, *end.addresses, *([str(end.told)] if end.told is not PLAIN else [])]


def _numbered(plan: Plan) -> Callable[[str], str]:
    # Mermaid takes few characters in a name, and some words have a meaning.
    known = {name: f"n{number}" for number, name in enumerate([*plan.nodes, *plan.bridges])}
    return known.__getitem__
