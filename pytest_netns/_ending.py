"""Ends every process in a namespace, whatever it has done to get away; part of the helper.

A process can leave its parent, session and process group and ignore signals, but not its namespaces.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select

__all__ = ["depth", "end_processes"]

#: A killed process ends at once; one that the kernel holds on to (a dead NFS server) may not hold us up.
_LIMIT_MS = 30_000
#: Looks, before all are made to stand still.
_TIMES = 10
#: As many as are watched at a time, so that they fit into any limit of open files.
_AT_A_TIME = 128


def depth() -> int:
    """How many numbers the /proc that is mounted has for this process: how far inside we are."""
    return len(_pids("self"))


def end_processes(kind: str, inodes: list[int], inner_depth: int | None) -> int:
    """Kill with SIGKILL and wait until none is left; return how many there were.

    Args:
        kind: ``net``, ``time`` …, as in ``/proc/PID/ns``.
        inodes: The namespaces.
        inner_depth: None if /proc shows our own PID namespace; else our :func:`depth` in the one it shows.
    """
    wanted = {f"{kind}:[{inode}]" for inode in inodes}
    ended = 0
    before: set[str] = set()
    for _ in range(_TIMES):
        newest = _newest()
        found, gone = _processes_in(kind, wanted, inner_depth)
        ended += _kill(found)
        # One that forks and ends, as its child does, may be gone when it is looked at, and its child in no list yet.
        # But then there are new numbers, or somebody is gone who was not before.
        if not found and newest == _newest() and gone in (set(), before):
            return ended
        before = gone
    # They are faster than we are. So nobody inside moves, in whichever host, until they are ended.
    _signal_all(_signal.SIGSTOP)
    try:
        while found := _processes_in(kind, wanted, inner_depth)[0]:
            ended += _kill(found)
    finally:
        _signal_all(_signal.SIGCONT)
    return ended


def _kill(found: list[int]) -> int:
    """Kill by pidfds, wait for the ends, close them; return how many there were."""
    try:
        for watch in found:
            try:
                _signal.pidfd_send_signal(watch, _signal.SIGKILL)
            except ProcessLookupError:
                continue
        for watch in found:
            _wait(watch)
    finally:
        for watch in found:
            os.close(watch)
    return len(found)


def _signal_all(number: int) -> None:
    """Signal all processes of our PID namespace, at one moment: kill(2) holds up every fork meanwhile."""
    if os.getpid() != 1:
        return  # the namespace would not be ours
    try:
        os.kill(-1, number)
    except ProcessLookupError:
        return  # nobody is there


def _newest() -> bytes:
    """The newest number that our PID namespace has given to a process: the last word of /proc/loadavg, proc(5)."""
    fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 100).split()[-1]
    finally:
        os.close(fd)


def _processes_in(kind: str, wanted: set[str], inner_depth: int | None) -> tuple[list[int], set[str]]:
    """Pidfds of processes in these namespaces; and who was in the list, but had ended when it was looked at."""
    found: list[int] = []
    gone: set[str] = set()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or not _is_in(entry, kind, wanted, gone):
            continue
        try:
            pid = int(entry) if inner_depth is None else _inner_pid(entry, inner_depth)
            if pid <= 1:
                continue  # ourselves, or none of ours
            watch = os.pidfd_open(pid)
        except OSError as error:
            if found and error.errno == 24:  # EMFILE: the rest comes in the next round
                break
            gone.add(entry)
            continue
        if _is_in(entry, kind, wanted, gone):  # still: the number has not gone to another process meanwhile
            found.append(watch)
        else:
            os.close(watch)
        if len(found) == _AT_A_TIME:
            break
    return found, gone


def _is_in(entry: str, kind: str, wanted: set[str], gone: set[str]) -> bool:
    try:
        return os.readlink(f"/proc/{entry}/ns/{kind}") in wanted
    except PermissionError:
        return False  # it is none of ours
    except OSError:
        gone.add(entry)
        return False


def _inner_pid(entry: str, inner_depth: int) -> int:
    pids = _pids(entry)
    return pids[inner_depth - 1] if len(pids) >= inner_depth else 0


def _pids(entry: str) -> list[int]:
    """The numbers of a process, from that in the PID namespace that /proc shows to that in its own."""
    with open(f"/proc/{entry}/status", "rb") as file:
        for line in file:
            if line.startswith(b"NSpid:"):
                return [int(word) for word in line.split()[1:]]
    return []


def _wait(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(_LIMIT_MS):
        raise TimeoutError(110, "a process inside was killed, but the kernel does not let it end")
