"""Ends every process in a namespace, whatever it has done to get away; part of the helper.

A process can leave its parent, session and process group and ignore signals, but not its namespaces.

Those who listen to SIGTERM get that first, and may take :data:`GRACE` seconds; it is for who asks to wait for them.
SIGKILL is for those who don't listen, and for what is left then.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GRACE", "depth", "end_processes", "see_off"]

#: Seconds for those who were sent SIGTERM, all together. Daemons take milliseconds to remove their files.
GRACE = 2.0

#: A killed process ends at once; one that the kernel holds on to (a dead NFS server) may not hold us up.
_LIMIT_MS = 30_000
#: Looks, before all are made to stand still.
_TIMES = 10
#: In the masks of /proc/PID/status, proc(5).
_TERM, _CONT = (1 << number - 1 for number in (_signal.SIGTERM, _signal.SIGCONT))
#: As many as are watched at a time, so that they fit into any limit of open files.
_AT_A_TIME = 128
#: The newest number in our PID namespace when there was nobody but ourselves; nobody is, as long as it is the newest.
_alone_at: bytes | None = None


def depth() -> int:
    """How many numbers the /proc that is mounted has for this process: how far inside we are."""
    return len(_pids("self"))


def end_processes(
    kind: str,
    inodes: list[int],
    inner_depth: int | None,
    *,
    gently: bool = False,
    reap: Callable[[], None] = lambda: None,
) -> tuple[int, list[int]]:
    """Kill with SIGKILL and wait until none is left; return how many there were.

    Args:
        kind: ``net``, ``time`` …, as in ``/proc/PID/ns``.
        inodes: The namespaces.
        inner_depth: None if /proc shows our own PID namespace; else our :func:`depth` in the one it shows.
        gently: Where somebody listens to SIGTERM, only send that, and return the pidfds of those who have got it, to
            be waited for: then nobody has been killed, and it is to be asked again.
        reap: Called before each further look: those who end faster than they are reaped use up the machine's numbers.
    """
    global _alone_at  # noqa: PLW0603 - there is one PID namespace that is ours
    wanted = {f"{kind}:[{inode}]" for inode in inodes}
    ended = 0
    before: set[str] = set()
    for look in range(_TIMES):
        if look:  # with nobody there, the first is the last
            reap()
        newest = _newest()
        if newest == _alone_at:
            return ended, []
        numbers = _numbers()
        found, gone = _processes_in(numbers, kind, wanted, inner_depth)
        if found and gently:
            if asked := _ask(found):
                return ended, asked
            gently = False  # nobody listens
            continue
        ended += _kill(found)
        # One that forks and ends, as its child does, may be gone when it is looked at, and its child in no list yet.
        # But then there are new numbers, or somebody is gone who was not before.
        if not found and newest == _newest() and gone in (set(), before):
            if inner_depth is None and numbers == [str(os.getpid())]:
                _alone_at = newest
            return ended, []
        before = gone
    # They are faster than we are. So nobody inside moves, in whichever host, until they are ended.
    _signal_all(_signal.SIGSTOP)
    try:
        while found := _processes_in(_numbers(), kind, wanted, inner_depth)[0]:
            ended += _kill(found)
            reap()
    finally:
        _signal_all(_signal.SIGCONT)
    return ended, []


def see_off(inner_depth: int | None) -> None:
    """Send SIGTERM to all in our PID namespace who listen to it, and wait for them, :data:`GRACE` seconds at most.

    For PID 1, whose end is everybody's: the kernel kills whoever is left then.
    """
    deadline = time.monotonic() + GRACE
    for _ in range(_TIMES):
        asked = _ask(_processes_in(_numbers(), "net", None, inner_depth)[0])
        if not asked:
            return
        poll = select.poll()
        for watch in asked:
            poll.register(watch, select.POLLIN)
        left = set(asked)
        while left and (seconds := deadline - time.monotonic()) > 0:
            for watch, _ in poll.poll(seconds * 1000 + 1):
                poll.unregister(watch)
                left.discard(watch)
        for watch in asked:
            os.close(watch)
        if left:
            return


def _ask(found: dict[str, int]) -> list[int]:
    """Send SIGTERM to those who listen, and return their pidfds; the others' are closed.

    Nobody is looked for again: whoever comes up from now on may be somebody's help in coming to an end.
    """
    asked = []
    for entry, watch in found.items():
        if _send_term(entry, watch):
            asked.append(watch)
        else:
            os.close(watch)
    return asked


def _send_term(entry: str, watch: int) -> bool:
    """Send SIGTERM, unless it would not be heard: whoever ignores it needs no time either. Say if it was sent."""
    try:
        with open(f"/proc/{entry}/status", "rb") as file:
            fields = dict(line.split(None, 2)[:2] for line in file if line.startswith((b"Sig", b"State")))
        ignored, blocked, caught = (int(fields[b"Sig%s:" % name], 16) for name in (b"Ign", b"Blk", b"Cgt"))
        if ignored & ~blocked & _TERM:  # one that is blocked may be waited for, sigwait(3)
            return False
        _signal.pidfd_send_signal(watch, _signal.SIGTERM)
        # Until it goes on, one that is stopped, or is just about to, would not hear it. To others this is nothing.
        if not caught & _CONT or fields[b"State:"] == b"T":
            _signal.pidfd_send_signal(watch, _signal.SIGCONT)
    except (OSError, KeyError):
        return False  # it has ended
    return True


def _kill(found: dict[str, int]) -> int:
    """Kill by pidfds, wait for the ends, close them; return how many there were."""
    try:
        for watch in found.values():
            try:
                _signal.pidfd_send_signal(watch, _signal.SIGKILL)
            except ProcessLookupError:
                continue
        for watch in found.values():
            _wait(watch)
    finally:
        for watch in found.values():
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


def _processes_in(
    numbers: list[str], kind: str, wanted: set[str] | None, inner_depth: int | None
) -> tuple[dict[str, int], set[str]]:
    """Pidfds of those of these processes that are in these namespaces, or in any, by their numbers in /proc.

    And who was in the list, but had ended when it was looked at.
    """
    found: dict[str, int] = {}
    gone: set[str] = set()
    for entry in numbers:
        if not _is_in(entry, kind, wanted, gone):
            continue
        try:
            pid = int(entry) if inner_depth is None else _inner_pid(entry, inner_depth)
            if pid <= 1:
                continue  # ourselves, or none of ours
            watch = os.pidfd_open(pid)
        except OSError as error:
            if error.errno == 24:  # EMFILE
                if found:
                    break  # the rest comes in the next round
                raise
            gone.add(entry)
            continue
        if _is_in(entry, kind, wanted, gone):  # still: the number has not gone to another process meanwhile
            found[entry] = watch
        else:
            os.close(watch)
        if len(found) == _AT_A_TIME:
            break
    return found, gone


def _numbers() -> list[str]:
    """All processes that /proc shows."""
    return [entry for entry in os.listdir("/proc") if entry.isdecimal()]


def _is_in(entry: str, kind: str, wanted: set[str] | None, gone: set[str]) -> bool:
    try:
        namespace = os.readlink(f"/proc/{entry}/ns/{kind}")
        return wanted is None or namespace in wanted
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
