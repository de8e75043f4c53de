"""The picture of README: what a test with two hosts costs, ours and rivals', on a logarithmic scale, as SVG.

Drawn from the JSON alone. Its colours can be told from a white and from a black page.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any, NamedTuple

WIDTH, LEFT, RIGHT = 760, 190, 70
ROW, BAR = 26, 16
TITLE, AXIS = 34, 34
OURS, THEIRS, TEXT, LINES = "#e8590c", "#868e96", "#7a828c", "#868e9655"
NAME = "pytest-netns"


class Bar(NamedTuple):
    """Milliseconds."""

    name: str
    median: float
    p99: float


class Panel(NamedTuple):
    """Bars on one scale."""

    title: str
    bars: list[Bar]


def drawn(results: dict[str, Any]) -> str:
    """Draw it."""
    panels = [
        Panel(
            "A test that takes two hosts and pings once, of a session of 50 tests", _bars(results, "sessions", "over")
        ),
        Panel("Two hosts on a bridge, until the first ping is answered", _bars(results, "rivals", "until")),
    ]
    panels = [panel for panel in panels if panel.bars]
    body: list[str] = []
    top = 4
    for panel in panels:
        body += _panel(panel, top)
        top += TITLE + ROW * len(panel.bars) + AXIS
    machine = results["machine"]
    about = "bar: median; line: to the 99th percentile, or the worst of less than 100"
    about += f"; {machine['date']}, Linux {machine['kernel']}"
    body.append(_text(WIDTH / 2, top + 8, about, "middle"))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 18}" font-size="13" '
            'font-family="system-ui, sans-serif" role="img">',
            *body,
            "</svg>\n",
        ]
    )


def _bars(results: dict[str, Any], subject: str, word: str) -> list[Bar]:
    """Ours, and those of all rivals that could be measured, the quickest first."""
    rows = [row for row in results["findings"].get(subject, []) if "ratio" in row and word in row["work"]]
    if not rows:
        return []
    theirs = [Bar(row["rival"].replace("`", ""), *_milliseconds(row["rival_us"])) for row in rows]
    return [Bar(NAME, *_milliseconds(rows[0]["ours_us"])), *sorted(theirs, key=lambda bar: bar.median)]


def _milliseconds(times: dict[str, float]) -> tuple[float, float]:
    # A difference between two sessions can be nothing, which has no place on this scale.
    return max(times["median"] / 1000, 0.1), max(times["p99"] / 1000, 0.1)


def _panel(panel: Panel, top: int) -> list[str]:
    low = math.floor(math.log10(min(bar.median for bar in panel.bars)))
    high = math.ceil(math.log10(max(bar.p99 for bar in panel.bars)))

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    bottom = top + TITLE + ROW * len(panel.bars)
    lines = [_text(LEFT, top + 20, panel.title, "start", ' font-weight="bold"')]
    for power in range(low, high + 1):
        place = x(10**power)
        lines.append(f'<path d="M{place:.1f} {top + TITLE - 4}V{bottom}" stroke="{LINES}"/>')
        lines.append(_text(place, bottom + 16, f"{10**power:,g} ms", "middle"))
    for number, bar in enumerate(panel.bars):
        lines += _bar(bar, top + TITLE + ROW * number, x)
    return lines


def _bar(bar: Bar, top: float, x: Any) -> list[str]:
    colour = OURS if bar.name == NAME else THEIRS
    middle, end = top + BAR / 2, x(bar.p99)
    return [
        _text(LEFT - 8, middle + 5, bar.name, "end"),
        f'<rect x="{LEFT}" y="{top}" width="{x(bar.median) - LEFT:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
        f'<path d="M{x(bar.median):.1f} {middle}H{end:.1f}M{end:.1f} {middle - 4}v8" stroke="{colour}" fill="none"/>',
        _text(max(end, x(bar.median)) + 6, middle + 5, f"{bar.median:,.{0 if bar.median >= 10 else 1}f}", "start"),
    ]


def _text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{TEXT}" text-anchor="{anchor}"{more}>{escape(words)}</text>'
