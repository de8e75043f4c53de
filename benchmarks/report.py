"""What was measured, as Markdown tables; printed, or put into the documents in the place of what was measured before.

Everything here is made from the JSON, and nothing in the documents between a line `<!-- bench: NAME -->` and the next
`<!-- bench end -->` is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import plot
from served import HERE

Results = dict[str, Any]
ROOT = HERE.parent
DOCUMENTS = (ROOT / "README.md", HERE / "README.md")
JSON = HERE / "results.json"
PICTURE = HERE / "results.svg"
PLACE = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- bench end -->)", re.DOTALL)


def conditions(results: Results) -> str:
    """What the figures depend on, in a sentence."""
    machine = results["machine"]
    loads = [load for pair in results["load"].values() for load in pair]
    return (
        f"{machine['date']}, Linux {machine['kernel']}, Python {machine['python']}, "
        f"{machine['processors']} processors, as {machine['user']}, at most {machine['rounds']} rounds, "
        f"load {min(loads):.1f} to {max(loads):.1f}"
    )


def table(results: Results, subject: str) -> str:
    """Everything that is known of a subject."""
    found = results["findings"][subject]
    rows = [_row(each) for each in found if "figures" not in each]
    before, after = results["load"][subject]
    lines = [
        "| work | rounds | ours, ms: median | p99 | beside | its median | its p99 | ours / it | to reach |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
    figures = [each for each in found if "figures" in each]
    if figures:
        names = list(dict.fromkeys(name for each in figures for name in each["figures"]))
        lines += ["", f"| ours alone | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
        for each in figures:
            values = [f"{each['figures'][name]:.3g}" if name in each["figures"] else "" for name in names]
            lines.append(f"| {each['work']} | {' | '.join(values)} |")
    notes = [f"{each['rival']}: {each['note']}." for each in found if each.get("note")]
    return "\n".join([*lines, "", *dict.fromkeys(notes), f"Load before: {before:.1f}, after: {after:.1f}."])


def _row(each: dict[str, Any]) -> str:
    if "why" in each:
        return f"| {each['work']} | | | | {each['rival']} | no figure: {each['why'].replace('|', '/')} | | | |"
    times = [milliseconds(each[side][part]) for side in ("ours_us", "rival_us") for part in ("median", "p99")]
    goals = "; ".join(map(_verdict, each["goals"]))
    return (
        f"| {each['work']} | {each['rounds']} | {times[0]} | {times[1]} | {each['rival']} | {times[2]} | {times[3]} "
        f"| {_ratio(each['ratio'])} | {goals} |"
    )


def _ratio(value: float) -> str:
    return f"{value:.2f} x" if value >= 0.1 else f"1 / {1 / value:.0f}"


def _verdict(goal: dict[str, Any]) -> str:
    met = "met" if goal["measured"] <= goal["limit"] else "**missed**"
    return f"{goal['what']} ≤ {goal['limit']:g} {goal['unit']}: {met}, {goal['measured']:.3g}"


def milliseconds(microseconds: float) -> str:
    """Write a time with three digits that mean something."""
    value = microseconds / 1000
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def publish(results: Results) -> None:
    """Draw the picture, and fill in every place of the documents."""
    picture = plot.drawn(results)
    texts = {document: filled_in(document.read_text(), results) for document in DOCUMENTS}
    PICTURE.write_text(picture)
    for document, text in texts.items():
        document.write_text(text)


def filled_in(text: str, results: Results) -> str:
    """The document with what was measured."""
    special: dict[str, Callable[[], str]] = {
        "picture": lambda: _picture(results),
        "conditions": lambda: _about(results),
    }

    def content(place: re.Match[str]) -> str:
        name = place[2]
        made = special[name]() if name in special else table(results, name)
        return f"{place[1]}{made}\n{place[3]}"

    return PLACE.sub(content, text)


def _picture(results: Results) -> str:
    path = PICTURE.relative_to(ROOT)
    return f"![Milliseconds for a test that has two hosts and pings once]({path})\n\n{conditions(results)}."


def _about(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["machine"]["rivals"].items())
    return f"{conditions(results)}. {f'Rivals: {versions}.' if versions else ''}".strip()
