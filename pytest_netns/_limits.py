"""The limit of open files of this process: as what runs in hosts is to have it, and raised where we need more.

A program in the background takes a few descriptors here and in the helper, a namespace of a lab two. Where that is more
than the soft limit allows, it is raised as far as the hard one; what is started in hosts keeps what there was.

Source: getrlimit(2).
"""

from __future__ import annotations

import errno
import functools

from ._errors import KernelError

__all__ = ["limits_to_inherit", "own_limits", "raise_to", "room_for_a_program", "too_many_files"]

#: Below this number of a descriptor every limit that is met in practice has room.
_FEW = 100
_SPARE = 64
#: What one program takes.
_FOR_ONE = 8

#: The soft limit that we have set, and the one that there was before.
_raised: tuple[int, int] | None = None


def limits_to_inherit() -> list[tuple[int, tuple[int, int]]]:
    """The resource limits of this process, which what it starts inherits."""
    import resource  # only on Unix

    return [(number, resource.getrlimit(number)) for number in _limit_numbers()]


def own_limits(highest: int) -> list[tuple[int, tuple[int, int]]]:
    """The resource limits of this process as they are without us, who may have raised that of open files.

    Args:
        highest: The highest number of a descriptor that a program of these limits is given; it must be able to have it.
    """
    limits = limits_to_inherit()
    if _raised is None:
        return limits
    import resource

    set_to, before = _raised
    return [
        (
            number,
            (before, hard)
            if number == resource.RLIMIT_NOFILE and soft == set_to and highest < before
            else (soft, hard),
        )
        for number, (soft, hard) in limits
    ]


@functools.cache
def _limit_numbers() -> list[int]:
    import resource

    return sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


def raise_to(needed: int) -> int | None:
    """See that this process may have so many open files; if its hard limit is lower, return that and do nothing."""
    global _raised  # noqa: PLW0603 - a limit is one of the process
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return None
    if needed > hard != resource.RLIM_INFINITY:
        return hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    _raised = needed, _raised[1] if _raised is not None and _raised[0] == soft else soft
    return None


def room_for_a_program(newest: int) -> None:
    """See that there is room for one more program in the background, and for what the test opens meanwhile.

    Args:
        newest: The number of a descriptor just opened; all below it are taken.

    Raises:
        KernelError: The hard limit is reached (EMFILE).
    """
    if newest < _FEW:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or newest + _SPARE <= soft:
        return
    most = 2 * newest + _SPARE
    raise_to(most if hard == resource.RLIM_INFINITY else min(most, hard))
    if newest + _FOR_ONE > hard != resource.RLIM_INFINITY:
        raise too_many_files("start")


def too_many_files(asked: str, who: str = "this process") -> KernelError:
    """The error that says so, and what to type."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return KernelError(
        errno.EMFILE,
        f"{asked}: {who} may have {limit} files open and has reached that. "
        f"Close networks that are no longer needed, or type: ulimit -n {max(4096, 4 * limit)}",
    )
