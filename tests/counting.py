"""Counts what is asked of the kernel over netlink, and of the helper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_netns import _broker, _netlink
from pytest_netns._requests import Request

__all__ = ["Counted"]


class Counted:
    """Of this process, from its making until the end of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        #: Netlink sends, the messages in them, and the words of requests to the helper.
        self.sends = self.messages = 0
        self.asked: list[str] = []
        #: How many netlink sockets listen to announcements now, and did at a time.
        self.listening = self.most_listening = 0
        batch, membership = _netlink.Netlink._batch, _netlink.Netlink._membership
        ask = _broker.Broker._ask

        def counting_batch(netlink: _netlink.Netlink, requests: Sequence[Request]) -> list[bytes]:
            self.sends += 1
            self.messages += len(requests)
            return batch(netlink, requests)

        def counting_membership(netlink: _netlink.Netlink, verb: int, group: int) -> None:
            self.listening += 1 if verb == _netlink._ADD_MEMBERSHIP else -1
            self.most_listening = max(self.most_listening, self.listening)
            membership(netlink, verb, group)

        def counting_ask(broker: _broker.Broker, verb: str, arguments: Sequence[object], fds: Sequence[int]) -> Any:
            self.asked.append(verb)
            return ask(broker, verb, arguments, fds)

        monkeypatch.setattr(_netlink.Netlink, "_batch", counting_batch)
        monkeypatch.setattr(_netlink.Netlink, "_membership", counting_membership)
        monkeypatch.setattr(_broker.Broker, "_ask", counting_ask)

    def take(self) -> tuple[int, int, list[str]]:
        """Sends, messages, and requests to the helper since the last time."""
        taken = self.sends, self.messages, self.asked
        self.sends = self.messages = 0
        self.asked = []
        return taken
