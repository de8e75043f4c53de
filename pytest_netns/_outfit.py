"""What a host has of its own besides its network: a mount namespace and a UTS namespace; part of the helper.

What the machine forbids is left out.
"""

from __future__ import annotations

import _socket
import os

from . import _etc, _kernel

__all__ = ["Outfitter"]


class Outfitter:
    """Makes them, from a stay of the helper in the host's network namespace."""

    def __init__(self, mounts: int | None, *, own_sys: bool) -> None:
        """``mounts`` is the helper's own mount namespace, if it may mount; ``own_sys`` says if that may be /sys."""
        self._mounts = mounts
        self._own_sys = own_sys
        #: The helper's own UTS namespace, once there are others.
        self.uts: int | None = None

    def fit_out(self, name: str | None, etc: tuple[str, str] | None) -> tuple[list[bool], list[int]]:
        """Say which there are, and return their descriptors: a mount namespace, the directory of its files, a UTS one.

        Args:
            name: The host name to be; None for no UTS namespace.
            etc: Contents of /etc/hosts and /etc/resolv.conf; None for the machine's.
        """
        found: list[int | None] = []
        try:
            found += self._new_mounts(etc)
            found.append(None if name is None else self._new_name(name))
        except BaseException:
            for fd in found:
                if fd is not None:
                    os.close(fd)
            raise
        return [fd is not None for fd in found], [fd for fd in found if fd is not None]

    def _new_mounts(self, etc: tuple[str, str] | None) -> tuple[int | None, int | None]:
        """With all that is to be there, or else with less of it."""
        if self._mounts is None:
            return None, None
        for own_sys, own_etc in ((self._own_sys, etc), (False, etc), (self._own_sys, None)):
            if not own_sys and own_etc is None:
                continue
            folder = None
            try:
                _kernel.unshare(_kernel.CLONE_NEWNS, "CLONE_NEWNS")
                folder = _mount(own_etc, own_sys=own_sys)
                return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), folder
            except OSError as error:
                if folder is not None:
                    os.close(folder)
                if error.errno in _kernel.OUT_OF:
                    raise
            finally:
                _kernel.setns(self._mounts, _kernel.CLONE_NEWNS, "mount namespace")
        return None, None

    def _new_name(self, name: str) -> int | None:
        try:
            if self.uts is None:  # without root there would be no way back to the machine's
                self.uts = _new_uts()
            try:
                own = _new_uts()
                _socket.sethostname(name)
                return own
            finally:
                _kernel.setns(self.uts, _kernel.CLONE_NEWUTS, "UTS namespace")
        except OSError as error:
            if error.errno in _kernel.OUT_OF:
                raise
            return None


def _new_uts() -> int:
    _kernel.unshare(_kernel.CLONE_NEWUTS, "CLONE_NEWUTS")
    return os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)


def _mount(etc: tuple[str, str] | None, *, own_sys: bool) -> int | None:
    """Mount what the host is to have over the machine's; return the directory of its files."""
    if not own_sys:
        folder = None if etc is None else _etc.mount_own_etc(*etc)
        _kernel.unmount(_etc.STAGE)
        return folder
    cgroups = os.open("/sys/fs/cgroup", os.O_PATH | os.O_CLOEXEC)
    try:
        folder = None if etc is None else _etc.mount_own_etc(*etc)
        try:
            _mount_own_sys(cgroups)
        except OSError:
            if folder is not None:
                os.close(folder)
            raise
        return folder
    finally:
        os.close(cgroups)


def _mount_own_sys(cgroups: int) -> None:
    _kernel.mount("sysfs", "/sys", "sysfs")
    try:
        # The new /sys hides what was mounted on the old one; programs look for their cgroup there.
        _kernel.mount(f"/proc/self/fd/{cgroups}", "/sys/fs/cgroup", None, _kernel.MS_BIND | _kernel.MS_REC)
    except OSError:
        return  # the machine has none
