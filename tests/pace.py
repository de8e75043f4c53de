"""How long the tests wait. Every time of theirs is a multiple of one factor, the variable ``TESTS_PACE``.

It is 1 on a machine of today; the kernel lane, whose processor may be emulated, sets more. A limit that is to be
reached (a program that hangs, an echo that never comes) is not stretched: nobody wins by waiting for it longer.
"""

from __future__ import annotations

import os

import pytest

__all__ = ["PACE", "seconds"]

PACE = float(os.environ.get("TESTS_PACE", "1"))


def seconds(number: float) -> float:
    """What may take that long on a machine of today, in seconds."""
    return number * PACE


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Stretch the time that pytest-timeout gives each test."""
    if config.pluginmanager.hasplugin("timeout") and config.getoption("timeout", None) is None:
        config.option.timeout = seconds(float(config.getini("timeout")))
