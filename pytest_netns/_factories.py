"""What the fixtures for wider scopes are: functions that make labs and pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ._lab import Lab, Pair

__all__ = ["LabFactory", "PairFactory"]


class PairFactory(Protocol):
    """Makes pairs that last as long as the session, or until closed."""

    def __call__(self, **keywords: Any) -> Pair: ...


class LabFactory(Protocol):
    """Makes labs that last as long as the session, or until closed."""

    def __call__(self, *, user: str | None = None) -> Lab: ...
