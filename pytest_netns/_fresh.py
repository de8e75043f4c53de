"""New network namespaces, and what they are set to, since a machine's own settings are copied into each.

Standard library only, as the helper that makes them.
"""

from __future__ import annotations

import _socket
import os

from . import _kernel

__all__ = [
    "FORGOTTEN_FROM",
    "SETTINGS",
    "SETTINGS_OF_BRIDGES",
    "forgetful_proc",
    "netlink_socket",
    "new_namespace",
    "read",
    "settings_of_hosts",
    "to_write",
    "write",
]

# A new namespace copies its IPv4 settings from the machine's, so a laptop, a Docker host and CI differ: what a test
# relies on is set. IPv6 duplicate address detection would keep an address unusable for a second; it cannot find
# anything here. IPv6 addresses of an interface that goes down stay, as IPv4 ones do.
# (Documentation/networking/ip-sysctl.rst)
SETTINGS = {
    "ipv4/conf/all/forwarding": "0",
    "ipv4/conf/default/forwarding": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/arp_ignore": "0",
    "ipv4/conf/default/arp_ignore": "0",
    "ipv4/conf/all/arp_announce": "0",
    "ipv4/conf/default/arp_announce": "0",
    "ipv4/conf/all/arp_filter": "0",
    "ipv4/conf/default/arp_filter": "0",
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/keep_addr_on_down": "1",
}
#: The kernel finds a setting by going through those of the same name in all namespaces of the machine, as far as they
#: have been used and remembered (proc_sys_compare, fs/proc/proc_sysctl.c). What is to be for so many namespaces is
#: written by way of a /proc that is forgotten afterwards: n namespaces would else take time for n * n.
FORGOTTEN_FROM = 16
#: A bridge is no host: without IPv6 of its own, it and its ports send nothing by themselves.
SETTINGS_OF_BRIDGES = {"ipv6/conf/default/disable_ipv6": "1"}


def settings_of_hosts(rootless: bool) -> dict[str, str]:
    """What a host is set to."""
    # Lets ping(8) use ICMP sockets without privilege; a user namespace maps only its own group.
    gid = os.getegid()
    return {**SETTINGS, "ipv4/ping_group_range": f"{gid}\t{gid}" if rootless else "0\t2147483647"}


def to_write(wanted: dict[str, str]) -> list[tuple[str, bytes]]:
    """What differs here from what is wanted; the same in every namespace made after this one."""
    different = []
    for name, value in wanted.items():
        path = "/proc/sys/net/" + name
        try:
            if read(path).strip() != value.encode():
                different.append((path, value.encode()))
        except OSError:
            continue  # no IPv6 in this kernel, or a masked /proc
    return different


def new_namespace(settings: list[tuple[str, bytes]], proc: int | None) -> list[int]:
    """Enter a new network namespace; return a socket that speaks rtnetlink in it, and a descriptor of it."""
    _kernel.unshare(_kernel.CLONE_NEWNET, "CLONE_NEWNET")
    for path, value in settings:
        try:
            write(path, value, proc)
        except OSError as error:
            if error.errno in _kernel.OUT_OF:
                raise
    netlink = netlink_socket()
    try:
        return [netlink, _kernel.namespace_fd_of_socket(netlink)]
    except OSError:
        os.close(netlink)
        raise


def netlink_socket() -> int:
    return _socket.socket(_socket.AF_NETLINK, _socket.SOCK_DGRAM, 0).detach()


def read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def forgetful_proc() -> int | None:
    try:
        return _kernel.new_proc()
    except OSError:  # Linux before 5.2, or a container that hides parts of /proc
        return None


def write(path: str, value: bytes, proc: int | None = None) -> None:
    """Write to a file; with ``proc``, to that of another /proc."""
    if proc is not None:
        path = path[len("/proc/") :]
    # Unbuffered: a buffered write would lose the kernel's refusal.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)
