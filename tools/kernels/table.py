"""The results as a page of the documentation."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from .suite import Result

__all__ = ["write_page"]

_BEGIN, _END = "<!-- from here on written by `make kernels-table` -->", "<!-- up to here -->"


def write_page(page: Path, results: Sequence[Result], folder: Path) -> None:
    """Put the tables of results and of features between the marks on the page."""
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    ordered = sorted(results, key=lambda result: (_number(result.kernel), _number(result.python), result.user))
    tables = f"{_results_table(ordered)}\n\n{_features_table(ordered, folder)}"
    page.write_text(f"{head}{_BEGIN}\n\n{tables}\n\n{_END}{tail}", encoding="utf-8")


def _number(version: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", version)]


def _results_table(results: Sequence[Result]) -> str:
    lines = [
        "| Linux | Python | as | passed | failed | skipped | seconds |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        lines.append(
            f"| {result.kernel} | {result.python} | {result.user} | {result.passed} | "
            f"{result.failed}{'' if result.ok else ' (not ok)'} | {result.skipped} | {result.seconds:.0f} |"
        )
    return "\n".join(lines)


def _features_table(results: Sequence[Result], folder: Path) -> str:
    """Which kernel has which feature, as the tests of the features have met it."""
    found: dict[str, dict[str, str]] = {}
    kernels: list[str] = []
    for result in results:
        report = folder / f"{result.name}.xml"
        if not report.exists():
            continue
        for entry in ET.parse(report).getroot().iter("property"):
            if entry.get("name") == "feature":
                feature, _, there = str(entry.get("value")).partition(": ")
                # What an ordinary user may not use, root may.
                if result.user == "root":
                    found.setdefault(feature, {})[result.kernel] = there
                if result.kernel not in kernels:
                    kernels.append(result.kernel)
    lines = [f"| feature | {' | '.join(kernels)} |", f"| --- |{' --- |' * len(kernels)}"]
    for feature, by_kernel in sorted(found.items()):
        lines.append(f"| `{feature}` | {' | '.join(by_kernel.get(kernel, '') for kernel in kernels)} |")
    return "\n".join(lines)
