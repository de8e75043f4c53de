"""For the project's own tests: ``pytester`` runs pytest on small test files; see ``tests`` for the others."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester", "pace", "lacking"]


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Runs tests in their order, unless a test of pytest-randomly, which is installed for that, wants another."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:randomly")
    return pytester
