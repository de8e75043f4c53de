"""Every exception the project raises, as a tree by whose fault it is.

The machine's (a missing privilege or feature: skip or fail), the caller's plan, a refused kernel request, a child
process that ended badly, a wait that ran out. Each also derives from the built-in that fits, and can be pickled:
``args`` is all that ``__init__`` takes, everything else is an attribute with a default.
"""

from __future__ import annotations

TYPE_CHECKING = False  # also loaded by the helper, to which typing would cost time
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "ChildDied",
    "ChildError",
    "ClosedError",
    "FeatureLacking",
    "KernelError",
    "NamespacesUnavailable",
    "NetnsError",
    "PlanError",
    "RemoteError",
    "WaitTimeout",
    "hide_own_frames",
]


class NetnsError(Exception):
    """Base of all errors of pytest-netns."""


class NamespacesUnavailable(NetnsError, RuntimeError):
    """This machine does not let us make network namespaces; the message says why and what to type."""


class FeatureLacking(NetnsError, RuntimeError):
    """This machine lacks what ``lab.require`` asked for, or what NAT needs; the message says why and what to type."""


class PlanError(NetnsError, ValueError):
    """The network asked for cannot exist; raised before the kernel is touched."""


class ClosedError(NetnsError, ValueError):
    """A host or namespace was used after it had been closed."""


class KernelError(NetnsError, OSError):
    """The kernel refused a request; ``errno`` is the kernel's own answer."""


class ChildError(NetnsError):
    """A child process did not bring back a result.

    Not a ``RuntimeError``: a test that expects one from its callable must not be content with this.
    """


class ChildDied(ChildError):
    """A callable's process ended by a signal or by leaving without returning."""

    #: Exit code, or minus the signal's number, as in ``subprocess.Popen.returncode``.
    returncode: int = 0
    #: Whether it is about something that another test, or a fixture for several, has started.
    of_others: bool = False


class RemoteError(ChildError):
    """An exception raised inside that could not be carried across; its text and traceback are the message."""


class WaitTimeout(NetnsError, TimeoutError):
    """A wait ran out; the message holds what was last seen."""


def hide_own_frames(info: Any) -> bool:
    """For ``__tracebackhide__`` of a module: its frames tell users nothing where the error says what was wrong.

    Errors of ``subprocess`` are about the caller's program, too. Those of others, which may be mistakes of ours, pytest
    shows; and all of them with ``--full-trace``.
    """
    return isinstance(info.value, (NetnsError, OSError)) or type(info.value).__module__ == "subprocess"
