"""Tests that run pytest run it without those plugins that are installed for a test of their own."""

from __future__ import annotations

import pytest


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The one of pytest, which has just forgotten the variable."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:randomly -p no:rerunfailures -p no:html")
    return pytester
