"""What this machine refuses, why, and the command that mends it; pure text from what trying has shown."""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["explain"]

_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_DEBIAN = "/proc/sys/kernel/unprivileged_userns_clone"
_STATUS = "/proc/self/status"


def explain(number: int, what: str) -> str:
    """Turn the first refused step into a sentence: what failed, why as far as can be told, what to type."""
    return f"{what} was refused here ({errno.errorcode.get(number, number)}). {_cure(number, what)}"


def _cure(number: int, what: str) -> str:
    if number == errno.ENOSPC:
        kind = {"CLONE_NEWUSER": "user", "CLONE_NEWPID": "pid", "CLONE_NEWNS": "mnt"}
        name = next((word for flag, word in kind.items() if flag in what), "net")
        return f"The limit on such namespaces is reached or zero. Type: sudo sysctl -w user.max_{name}_namespaces=15000"
    if number in (errno.EINVAL, errno.ENOSYS):
        return "This kernel is built without such namespaces (WSL 1, or CONFIG_NET_NS/CONFIG_USER_NS not set)."
    return _cure_of_policy(what)


def _cure_of_policy(what: str) -> str:
    if _reads(_DEBIAN) == "0":
        return (
            "User namespaces are switched off for ordinary users. "
            "Type: sudo sysctl -w kernel.unprivileged_userns_clone=1"
        )
    filtered = "Seccomp:\t2" in (_reads(_STATUS) or "")
    # AppArmor lets a user namespace be made and then refuses what it is for; a filter refuses the making.
    if _reads(_APPARMOR) == "1" and not (filtered and "CLONE_NEWUSER" in what):
        return (
            "AppArmor keeps ordinary users from it (Ubuntu 23.10 and later). "
            "Type: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if "uid_map" in what and os.geteuid() == 0:
        return (
            "Root without CAP_SETFCAP may not map itself (user_namespaces(7)). Start the container with "
            "--cap-add=SYS_ADMIN --cap-add=NET_ADMIN, or run the tests as an ordinary user."
        )
    if filtered:
        return (
            "A seccomp filter forbids it, as Docker's default profile does. Start the container with "
            "--security-opt seccomp=unconfined, or with --cap-add=SYS_ADMIN --cap-add=NET_ADMIN; "
            "under systemd, RestrictNamespaces=no"
        )
    return (
        "Run as root, or allow user namespaces to ordinary users "
        "(a chroot, an LSM or a container's policy may also forbid them)."
    )


def unsupported_platform() -> str | None:
    """Say why this platform cannot have network namespaces at all, or None."""
    if sys.platform != "linux":
        return (
            f"network namespaces are a feature of Linux, and this is {sys.platform}: "
            "run the tests in a Linux VM or container"
        )
    if not hasattr(os, "pidfd_open"):
        return "this Python has no os.pidfd_open: it was built on a system with headers older than Linux 5.3"
    return None


def _reads(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
