"""``pytest -p unready``: as if this were a build that does not wait until a network is ready.

The tests of the first packet must fail then, or they would prove nothing; ``tools/lane.py proof`` looks.
"""

from __future__ import annotations

from pytest_netns import _netlink


def _do_not_wait(*_: object) -> None:
    pass


_netlink.Netlink.wait_ready = _do_not_wait  # type: ignore[method-assign, assignment]
