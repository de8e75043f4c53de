"""Namespaces for those who ask: new ones, some made in advance, and those of bridges that were kept. The helper's part.

A quarter of what a pair costs is the namespaces of its hosts. Tests that follow one another ask for much the same, so
when a few have been handed out as many are made anew, while the test process is busy with those it has got.
"""

from __future__ import annotations

import os

from . import _fresh, _kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import _pool

__all__ = ["Supply"]

#: As many are made in advance at the most: each takes half a millisecond, in which the helper does not answer.
_MOST = 8
#: With fewer to be had nothing is made in advance: somebody might need it.
_PLENTY_OF_NAMESPACES, _PLENTY_OF_FILES = 1000, 256


class Supply:
    """What namespaces there are to be had."""

    def __init__(self, base: int, settings: dict[str, str], limit: int) -> None:
        """A supply.

        Args:
            base: The namespace to be in meanwhile.
            settings: What hosts have set.
            limit: How many namespaces this user may have.
        """
        self._base = base
        self._settings = _fresh.to_write(settings)
        self._settings_of_bridges = _fresh.to_write(_fresh.SETTINGS_OF_BRIDGES)
        self._pool: _pool.Pool | None = None
        #: Made in advance: of each the socket that speaks rtnetlink in it, and the descriptor.
        self._spares: list[list[int]] = []
        #: How many of them there are to be, and at the most.
        self._expected = 0
        self._most = _MOST if limit >= _PLENTY_OF_NAMESPACES and _files() >= _PLENTY_OF_FILES else 0

    def hand_out(
        self, hosts: int, bridges: int, like: list[bytes | None]
    ) -> tuple[dict[int, tuple[int, int]], list[int]]:
        """Descriptors as those of :func:`_fresh.new_namespace`: first hosts', then bridges', which may be kept ones.

        Which of them are, and the packets that the bridge in it has received and sent, is told by their numbers.
        """
        answer: list[int] = []
        there: dict[int, tuple[int, int]] = {}
        proc = _fresh.forgetful_proc() if hosts + bridges >= _fresh.FORGOTTEN_FROM else None
        try:
            for _ in range(hosts):
                answer += self._spares.pop() if self._spares else _fresh.new_namespace(self._settings, proc)
            for number in range(hosts, hosts + bridges):
                wanted = like[number - hosts]
                taken = self._open_pool().take(wanted, self._base) if wanted is not None else None
                if taken is not None:
                    answer += taken[:2]
                    there[number] = taken[2]
                    continue
                answer += _fresh.new_namespace(self._settings_of_bridges, proc)
                if wanted is not None:
                    self._open_pool().add(answer[-1])
        except BaseException:
            for fd in answer:
                os.close(fd)
            self._let_go()
            if self._pool is not None:
                self._pool.clear()
            raise
        finally:
            if proc is not None:
                os.close(proc)
            self._go_back()
        self._expected = hosts if hosts <= self._most else 0
        return there, answer

    def prepare(self) -> None:
        """Make in advance what is likely to be asked for next."""
        if len(self._spares) >= self._expected:
            return
        try:
            try:
                while len(self._spares) < self._expected:
                    self._spares.append(_fresh.new_namespace(self._settings, None))
            finally:
                self._go_back()
        except (OSError, MemoryError):  # nobody has asked for it
            self._let_go()
            self._most = 0

    def touch(self, namespace: int) -> None:
        """Somebody enters one that was handed out."""
        if self._pool is not None:
            self._pool.touch(namespace)

    def keep(self, like: bytes, bridge: int) -> None:
        """Keep a bridge for another lab, if it can be; the descriptor stays the caller's."""
        self._open_pool().keep(like, bridge)

    def _open_pool(self) -> _pool.Pool:
        if self._pool is None:
            from . import _pool  # not every session has bridges

            self._pool = _pool.Pool()
        return self._pool

    def _let_go(self) -> None:
        """The machine may be out of what a namespace takes."""
        self._expected = 0
        while self._spares:
            for fd in self._spares.pop():
                os.close(fd)

    def _go_back(self) -> None:
        # Not to keep the last one alive.
        _kernel.setns(self._base, _kernel.CLONE_NEWNET, "network namespace")


def _files() -> int:
    limit = os.sysconf("SC_OPEN_MAX")
    return _PLENTY_OF_FILES if limit < 0 else limit
