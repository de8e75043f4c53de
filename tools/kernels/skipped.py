"""What was skipped everywhere: a test that no machine runs is no test."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

__all__ = ["skipped_everywhere"]


def skipped_everywhere(reports: Iterable[Path]) -> dict[str, set[str]]:
    """The tests that every JUnit report with them says were skipped, and the reasons given.

    An expected failure has run.
    """
    ran: set[str] = set()
    skipped: dict[str, set[str]] = {}
    for report in reports:
        for case in ET.parse(report).getroot().iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            skip = case.find("skipped")
            if skip is None or skip.get("type") == "pytest.xfail":
                ran.add(name)
            else:
                skipped.setdefault(name, set()).add(skip.get("message") or "no reason given")
    return {name: reasons for name, reasons in skipped.items() if name not in ran}
