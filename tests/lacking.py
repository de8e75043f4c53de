"""``--only-lacking``: only the tests that require features which this machine's kernel lacks, for another to run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--only-lacking", action="store_true", help="only tests that require features which this machine lacks"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("only_lacking"):
        return
    chosen = [item for item in items if _lacks(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _lacks(item: pytest.Item) -> bool:
    from pytest_netns._features import lacking

    return any(lacking(mark.kwargs.get("requires", ())) for mark in item.iter_markers("netns"))
