"""Files of a host's own in /etc: hosts(5), resolv.conf(5) and nsswitch.conf(5), mounted over the machine's.

They are made on a tmpfs of which nothing but these files is to be seen, and bound over the machine's: programs that run
see at once what is written into them. Where the machine lacks one (or its resolv.conf is a link to nowhere) there is
nothing to bind it over; then /etc itself is mounted over, and the new one leads to all that the machine's has.
"""

from __future__ import annotations

import os

from . import _kernel

__all__ = ["STAGE", "asks_files", "mount_own_etc"]

#: Where the tmpfs is mounted to be filled; a directory that every machine has.
STAGE = "/sys"
#: Whom the C library asks before it looks into nsswitch.conf (nscd(8)); that knows the machine's names.
_CACHE = "/var/run/nscd/socket"


def mount_own_etc(hosts: str, resolver: str) -> int:
    """Show these contents of ``/etc/hosts`` and ``/etc/resolv.conf`` in this mount namespace.

    What it has mounted on :data:`STAGE` is for the caller to hide, by the /sys that is to be there, or to unmount: an
    unmount waits for a grace period of RCU, which takes longer than all the rest.

    Returns:
        A descriptor of the directory that the files are in, under the same names.
    """
    _kernel.mount("tmpfs", STAGE, "tmpfs", 0, "mode=755")
    files = {"hosts": hosts, "resolv.conf": resolver}
    switch = asks_files(_machines("/etc/nsswitch.conf"))
    if switch is not None:
        files["nsswitch.conf"] = switch
    folder = STAGE
    if all(os.path.exists(f"/etc/{name}") for name in files):
        _write(folder, files)
        for name in files:
            _kernel.mount(f"{folder}/{name}", f"/etc/{name}", None, _kernel.MS_BIND)
    else:
        folder = _stand_in(files)
    if os.path.exists(_CACHE):
        _write(STAGE, {"nscd": ""})
        _kernel.mount(f"{STAGE}/nscd", _CACHE, None, _kernel.MS_BIND)  # nobody listens there
    return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def asks_files(text: str | None) -> str | None:
    """``nsswitch.conf`` such that names of hosts are looked up in files and by DNS, and all else as it was.

    Other sources (systemd-resolved, mDNS …) are daemons of the machine, which answer over Unix sockets and know its
    names. None if it is so already.
    """
    wanted = "hosts: files dns"
    lines = [] if text is None else text.splitlines()
    of_hosts = [line for line in lines if line.split("#")[0].strip().startswith("hosts:")]
    if [line.split("#")[0].split() for line in of_hosts] == [wanted.split()]:
        return None
    return "\n".join([*(line for line in lines if line not in of_hosts), wanted, ""])


def _stand_in(files: dict[str, str]) -> str:
    """Mount a directory over /etc that leads to what was there, but for these files; return where it can be written."""
    folder, behind = f"{STAGE}/etc", ".machine"
    os.mkdir(folder)
    os.mkdir(f"{folder}/{behind}")
    for name in os.listdir("/etc"):
        if name not in files:
            link = f"/etc/{name}"
            target = os.readlink(link) if os.path.islink(link) else f"{behind}/{name}"
            os.symlink(target, f"{folder}/{name}")
    _write(folder, files)
    both = _kernel.MS_BIND | _kernel.MS_REC
    _kernel.mount("/etc", f"{folder}/{behind}", None, both)
    _kernel.mount(folder, "/etc", None, both)
    return folder


def _machines(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 1 << 16).decode(errors="surrogateescape")
    finally:
        os.close(fd)


def _write(folder: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        fd = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(fd, 0o644)  # whatever the umask
            os.write(fd, text.encode(errors="surrogateescape"))
        finally:
            os.close(fd)
