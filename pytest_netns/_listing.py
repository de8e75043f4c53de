"""The processes of a host, for messages of waits that are over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection

__all__ = ["processes"]

#: How much of a command line is shown, and of how many.
_LENGTH = 100
_LISTED = 30


def processes(net: int, where: str, without: Collection[int | None] = ()) -> str:
    """A paragraph with the number, state (as ps(1) has it) and command of each process in a network namespace.

    Args:
        net: The namespace's inode.
        where: What it is called.
        without: Processes that need no mention.

    Returns:
        A line break and the paragraph; empty if there is none.
    """
    own = f"net:[{net}]"
    lines = []
    for entry in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with contextlib.suppress(OSError):  # it has ended, or it is none of ours
            if entry not in without and os.readlink(f"/proc/{entry}/ns/net") == own:
                lines.append(f"  {entry} {_state(entry)} {_command(entry)}")
    if not lines:
        return ""
    if len(lines) > _LISTED:
        lines = [*lines[:_LISTED], f"  and {len(lines) - _LISTED} more"]
    return "\n".join([f"\nprocesses in {where}:", *lines])


def _state(pid: int) -> str:
    # The name, in parentheses, may have parentheses and blanks in it: proc_pid_stat(5).
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1].decode()


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().replace(b"\0", b" ").decode(errors="backslashreplace").split()
    if not words:  # a zombie, or a thread of the kernel
        with open(f"/proc/{pid}/comm", "rb") as file:
            words = ["[" + file.read().decode(errors="backslashreplace").strip() + "]"]
    text = " ".join(words)
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"
