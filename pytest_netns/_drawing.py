"""A lab as a picture, in SVG: a pure function of its plan and of what its interfaces are found to be.

Each bridge or link is a bar. Hosts with one interface stand below theirs; routers, and what else is on several, have a
place of their own and a line to each bar, which ends there with a dot; a line that only passes a bar has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from ._describe import Found
from ._interfaces import InterfaceState
from ._plan import End, Plan

__all__ = ["as_svg"]

_CHARACTER, _LINE, _PAD, _GAP, _MARGIN = 6.7, 15, 8, 26, 16
#: Hosts beside each other below a bridge.
_ABREAST = 8

_STYLE = """
    text { font: 11px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #222 }
    .name { font-weight: bold }
    .small { font-size: 9px; fill: #666 }
    .box { fill: #f4f7fb; stroke: #4a6785 }
    .router { fill: #fdf3e1; stroke: #a8772a }
    .bridge { stroke: #4a6785; stroke-width: 6; stroke-linecap: round }
    .link { stroke: #4a6785; stroke-width: 2 }
    .line { stroke: #4a6785; stroke-width: 1.5; fill: none }
    .dot { fill: #4a6785 }
    .up { stroke: #2c7a3f } .up.dot, text.up { fill: #2c7a3f; stroke: none }
    .down { stroke: #c0392b; stroke-dasharray: 4 3 } .down.dot, text.down { fill: #c0392b; stroke: none }
"""

States = Mapping[str, Mapping[str, InterfaceState]]


def as_svg(plan: Plan, states: States, found: Found) -> str:
    """Draw it; ``states``, of interfaces by host and name: what is not there is drawn as it is planned.

    ``found`` tells of interfaces that are gone, and of bridges that are down.
    """
    return _Drawing(plan, states, found).drawn(_caption(plan, made=bool(states)))


def _caption(plan: Plan, *, made: bool) -> str:
    routers = sum(node.forwards for node in plan.nodes.values())
    parts = {
        "host": len(plan.nodes) - routers,
        "router": routers,
        "bridge": len(plan.bridges),
        "link": len(plan.segments) - len(plan.bridges),
    }
    words = [f"{count} {word}{'s' * (count > 1)}" for word, count in parts.items() if count]
    return f"{', '.join(words) or 'an empty lab'}; {'as it stood when drawn' if made else 'as planned'}"


@dataclass
class _Box:
    """What stands for a host: lines of text, each with a class, in a rectangle."""

    node: str
    lines: list[tuple[str, str]]
    x: float = 0
    y: float = 0
    width: float = field(init=False)
    height: float = field(init=False)

    def __post_init__(self) -> None:
        self.width = max(len(text) for text, _ in self.lines) * _CHARACTER + 2 * _PAD
        self.height = len(self.lines) * _LINE + _PAD


class _Drawing:
    def __init__(self, plan: Plan, states: States, found: Found) -> None:
        self._plan = plan
        self._states = states
        self._found = found
        self._row = {name: number for number, name in enumerate(plan.segments)}
        self._boxes = {name: _Box(name, self._text(name)) for name in plan.nodes}
        self._leaves: dict[str, list[_Box]] = {name: [] for name in plan.segments}
        self._joints: list[_Box] = []
        self._alone: list[_Box] = []
        for name, box in self._boxes.items():
            ends = plan.of_node[name]
            if not ends:
                self._alone.append(box)
            elif len(ends) == 1 and plan.segments[ends[0].segment].bridged:
                self._leaves[ends[0].segment].append(box)
            else:
                self._joints.append(box)
        self._labels = {name: self._label(name) for name in plan.segments}
        self._bars: dict[str, float] = {}  # y
        self._parts: list[str] = []

    # Words

    def _text(self, node: str) -> list[tuple[str, str]]:
        what = self._plan.nodes[node]
        lines = [(node + " (router)" * what.forwards, "name")]
        lines += [(str(word), "") for word in (what.nat, *what.port_forwards) if word]
        seen = dict(self._states.get(node, {}))
        for end in self._plan.of_node[node]:
            state = seen.pop(end.name, None)
            if state is None and (node, end.name) in self._found:
                lines.append((f"{end.name} {self._found[node, end.name]}", "down"))
            else:
                lines += self._of_interface(end.name, state, end.addresses, self._plan.segments[end.segment].mtu)
        for name, state in seen.items():  # made by programs; drivers leave some that are down
            if state.up and name != "lo":
                lines += self._of_interface(name, state, (), state.mtu)
        return lines

    @staticmethod
    def _of_interface(
        name: str, state: InterfaceState | None, planned: Sequence[str], mtu: int
    ) -> list[tuple[str, str]]:
        if state is None:
            return [(name, ""), *((f"  {address}", "") for address in planned)]
        condition = "up" if state.up and state.carrier else "no carrier" if state.up else "down"
        width = "" if state.mtu == mtu else f", mtu {state.mtu}"
        addresses = [address for address in state.addresses if not address.startswith("fe80:")]
        return [(f"{name} {condition}{width}", _class(state)), *((f"  {address}", "") for address in addresses)]

    def _label(self, name: str) -> list[tuple[str, str]]:
        segment = self._plan.segments[name]
        networks = [str(network) for network in (segment.subnet, segment.subnet6) if network is not None]
        state = [(self._found[name, name], "down")] if (name, name) in self._found else []
        return [(name, "name"), *((words, "") for words in networks), (f"mtu {segment.mtu}", ""), *state]

    # Places

    def drawn(self, caption: str) -> str:
        """The whole picture."""
        left = (
            _MARGIN + max((len(text) for lines in self._labels.values() for text, _ in lines), default=0) * _CHARACTER
        )
        x = self._place_joints(left + _GAP)
        width = max(self._place_leaves(x), _MARGIN * 2 + len(caption) * _CHARACTER)
        height = self._place_rows()
        self._draw_bars(left)
        for box in self._boxes.values():
            self._draw_lines(box)
        for box in self._boxes.values():
            self._draw_box(box)
        body = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" role="img">\n'
            f"<title>{escape(caption)}</title>\n<style>{_STYLE}</style>\n"
            f'<rect width="100%" height="100%" fill="white"/>\n'
            f'<text x="{_MARGIN}" y="{_MARGIN + 6}">{escape(caption)}</text>\n{body}\n</svg>\n'
        )

    def _rows_of(self, box: _Box) -> list[int]:
        return [self._row[end.segment] for end in self._plan.of_node[box.node]]

    def _place_joints(self, x: float) -> float:
        """Columns for them; two may share one if no bar is passed by both. Returns where the next column begins."""
        columns: list[tuple[int, list[_Box]]] = []
        for box in sorted(self._joints, key=lambda box: min(self._rows_of(box))):
            rows = self._rows_of(box)
            last = max(*rows, min(rows) + 1)
            for number, (taken, boxes) in enumerate(columns):
                if taken < min(rows):
                    columns[number] = last, [*boxes, box]
                    break
            else:
                columns.append((last, [box]))
        for _, boxes in columns:
            width = max(box.width for box in boxes)
            for box in boxes:
                box.x = x + (width - box.width) / 2
            x += width + _GAP
        return x

    def _place_leaves(self, x: float) -> float:
        """Columns for hosts below their bridges, the same for all bridges. Returns the width of it all."""
        for number in range(_ABREAST):
            column = [box for boxes in (*self._leaves.values(), self._alone) for box in boxes[number::_ABREAST]]
            for box in column:
                box.x, box.width = x, max(each.width for each in column)
            if column:
                x += column[0].width + _GAP
        return x - _GAP + _MARGIN

    def _place_rows(self) -> float:
        y: float = _MARGIN * 3
        for name in self._plan.segments:
            self._bars[name] = y
            row = self._row[name]
            joints = [box for box in self._joints if min(self._rows_of(box)) == row]
            for box in joints:
                box.y = y + _GAP
            bottom = max([y + _GAP, *(box.y + box.height for box in joints)])
            bottom = max(bottom, self._place_grid(self._leaves[name], y + _GAP))
            bottom = max(bottom, y + len(self._labels[name]) * _LINE)
            y = bottom + _GAP
        return max(y, self._place_grid(self._alone, y) + _MARGIN)

    @staticmethod
    def _place_grid(boxes: list[_Box], y: float) -> float:
        for start in range(0, len(boxes), _ABREAST):
            abreast = boxes[start : start + _ABREAST]
            for box in abreast:
                box.y = y
            y += max(box.height for box in abreast) + _GAP / 2
        return y

    # Strokes

    def _draw_bars(self, left: float) -> None:
        for name, y in self._bars.items():
            boxes = [self._boxes[end.node] for end in self._plan.on_segment[name]]
            right = max([left + 2 * _GAP, *(box.x + box.width for box in boxes)])
            kind = "bridge" if self._plan.segments[name].bridged else "link"
            kind += " down" * ((name, name) in self._found)
            self._parts.append(f'<line class="{kind}" x1="{left + _PAD:g}" y1="{y:g}" x2="{right:g}" y2="{y:g}"/>')
            self._draw_text(self._labels[name], _MARGIN, y + 4)

    def _draw_lines(self, box: _Box) -> None:
        ends = self._plan.of_node[box.node]
        above = [end for end in ends if self._bars[end.segment] < box.y]
        for group in (above, [end for end in ends if end not in above]):
            for number, end in enumerate(group, 1):
                x = box.x + box.width * number / (len(group) + 1)
                self._draw_line(box, end, x)

    def _draw_line(self, box: _Box, end: End, x: float) -> None:
        bar = self._bars[end.segment]
        gone = (end.node, end.name) in self._found
        kind = "down" if gone else _class(self._states.get(end.node, {}).get(end.name))
        below = bar > box.y
        start = box.y + box.height if below else box.y
        if len(self._leaves[end.segment]) > _ABREAST and box in self._leaves[end.segment]:
            # Boxes may be in between: along their left.
            x, middle = box.x - _PAD, box.y + _LINE
            self._parts.append(f'<path class="line {kind}" d="M{x:g} {bar:g}V{middle:g}H{box.x:g}"/>')
        else:
            self._parts.append(f'<line class="line {kind}" x1="{x:g}" y1="{start:g}" x2="{x:g}" y2="{bar:g}"/>')
        self._parts.append(f'<circle class="dot {kind}" cx="{x:g}" cy="{bar:g}" r="4"/>')
        if len(self._plan.of_node[end.node]) > 1:
            y = bar - 8 if below else bar + 14
            self._parts.append(f'<text class="small" x="{x + 4:g}" y="{y:g}">{escape(end.name)}</text>')

    def _draw_box(self, box: _Box) -> None:
        kind = "box router" if self._plan.nodes[box.node].forwards else "box"
        told = ", ".join(f"{end.name} {end.mac}" for end in self._plan.of_node[box.node])
        self._parts.append(
            f'<g><title>{box.node}: {escape(told) or "on no bridge"}</title><rect class="{kind}" x="{box.x:g}" '
            f'y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="4"/>'
        )
        self._draw_text(box.lines, box.x + _PAD, box.y + _LINE)
        self._parts.append("</g>")

    def _draw_text(self, lines: Sequence[tuple[str, str]], x: float, y: float) -> None:
        for number, (text, kind) in enumerate(lines):
            self._parts.append(
                f'<text class="{kind}" x="{x:g}" y="{y + number * _LINE:g}" xml:space="preserve">{escape(text)}</text>'
            )


def _class(state: InterfaceState | None) -> str:
    if state is None:
        return ""
    return "up" if state.up and state.carrier else "down"
