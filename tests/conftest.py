"""Applies the pace of this machine (:mod:`pace`) to pytest-timeout, which each test runs under."""

from __future__ import annotations

import pytest
from pace import seconds


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("timeout") and config.getoption("timeout", None) is None:
        config.option.timeout = seconds(float(config.getini("timeout")))
