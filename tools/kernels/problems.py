"""The one error that is nobody's mistake: this machine cannot do it."""

from __future__ import annotations

__all__ = ["CANNOT_RUN", "CannotRun"]

#: Exit status that Automake and Meson take for a skipped test, too.
CANNOT_RUN = 77


class CannotRun(Exception):
    """Kernels cannot be booted on this machine; the message says what is missing and what to do about it."""
