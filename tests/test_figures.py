"""The figures of the documents are those that were measured: none is typed, or left from an earlier measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.once
def test_tables_and_picture_are_those_of_the_last_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make bench BENCH_ARGS="--from benchmarks/results.json --publish"` would change nothing."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import plot
    import report

    results = json.loads(report.JSON.read_text()) if report.JSON.exists() else None
    for document in report.DOCUMENTS:
        text = document.read_text()
        measured = report.filled_in(text, results) if results else report.PLACE.sub(r"\1\3", text)
        assert text == measured, document
    if results:
        assert report.PICTURE.read_text() == plot.drawn(results)
